//! Package trees of drones: when one is synced because work waits for another tree, and what is said about it.
//!
//! ```text
//!   jobs that wait with their tree (replicated) ─► wanted_trees ─► Syncer::due ─► the drone syncs ─► its new tree is told (Admit)
//! ```
//!
//! What a session was resolved with is built with that one, so its jobs are labelled with their tree, and a drone with another one
//! gets none of them. Those jobs are replicated: that they wait is how a drone is told, by whoever coordinates, and no message about it
//! can be lost. A sync only ever brings the newest tree, so it is not tried for a tree that is known to be older than the drone's.
//! Never done here: syncing.

use serde::{Deserialize, Serialize};

/// Last sync of a drone, as it publishes it. Shown; never truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSync {
    /// The tree that it was told to sync for; empty where it never does.
    pub wanted: String,
    /// How that stands.
    pub phase: SyncPhase,
    /// Since it stands so, milliseconds.
    pub since_ms: u64,
    /// Until it may be tried again, milliseconds.
    pub again_in_ms: u64,
}

impl TreeSync {
    /// What became of it, for the end of a sentence about the tree; empty where it never does.
    pub fn words(&self) -> String {
        let ago_s = self.since_ms / 1_000;
        match &self.phase {
            SyncPhase::Off(_) => String::new(),
            SyncPhase::Running => format!(", being synced since {ago_s} s"),
            SyncPhase::Done(_) => format!(", synced {ago_s} s ago"),
            SyncPhase::Failed(why) => format!(", and its sync failed {ago_s} s ago: {why}"),
        }
    }
}

/// How a sync stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncPhase {
    /// This drone does not sync by itself; why.
    Off(String),
    /// It runs.
    Running,
    /// It ended well, and left this tree; none: one without identity.
    Done(Option<String>),
    /// It failed; why.
    Failed(String),
}

/// Whether this tree is known to be older than another one: both are named by times. Commits say nothing about it.
pub fn is_older(tree: &str, than: &str) -> bool {
    let time = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp());
    match (time(tree), time(than)) {
        (Some(one), Some(other)) => one < other,
        _ => false,
    }
}

/// When a drone syncs its tree. Its memory is the process's: a restart may sync once more.
#[derive(Clone, Debug)]
pub struct Syncer {
    interval_ms: u64,
    off: Option<String>,
    last: Option<Told>,
}

#[derive(Clone, Debug)]
struct Told {
    wanted: String,
    begun_ms: u64,
    phase: SyncPhase,
    phase_ms: u64,
}

impl Syncer {
    /// At most once per interval, milliseconds.
    pub fn new(interval_ms: u64) -> Self {
        Self { interval_ms, off: None, last: None }
    }

    /// Never, and why.
    pub fn off(why: impl Into<String>) -> Self {
        Self { interval_ms: 0, off: Some(why.into()), last: None }
    }

    /// The tree for which a sync is to begin now. `own` is the tree that is there, `busy` that something is built here.
    pub fn due(&self, now_ms: u64, wanted: &[String], own: Option<&str>, busy: bool) -> Option<String> {
        let waits = self.last.as_ref().is_some_and(|last| {
            last.phase == SyncPhase::Running || now_ms.saturating_sub(last.begun_ms) < self.interval_ms
        });
        if busy || waits || self.off.is_some() {
            return None;
        }
        // What is there may not be told yet.
        let helps = |wanted: &&String| own.is_none_or(|own| own != wanted.as_str() && !is_older(wanted, own));
        wanted.iter().find(helps).cloned()
    }

    /// It begins.
    pub fn begin(&mut self, now_ms: u64, wanted: String) {
        self.last = Some(Told { wanted, begun_ms: now_ms, phase: SyncPhase::Running, phase_ms: now_ms });
    }

