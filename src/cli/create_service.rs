//! `create service`: the four kinds of services.
//!
//! Source: kubectl `pkg/cmd/create/create_service.go`.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::failure::usage;

#[derive(Debug, Clone, Subcommand)]
pub enum Service {
    /// An address inside of the cluster
    Clusterip {
        name: String,
        #[command(flatten)]
        ports: Ports,
        /// This address, or None
        #[arg(long, default_value = "")]
        clusterip: String,
    },
    /// A port on every node
    Nodeport {
        name: String,
        #[command(flatten)]
        ports: Ports,
        /// This port of the nodes
        #[arg(long, default_value_t = 0)]
        node_port: u16,
    },
    /// A load balancer's address
    Loadbalancer {
        name: String,
        #[command(flatten)]
        ports: Ports,
    },
    /// Another name
    Externalname {
        name: String,
        #[command(flatten)]
        ports: Ports,
        #[arg(long, required = true)]
        external_name: String,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub struct Ports {
    /// PORT or PORT:TARGET
    #[arg(long, value_delimiter = ',')]
    pub tcp: Vec<String>,
}

pub fn object(what: &Service) -> Result<Value> {
    let (name, kind, ports) = match what {
        Service::Clusterip { name, ports, .. } => (name, "ClusterIP", ports),
        Service::Nodeport { name, ports, .. } => (name, "NodePort", ports),
        Service::Loadbalancer { name, ports } => (name, "LoadBalancer", ports),
        Service::Externalname { name, ports, .. } => (name, "ExternalName", ports),
    };
    let headless = matches!(what, Service::Clusterip { clusterip, .. } if clusterip == "None");
    if ports.tcp.is_empty() && !headless && kind != "ExternalName" {
        return Err(usage("at least one tcp port must be specified"));
    }
    let mut list = ports.tcp.iter().map(|p| port(p)).collect::<Result<Vec<_>>>()?;
    let labels = json!({"app": name});
    let mut spec = json!({"type": kind, "selector": labels});
    match what {
        Service::Clusterip { clusterip, .. } if !clusterip.is_empty() => spec["clusterIP"] = clusterip.as_str().into(),
        Service::Nodeport { node_port, .. } if *node_port > 0 => {
            list.iter_mut().for_each(|p| p["nodePort"] = (*node_port).into());
        }
        Service::Externalname { external_name, .. } => spec["externalName"] = external_name.as_str().into(),
        _ => {}
    }
    if !list.is_empty() {
        spec["ports"] = list.into();
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"loadBalancer": {}}}))
}

/// `80`, `80:8080`, `80:http`.
fn port(text: &str) -> Result<Value> {
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0);
    let Some(port) = number(port) else {
        return Err(usage(format!("{text} is not a valid port: PORT or PORT:TARGET")));
    };
    let shown = text.replace(':', "-");
    let target = number(target).map_or_else(|| Value::from(target), Value::from);
    Ok(json!({"name": shown, "port": port, "protocol": "TCP", "targetPort": target}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, target) in [("80", json!(80)), ("80:8080", json!(8080)), ("80:web", json!("web"))] {
            let p = port(text).unwrap();
            assert_eq!(
                (&p["port"], &p["targetPort"], &p["name"]),
                (&json!(80), &target, &json!(text.replace(':', "-")))
            );
        }
        assert!(port("x").is_err());
    }
}
