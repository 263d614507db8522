//! Whether a drone can do a job: slots, liveness, role, labels, tools, memory.

use std::collections::BTreeMap;
use std::fmt;

use super::{DroneView, Settings, View};
use crate::engine::id::PeerId;
use crate::engine::job::{Job, Needs};
use crate::engine::legacy;
use crate::engine::member::Inventory;
use crate::engine::state::{Decision, DroneRecord, Machine, State};
use crate::engine::trees::{Mismatch, SyncPhase, TreeSync};

/// Slots of a drone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// All.
    pub total: u32,
    /// Taken by live attempts and by assignments under way.
    pub taken: u32,
}

/// Why a drone gets no job, or not this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The failure detector does not hold it alive.
    NotAlive,
    /// A drone of the Python swarm that has not asked for anything lately.
    Silent,
    /// Its role takes none.
    TakesNoBuilds,
    /// It failed too often; until this hive time.
    Grounded(u64),
    /// Nothing that it built could be brought away; until this hive time.
    CannotUpload(u64),
    /// An operator paused it: who and why.
    Paused(String),
    /// An operator empties it: who and why.
    Draining(String),
    /// Its disk is nearly full.
    DiskLow,
    /// It was given no slots.
    NoSlots,
    /// It only tries again what others could not build.
    Sweeps,
    /// A drone of the Python swarm, and the job is more than a Gentoo package.
    PackagesOnly,
    /// It lacks these labels, tools or features.
    Lacks(Vec<String>),
    /// It has another package tree than the job's session was resolved with.
    Tree(Box<Mismatch>),
    /// Its package tree is being synced.
    Syncing,
    /// It has less memory than the job's limit, MiB.
    Memory(u64),
    /// It has fewer processors, or may use fewer.
    Cores(u32),
    /// It has less free disk, MiB.
    Disk(u64),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAlive => f.write_str("does not answer"),
            Self::Silent => f.write_str("has not asked for work for a minute"),
            Self::TakesNoBuilds => f.write_str("its role takes no builds"),
            Self::Grounded(_) => f.write_str("grounded after too many failures that were not the package's fault"),
            Self::CannotUpload(_) => f.write_str("could not bring its last results away"),
            Self::Paused(by) => write!(f, "paused by {by}"),
            Self::Draining(by) => write!(f, "being drained by {by}"),
            Self::DiskLow => f.write_str("its disk is nearly full"),
            Self::NoSlots => f.write_str("has no slots"),
            Self::Sweeps => f.write_str("only tries again what others could not build"),
            Self::PackagesOnly => f.write_str("a drone of the build swarm, which is given Gentoo packages only"),
            Self::Lacks(what) => write!(f, "lacks {}", what.join(", ")),
            Self::Tree(mismatch) => mismatch.fmt(f),
            Self::Syncing => f.write_str("its package tree is being synced"),
            Self::Memory(needed_mb) => write!(f, "has less than {needed_mb} MiB of memory"),
            Self::Cores(needed) => write!(f, "has, or may use, fewer than {needed} processors"),
            Self::Disk(needed_mb) => write!(f, "has less than {needed_mb} MiB of free disk"),
        }
    }
}

impl Unfit {
    /// What would change it.
    pub(super) fn remedy(&self, name: &str) -> String {
        match self {
            Self::NotAlive => format!("start hive on {name}, or look at its network (`hive doctor` there)"),
            Self::Silent => format!("start the drone on {name}, and let it ask any node of the hive"),
            Self::TakesNoBuilds => {
                format!("give {name} a role that takes builds (`hive identity reset` there asks again)")
            }
            Self::Grounded(_) => format!(
                "wait up to 5 minutes, or: hive control unground {name}. `hive logs` of its last jobs say what failed there"
            ),
            Self::CannotUpload(_) => {
                format!(
                    "look at the disks of the other nodes and the network of {name}, then: hive control unground {name}"
                )
            }
            Self::Paused(_) | Self::Draining(_) => format!("hive drone resume {name}"),
            Self::DiskLow => format!("free space on {name}"),
            Self::Sweeps => "add a machine that is no sweeper".to_owned(),
            Self::Cores(needed) => {
                format!("hive drone limit {name} --cores {needed}, or queue the job with a lower --cores")
            }
            Self::Disk(needed_mb) => format!("free {needed_mb} MiB on {name}, or queue the job with a lower --disk-mb"),
            Self::NoSlots => {
                format!("set build.slots above 0 on {name}, or mend what hive status says there about builds")
            }
            Self::PackagesOnly => format!("add a machine that runs hive: {name} does not"),
            Self::Lacks(what) => format!("install or label {} on {name} and restart hive there", what.join(", ")),
            Self::Tree(mismatch) => mismatch.remedy(name),
            Self::Syncing => format!("wait until {name} has its new tree"),
            Self::Memory(needed_mb) => {
                format!("queue the job with a memory limit below {needed_mb} MiB, or add a larger machine than {name}")
            }
        }
    }
}

