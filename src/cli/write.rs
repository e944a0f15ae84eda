//! The flags that verbs which write share: `--dry-run`, `-o`, `--field-manager`, `--validate`.

use anyhow::Result;
use clap::Args;
use client::WriteParams;

use crate::failure::usage;
use crate::output::Format;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    None,
    /// Nothing is sent.
    Client,
    /// The server does all but storing.
    Server,
}

impl DryRun {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" | "false" => Ok(Self::None),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => {
                Err(usage(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\".")))
            }
        }
    }
    /// What is added to "created" and the like.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct Writing {
    /// none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client", global = true)]
    dry_run: String,
    /// json, yaml, name, jsonpath=…
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, global = true)]
    output: String,
    /// Who is named as the owner of the written fields
    #[arg(long, default_value = "", hide_default_value = true, global = true)]
    field_manager: String,
    /// What to do about unknown fields: strict, warn or ignore
    #[arg(long, default_value = "strict", num_args = 0..=1, require_equals = true, default_missing_value = "strict", global = true)]
    validate: String,
}

impl Writing {
    /// As a verb that other verbs make use of: the manager, unless one was named.
    pub fn managed_by(mut self, manager: &str) -> Self {
        if self.field_manager.is_empty() {
            manager.clone_into(&mut self.field_manager);
        }
        self
    }
    pub fn dry_run(&self) -> Result<DryRun> {
        DryRun::parse(&self.dry_run)
    }
    pub fn format(&self) -> Result<Format> {
        match Format::parse(&self.output)? {
            Format::Table { wide: true } => Err(usage(
                "unable to match a printer suitable for the output format \"wide\", allowed formats are: \
                 json,jsonpath,jsonpath-as-json,name,yaml",
            )),
            format => Ok(format),
        }
    }
    pub fn params(&self, manager: &str) -> Result<WriteParams> {
        let field_validation = match self.validate.to_lowercase().as_str() {
            "strict" | "true" => "Strict",
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            other => {
                return Err(usage(format!(
                    "invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"
                )));
            }
        };
        let field_manager = if self.field_manager.is_empty() { manager } else { &self.field_manager };
        Ok(WriteParams {
            dry_run: self.dry_run()? == DryRun::Server,
            field_manager: field_manager.to_owned(),
            field_validation,
            force: false,
        })
    }
}
