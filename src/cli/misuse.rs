//! Wrong usage that the argument parser sees, told in kubectl's words.
//!
//! Source: spf13/pflag and spf13/cobra for the texts.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The text on standard error; none where the parser's own answer is to be printed (help, version).
pub fn text(command: &Command, args: &[String], error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let path = path(command, args);
    let see = format!("\nSee '{path} --help' for usage.");
    Some(match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand => return None,
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg)?;
            if path.ends_with(" exec") && !argument.starts_with('-') {
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kedge exec -h' for \
                 help and examples"
                    .into()
            } else if argument.starts_with("--") {
                format!("unknown flag: {argument}{see}")
            } else if let Some(letter) = argument.strip_prefix('-').and_then(|a| a.chars().next()) {
                format!("unknown shorthand flag: '{letter}' in {argument}{see}")
            } else {
                format!("unexpected argument {argument:?}{see}")
            }
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand)?;
            match path.as_str() {
                "kedge" => format!("unknown command {word:?} for \"kedge\""),
                "kedge create" => format!("Unexpected args: [{word}]\nSee 'kedge create -h' for help and examples"),
                path => format!("unknown command {word:?}\nSee '{path} -h' for help and examples"),
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let argument = context(ContextKind::InvalidArg)?;
            match argument.strip_prefix("--") {
                Some(flag) => {
                    format!("required flag(s) {:?} not set", flag.split([' ', '=']).next().unwrap_or_default())
                }
                None => {
                    let name = argument.trim_matches(['<', '>', '.']);
                    format!("exactly one {name} is required, got 0\nSee '{path} -h' for help and examples")
                }
            }
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let (argument, value) = (context(ContextKind::InvalidArg)?, context(ContextKind::InvalidValue)?);
            let flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            if value.is_empty() {
                format!("flag needs an argument: {flag}{see}")
            } else {
                format!("invalid argument {value:?} for {flag:?} flag: {why}{see}")
            }
        }
        _ => {
            let rendered = error.to_string();
            rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    })
}

/// The command that the words name, e.g. `kedge create secret`.
fn path(command: &Command, args: &[String]) -> String {
    let (mut at, mut path) = (command, "kedge".to_owned());
    for word in args.iter().skip(1) {
        if let Some(next) = at.find_subcommand(word) {
            path = format!("{path} {}", next.get_name());
            at = next;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_reads_as_kubectls() {
        for (line, expected) in [
            ("get --nosuch", "unknown flag: --nosuch\nSee 'kedge get --help' for usage."),
            ("get -z", "unknown shorthand flag: 'z' in -z\nSee 'kedge get --help' for usage."),
            ("nosuch", "unknown command \"nosuch\" for \"kedge\""),
            ("create secret nosuch", "unknown command \"nosuch\"\nSee 'kedge create secret -h' for help and examples"),
            ("create cm", "exactly one NAME is required, got 0\nSee 'kedge create configmap -h' for help and examples"),
            ("create deployment d", "required flag(s) \"image\" not set"),
            (
                "logs x --since=nosuch",
                "invalid argument \"nosuch\" for \"--since\" flag: time: invalid duration \"nosuch\"\nSee 'kedge logs \
                 --help' for usage.",
            ),
        ] {
            let args: Vec<String> = std::iter::once("kedge").chain(line.split(' ')).map(str::to_owned).collect();
            let command = crate::command(Vec::new());
            let error = command.clone().try_get_matches_from(&args).unwrap_err();
            assert_eq!(text(&command, &args, &error).as_deref(), Some(expected), "{line}");
        }
    }
}