/// A machine that can be given work, as a plan sees it.
pub(super) struct Drone<'a> {
    pub(super) peer: &'a PeerId,
    pub(super) name: &'a str,
    inventory: &'a Inventory,
    role: Option<&'a str>,
    legacy: bool,
    ahead: u32,
    pub(super) slots: Slots,
    pub(super) load_percent: u32,
    /// It tries again what others could not build, and nothing else.
    pub(super) sweeps: bool,
    /// Hive time at which it gets work again, when it gets none for a while, and why not.
    pub(super) works_again: Option<(u64, &'static str)>,
    /// Processors that builds may use.
    cores: u32,
    /// Memory, MiB, beyond what its live attempts may use.
    memory_free_mb: u64,
    disk_free_mb: Option<u64>,
    sync: Option<TreeSync>,
    /// Why it gets nothing at all.
    shut: Option<Unfit>,
}

/// Everything that can be given work.
pub(super) fn drones<'a>(state: &'a State, view: &View, settings: &Settings, hive_ms: u64) -> Vec<Drone<'a>> {
    let mut in_flight: BTreeMap<&PeerId, usize> = BTreeMap::new();
    for node in view.in_flight.values() {
        *in_flight.entry(node).or_default() += 1;
    }
    state
        .machines()
        .map(|machine| {
            let peer = machine.peer;
            let taken = state.live_attempts_len(peer) + in_flight.get(peer).copied().unwrap_or(0);
            let soft = view.drones.get(peer).cloned().unwrap_or_default();
            drone(state, machine, &soft, u32::try_from(taken).unwrap_or(u32::MAX), settings, hive_ms)
        })
        .collect()
}

/// Attempts that a drone runs side by side: what it or its operator set, else by its processors; never more than its limit of
/// processors allows.
pub fn slots(inventory: &Inventory, record: &DroneRecord, set: Option<u32>, settings: &Settings) -> u32 {
    let cores = record.cores_limit.map_or(inventory.cpu_cores, |limit| limit.min(inventory.cpu_cores));
    let by_cores = (cores / settings.cores_per_slot.max(1)).max(1);
    match (set, record.cores_limit) {
        (Some(set), Some(_)) => set.min(by_cores),
        (Some(set), None) => set,
        (None, _) => by_cores,
    }
}

fn drone<'a>(
    state: &'a State,
    machine: Machine<'a>,
    soft: &DroneView,
    taken: u32,
    settings: &Settings,
    hive_ms: u64,
) -> Drone<'a> {
    let Machine { peer, name, inventory, role, legacy } = machine;
    let record = state.drone_record(peer);
    let cores = record.cores_limit.map_or(inventory.cpu_cores, |limit| limit.min(inventory.cpu_cores));
    // It is handed one package at a time, however many processors it has.
    let total = if legacy { 1 } else { slots(inventory, record, soft.slots, settings) };
    let later = [
        (record.grounded_until_ms, "a grounded drone"),
        (record.uploads_paused_until_ms, "a drone that cannot upload"),
    ];
    let reserved_mb: u64 = state.live_attempts(peer).map(|(job, _)| job.spec.limits.memory_max_mb).sum();
    // Memory is rounded down to GiB in the inventory.
    let memory_mb = u64::from(inventory.ram_gb).saturating_add(1).saturating_mul(1_024);
    let mut drone = Drone {
        peer,
        name,
        inventory,
        role,
        legacy,
        ahead: soft.ahead,
        slots: Slots { total, taken },
        load_percent: soft.load_percent,
        sweeps: state.sweeps(peer),
        works_again: later.into_iter().filter(|(until_ms, _)| *until_ms > hive_ms).min(),
        cores,
        memory_free_mb: memory_mb.saturating_sub(reserved_mb),
        disk_free_mb: soft.disk_free_mb,
        sync: soft.sync.clone(),
        shut: None,
    };
    drone.shut = shut(record, soft, total, hive_ms);
    if legacy && drone.shut == Some(Unfit::NotAlive) {
        drone.shut = Some(Unfit::Silent);
    }
    drone
}