    /// It ended, and left this tree; or it failed.
    pub fn end(&mut self, now_ms: u64, result: Result<Option<String>, String>) {
        if let Some(last) = &mut self.last {
            last.phase_ms = now_ms;
            last.phase = match result {
                Ok(tree) => SyncPhase::Done(tree),
                Err(why) => SyncPhase::Failed(why),
            };
        }
    }

    /// It did not begin, because something else did: nothing was tried.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// What is told of it.
    pub fn told(&self, now_ms: u64) -> Option<TreeSync> {
        if let Some(why) = &self.off {
            return Some(TreeSync {
                wanted: String::new(),
                phase: SyncPhase::Off(why.clone()),
                since_ms: 0,
                again_in_ms: 0,
            });
        }
        self.last.as_ref().map(|last| TreeSync {
            wanted: last.wanted.clone(),
            phase: last.phase.clone(),
            since_ms: now_ms.saturating_sub(last.phase_ms),
            again_in_ms: last.begun_ms.saturating_add(self.interval_ms).saturating_sub(now_ms),
        })
    }
}

/// Why a drone with one tree gets no work of another one, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The tree that is there.
    pub own: Option<String>,
    /// The tree that is needed.
    pub needed: String,
    /// Its last sync.
    pub sync: Option<TreeSync>,
}

impl Mismatch {
    /// No sync of this drone leads to the tree that is needed.
    pub fn is_past(&self) -> bool {
        self.own.as_ref().is_some_and(|own| is_older(&self.needed, own))
    }

    /// What becomes of it.
    fn outlook(&self) -> String {
        if self.is_past() {
            return "its own is newer, and a sync only brings the newest".to_owned();
        }
        let Some(sync) = &self.sync else { return "it is told to sync once it has nothing else to do".to_owned() };
        let ago_s = sync.since_ms / 1_000;
        let again = match sync.again_in_ms.div_ceil(1_000) {
            0 => "it is tried again once it has nothing else to do".to_owned(),
            again_s => format!("not tried again for {again_s} s"),
        };
        match &sync.phase {
            SyncPhase::Off(why) => format!("it does not sync by itself: {why}"),
            SyncPhase::Running => format!("told to sync {ago_s} s ago, which it does"),
            SyncPhase::Failed(why) => format!("told to sync; that failed {ago_s} s ago: {why}; {again}"),
            SyncPhase::Done(Some(tree)) if *tree == self.needed => {
                format!("synced {ago_s} s ago, the hive hears of it now")
            }
            SyncPhase::Done(_) => format!("told to sync; {ago_s} s ago that brought another one; {again}"),
        }
    }

