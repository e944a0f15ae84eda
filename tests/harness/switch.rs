//! A switch: a bridge in a network namespace of its own, with nothing else in it.

use anyhow::Result;

use crate::{sh, unique};

pub struct Switch {
    pub(crate) netns: String,
}

impl Switch {
    pub fn new() -> Result<Self> {
        let netns = unique("ktsw");
        sh("ip", &["netns", "add", &netns])?;
        let switch = Self { netns };
        switch.ip(&["link", "add", "br0", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        Ok(switch)
    }

    fn ip(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.netns.as_str()];
        all.extend_from_slice(args);
        sh("ip", &all)
    }

    /// Lays a cable into the network namespace of process `pid`, whose end there becomes `eth0`.
    pub(crate) fn plug(&self, port: &str, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        self.ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        self.ip(&["link", "set", port, "master", "br0", "up"])?;
        Ok(())
    }

    /// Pulls or reconnects the cable of a port.
    pub(crate) fn cable(&self, port: &str, connected: bool) -> Result<()> {
        self.ip(&["link", "set", port, if connected { "up" } else { "down" }]).map(drop)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = sh("ip", &["netns", "del", &self.netns]);
    }
}
