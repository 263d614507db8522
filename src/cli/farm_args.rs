//! The command line of what concerns sessions, drones, history and operators. Meaning only; what is done is beside it in `cli`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What an operator does to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// Nothing new is given to any drone; or to DRONE.
    Pause,
    /// Ends pause.
    Resume,
    /// Jobs are not tried until they are unblocked: JOB, PACKAGE or --session.
    Block,
    /// Blocked jobs are tried again at once.
    Unblock,
    /// Blocked, failed and quarantined jobs are tried again, as if for the first time.
    #[value(alias = "retry_failures")]
    RetryFailures,
    /// Failures so far are forgotten, of waiting jobs and of drones.
    #[value(alias = "clear_failures")]
    ClearFailures,
    /// All that is not done is tried again, and what went wrong at drones is forgotten.
    Reset,
    /// What was assigned and has not begun is planned anew.
    Rebalance,
    /// The same for JOB, PACKAGE or --session.
    Reclaim,
    /// DRONE, or all that failed too often, get work again.
    Unground,
    /// Jobs that are over, and what is known of durations, are forgotten.
    #[value(alias = "clear_history")]
    ClearHistory,
}

impl Action {
    /// As the API spells it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Block => "block",
            Self::Unblock => "unblock",
            Self::RetryFailures => "retry_failures",
            Self::ClearFailures => "clear_failures",
            Self::Reset => "reset",
            Self::Rebalance => "rebalance",
            Self::Reclaim => "reclaim",
            Self::Unground => "unground",
            Self::ClearHistory => "clear_history",
        }
    }
}

/// `hive control …`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hive control pause --reason 'new compiler'\n  hive control retry-failures dev-libs/foo\n  \
                        hive control reclaim --session nightly --running"
)]
pub(crate) struct ControlArgs {
    /// What to do.
    #[arg(value_enum, value_name = "ACTION")]
    pub(crate) action: Action,
    /// To what: a job's id or the beginning of it, a package, or a drone for pause, resume and unground. All when left out.
    #[arg(value_name = "JOB|PACKAGE|DRONE", conflicts_with = "session")]
    pub(crate) target: Option<String>,
    /// To all jobs of this session: id, beginning of it, or name.
    #[arg(long, value_name = "SESSION")]
    pub(crate) session: Option<String>,
    /// Of reset, rebalance and reclaim: also what runs, which is stopped and begins anew.
    #[arg(long)]
    pub(crate) running: bool,
    /// Why, for the others.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `hive events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only after the event with this number.
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<u64>,
    /// Only of this kind: assign, complete, fail, control …
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Only those that concern this drone or node.
    #[arg(long, value_name = "DRONE")]
    pub(crate) drone: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

/// `hive session …`
#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// List sessions that are not over, the newest first.
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Show a session: its jobs by state, why they wait, and when it may be done.
    Show {
        /// Its id, the beginning of it, or its name.
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// End a session: what is not over is cancelled.
    Cancel {
        /// Its id, the beginning of it, or its name.
        #[arg(value_name = "SESSION")]
        session: String,
        /// Why, for the others.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
}

/// `hive drone …`
#[derive(Debug, Subcommand)]
pub(crate) enum DroneVerb {
    /// List the drones, as `hive fleet`.
    List,
    /// Show a drone with what it builds.
    Show {
        /// Its name.
        #[arg(value_name = "DRONE")]
        drone: String,
    },
    /// Give it nothing new; what it has goes on.
    Pause(DroneArgs),
    /// Give it work again; also ends drain.
    Resume(DroneArgs),
    /// Give it nothing new, and take back what it has not begun.
    Drain {
        #[command(flatten)]
        drone: DroneArgs,
        /// After so long what still runs goes elsewhere, too; as 90s, 30m or 2h. It may end when left out.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<u64>,
    },
    /// Limit the processors that its builds may use.
    #[command(group = clap::ArgGroup::new("how").required(true))]
    Limit {
        #[command(flatten)]
        drone: DroneArgs,
        /// So many.
        #[arg(long, value_name = "N", group = "how", value_parser = clap::value_parser!(u32).range(1..=65_536))]
        cores: Option<u32>,
        /// All that it has.
        #[arg(long, group = "how")]
        none: bool,
    },
}

/// A drone, and why something is done to it.
#[derive(Debug, Args)]
pub(crate) struct DroneArgs {
    /// Its name.
    #[arg(value_name = "DRONE")]
    pub(crate) drone: String,
    /// Why, for the others.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

/// `hive history …`
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<HistoryVerb>,
    /// Only attempts at this package, or with this target.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) package: Option<String>,
    /// Only attempts on this drone.
    #[arg(long, value_name = "DRONE")]
    pub(crate) drone: Option<String>,
    /// Only attempts of this session: id, beginning of it, or name.
    #[arg(long, value_name = "SESSION")]
    pub(crate) session: Option<String>,
    /// Only attempts that failed or were lost.
    #[arg(long)]
    pub(crate) failed: bool,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

/// `hive history …`, where it is not attempts that are listed.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryVerb {
    /// What is known of packages: how often they were built, where, and how long it took.
    Packages {
        /// At most so many, those tried last first.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
}

/// `hive queue import …`
#[derive(Debug, Args)]
#[command(after_help = "One JSON object per line: a whole job, or a short form such as\n  \
                        {\"target\":\"dev-libs/b\",\"backend\":\"portage\",\"after\":[\"dev-libs/a\"],\"priority\":5}\n\
                        All of it is queued, or nothing.")]
pub(crate) struct ImportArgs {
    /// The file; `-` for standard input.
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    /// Name of the session, for people.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) name: String,
    /// Build profile of the session.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// Id of the session, so that importing twice imports once; made up when left out.
    #[arg(long, value_name = "UUID")]
    pub(crate) session: Option<uuid::Uuid>,
}

/// A time as people write it, in milliseconds.
pub(crate) fn long_duration(text: &str) -> Result<u64, String> {
    let wrong = || "expected a time as 90s, 30m, 2h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds * 1_000).ok_or_else(wrong)
}

/// The same, a week at most.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let ms = long_duration(text)?;
    if ms > 7 * 86_400_000 { Err("a week at most".to_owned()) } else { Ok(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("7d", 604_800_000)] {
            assert_eq!(duration(text), Ok(expected));
        }
        for bad in ["", "30", "m", "-1m", "8d", "1.5h", "99999999999999999999h", "3µ"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn actions_are_spelt_with_dashes_or_underscores() {
        for action in Action::value_variants() {
            let word = action.word();
            assert_eq!(Action::from_str(word, false).as_ref(), Ok(action), "{word}");
            assert_eq!(Action::from_str(&word.replace('_', "-"), false).as_ref(), Ok(action), "{word}");
        }
    }
}
