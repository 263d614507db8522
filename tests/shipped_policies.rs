//! The roles and policies in the repository: every file loads, and hives that grow under them come out as described.
//!
//! Ballots are counted by the real engine, with every member as an advisor; claims follow the rule of `ClaimRole`: the first role
//! of the ranking whose count is below its cap.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use hive::engine::ballot::{AdviceMsg, Ballot, BallotStep, Given, Outcome, Ranked};
use hive::engine::id::PeerId;
use hive::engine::member::Inventory;
use hive::engine::policy::{Policy, Snapshot, evaluate};
use hive::engine::role::{FOUNDER, RoleSet, shipped};

fn files(dir: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<(String, String)> = fs::read_dir(&dir)
        .expect("directory of the repository")
        .map(|entry| entry.expect("entry").path())
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("text")))
        .collect();
    files.sort();
    assert!(files.iter().all(|(name, _)| name.ends_with(".toml")), "{files:?}");
    files
}

#[test]
fn the_files_are_the_ones_inside_the_binary() {
    for (dir, shipped) in [("roles", shipped::ROLES), ("advisor-policies", shipped::POLICIES)] {
        let root = format!("{}/", env!("CARGO_MANIFEST_DIR"));
        let files: Vec<_> = files(dir).into_iter().map(|(file, text)| (file.replace(&root, ""), text)).collect();
        let inside: Vec<_> = shipped.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        assert_eq!(files, inside);
    }
}

fn roles() -> RoleSet {
    RoleSet::parse(files("roles")).unwrap_or_else(|error| panic!("{error}"))
}

fn policies(roles: &RoleSet) -> BTreeMap<String, Policy> {
    let load = |(file, text): (String, String)| {
        let policy = Policy::parse(&file, &text, roles).unwrap_or_else(|error| panic!("{error}"));
        assert!(file.ends_with(&format!("/{}.toml", policy.name())), "{file} is called {}", policy.name());
        (policy.name().to_owned(), policy)
    };
    files("advisor-policies").into_iter().map(load).collect()
}

/// A hive in which everybody advises by the same policy.
struct Hive {
    roles: Arc<RoleSet>,
    policy: Policy,
    held: Vec<String>,
    blocked: u64,
    needed: u64,
}

impl Hive {
    fn founded(policy: &str) -> Self {
        let roles = roles();
        let policy = policies(&roles).remove(policy).expect("shipped");
        Self { roles: Arc::new(roles), policy, held: vec![FOUNDER.to_owned()], blocked: 0, needed: 0 }
    }

    fn count(&self, role: &str) -> u32 {
        u32::try_from(self.held.iter().filter(|held| *held == role).count()).expect("few")
    }

    fn snapshot(&self, node: &Inventory, joining: u32) -> Snapshot {
        let mut snapshot = Snapshot { node: node.clone(), ..Snapshot::default() };
        for role in &self.held {
            *snapshot.census.entry(role.clone()).or_insert(0) += 1;
        }
        snapshot.members = u32::try_from(self.held.len()).expect("few") + joining;
        (snapshot.queue.blocked, snapshot.queue.needed) = (self.blocked, self.needed);
        snapshot
    }

    fn ask(&self, node: &Inventory, joining: u32) -> Ranked {
        let advice = evaluate(&self.policy, &self.roles, &self.snapshot(node, joining));
        let advisors: BTreeSet<PeerId> = (0..self.held.len()).map(|n| PeerId::new(format!("build{}", n + 1))).collect();
        let mut ballot = Ballot::new("b", advisors.clone(), Arc::clone(&self.roles), 0);
        for advisor in &advisors {
            let policy = self.policy.name().to_owned();
            let message =
                AdviceMsg { ballot: "b".into(), policy, roles_digest: self.roles.digest(), advice: advice.clone() };
            ballot.on_advice(advisor, message, 1).expect("counted");
        }
        match ballot.poll(1) {
            BallotStep::Decided(Outcome::Ranked(ranked)) => ranked,
            other @ (BallotStep::Wait { .. } | BallotStep::Decided(_)) => {
                panic!("no ranking: {other:?}, advice {advice:?}")
            }
        }
    }

    fn claim(&mut self, ranked: &Ranked) -> (String, Given) {
        let room = ranked.ranking.iter().find(|ranked| ranked.cap.is_none_or(|cap| self.count(&ranked.role) < cap));
        let role = room.expect("a ranking ends in a role without a cap").role.clone();
        let given = ranked.for_role(&role).expect("ranked");
        self.held.push(role.clone());
        (role, given)
    }

    fn join(&mut self, node: &Inventory) -> (String, Given) {
        let ranked = self.ask(node, 1);
        self.claim(&ranked)
    }
}

fn machine(distro: &str, ram_gb: u32, disk_free_gb: u32) -> Inventory {
    Inventory { cpu_cores: 4, ram_gb, disk_free_gb, distro: distro.into(), virt: "qemu".into(), ..Inventory::default() }
}

