//! Settings of what is kept of the past, for the time bar of the dashboard.

use super::{Default, Kind, PLAIN, Setting};

pub(super) const DAYS: Setting = Setting {
    key: "history.days",
    kind: Kind::Integer { min: 1, max: 3_650 },
    default: Default::Text("7"),
    placeholder: "DAYS",
    meaning: "How far back this node can show the hive as it was, in days.",
    advice: "Events are kept for a week, whatever this says.",
    ..PLAIN
};
pub(super) const MB: Setting = Setting {
    key: "history.mb",
    kind: Kind::Integer { min: 0, max: 100_000 },
    default: Default::Text("256"),
    placeholder: "MIB",
    meaning: "Space that this may take on the disk, in MiB; the oldest goes first; 0: nothing is kept.",
    ..PLAIN
};
