//! Settings of what is kept of the messages that pass.

use super::{Default, Kind, PLAIN, Setting};
use crate::config::grammar;

pub(super) const RING_RECORDS: Setting = Setting {
    key: "wire.ring_records",
    kind: Kind::Integer { min: 0, max: 1_000_000 },
    default: Default::Text("20000"),
    placeholder: "COUNT",
    meaning: "How many messages are kept in memory for `hive wire`, the newest; 0: none are captured.",
    ..PLAIN
};
pub(super) const RING_MB: Setting = Setting {
    key: "wire.ring_mb",
    kind: Kind::Integer { min: 1, max: 4_096 },
    default: Default::Text("8"),
    placeholder: "MIB",
    meaning: "Memory for the beginnings of these messages, in MiB; the oldest go first.",
    ..PLAIN
};
pub(super) const SAMPLE: Setting = Setting {
    key: "wire.sample",
    kind: Kind::List { expected: "KIND=N, such as HEARTBEAT=20", check: grammar::is_wire_sample },
    default: Default::Text("HEARTBEAT=20,TIP=20,SWIM=10,PING=10,PONG=10,STATUS=10"),
    placeholder: "KIND=N",
    meaning: "Kinds of message of which one in N is kept, with its answers.",
    advice: "What is refused is always kept, whatever its kind.",
    ..PLAIN
};
pub(super) const DISK: Setting = Setting {
    key: "wire.disk",
    kind: Kind::Text { expected: "a filter of `hive wire`", check: grammar::is_wire_filter },
    default: Default::Text("verdict != \"taken\" && verdict != \"sent\""),
    placeholder: "FILTER",
    meaning: "Which messages are also kept on the disk, without their bodies.",
    advice: "By default those that were refused.",
    ..PLAIN
};
pub(super) const DISK_MB: Setting = Setting {
    key: "wire.disk_mb",
    kind: Kind::Integer { min: 0, max: 100_000 },
    default: Default::Text("16"),
    placeholder: "MIB",
    meaning: "Space that messages may take on the disk, in MiB; the oldest go first; 0: none are kept there.",
    ..PLAIN
};
pub(super) const DISK_DAYS: Setting = Setting {
    key: "wire.disk_days",
    kind: Kind::Integer { min: 1, max: 3_650 },
    default: Default::Text("7"),
    placeholder: "DAYS",
    meaning: "How long messages are kept on the disk, in days.",
    ..PLAIN
};
