//! `kedge unit`: the service files that install.sh writes. The binary carries them, so that a piped install needs no checkout.

use clap::{Args, ValueEnum};

const SYSTEMD: &str = include_str!("../../systemd/kedge.service");
const OPENRC: &str = include_str!("../../systemd/kedge.openrc");

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    Systemd,
    Openrc,
}

#[derive(Debug, Clone, Args)]
pub struct Unit {
    /// Service system
    #[arg(value_enum)]
    pub system: System,
    /// Path of the binary
    #[arg(long, default_value = "/usr/local/bin/kedge")]
    pub bin: String,
    /// Name of the service
    #[arg(long, default_value = "kedge")]
    pub service: String,
    /// Verb and flags
    #[arg(long, default_value = "server")]
    pub exec: String,
}

/// The service file as text.
pub fn render(unit: &Unit) -> String {
    let template = match unit.system {
        System::Systemd => SYSTEMD,
        System::Openrc => OPENRC,
    };
    template.replace("@BIN@", &unit.bin).replace("@SERVICE@", &unit.service).replace("@EXEC@", &unit.exec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        for system in [System::Systemd, System::Openrc] {
            let text = render(&Unit {
                system,
                bin: "/opt/kedge".into(),
                service: "kedge-agent".into(),
                exec: "agent --node-name n1".into(),
            });
            assert!(text.contains("/opt/kedge") && text.contains("agent --node-name n1"), "{text}");
            assert!(!text.contains('@'), "{text}");
        }
    }
}