#[test]
fn the_first_machines_become_what_the_seed_prints() {
    let mut hive = Hive::founded("default");
    let ubuntu = machine("ubuntu", 8, 50);
    let (role, given) = hive.join(&ubuntu);
    assert_eq!((role.as_str(), given.reason.as_str()), ("controller", "first node becomes controller"));
    assert_eq!(given.assigned_by, BTreeSet::from([PeerId::new("build1")]));
    let packages = |role: &str| roles().get(role).expect("shipped").packages_on("ubuntu").join(", ");
    assert_eq!(packages("controller"), "ansible, git, build-essential");

    let (role, given) = hive.join(&ubuntu);
    assert_eq!((role.as_str(), given.reason.as_str()), ("builder", "cluster needs builders"));
    assert_eq!(given.assigned_by, BTreeSet::from([PeerId::new("build1"), PeerId::new("build2")]));
    assert!(given.dissent.is_empty());
    assert_eq!(packages("builder"), "openjdk-17-jdk, maven, git, build-essential");

    assert_eq!(hive.join(&ubuntu).0, "builder");
    assert_eq!(hive.join(&ubuntu).0, "runner");
    assert_eq!(packages("runner"), "python3-pytest, nodejs, npm");
    hive.needed = 40;
    let (role, given) = hive.join(&ubuntu);
    assert_eq!((role.as_str(), given.reason.as_str()), ("builder", "build queue is long: 40 jobs wait for 2 builders"));
}

#[test]
fn no_policy_leaves_a_machine_without_a_role_when_twenty_boot_together() {
    for name in policies(&roles()).into_keys() {
        for node in [machine("gentoo", 16, 200), machine("ubuntu", 16, 200), machine("unknown", 1, 1)] {
            let mut hive = Hive::founded(&name);
            let asked: Vec<Ranked> = (0..19).map(|_| hive.ask(&node, 19)).collect();
            asked.iter().for_each(|ranked| drop(hive.claim(ranked)));
            for role in roles().iter() {
                assert!(role.max.is_none_or(|max| hive.count(&role.name) <= max), "{name}: {:?}", hive.held);
            }
        }
    }
}

#[test]
fn twenty_that_boot_together_keep_within_the_caps_and_none_goes_without() {
    let mut hive = Hive::founded("default");
    let asked: Vec<Ranked> = (0..19).map(|_| hive.ask(&machine("debian", 4, 20), 19)).collect();
    let given: Vec<(String, Given)> = asked.iter().map(|ranked| hive.claim(ranked)).collect();
    assert_eq!((hive.count("controller"), hive.count("builder"), hive.count("runner")), (1, 2, 16));
    assert!(given.iter().all(|(_, given)| given.assigned_by == BTreeSet::from([PeerId::new("build1")])));
    assert_eq!(given[0].1.reason, "first node becomes controller");
    assert_eq!(given[1].1.reason, "cluster needs builders");
    assert!(given.iter().all(|(_, given)| given.dissent.is_empty()));
}

#[test]
fn a_cloudstack_hub_gets_builders_a_controller_and_tests() {
    let mut hive = Hive::founded("cloudstack");
    let server = machine("ubuntu", 32, 450);
    let roles: Vec<String> = (0..3).map(|_| hive.join(&server).0).collect();
    assert_eq!(roles, ["cloudstack-builder", "cloudstack-builder", "controller"]);
    let host = Inventory { virt: "bare-metal".into(), ..server.clone() };
    assert_eq!(hive.join(&host).0, "kvm-hypervisor");
    assert_eq!(hive.join(&host).0, "test-runner");
    assert_eq!(hive.join(&machine("ubuntu", 2, 10)).0, "test-runner");
    hive.needed = 9;
    assert_eq!(hive.join(&server).0, "cloudstack-builder");
}

#[test]
fn a_gentoo_swarm_gets_drones_a_binhost_and_a_sweeper_when_packages_are_blocked() {
    let mut hive = Hive::founded("gentoo");
    let gentoo = machine("gentoo", 8, 80);
    let roles: Vec<String> = (0..4).map(|_| hive.join(&gentoo).0).collect();
    assert_eq!(roles, ["binhost", "drone", "drone", "drone"]);
    hive.blocked = 3;
    assert_eq!(hive.join(&gentoo).0, "sweeper");
    assert_eq!(hive.join(&gentoo).0, "drone");
    let (role, given) = hive.join(&machine("debian", 8, 10));
    assert_eq!(
        (role.as_str(), given.reason.as_str()),
        ("runner", "Portage is not here (debian), so it runs what needs none")
    );
}

#[test]
fn every_shipped_policy_has_a_role_without_a_cap_for_any_machine_in_any_hive() {
    let roles = roles();
    for (name, policy) in policies(&roles) {
        assert!(!policy.description().is_empty());
        assert!(policy.facts().is_empty(), "{name} needs facts that nobody has configured");
        for distro in ["debian", "gentoo", "unknown"] {
            for count in [0, 1, 50] {
                let census = roles.iter().map(|role| (role.name.clone(), count)).collect();
                let node = machine(distro, 0, 0);
                let mut snapshot = Snapshot { census, members: count + 1, node, ..Snapshot::default() };
                snapshot.queue.blocked = 1;
                let advice = evaluate(&policy, &roles, &snapshot);
                let last = advice.ranking.last().unwrap_or_else(|| panic!("{name}: {advice:?}"));
                assert_eq!(roles.effective_cap(&last.role, last.cap), None, "{name} on {distro}: {advice:?}");
                assert!(advice.skipped.is_empty(), "{name}: {:?}", advice.skipped);
            }
        }
    }
}

#[test]
fn every_shipped_role_says_what_it_is_for_and_by_default_takes_builds() {
    let roles = roles();
    assert!(roles.get(FOUNDER).is_some());
    assert_eq!(roles.get("controller").expect("shipped").max, Some(1));
    let none: Vec<&str> = roles.iter().filter(|role| !role.takes_builds).map(|role| role.name.as_str()).collect();
    assert_eq!(none, ["binhost"]);
    let ranks: BTreeMap<&str, u32> = roles.iter().map(|role| (role.name.as_str(), role.rank)).collect();
    assert!(ranks["controller"] < ranks["builder"] && ranks["builder"] < ranks["runner"]);
}
