//! Built-in admission: what a request must satisfy beyond the object itself, and what is filled in from elsewhere.