/// Why a drone gets no work at all, whatever the job.
fn shut(record: &DroneRecord, soft: &DroneView, slots: u32, hive_ms: u64) -> Option<Unfit> {
    let said = |decision: &Decision| {
        if decision.why.is_empty() { decision.by.clone() } else { format!("{}: {}", decision.by, decision.why) }
    };
    if !soft.alive {
        Some(Unfit::NotAlive)
    } else if !soft.takes_builds {
        Some(Unfit::TakesNoBuilds)
    } else if let Some(drain) = &record.drain {
        Some(Unfit::Draining(said(&drain.decision)))
    } else if let Some(paused) = &record.paused {
        Some(Unfit::Paused(said(paused)))
    } else if record.grounded_until_ms > hive_ms {
        Some(Unfit::Grounded(record.grounded_until_ms))
    } else if record.uploads_paused_until_ms > hive_ms {
        Some(Unfit::CannotUpload(record.uploads_paused_until_ms))
    } else if soft.sync.as_ref().is_some_and(|sync| sync.phase == SyncPhase::Running) {
        Some(Unfit::Syncing)
    } else if soft.disk_low {
        Some(Unfit::DiskLow)
    } else if slots == 0 {
        Some(Unfit::NoSlots)
    } else {
        None
    }
}

impl Drone<'_> {
    /// Slots that may be given away: none unless it may get work at all.
    pub(super) fn free(&self) -> u32 {
        self.room(0)
    }

    /// Attempts that it may be given when it is given so many beyond its slots.
    pub(super) fn room(&self, ahead: u32) -> u32 {
        let ahead = if self.legacy && ahead > 0 { self.ahead.max(legacy::AHEAD) } else { ahead };
        if self.sweeps { 0 } else { self.room_for_sweeping_and(ahead) }
    }

    /// The same for a sweeper, which is given nothing beyond its slots.
    pub(super) fn room_for_sweeping(&self) -> u32 {
        self.room_for_sweeping_and(0)
    }

    fn room_for_sweeping_and(&self, ahead: u32) -> u32 {
        if self.shut.is_some() { 0 } else { self.slots.total.saturating_add(ahead).saturating_sub(self.slots.taken) }
    }

    /// It is given a job in this plan.
    pub(super) fn take(&mut self, job: &Job) {
        self.slots.taken += 1;
        self.memory_free_mb = self.memory_free_mb.saturating_sub(job.spec.limits.memory_max_mb);
    }

    /// Whether the memory that the job may use is not promised to others.
    pub(super) fn holds(&self, job: &Job) -> bool {
        job.spec.limits.memory_max_mb == 0 || job.spec.limits.memory_max_mb < self.memory_free_mb
    }

    /// Why it gets no work at all, whatever the job.
    pub(super) fn why_not(&self) -> Option<Unfit> {
        self.shut.clone()
    }

    /// Why it cannot do jobs with these needs, free or not.
    pub(super) fn unfit_for(&self, needs: &Needs) -> Option<Unfit> {
        self.why_not().or_else(|| self.sweeps.then_some(Unfit::Sweeps)).or_else(|| self.lacks(needs))
    }

    /// What it does not have, whether it may get work or not.
    pub(super) fn lacks(&self, needs: &Needs) -> Option<Unfit> {
        let inventory = self.inventory;
        if self.legacy && needs.agent {
            return Some(Unfit::PackagesOnly);
        }
        let labels = needs.labels.iter().filter(|label| !self.has(label)).cloned();
        let tools = needs.tools.iter().filter(|(tool, least)| !self.has_tool(tool, least));
        let tools = tools.map(|(tool, least)| if least.is_empty() { tool.clone() } else { format!("{tool} {least}") });
        let missing: Vec<String> = labels.chain(tools).collect();
        // Memory is rounded down to GiB in the inventory.
        let memory_mb = u64::from(inventory.ram_gb).saturating_add(1).saturating_mul(1_024);
        if let [tree] = missing.as_slice()
            && let Some(needed) = tree.strip_prefix("tree:")
        {
            let (own, sync) = (inventory.tree.clone(), self.sync.clone());
            Some(Unfit::Tree(Box::new(Mismatch { own, needed: needed.to_owned(), sync })))
        } else if !missing.is_empty() {
            Some(Unfit::Lacks(missing))
        } else if needs.memory_mb > 0 && needs.memory_mb >= memory_mb {
            Some(Unfit::Memory(needs.memory_mb))
        } else if needs.cores > self.cores {
            Some(Unfit::Cores(needs.cores))
        } else if needs.disk_mb > 0 && self.disk_free_mb.is_none_or(|free_mb| free_mb < needs.disk_mb) {
            Some(Unfit::Disk(needs.disk_mb))
        } else {
            None
        }
    }

    /// Which package tree it has and what became of its last sync, as the end of a sentence; empty without a tree.
    pub(super) fn tree_words(&self) -> String {
        let Some(tree) = &self.inventory.tree else { return String::new() };
        let synced = self.sync.as_ref().map(TreeSync::words).unwrap_or_default();
        format!("; its package tree is {tree}{synced}")
    }

    /// The tree that it would need to do jobs with these needs, when it lacks nothing else.
    fn wants<'n>(&self, needs: &'n Needs) -> Option<&'n str> {
        let tree = needs.labels.iter().find_map(|label| label.strip_prefix("tree:"))?;
        let mut others = needs.clone();
        others.labels.remove(&format!("tree:{tree}"));
        (self.inventory.tree.as_deref() != Some(tree) && self.lacks(&others).is_none()).then_some(tree)
    }

    fn has_tool(&self, tool: &str, least: &str) -> bool {
        let known = self.inventory.tools.get(tool);
        known.is_some_and(|version| least.is_empty() || is_at_least(version, least))
    }

    /// A label is what the operator gave, a tool, a language, the architecture, the distribution, the kind of machine; or one
    /// of these with its kind in front, which leaves no doubt.
    fn has(&self, label: &str) -> bool {
        let inventory = self.inventory;
        if inventory.labels.contains(label) {
            return true;
        }
        match label.split_once(':') {
            Some(("tool", tool)) => inventory.tools.contains_key(tool),
            Some(("lang", language)) => inventory.languages.contains(language),
            Some(("arch", arch)) => inventory.arch == arch,
            Some(("distro", distro)) => inventory.distro == distro,
            Some(("virt", virt)) => inventory.virt == virt,
            Some(("feature", feature)) => inventory.features.contains(feature),
            Some(("tree", tree)) => inventory.tree.as_deref() == Some(tree),
            Some(("node", name)) => self.name == name,
            Some(("role", role)) => self.role == Some(role),
            Some(_) => false,
            None => {
                inventory.tools.contains_key(label)
                    || inventory.languages.contains(label)
                    || [&inventory.arch, &inventory.distro, &inventory.virt].iter().any(|fact| *fact == label)
                    || (label == "gpu" && inventory.has_gpu)
                    || (label == "docker" && inventory.docker_installed)
            }
        }
    }
}

