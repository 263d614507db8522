//! Flags of the agent, made from the table of settings.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::Flags;
use crate::config::table::{Default, SETTINGS, Setting, variable_of};
use crate::config::value::Kind;

/// `--config` and every setting that was given as a flag.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentArgs {
    /// The file, when named.
    pub(crate) config: Option<PathBuf>,
    /// Settings by key.
    pub(crate) flags: Flags,
}

impl Args for AgentArgs {
    fn augment_args(mut command: Command) -> Command {
        command = command.arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Configuration file [default: /etc/build/hive.toml, or hive/hive.toml in the user's configuration] [env: HIVE_CONFIG]"),
        );
        for setting in SETTINGS {
            for arg in args_of(setting) {
                command = command.arg(arg);
            }
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn args_of(setting: &'static Setting) -> Vec<Arg> {
    let Some(flag) = setting.flag() else { return Vec::new() };
    if !setting.switches.is_empty() {
        let names: Vec<&str> = setting.switches.iter().map(|(name, _)| *name).collect();
        let arg = |(name, value): &(&'static str, &'static str)| {
            let others: Vec<&str> = names.iter().copied().filter(|other| other != name).collect();
            let meaning = if setting.switches.len() == 1 {
                setting.meaning.to_owned()
            } else {
                format!("Sets `{}` to `{value}`. {}", setting.key, setting.meaning)
            };
            Arg::new(*name)
                .long(*name)
                .action(ArgAction::SetTrue)
                .conflicts_with_all(others)
                .help(format!("{meaning} [env: {}]", variable_of(name)))
        };
        return setting.switches.iter().map(arg).collect();
    }
    let default = match setting.default {
        Default::Text(text) => text.to_owned(),
        Default::Unset(what) => what.replace('`', ""),
        Default::PerUser(system, _) => format!("{system}, else in the user's directories"),
    };
    let repeated = matches!(setting.kind, Kind::List { .. });
    let mut help = setting.meaning.to_owned();
    if repeated {
        help.push_str(" Can be given several times.");
    }
    help.push_str(&format!(" [default: {default}] [env: {}]", variable_of(&flag)));
    let arg = Arg::new(setting.key)
        .long(flag)
        .value_name(setting.placeholder)
        .action(if repeated { ArgAction::Append } else { ArgAction::Set })
        .help(help);
    vec![arg]
}

impl FromArgMatches for AgentArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self { config: matches.get_one::<PathBuf>("config").cloned(), flags: Flags::new() };
        for setting in SETTINGS.iter().filter(|setting| setting.flag().is_some()) {
            for (name, value) in setting.switches {
                if matches.get_flag(name) {
                    args.flags.insert(setting.key, vec![(*value).to_owned()]);
                }
            }
            if setting.switches.is_empty()
                && let Some(values) = matches.get_many::<String>(setting.key)
            {
                args.flags.insert(setting.key, values.cloned().collect());
            }
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::args::Cli;

    fn agent_flags(line: &[&str]) -> Flags {
        let matches = Cli::command().try_get_matches_from(line).expect("understood");
        let (_, agent) = matches.subcommand().expect("subcommand");
        AgentArgs::from_arg_matches(agent).expect("understood").flags
    }

    #[test]
    fn the_flags_that_scripts_rely_on_are_there() {
        let line = [
            "hive",
            "agent",
            "--config",
            "/c",
            "--state-dir",
            "/s",
            "--secret-file",
            "/f",
            "--name",
            "n",
            "--port",
            "1",
            "--http",
            "127.0.0.1:2",
            "--socket",
            "/k",
            "--interface",
            "a",
            "--interface",
            "b",
            "--join",
            "h",
            "--join",
            "i:3",
            "--expect",
            "3",
            "--no-found",
            "--helper",
            "none",
        ];
        let flags = agent_flags(&line);
        assert_eq!(flags["interface"], ["a", "b"]);
        assert_eq!(flags["join"], ["h", "i:3"]);
        assert_eq!(flags["found"], ["never"]);
        assert_eq!(flags["socket"], ["/k"]);
        assert_eq!(flags.len(), 11);
        assert_eq!(agent_flags(&["hive", "agent", "--found"])["found"], ["force"]);
        let both = Cli::command().try_get_matches_from(["hive", "agent", "--found", "--no-found"]);
        assert!(both.is_err());
    }
}
