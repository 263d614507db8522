//! The one table of settings. Flags, environment names, TOML keys, defaults, checks and the reference all come from it, so that
//! they cannot drift apart.
//!
//! One rule names everything: key `discovery.legacy_v1` is flag `--discovery-legacy-v1` and variable `HIVE_DISCOVERY_LEGACY_V1`.
//! Adding a setting is adding a row here and a field that reads it in [`Config`](super::Config); a test fails on one without
//! the other.

mod history;
mod http;
mod wire;

use super::value::Kind;
use super::{grammar, terminal};
use crate::engine::grammar as job_grammar;

/// What a setting is when nobody sets it.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// This text, read like a flag's value.
    Text(&'static str),
    /// Not set; says what happens then.
    Unset(&'static str),
    /// Depends on whether the system's service or a plain user runs the agent: `(system, plain user)`. `{config}`, `{state}` and
    /// `{run}` stand for the user's XDG directories.
    PerUser(&'static str, &'static str),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Key in the file; sections are separated by a dot.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when nobody sets it.
    pub default: Default,
    /// A word that means "not set", where leaving it out does not mean that.
    pub unset_word: Option<&'static str>,
    /// Flags without a value, each with the value that it stands for. When there are any, the setting's own flag is the first.
    pub switches: &'static [(&'static str, &'static str)],
    /// How the value is called in help.
    pub placeholder: &'static str,
    /// What it means, with its unit. One sentence.
    pub meaning: &'static str,
    /// How to choose it, and how it relates to others. May be empty.
    pub advice: &'static str,
}

impl Setting {
    /// The flag, without the leading dashes; none for what a flag cannot express.
    pub fn flag(&self) -> Option<String> {
        (!matches!(self.kind, Kind::Tables)).then(|| self.key.replace(['.', '_'], "-"))
    }

    /// The variable.
    pub fn variable(&self) -> Option<String> {
        self.flag().map(|flag| variable_of(&flag))
    }

    /// The variable by which an installation presets it: an operator's file, variable or flag wins over it.
    pub fn preset(&self) -> Option<String> {
        self.flag().map(|flag| variable_of(&format!("default-{flag}")))
    }
}

/// The variable of a flag.
pub fn variable_of(flag: &str) -> String {
    format!("HIVE_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// The row of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Names that the build swarm gave to settings: `(variable, key, how its value is written here)`, `{}` being the value.
pub const INHERITED: &[(&str, &str, &str)] = &[
    ("CONTROL_PLANE_PORT", "http", "0.0.0.0:{}"),
    ("ADMIN_PORT", "admin", "127.0.0.1:{}"),
    ("STAGING_PATH", "staging_path", "{}"),
    ("BINHOST_PATH", "binhost_path", "{}"),
];

/// Variables that hold the admin key, the first that is not empty counts. A key is no setting: flags, files and `hive config` must
/// not show it.
pub const KEY_VARIABLES: &[&str] = &["HIVE_ADMIN_KEY", "ADMIN_KEY", "ADMIN_SECRET"];

pub(super) const PLAIN: Setting = Setting {
    key: "",
    kind: Kind::Path,
    default: Default::Unset(""),
    unset_word: None,
    switches: &[],
    placeholder: "VALUE",
    meaning: "",
    advice: "",
};

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "name",
        kind: Kind::Text {
            expected: "1-63 characters of A-Z a-z 0-9 . _ -, a letter or digit first",
            check: grammar::is_node_name,
        },
        default: Default::Unset("the machine's host name"),
        placeholder: "NAME",
        meaning: "Name of this node, shown everywhere.",
        advice: "Unique in the hive by convention only: nodes are told apart by their keys.",
        ..PLAIN
    },
    Setting {
        key: "state_dir",
        default: Default::PerUser("/var/lib/build", "{state}/hive"),
        placeholder: "DIR",
        meaning: "Where the node keeps its key, identity, databases, blobs and logs.",
        advice: "On a local disk (SQLite and fsync do not trust network file systems); one directory per agent.",
        ..PLAIN
    },
    Setting {
        key: "secret_file",
        default: Default::PerUser("/etc/build/shared_secret", "{config}/hive/shared_secret"),
        placeholder: "FILE",
        meaning: "File with the secret that all nodes of a hive share.",
        advice: "Mode 0600, the same on every node. A node that founds a hive makes it when it is absent.",
        ..PLAIN
    },
    Setting {
        key: "weak_secret",
        kind: Kind::Switch,
        default: Default::Text("false"),
        switches: &[("weak-secret", "true")],
        meaning: "Accept a secret that could be guessed (below an estimated 128 bit).",
        advice: "For trials only: whoever guesses the secret can run builds on your machines.",
        ..PLAIN
    },
    Setting {
        key: "port",
        kind: Kind::Integer { min: 1, max: 65_535 },
        default: Default::Text("50555"),
        placeholder: "PORT",
        meaning: "UDP port of discovery and liveness, and TCP port of the mesh.",
        advice: "The same on every node that is to be found by broadcast; open both protocols in the firewall.",
        ..PLAIN
    },
    Setting {
        key: "listen_address",
        kind: Kind::Text { expected: "an IP address", check: grammar::is_ip_address },
        default: Default::Unset("all addresses"),
        placeholder: "ADDRESS",
        meaning: "Address on which discovery, liveness and mesh listen.",
        advice: "An address of the loopback interface keeps a trial on this machine. Broadcast needs all addresses.",
        ..PLAIN
    },
    http::ADDRESS,
    http::HOSTS,
    http::CORS_ORIGINS,
    http::PUBLIC_PAGE,
    http::BASE_PATH,
    http::TRUSTED_PROXIES,
    http::TLS,
    http::TLS_CERTIFICATE,
    http::TLS_KEY,
    Setting {
        key: "admin",
        kind: Kind::Text {
            expected: "ADDRESS:PORT, such as 127.0.0.1:8093, or none",
            check: grammar::is_socket_address,
        },
        default: Default::Text("127.0.0.1:8093"),
        unset_word: Some("none"),
        placeholder: "ADDRESS:PORT",
        meaning: "Where the hive is controlled with the admin key or a token; `none`: over the socket only.",
        advice: "Beyond this machine it is reached by TLS, see `tls`.",
        ..PLAIN
    },
    Setting {
        key: "admin_key_file",
        default: Default::Unset("`admin_key` beside the shared secret"),
        placeholder: "FILE",
        meaning: "Where a node that founds a hive writes the admin key that it makes.",
        advice: "Mode 0600. Only this node has it; the hive keeps a digest.",
        ..PLAIN
    },
    Setting {
        key: "legacy_drones",
        kind: Kind::Choice(&["key", "open", "off"]),
        default: Default::Text("key"),
        placeholder: "MODE",
        meaning: "Drones of the build swarm: with the admin key or a token of theirs, from `legacy_networks` also without, or not at all.",
        advice: "Today's drones send no key: they need `open`.",
        ..PLAIN
    },
    Setting {
        key: "legacy_lease_s",
        kind: Kind::Integer { min: 5, max: 86_400 },
        default: Default::Text("900"),
        placeholder: "SECONDS",
        meaning: "What a drone of the build swarm has goes to another one when it has asked for nothing for so long.",
        advice: "Too short takes work from machines that are merely busy.",
        ..PLAIN
    },
    Setting {
        key: "legacy_networks",
        kind: Kind::List { expected: "a network (10.0.0.0/8) or an address", check: grammar::is_network },
        default: Default::Text("127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1/128,fc00::/7,fe80::/10"),
        placeholder: "NETWORK",
        meaning: "From where `legacy_drones = \"open\"` admits drones without a key.",
        advice: "Whoever can send from there can hand in results; list the drones' network alone.",
        ..PLAIN
    },
    Setting {
        key: "socket",
        default: Default::PerUser("/run/hive/hive.sock", "{run}/hive/hive.sock"),
        placeholder: "PATH",
        meaning: "Unix socket for the commands on this machine; who may open it may control the hive.",
        advice: "At most 107 bytes, a limit of Unix sockets.",
        ..PLAIN
    },
    Setting {
        key: "interface",
        kind: Kind::List {
            expected: "an interface name (eth0, docker*) or a network (10.0.0.0/8)",
            check: grammar::is_interface_pattern,
        },
        default: Default::Unset("all but container bridges"),
        placeholder: "IF",
        meaning: "Interfaces on which discovery speaks, by name or network.",
        advice: "Leave it out unless a machine has networks that the hive must not see.",
        ..PLAIN
    },
    Setting {
        key: "exclude_interface",
        kind: Kind::List {
            expected: "an interface name (eth0, docker*) or a network (10.0.0.0/8)",
            check: grammar::is_interface_pattern,
        },
        default: Default::Unset("none"),
        placeholder: "IF",
        meaning: "Interfaces on which discovery is silent. Wins over `interface`.",
        advice: "",
        ..PLAIN
    },
    Setting {
        key: "join",
        kind: Kind::List { expected: "HOST[:PORT] or [IPV6]:PORT", check: grammar::is_join_target },
        default: Default::Unset("none"),
        placeholder: "HOST[:PORT]",
        meaning: "Nodes to greet directly, for networks that broadcast does not reach.",
        advice: "Two or three nodes of the hive are enough; the others are learned from them.",
        ..PLAIN
    },
    Setting {
        key: "expect",
        kind: Kind::Integer { min: 1, max: 1_000 },
        default: Default::Unset("do not wait"),
        placeholder: "N",
        meaning: "Found a hive only when so many nodes, this one included, are in view.",
        advice: "The same on all nodes of a first start.",
        ..PLAIN
    },
    Setting {
        key: "found",
        kind: Kind::Choice(&["auto", "force", "never"]),
        default: Default::Text("auto"),
        switches: &[("found", "force"), ("no-found", "never")],
        meaning: "Whether this node may found a hive: `auto` after hearing none for 3 s, `force` also when it hears only \
                  datagrams that it cannot verify, `never`.",
        advice: "`never` on machines that must only ever join.",
        ..PLAIN
    },
    Setting {
        key: "admission",
        kind: Kind::Choice(&["open"]),
        default: Default::Text("open"),
        placeholder: "RULE",
        meaning: "Who may become a member: `open` admits whoever proves the secret.",
        ..PLAIN
    },
    Setting {
        key: "helper",
        default: Default::PerUser("/run/hive/helper.sock", "none"),
        unset_word: Some("none"),
        placeholder: "PATH",
        meaning: "Socket of the privileged helper that installs packages and starts builds as another user; `none` to do without.",
        advice: "Without it the agent can only do what its own user may.",
        ..PLAIN
    },
    Setting {
        key: "label",
        kind: Kind::List {
            expected: "1-63 characters of A-Z a-z 0-9 . _ + : = -",
            check: |text| job_grammar::label(text).is_ok(),
        },
        default: Default::Unset("none"),
        placeholder: "LABEL",
        meaning: "Labels of this machine that jobs can ask for.",
        ..PLAIN
    },
    Setting {
        key: "roles_dir",
        default: Default::Unset("/etc/build/roles, else /usr/share/hive/roles, else the built-in roles"),
        placeholder: "DIR",
        meaning: "Directory of role definitions (*.toml).",
        ..PLAIN
    },
    Setting {
        key: "policies_dir",
        default: Default::Unset(
            "/etc/build/advisor-policies, else /usr/share/hive/advisor-policies, else the built-in ones",
        ),
        placeholder: "DIR",
        meaning: "Directory of advisor policies (*.toml).",
        ..PLAIN
    },
    Setting {
        key: "policy",
        kind: Kind::Text { expected: "the name of a policy file without .toml", check: grammar::is_definition_name },
        default: Default::Text("default"),
        placeholder: "NAME",
        meaning: "The policy by which this node advises others.",
        advice: "Nodes may hold different policies; each ballot counts them all.",
        ..PLAIN
    },
    Setting {
        key: "packages",
        kind: Kind::Choice(&["off", "dry-run", "on"]),
        default: Default::Text("dry-run"),
        placeholder: "MODE",
        meaning: "What happens to the packages of the role: nothing, a rehearsal that changes nothing, or installation.",
        advice: "`on` needs the helper, or the agent to run as root.",
        ..PLAIN
    },
    Setting {
        key: "staging_path",
        default: Default::Unset("this node keeps no staging"),
        placeholder: "DIR",
        meaning: "Where this node puts the finished packages of the hive, and where drones of the build swarm upload theirs.",
        advice: "/var/cache/hive/staging on one or two nodes with room; hive.service needs ReadWritePaths= for another. Never the directory \
                 that clients are served from.",
        ..PLAIN
    },
    Setting {
        key: "binhost_path",
        default: Default::Unset("this node serves no clients"),
        placeholder: "DIR",
        meaning: "The directory that clients are served from; nothing is ever put there, and `staging_path` beside it is checked.",
        advice: "Where a web server or rsync serves packages of this machine, so that staging cannot be taken for it by mistake.",
        ..PLAIN
    },
    Setting {
        key: "identity.reballot_interval_s",
        kind: Kind::Integer { min: 1, max: 604_800 },
        default: Default::Text("3600"),
        placeholder: "SECONDS",
        meaning: "How often the coordinator asks whether each role is still needed, in seconds.",
        ..PLAIN
    },
    Setting {
        key: "discovery.multicast_group",
        kind: Kind::Text { expected: "an IPv4 multicast address", check: grammar::is_multicast_group },
        default: Default::Text("239.255.0.1"),
        placeholder: "ADDRESS",
        meaning: "Multicast group that is greeted beside the broadcast addresses.",
        advice: "The same on every node.",
        ..PLAIN
    },
    Setting {
        key: "discovery.legacy_v1",
        kind: Kind::Choice(&["off", "answer", "announce"]),
        default: Default::Text("answer"),
        placeholder: "MODE",
        meaning: "Old nodes (wire v1): not heard, answered, or also greeted.",
        advice: "`off` once the last old node is gone: its protocol can be replayed.",
        ..PLAIN
    },
    Setting {
        key: "discovery.mdns",
        kind: Kind::Choice(&["on", "off"]),
        default: Default::Text("on"),
        placeholder: "on|off",
        meaning: "Whether nodes are also looked for by multicast DNS.",
        ..PLAIN
    },
    Setting {
        key: "build.slots",
        kind: Kind::Integer { min: 0, max: 256 },
        default: Default::Text("1"),
        placeholder: "N",
        meaning: "Builds at the same time on this node; 0: it takes none.",
        advice: "One is right for packages that build in parallel by themselves.",
        ..PLAIN
    },
    Setting {
        key: "build.cores",
        kind: Kind::Integer { min: 0, max: 4_096 },
        default: Default::Text("0"),
        placeholder: "N",
        meaning: "Processors for all builds of this node together; 0: all it has.",
        advice: "Needs a cgroup, which the shipped units have. Read by the helper too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.work_dir",
        default: Default::Unset("`work` in the state directory"),
        placeholder: "DIR",
        meaning: "Where sources are unpacked and built.",
        advice: "Needs several times the space of the largest source; a tmpfs is fine with enough memory. Read by the helper too: its \
                 parents must be root's, both services are restarted after a change, and hive.service needs ReadWritePaths= for it.",
        ..PLAIN
    },
    Setting {
        key: "build.disk_max_mb",
        kind: Kind::Integer { min: 0, max: 100_000_000 },
        default: Default::Text("65536"),
        placeholder: "MIB",
        meaning: "Most disk that one attempt takes below `build.work_dir`, in MiB; one that takes more is ended; 0: as much as there is.",
        advice: "Whatever it is, an attempt ends before the disk is full. Read by the helper too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.user",
        kind: Kind::Text { expected: "a user name", check: grammar::is_user_name },
        default: Default::Unset(
            "`hive-build`, else `nobody`; the agent's own user when it is not root and has no helper",
        ),
        placeholder: "USER",
        meaning: "User under which builds run; never root.",
        advice: "Needs the helper, or an agent that is root. Read by the helper too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.debian_build_deps",
        kind: Kind::Choice(&["off", "on"]),
        default: Default::Text("off"),
        placeholder: "on|off",
        meaning: "Whether build dependencies of Debian sources are installed on this machine before the build.",
        advice: "Needs the helper, or the agent to run as root.",
        ..PLAIN
    },
    Setting {
        key: "build.secrets_dir",
        default: Default::Text("/etc/build/job-secrets"),
        placeholder: "DIR",
        meaning: "Where the secrets are that jobs name: one file each, for root and the agent only.",
        advice: "A job that names one which is not there fails and says so; require a label to place it where it is.",
        ..PLAIN
    },
    Setting {
        key: "build.binhost",
        kind: Kind::Text { expected: "an http, https or ftp URL", check: grammar::is_binhost },
        default: Default::Unset("what the configuration of Portage names"),
        placeholder: "URL",
        meaning: "Where the hive's finished Gentoo packages are served: what a package needs is taken from there when it fits.",
        advice: "Read by the helper too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.portage_sync",
        kind: Kind::Choice(&["on", "off"]),
        default: Default::Text("on"),
        placeholder: "on|off",
        meaning: "Whether this node syncs its package tree (`emerge --sync`) when work waits for another tree than it has.",
        advice: "Needs the helper, or the agent to run as root. The helper reads it too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.portage_sync_interval_s",
        kind: Kind::Integer { min: 1, max: 31_536_000 },
        default: Default::Text("3600"),
        placeholder: "SECONDS",
        meaning: "Least time between two of these syncs, in seconds.",
        advice: "Public mirrors ask for at most one sync a day: set 86400 where a tree comes from one. The helper reads it too.",
        ..PLAIN
    },
    Setting {
        key: "build.portage_sync_timeout_s",
        kind: Kind::Integer { min: 1, max: 86_400 },
        default: Default::Text("900"),
        placeholder: "SECONDS",
        meaning: "A sync that takes longer is ended and counts as failed, in seconds.",
        advice: "Read by the helper too: restart it after a change.",
        ..PLAIN
    },
    Setting {
        key: "build.portage_verify_keys",
        default: Default::Unset("signatures of Gentoo packages are not checked"),
        placeholder: "FILE",
        meaning: "Public keys of those who may sign Gentoo packages, as `gpg --export KEY` writes them.",
        advice: "On drones and on nodes with staging: a signed package counts only when one of these keys signed all of it. Needs gpgv.",
        ..PLAIN
    },
    Setting {
        key: "build.portage_signatures",
        kind: Kind::Choice(&["accept", "demand"]),
        default: Default::Text("accept"),
        placeholder: "MODE",
        meaning: "Whether Gentoo packages without a signature are taken: `accept` takes them, `demand` refuses them.",
        advice: "`demand` needs `build.portage_verify_keys`, and drones that sign (FEATURES=binpkg-signing in their make.conf).",
        ..PLAIN
    },
    Setting {
        key: "build.keep_logs_days",
        kind: Kind::Integer { min: 1, max: 3_650 },
        default: Default::Text("30"),
        placeholder: "DAYS",
        meaning: "How long build logs are kept, in days.",
        ..PLAIN
    },
    Setting {
        key: "build.keep_logs_mb",
        kind: Kind::Integer { min: 16, max: 10_000_000 },
        default: Default::Text("2048"),
        placeholder: "MIB",
        meaning: "Space that build logs may take, in MiB; the oldest go first.",
        ..PLAIN
    },
    Setting {
        key: "build.keep_artifacts_days",
        kind: Kind::Integer { min: 0, max: 3_650 },
        default: Default::Text("90"),
        placeholder: "DAYS",
        meaning: "How long artifacts of jobs that are over are kept on this node, in days; 0: for ever.",
        advice: "Packages in staging are not touched, and nothing goes before it is there, where a node has staging.",
        ..PLAIN
    },
    Setting {
        key: "build.keep_artifacts_mb",
        kind: Kind::Integer { min: 0, max: 10_000_000 },
        default: Default::Text("51200"),
        placeholder: "MIB",
        meaning: "Space that artifacts of jobs that are over may take on this node, in MiB; the oldest go first; 0: any.",
        ..PLAIN
    },
    terminal::ENABLED,
    terminal::SHELL,
    terminal::IDLE,
    terminal::SESSIONS,
    terminal::KEEP_DAYS,
    terminal::KEEP_MB,
    Setting {
        key: "log.level",
        kind: Kind::Text {
            expected: "error, warn, info, debug, trace or a list such as info,hive=debug",
            check: grammar::is_log_filter,
        },
        default: Default::Text("info"),
        placeholder: "LEVEL",
        meaning: "What the agent logs to standard error.",
        ..PLAIN
    },
    Setting {
        key: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: Default::Text("text"),
        placeholder: "FORMAT",
        meaning: "How the agent logs: for people, or one JSON object per line.",
        ..PLAIN
    },
    wire::RING_RECORDS,
    wire::RING_MB,
    wire::SAMPLE,
    wire::DISK,
    wire::DISK_MB,
    wire::DISK_DAYS,
    history::DAYS,
    history::MB,
    Setting {
        key: "facts",
        kind: Kind::Tables,
        default: Default::Unset("none"),
        meaning: "Sources of facts for advisor policies, each a table: a file, a command or an HTTP address.",
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_flags_and_variables_are_unique_and_follow_one_rule() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.key.to_owned()), "{} twice", setting.key);
            assert!(
                setting.key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'_')
            );
            if let Some(flag) = setting.flag() {
                assert!(seen.insert(format!("--{flag}")), "--{flag} twice");
                for (switch, _) in setting.switches.iter().filter(|(switch, _)| *switch != flag) {
                    assert!(seen.insert(format!("--{switch}")), "--{switch} twice");
                }
                assert!(setting.switches.is_empty() || setting.switches[0].0 == flag);
            }
            assert!(setting.meaning.ends_with('.') && !setting.meaning.contains("  "), "{}", setting.key);
        }
        let row = find("discovery.legacy_v1").expect("there");
        assert_eq!(row.flag().as_deref(), Some("discovery-legacy-v1"));
        assert_eq!(row.variable().as_deref(), Some("HIVE_DISCOVERY_LEGACY_V1"));
    }

    #[test]
    fn every_default_and_every_switch_passes_its_own_check() {
        for setting in SETTINGS {
            if let Default::Text(text) = setting.default {
                setting.kind.from_text(text).unwrap_or_else(|error| panic!("{}: {error}", setting.key));
            }
            for (switch, value) in setting.switches {
                setting.kind.from_text(value).unwrap_or_else(|error| panic!("--{switch}: {error}"));
            }
        }
        for (variable, key, form) in INHERITED {
            let setting = find(key).unwrap_or_else(|| panic!("{variable} names {key}"));
            assert!(setting.kind.from_text(&form.replace("{}", "8100")).is_ok());
        }
    }
}
