//! Whether a drone can do a job: slots, liveness, role, labels, tools, memory.

use std::fmt;

use super::{Settings, View};
use crate::engine::id::PeerId;
use crate::engine::job::Needs;
use crate::engine::member::Member;
use crate::engine::state::State;

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
    /// Its role takes none.
    TakesNoBuilds,
    /// It failed too often; until this hive time.
    Grounded(u64),
    /// It was given no slots.
    NoSlots,
    /// It lacks these labels, tools or features.
    Lacks(Vec<String>),
    /// It has less memory than the job's limit, MiB.
    Memory(u64),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAlive => f.write_str("does not answer"),
            Self::TakesNoBuilds => f.write_str("its role takes no builds"),
            Self::Grounded(_) => f.write_str("grounded after too many failures that were not the package's fault"),
            Self::NoSlots => f.write_str("has no slots"),
            Self::Lacks(what) => write!(f, "lacks {}", what.join(", ")),
            Self::Memory(needed_mb) => write!(f, "has less than {needed_mb} MiB of memory"),
        }
    }
}

impl Unfit {
    /// What would change it.
    pub(super) fn remedy(&self, name: &str) -> String {
        match self {
            Self::NotAlive => format!("start hive on {name}, or look at its network (`hive doctor` there)"),
            Self::TakesNoBuilds => {
                format!("give {name} a role that takes builds (`hive identity reset` there asks again)")
            }
            Self::Grounded(_) => format!(
                "wait; it gets work again within 5 minutes. `hive logs` of its last jobs say what failed on {name}"
            ),
            Self::NoSlots => {
                format!("set build.slots above 0 on {name}, or mend what hive status says there about builds")
            }
            Self::Lacks(what) => format!("install or label {} on {name} and restart hive there", what.join(", ")),
            Self::Memory(needed_mb) => {
                format!("queue the job with a memory limit below {needed_mb} MiB, or add a larger machine than {name}")
            }
        }
    }
}

/// A member that has not left, as a plan sees it.
pub(super) struct Drone<'a> {
    pub(super) peer: &'a PeerId,
    pub(super) name: &'a str,
    member: &'a Member,
    pub(super) slots: Slots,
    pub(super) load_percent: u32,
    alive: bool,
    takes_builds: bool,
    pub(super) grounded_until_ms: u64,
    grounded: bool,
}

/// All members that have not left.
pub(super) fn drones<'a>(state: &'a State, view: &View, settings: &Settings, hive_ms: u64) -> Vec<Drone<'a>> {
    let in_flight = |peer: &PeerId| view.in_flight.values().filter(|node| *node == peer).count();
    let present = state.members().filter(|member| !member.left);
    present
        .map(|member| {
            let peer = &member.info.peer_id;
            let soft = view.drones.get(peer).cloned().unwrap_or_default();
            let by_cores = (member.info.inventory.cpu_cores / settings.cores_per_slot.max(1)).max(1);
            let taken = state.live_attempts_len(peer) + in_flight(peer);
            let grounded_until_ms = state.drone_record(peer).grounded_until_ms;
            Drone {
                peer,
                name: &member.display_name,
                member,
                slots: Slots { total: soft.slots.unwrap_or(by_cores), taken: u32::try_from(taken).unwrap_or(u32::MAX) },
                load_percent: soft.load_percent,
                alive: soft.alive,
                takes_builds: soft.takes_builds,
                grounded_until_ms,
                grounded: grounded_until_ms > hive_ms,
            }
        })
        .collect()
}

impl Drone<'_> {
    /// Slots that may be given away: none unless it may get work at all.
    pub(super) fn free(&self) -> u32 {
        if self.why_not().is_some() { 0 } else { self.slots.total.saturating_sub(self.slots.taken) }
    }

    /// Why it gets no work at all, whatever the job.
    pub(super) fn why_not(&self) -> Option<Unfit> {
        if !self.alive {
            Some(Unfit::NotAlive)
        } else if !self.takes_builds {
            Some(Unfit::TakesNoBuilds)
        } else if self.grounded {
            Some(Unfit::Grounded(self.grounded_until_ms))
        } else if self.slots.total == 0 {
            Some(Unfit::NoSlots)
        } else {
            None
        }
    }

    /// Why it cannot do jobs with these needs, free or not.
    pub(super) fn unfit_for(&self, needs: &Needs) -> Option<Unfit> {
        self.why_not().or_else(|| self.lacks(needs))
    }

    fn lacks(&self, needs: &Needs) -> Option<Unfit> {
        let missing: Vec<String> = needs.labels.iter().filter(|label| !self.has(label)).cloned().collect();
        // Memory is rounded down to GiB in the inventory.
        let memory_mb = u64::from(self.member.info.inventory.ram_gb).saturating_add(1).saturating_mul(1_024);
        if !missing.is_empty() {
            Some(Unfit::Lacks(missing))
        } else if needs.memory_mb > 0 && needs.memory_mb >= memory_mb {
            Some(Unfit::Memory(needs.memory_mb))
        } else {
            None
        }
    }

    /// A label is what the operator gave, a tool, a language, the architecture, the distribution, the kind of machine; or one
    /// of these with its kind in front, which leaves no doubt.
    fn has(&self, label: &str) -> bool {
        let inventory = &self.member.info.inventory;
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
            Some(("node", name)) => self.name == name,
            Some(("role", role)) => self.member.role.as_ref().is_some_and(|claim| claim.role == role),
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
