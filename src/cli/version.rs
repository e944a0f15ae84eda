//! `version`: ours first, which needs no server; then the server's.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::failure::usage;
use crate::manifest::text;
use crate::output::to_json;
use crate::session::{Global, Session};
use crate::yaml::to_yaml;

pub const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Clone, Args)]
pub struct Version {
    /// The client's version only
    #[arg(long)]
    pub client: bool,
    /// json or yaml
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub output: String,
}

pub async fn run(global: &Global, version: &Version) -> Result<()> {
    let ours = json!({"gitVersion": format!("v{OURS}"), "platform":
        format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)});
    let plain = match version.output.as_str() {
        "" => true,
        "json" | "yaml" => false,
        _ => return Err(usage("--output must be 'yaml' or 'json'")),
    };
    if plain {
        println!("kedge {OURS}");
    }
    let server = if version.client { None } else { Some(ask(global).await) };
    if plain {
        return match server {
            Some(Ok(server)) => {
                println!("Server Version: {}", text(&server, "/gitVersion"));
                Ok(())
            }
            // The version was asked for and told; that nothing runs here is a remark.
            Some(Err(error)) => {
                for line in crate::failure::report(&error).0 {
                    eprintln!("{line}");
                }
                Ok(())
            }
            None => Ok(()),
        };
    }
    let mut all = json!({"clientVersion": ours});
    let failed = match server {
        Some(Ok(server)) => {
            all["serverVersion"] = server;
            None
        }
        Some(Err(error)) => Some(error),
        None => None,
    };
    print!("{}", if version.output == "json" { to_json(&all) } else { to_yaml(&all) });
    failed.map_or(Ok(()), Err)
}

async fn ask(global: &Global) -> Result<Value> {
    Ok(Session::open(global)?.client.get_path("/version").await?)
}
