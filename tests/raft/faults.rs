//! What befalls a hive, by seed: which faults, of whom, for how long.

use std::collections::BTreeSet;
use std::time::Duration;

use crash_disk::Random;
use hive::engine::id::PeerId;

use super::cluster::Cluster;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Whoever leads loses its power, and comes back with what its disk kept.
    LeaderLosesPower,
    /// Somebody does.
    PowerCut,
    /// All do at once.
    AllLosePower,
    /// Whoever leads hears and reaches nobody.
    LeaderIsolated,
    /// Two halves, and one machine that both reach.
    Bridge,
    /// Somebody is not heard, and hears.
    OneWay,
    /// Whoever leads stands still, its timers with it.
    LeaderFrozen,
    /// Somebody stands still.
    Frozen,
    /// All streams of somebody end, with what was on the way.
    Broken,
    /// A voter is replaced, and meanwhile whoever leads is cut off.
    MemberChanges,
    /// Whoever leads hands over, and is cut off right after.
    HandsOver,
    /// Somebody is without power for so long that the others have purged what it lacks.
    LongAway,
}

const ALL: [Fault; 12] = [
    Fault::LeaderLosesPower,
    Fault::PowerCut,
    Fault::AllLosePower,
    Fault::LeaderIsolated,
    Fault::Bridge,
    Fault::OneWay,
    Fault::LeaderFrozen,
    Fault::Frozen,
    Fault::Broken,
    Fault::MemberChanges,
    Fault::HandsOver,
    Fault::LongAway,
];

/// One fault of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    /// Whom it befalls, where that is open.
    whom: usize,
    lasts_ms: u64,
    rest_ms: u64,
    delay_ms: u64,
}

/// The faults of a run, each kind once in every twelve.
pub(crate) fn schedule(seed: u64, count: usize, machines: usize) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let mut left: Vec<Fault> = Vec::new();
    let plan = |_| {
        if left.is_empty() {
            left = ALL.to_vec();
        }
        let at = usize::try_from(random.below(left.len() as u64)).expect("small");
        Planned {
            fault: left.swap_remove(at),
            whom: usize::try_from(random.below(machines as u64)).expect("small"),
            lasts_ms: 250 + random.below(600),
            rest_ms: 100 + random.below(500),
            delay_ms: [0, 0, 5, 40][usize::try_from(random.below(4)).expect("small")],
        }
    };
    (0..count).map(plan).collect()
}

async fn wait(millis: u64) {
    drop(tokio::time::timeout(Duration::from_millis(millis), std::future::pending::<()>()).await);
}

fn isolated(one: &PeerId, all: &[PeerId]) -> BTreeSet<(PeerId, PeerId)> {
    let others = all.iter().filter(|other| *other != one);
    others.flat_map(|other| [(one.clone(), other.clone()), (other.clone(), one.clone())]).collect()
}

/// Links between two halves of all but `middle`.
fn halves(middle: usize, all: &[PeerId]) -> BTreeSet<(PeerId, PeerId)> {
    let others: Vec<&PeerId> = all.iter().enumerate().filter(|(at, _)| *at != middle).map(|(_, peer)| peer).collect();
    let (left, right) = others.split_at(others.len() / 2);
    let pairs = left.iter().flat_map(|one| right.iter().map(move |other| ((*one).clone(), (*other).clone())));
    pairs.flat_map(|(one, other)| [(one.clone(), other.clone()), (other, one)]).collect()
}

/// Lets it happen, and mends it.
pub(crate) async fn befall(cluster: &mut Cluster, planned: Planned) {
    let Planned { fault, whom, lasts_ms, rest_ms, delay_ms } = planned;
    let all: Vec<PeerId> = cluster.machines.iter().map(|machine| machine.peer.clone()).collect();
    let leader = cluster.leader().unwrap_or(whom);
    cluster.net.delay(delay_ms);
    match fault {
        Fault::LeaderLosesPower | Fault::PowerCut => {
            let whom = if fault == Fault::PowerCut { whom } else { leader };
            cluster.cut_power(whom).await;
            wait(lasts_ms).await;
            cluster.power(whom).await;
        }
        Fault::AllLosePower => {
            for number in 0..all.len() {
                cluster.cut_power(number).await;
            }
            for number in 0..all.len() {
                cluster.power((number + whom) % all.len()).await;
            }
        }
        Fault::LeaderIsolated => {
            cluster.net.cut(isolated(&all[leader], &all));
            wait(lasts_ms).await;
        }
        Fault::Bridge => {
            cluster.net.cut(halves(whom, &all));
            wait(lasts_ms).await;
        }
        Fault::OneWay => {
            let deaf = all.iter().filter(|other| **other != all[whom]);
            cluster.net.cut(deaf.map(|other| (all[whom].clone(), other.clone())));
            wait(lasts_ms).await;
        }
        Fault::LeaderFrozen | Fault::Frozen => {
            let whom = if fault == Fault::Frozen { whom } else { leader };
            freeze(cluster, &all[whom], lasts_ms).await;
        }
        Fault::HandsOver => {
            if let Some(consensus) = cluster.machines[leader].consensus() {
                // Refused when nobody else answers; then it goes on leading.
                drop(consensus.transfer_leadership(None, Duration::from_millis(lasts_ms)).await);
            }
            cluster.net.cut(isolated(&all[leader], &all));
            wait(lasts_ms).await;
        }
        Fault::LongAway => {
            let whom = another_than(leader, whom, all.len());
            cluster.net.delay(0);
            cluster.cut_power(whom).await;
            cluster.write_much().await;
            cluster.power(whom).await;
        }
        Fault::Broken => {
            for _ in 0..3 {
                cluster.net.break_streams(&all[whom]);
                wait(lasts_ms / 3).await;
            }
        }
        Fault::MemberChanges => {
            let whom = another_than(leader, whom, all.len());
            member_changes(cluster, isolated(&all[leader], &all), whom, lasts_ms).await;
        }
    }
    cluster.net.cut([]);
    cluster.net.delay(0);
    wait(rest_ms).await;
}

/// A voter is replaced while its leader is cut off for a while.
async fn member_changes(cluster: &mut Cluster, links: BTreeSet<(PeerId, PeerId)>, whom: usize, lasts_ms: u64) {
    let net = std::sync::Arc::clone(&cluster.net);
    let cutting = async {
        wait(lasts_ms / 6).await;
        net.cut(links);
        wait(lasts_ms).await;
        net.cut([]);
    };
    tokio::join!(cluster.replace_voter(whom), cutting);
}

async fn freeze(cluster: &Cluster, whom: &PeerId, lasts_ms: u64) {
    cluster.net.freeze(whom);
    wait(lasts_ms).await;
    cluster.net.wake(whom);
}

fn another_than(leader: usize, whom: usize, machines: usize) -> usize {
    if whom == leader { (whom + 1) % machines } else { whom }
}
