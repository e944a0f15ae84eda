//! The cgroup subtree of this room, on v1 (hybrid) and v2: made, limited, read and removed here and nowhere else.
