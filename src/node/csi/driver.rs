//! What is asked of a driver's node service: each call's message and the answer's meaning. Field numbers are the specification's.
//!
//! Source: container-storage-interface `csi.proto`, `pkg/volume/csi/csi_client.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::grpc::message::{Fields, Writer};
use crate::grpc::{self, Status};

/// Longest wait for a driver. Source: `csiTimeout`.
pub const SECONDS_MAX: u64 = 120;

/// Where a driver's node service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver(pub PathBuf);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub node_id: String,
    /// Zero: no limit.
    pub volumes_max: i64,
    pub topology: BTreeMap<String, String>,
}

/// What a node service can do besides publishing. Source: `NodeServiceCapability.RPC.Type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    pub stages: bool,
    pub expands: bool,
    pub single_node_multi_writer: bool,
    pub mount_group: bool,
}

/// How a volume is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    pub block: bool,
    pub fs_type: String,
    pub mount_options: Vec<String>,
    /// For drivers that give a volume to a group themselves.
    pub group: Option<u32>,
    /// Of the API: `ReadWriteOnce`.
    pub access_mode: String,
}

impl Use {
    fn capability(&self, abilities: Abilities) -> Writer {
        let mode = match (self.access_mode.as_str(), abilities.single_node_multi_writer) {
            ("ReadWriteOnce", true) => 7,
            ("ReadWriteOncePod", true) => 6,
            ("ReadWriteOnce" | "ReadWriteOncePod", false) => 1,
            ("ReadOnlyMany", _) => 3,
            ("ReadWriteMany", _) => 5,
            _ => 0,
        };
        let kind = if self.block {
            Writer::new().within(1, Writer::new())
        } else {
            let group = self.group.map(|g| g.to_string()).unwrap_or_default();
            let mount = Writer::new().text(1, &self.fs_type).texts(2, &self.mount_options).text(3, &group);
            Writer::new().within(2, mount)
        };
        kind.within(3, Writer::new().number(1, mode))
    }
}

/// What staging and publishing have in common.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub handle: String,
    pub usage: Use,
    pub publish_context: BTreeMap<String, String>,
    pub attributes: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
}

fn path(path: &Path) -> std::borrow::Cow<'_, str> {
    path.to_string_lossy()
}

impl Driver {
    async fn call(&self, method: &str, message: Writer) -> Result<Bytes, Status> {
        let method = format!("/csi.v1.Node/{method}");
        grpc::call(&self.0, &method, message.done(), Duration::from_secs(SECONDS_MAX)).await
    }

    pub async fn info(&self) -> Result<NodeInfo, Status> {
        let answer = self.call("NodeGetInfo", Writer::new()).await?;
        let fields = Fields::of(&answer);
        Ok(NodeInfo {
            node_id: fields.text(1),
            volumes_max: fields.number(2) as i64,
            topology: fields.messages(3).last().map(|t| t.map(1)).unwrap_or_default(),
        })
    }

    pub async fn abilities(&self) -> Result<Abilities, Status> {
        let answer = self.call("NodeGetCapabilities", Writer::new()).await?;
        let mut abilities = Abilities::default();
        for rpc in Fields::of(&answer).messages(1).flat_map(|c| c.messages(1)) {
            match rpc.number(1) {
                1 => abilities.stages = true,
                3 => abilities.expands = true,
                5 => abilities.single_node_multi_writer = true,
                6 => abilities.mount_group = true,
                _ => {}
            }
        }
        Ok(abilities)
    }

    pub async fn stage(&self, r: &Request, abilities: Abilities, staging: &Path) -> Result<(), Status> {
        let message = Writer::new()
            .text(1, &r.handle)
            .map(2, &r.publish_context)
            .text(3, &path(staging))
            .within(4, r.usage.capability(abilities))
            .map(5, &r.secrets)
            .map(6, &r.attributes);
        self.call("NodeStageVolume", message).await.map(drop)
    }

    pub async fn unstage(&self, handle: &str, staging: &Path) -> Result<(), Status> {
        self.call("NodeUnstageVolume", Writer::new().text(1, handle).text(2, &path(staging))).await.map(drop)
    }

    pub async fn publish(
        &self,
        r: &Request,
        abilities: Abilities,
        staging: Option<&Path>,
        target: &Path,
        read_only: bool,
    ) -> Result<(), Status> {
        let message = Writer::new()
            .text(1, &r.handle)
            .map(2, &r.publish_context)
            .text(3, &staging.map(path).unwrap_or_default())
            .text(4, &path(target))
            .within(5, r.usage.capability(abilities))
            .flag(6, read_only)
            .map(7, &r.secrets)
            .map(8, &r.attributes);
        self.call("NodePublishVolume", message).await.map(drop)
    }

    pub async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Status> {
        self.call("NodeUnpublishVolume", Writer::new().text(1, handle).text(2, &path(target))).await.map(drop)
    }

    pub async fn expand(
        &self,
        r: &Request,
        abilities: Abilities,
        staging: Option<&Path>,
        target: &Path,
        bytes: i64,
    ) -> Result<(), Status> {
        let message = Writer::new()
            .text(1, &r.handle)
            .text(2, &path(target))
            .within(3, Writer::new().number(1, bytes.max(0) as u64))
            .text(4, &staging.map(path).unwrap_or_default())
            .within(5, r.usage.capability(abilities))
            .map(6, &r.secrets);
        self.call("NodeExpandVolume", message).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_say_how_a_volume_is_used() {
        let read = |usage: &Use, multi: bool| {
            let abilities = Abilities { single_node_multi_writer: multi, ..Abilities::default() };
            let message = usage.capability(abilities).done();
            let fields = Fields::of(&message);
            let mount = fields.messages(2).next().map(|m| (m.text(1), m.texts(2), m.text(3)));
            (fields.messages(1).count(), mount, fields.messages(3).next().map(|m| m.number(1)))
        };
        let mounted = Use {
            fs_type: "ext4".into(),
            mount_options: vec!["noatime".into()],
            group: Some(7),
            access_mode: "ReadWriteOnce".into(),
            ..Use::default()
        };
        let mount = Some(("ext4".into(), vec!["noatime".into()], "7".into()));
        assert_eq!(read(&mounted, false), (0, mount.clone(), Some(1)));
        assert_eq!(read(&mounted, true), (0, mount, Some(7)));
        let raw = Use { block: true, access_mode: "ReadWriteOncePod".into(), ..Use::default() };
        assert_eq!(read(&raw, true), (1, None, Some(6)));
        for (mode, number) in [("ReadOnlyMany", 3), ("ReadWriteMany", 5), ("ReadWriteOncePod", 1), ("", 0)] {
            let usage = Use { access_mode: mode.into(), ..Use::default() };
            assert_eq!(read(&usage, false).2, Some(number), "{mode}");
        }
    }
}