/// The package tree for which a machine would get work that it does not get with the one that it has.
pub fn wanted_tree(state: &State, peer: &PeerId) -> Option<String> {
    let machine = state.machine(peer)?;
    let drone = drone(state, machine, &DroneView::default(), 0, &Settings::default(), 0);
    state.waiting().find_map(|(needs, _)| drone.wants(needs).map(str::to_owned))
}

/// Trees for which it would be worth while to sync a machine, none twice: work waits for them, and none waits or runs for the tree
/// that is there, which a sync takes away.
pub fn wanted_trees(state: &State, peer: &PeerId) -> Vec<String> {
    let Some(machine) = state.machine(peer) else { return Vec::new() };
    let record = state.drone_record(peer);
    if state.paused().is_some() || record.paused.is_some() || record.drain.is_some() {
        return Vec::new();
    }
    let drone = drone(state, machine, &DroneView::default(), 0, &Settings::default(), 0);
    let own = drone.inventory.tree.as_ref().map(|tree| format!("tree:{tree}"));
    if let Some(own) = &own {
        let waits = state.waiting().any(|(needs, _)| needs.labels.contains(own) && drone.lacks(needs).is_none());
        // What runs with it has dependents with it.
        let mut live = state.busy_nodes().flat_map(|node| state.live_attempts(node));
        if waits || live.any(|(job, _)| job.spec.needs().labels.contains(own)) {
            return Vec::new();
        }
    }
    let wanted: std::collections::BTreeSet<&str> =
        state.waiting().filter_map(|(needs, _)| drone.wants(needs)).collect();
    wanted.into_iter().map(str::to_owned).collect()
}

/// Compares the first number with dots in a tool's own words with another: `3.8.7`, `Apache Maven 3.8.7 (Debian)`. A version that
/// is not known is not enough.
fn is_at_least(version: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        let rest = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].split('.').map_while(|part| part.parse().ok()).collect()
    };
    let (mut known, mut least) = (numbers(version), numbers(least));
    if known.is_empty() {
        return false;
    }
    let length = known.len().max(least.len());
    known.resize(length, 0);
    least.resize(length, 0);
    known >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, least, enough) in [
            ("3.8.7", "3.8", true),
            ("3.10", "3.8", true),
            ("3", "3.0.0", true),
            ("3.8", "3.8.1", false),
            ("Apache Maven 3.8.7 (Debian)", "3.9", false),
            ("openjdk 17.0.9 2023-10-17", "17", true),
            ("1.21.22", "1.21.22", true),
            ("", "1", false),
            ("unknown", "0", false),
        ] {
            assert_eq!(is_at_least(version, least), enough, "{version} {least}");
        }
    }
}