    /// What would change it.
    pub fn remedy(&self, name: &str) -> String {
        const ANEW: &str =
            "hive session cancel the session, and queue it anew: it is then resolved with a tree that drones have";
        if self.is_past() {
            return ANEW.to_owned();
        }
        match self.sync.as_ref().map(|sync| &sync.phase) {
            Some(SyncPhase::Off(_)) => {
                format!("run on {name}: emerge --sync; or let it sync by itself: build.portage_sync = on")
            }
            Some(SyncPhase::Failed(_)) => {
                format!("mend it on {name} (hive's log there has the output) and run there: emerge --sync")
            }
            Some(SyncPhase::Done(_)) => {
                format!("run on {name} once its mirror has that tree: emerge --sync; or {ANEW}")
            }
            Some(SyncPhase::Running) | None => format!("wait: {name} syncs by itself; or run there: emerge --sync"),
        }
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own =
            self.own.as_ref().map_or_else(|| "it has no package tree".to_owned(), |own| format!("its tree is {own}"));
        write!(f, "{own}, the session needs {}; {}", self.needed, self.outlook())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY: &str = "Mon, 16 Nov 2026 00:45:01 +0000";
    const TUESDAY: &str = "Tue, 17 Nov 2026 00:45:01 +0000";
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn only_times_are_compared() {
        assert!(is_older(MONDAY, TUESDAY) && !is_older(TUESDAY, MONDAY) && !is_older(MONDAY, MONDAY));
        assert!(!is_older(COMMIT, TUESDAY) && !is_older(MONDAY, COMMIT) && !is_older("", ""));
    }

    #[test]
    fn a_drone_syncs_when_it_helps_and_seldom() {
        let (monday, tuesday) = ([MONDAY.to_owned()], [MONDAY.to_owned(), TUESDAY.to_owned()]);
        let mut syncer = Syncer::new(1_000);
        for (wanted, own, busy, due) in [
            (&tuesday[..], Some(MONDAY), false, Some(TUESDAY)),
            (&tuesday[1..], Some(MONDAY), false, Some(TUESDAY)),
            (&tuesday[1..], Some(MONDAY), true, None),
            (&monday[..], Some(TUESDAY), false, None),
            (&tuesday[..], Some(TUESDAY), false, None),
            (&monday[..], Some(COMMIT), false, Some(MONDAY)),
            (&monday[..], None, false, Some(MONDAY)),
            (&[], Some(MONDAY), false, None),
        ] {
            assert_eq!(syncer.due(5, wanted, own, busy).as_deref(), due, "{wanted:?} {own:?} {busy}");
        }
        syncer.begin(100, TUESDAY.to_owned());
        assert_eq!(syncer.due(9_999, &tuesday, None, false), None, "it still runs");
        syncer.end(700, Err("no route".to_owned()));
        assert_eq!(syncer.due(1_099, &tuesday, None, false), None, "counted from its begin");
        let told = syncer.told(900).expect("told");
        assert_eq!((told.since_ms, told.again_in_ms), (200, 200));
        assert!(syncer.due(1_100, &tuesday, None, false).is_some());
        syncer.end(700, Ok(Some(TUESDAY.to_owned())));
        assert_eq!(syncer.told(700).expect("told").phase, SyncPhase::Done(Some(TUESDAY.to_owned())));
        let off = Syncer::off("no root");
        assert_eq!(off.due(9_999, &tuesday, None, false), None);
        assert_eq!(off.told(1).expect("told").phase, SyncPhase::Off("no root".to_owned()));
        syncer.forget();
        assert!(syncer.told(0).is_none() && syncer.due(101, &tuesday, None, false).is_some());
    }

    #[test]
    fn what_is_said_names_both_trees_and_what_became_of_the_sync() {
        let sync = |phase| Some(TreeSync { wanted: TUESDAY.to_owned(), phase, since_ms: 4_000, again_in_ms: 2_500 });
        let said = |own: &str, needed: &str, sync| {
            let mismatch = Mismatch { own: Some(own.to_owned()), needed: needed.to_owned(), sync };
            (mismatch.to_string(), mismatch.remedy("b1"))
        };
        let (why, remedy) = said(MONDAY, TUESDAY, sync(SyncPhase::Failed("no route".to_owned())));
        assert_eq!(
            why,
            format!(
                "its tree is {MONDAY}, the session needs {TUESDAY}; told to sync; that failed 4 s ago: no route; not tried again for 3 s"
            )
        );
        assert!(remedy.contains("b1") && remedy.contains("emerge --sync"), "{remedy}");
        let (why, remedy) = said(TUESDAY, MONDAY, None);
        assert!(why.ends_with("its own is newer, and a sync only brings the newest"), "{why}");
        assert!(remedy.starts_with("hive session cancel"), "{remedy}");
        for (phase, part) in [
            (SyncPhase::Running, "told to sync 4 s ago, which it does"),
            (SyncPhase::Off("build.portage_sync is off".to_owned()), "does not sync by itself"),
            (SyncPhase::Done(Some(TUESDAY.to_owned())), "synced 4 s ago"),
            (SyncPhase::Done(None), "brought another one; not tried again for 3 s"),
        ] {
            let (why, _) = said(MONDAY, TUESDAY, sync(phase));
            assert!(why.contains(part), "{why}");
        }
    }
}
