//! How long it takes until a machine is something.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Effort;
use crate::client::status;
use crate::harness::{Agent, Host, Lab, eventually, s};
use crate::hive_of::{count, watch, wipe};
use crate::row::{Judged, Row};

/// A file is looked at so often; a look costs microseconds.
const LOOK: Duration = Duration::from_millis(2);
/// Pristine third nodes per hive. Each stays a member that is down, so that a hive is not used for ever.
const STARTS_PER_HIVE: usize = 10;

/// The committed identity of a host.
fn identity(host: &Host) -> Option<Value> {
    host.identity().filter(|identity| identity["provisional"] == false)
}

fn found_two(hosts: &[Host]) -> Vec<Agent> {
    hosts.iter().for_each(wipe);
    let first = hosts[0].start(&[]);
    eventually("the first has founded", s(30), || identity(&hosts[0]));
    let second = hosts[1].start(&[]);
    eventually("the second has a role", s(30), || identity(&hosts[1]));
    eventually("both see both", s(30), || {
        hosts[..2].iter().all(|host| status(host).is_some_and(|status| alive(&status) == 2)).then_some(())
    });
    vec![first, second]
}

fn alive(status: &Value) -> usize {
    count(status, |member| member["state"] == "alive")
}

/// From starting the process of a pristine machine to the file that says what it is, committed by the hive of the other two.
pub fn start_to_identity(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let hosts: Vec<Host> = (0..3).map(|_| lab.host()).collect();
    let third = &hosts[2];
    let (rounds, budget) = (effort.pick(100, 5), s(effort.pick(270, 40)));
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut pair: Vec<Agent> = Vec::new();
    while samples.len() < rounds && began.elapsed() < budget {
        if samples.len() % STARTS_PER_HIVE == 0 {
            pair.clear();
            pair = found_two(&hosts);
        }
        wipe(third);
        let since = Instant::now();
        let agent = third.start(&[]);
        watch("an identity", s(30), LOOK, || identity(third));
        samples.push(since.elapsed());
        agent.terminate();
        eventually("the others know that it is gone", s(20), || {
            hosts[..2].iter().all(|host| status(host).is_some_and(|status| alive(&status) == 2)).then_some(())
        });
    }
    drop(pair);
    vec![
        Row::times("start to identity in a hive of three", &samples)
            .goal(Judged::P95, 1_500.0)
            .note("process start included; a new pristine node each time"),
    ]
}

/// How twenty identities differ from what the default policy gives twenty machines.
fn census_problem(identities: &[Value], hives: usize) -> Option<String> {
    let founders = identities.iter().filter(|identity| identity["founder"] == true).count();
    let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
    for identity in identities {
        *roles.entry(identity["role"].as_str().unwrap_or("?")).or_default() += 1;
    }
    let right = hives == 1
        && founders == 1
        && roles.get("controller") == Some(&1)
        && roles.get("builder") == Some(&2)
        && roles.get("founder").copied().unwrap_or(0) <= 1;
    (!right).then(|| format!("{hives} hives, {founders} founders, roles {roles:?}"))
}

/// From starting the first of twenty pristine machines to the last one's membership, and to its identity.
pub fn twenty_at_once(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let hosts: Vec<Host> = (0..20).map(|_| lab.host()).collect();
    let (rounds, budget) = (effort.pick(10, 1), s(effort.pick(90, 30)));
    let began = Instant::now();
    let (mut members, mut identities, mut wrong) = (Vec::new(), Vec::new(), None);
    while members.is_empty() || (members.len() < rounds && began.elapsed() < budget) {
        hosts.iter().for_each(wipe);
        let since = Instant::now();
        // Twenty machines have twenty processors for apt's rehearsal; here they would queue for this one's.
        let _agents: Vec<Agent> = hosts.iter().map(|host| host.start(&["--packages", "off"])).collect();
        for host in &hosts {
            watch("a member", s(90), Duration::from_millis(20), || {
                status(host).filter(|status| status["self"]["state"] == "member")
            });
        }
        members.push(since.elapsed());
        let told: Vec<Value> = hosts.iter().map(|host| watch("an identity", s(60), LOOK, || identity(host))).collect();
        identities.push(since.elapsed());
        let hives: std::collections::BTreeSet<String> =
            hosts.iter().filter_map(|host| Some(status(host)?["hive_id"].to_string())).collect();
        wrong = wrong.or(census_problem(&told, hives.len()));
    }
    vec![
        Row::times("twenty pristine nodes at once: all are members", &members)
            .goal(Judged::Max, 10_000.0)
            .note("one founder, one controller, two builders, runners in every round")
            .wrong(wrong),
        Row::times("twenty pristine nodes at once: all have a role", &identities),
    ]
}
