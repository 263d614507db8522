//! Settings of commands and terminals, rows of the one table.
//!
//! Never done here: anything but saying what they are.

use super::table::{Default, PLAIN, Setting};
use super::value::Kind;

pub(super) const ENABLED: Setting = Setting {
    key: "terminal.enabled",
    kind: Kind::Switch,
    default: Default::Text("false"),
    switches: &[("terminal-enabled", "true")],
    meaning: "Whether operators may run commands and open terminals on this node, as the agent's user.",
    advice: "Whoever has the admin key then has what that user has, the hive's secret included. Terminals are recorded.",
    ..PLAIN
};
pub(super) const SHELL: Setting = Setting {
    key: "terminal.shell",
    default: Default::Unset("bash where it is installed, else /bin/sh"),
    placeholder: "PROGRAM",
    meaning: "What a terminal runs.",
    ..PLAIN
};
pub(super) const IDLE: Setting = Setting {
    key: "terminal.idle_s",
    kind: Kind::Integer { min: 5, max: 86_400 },
    default: Default::Text("900"),
    placeholder: "SECONDS",
    meaning: "A terminal in which nothing is typed for so long ends.",
    ..PLAIN
};
pub(super) const SESSIONS: Setting = Setting {
    key: "terminal.sessions",
    kind: Kind::Integer { min: 1, max: 64 },
    default: Default::Text("4"),
    placeholder: "N",
    meaning: "Terminals at the same time on this node.",
    ..PLAIN
};
pub(super) const KEEP_DAYS: Setting = Setting {
    key: "terminal.keep_days",
    kind: Kind::Integer { min: 1, max: 3_650 },
    default: Default::Text("30"),
    placeholder: "DAYS",
    meaning: "Recordings of terminals are dropped after so many days.",
    ..PLAIN
};
pub(super) const KEEP_MB: Setting = Setting {
    key: "terminal.keep_mb",
    kind: Kind::Integer { min: 1, max: 1_000_000 },
    default: Default::Text("256"),
    placeholder: "MIB",
    meaning: "The oldest recordings are dropped when all of them take more than this.",
    ..PLAIN
};
