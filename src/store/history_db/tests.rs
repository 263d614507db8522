//! Whatever is written down, pressed together, made a base of and forgotten: a moment is what it was.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::engine::state::{Change, Row, table};

const FOREVER: Bounds = Bounds { oldest: UnixMillis(0), bytes_max: u64::MAX };

fn row(key: u8) -> Row {
    Row { table: table::JOBS, key: vec![key] }
}

fn step(at: u64, index: u64, key: u8, value: Option<Vec<u8>>) -> Step {
    Step { at: UnixMillis(at), index, changes: vec![Change { row: row(key), value }] }
}

fn beginning(at: u64, index: u64, rows: &[(u8, u8)]) -> Beginning {
    let rows = rows.iter().map(|(key, value)| (row(*key), vec![*value])).collect();
    Beginning { at: UnixMillis(at), index, rows }
}

fn open(directory: &Path) -> HistoryDb {
    HistoryDb::open(directory, FatalHook::new(|message| panic!("unexpected: {message}"))).expect("opens")
}

async fn at(db: &HistoryDb, moment: u64) -> Result<Found, Missing> {
    db.at(Track::State, UnixMillis(moment)).await.expect("reads")
}

#[derive(Clone, Debug)]
enum Act {
    /// Some time passes, and a row changes; large ones fill blocks.
    Step {
        later: u64,
        key: u8,
        value: Option<u8>,
        bytes: usize,
    },
    Tidy,
    Reopen,
}

fn any_act() -> impl Strategy<Value = Act> {
    let sizes = prop_oneof![4 => 1usize..200, 1 => 100_000usize..200_000];
    prop_oneof![
        8 => (0u64..50, 0u8..12, prop::option::weighted(0.8, any::<u8>()), sizes)
            .prop_map(|(later, key, value, bytes)| Act::Step { later, key, value, bytes }),
        2 => Just(Act::Tidy),
        1 => Just(Act::Reopen),
    ]
}

#[test]
fn every_moment_is_what_it_was_whatever_was_done_to_the_file_since() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let acts = prop::collection::vec(any_act(), 1..60);
    let checked = runner.run(&acts, |acts| {
        runtime.block_on(async {
            let directory = tempfile::tempdir().expect("temporary directory");
            let mut db = open(directory.path());
            db.belong(b"hive".to_vec()).await.expect("belongs");
            db.begin(Track::State, beginning(1_000, 0, &[(0, 7)])).await.expect("begins");
            let (mut now, mut index, mut rows) = (1_000u64, 0u64, Rows::from([(row(0), vec![7])]));
            let mut known = vec![(now, rows.clone(), index)];
            for act in acts {
                match act {
                    Act::Step { later, key, value, bytes } => {
                        (now, index) = (now + later, index + 1);
                        // Not all alike, so that it does not shrink to nothing.
                        let value = value.map(|value| {
                            (0..bytes).map(|place| value ^ (place.wrapping_mul(place + 31) % 251) as u8).collect()
                        });
                        let step = step(now, index, key, value);
                        past::fold(&mut rows, step.changes.clone());
                        db.add(Track::State, vec![step]).await.expect("adds");
                        known.push((now, rows.clone(), index));
                    }
                    Act::Tidy => db.tidy(FOREVER).await.expect("tidies"),
                    Act::Reopen => {
                        db.close().await;
                        db = open(directory.path());
                    }
                }
            }
            let end = db.end(Track::State).await.expect("reads");
            prop_assert_eq!((end.at.0, end.index), (now, index));
            for (place, (when, rows, index)) in known.iter().enumerate() {
                // Of several steps at one time, the last is what it was.
                if known.get(place + 1).is_some_and(|(next, ..)| next == when) {
                    continue;
                }
                let found = at(&db, *when).await.expect("known");
                prop_assert_eq!((&found.rows, found.index, found.at.0), (rows, *index, *when));
                let next = known.get(place + 1).map(|(next, ..)| UnixMillis(*next));
                prop_assert_eq!(found.until, next);
            }
            prop_assert_eq!(at(&db, 999).await.expect_err("before"), Missing::Before(UnixMillis(1_000)));
            Ok(())
        })
    });
    checked.expect("a moment is what it was");
}

#[tokio::test]
async fn what_was_missed_is_said_and_what_follows_is_known_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let db = open(directory.path());
    assert_eq!(at(&db, 5).await.expect_err("nothing"), Missing::Nothing);
    db.begin(Track::State, beginning(100, 3, &[(1, 1)])).await.expect("begins");
    db.add(Track::State, vec![step(200, 4, 1, Some(vec![2])), step(150, 5, 2, Some(vec![9]))]).await.expect("adds");
    // The clock of the next coordinator was behind: nothing comes before what came before it.
    assert_eq!((at(&db, 199).await.expect("known").index, at(&db, 200).await.expect("known").index), (3, 5));
    db.begin(Track::State, beginning(500, 90, &[(1, 3)])).await.expect("begins anew");
    db.add(Track::State, vec![step(600, 91, 1, None)]).await.expect("adds");
    for _ in 0..2 {
        assert_eq!(at(&db, 200).await.expect("known").rows.len(), 2);
        for moment in [201, 499] {
            let missing = Missing::Gap(UnixMillis(200), UnixMillis(500));
            assert_eq!(at(&db, moment).await.expect_err("missed"), missing);
        }
        let again = at(&db, 599).await.expect("known again");
        assert_eq!((again.rows, again.index), (Rows::from([(row(1), vec![3])]), 90), "nothing of before");
        assert!(at(&db, 600).await.expect("known").rows.is_empty());
        db.tidy(FOREVER).await.expect("tidies");
    }
    db.belong(b"another hive".to_vec()).await.expect("belongs");
    assert_eq!(at(&db, 600).await.expect_err("forgotten"), Missing::Nothing);
}

#[tokio::test]
async fn the_oldest_goes_by_age_and_by_bytes_and_the_rest_stays_whole() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let db = open(directory.path());
    db.begin(Track::State, beginning(0, 0, &[])).await.expect("begins");
    db.begin(Track::Seen, beginning(0, 0, &[])).await.expect("begins");
    // Nothing of it shrinks.
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as u8
        };
        (0..60_000).map(|_| next()).collect()
    };
    let day = 86_400_000;
    for index in 1..=100u64 {
        db.add(Track::State, vec![step(index * day / 10, index, 1, Some(noise(index)))]).await.expect("adds");
        db.add(Track::Seen, vec![step(index * day / 10, 0, 2, Some(vec![1]))]).await.expect("adds");
        db.count(UnixMillis(index * day / 10), 5).await.expect("counts");
        let oldest = UnixMillis((index * day / 10).saturating_sub(3 * day));
        db.tidy(Bounds { oldest, ..FOREVER }).await.expect("tidies");
    }
    let first = db.first(Track::State).await.expect("reads").expect("there");
    assert!(first.0 > 5 * day && first.0 <= 7 * day, "three days are whole, and little more is there: {first}");
    assert_eq!(at(&db, 7 * day).await.expect("known").rows, Rows::from([(row(1), noise(70))]));
    assert_eq!(at(&db, day).await.expect_err("too old"), Missing::Before(first));
    let passed = db.passed(UnixMillis(6 * day), day, 5).await.expect("counts");
    assert_eq!(passed, [0, 50, 50, 50, 5], "messages of days that are gone are gone");

    let bytes_max = db.bytes().await.expect("reads") / 2;
    db.tidy(Bounds { bytes_max, ..FOREVER }).await.expect("tidies");
    db.tidy(Bounds { bytes_max, ..FOREVER }).await.expect("tidies");
    let left = db.bytes().await.expect("reads");
    assert!(left <= bytes_max, "{left} of {bytes_max} bytes");
    assert_eq!(at(&db, 10 * day).await.expect("known").rows, Rows::from([(row(1), noise(100))]));
}

#[tokio::test]
async fn steps_that_are_alike_take_little_space() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let db = open(directory.path());
    db.begin(Track::State, beginning(0, 0, &[])).await.expect("begins");
    // What a job's row looks like: names of fields, a few numbers, the same words again and again.
    let value = |number: u64| {
        let job = serde_json::json!({
            "spec": { "id": uuid::Uuid::from_u128(u128::from(number) * 0x9e37_79b9_7f4a_7c15), "target": format!("dev-libs/lib{number}"), "priority": 0,
                "work": { "kind": "command", "argv": ["make", "install"], "artifacts": ["out/*"] }, "labels": ["nowhere"], "depends_on": [] },
            "session": "01890c2e-0000-7000-8000-000000000001", "ordinal": number, "submitter": "operator", "state": "needed",
            "attempts": [{ "attempt": 1, "node": "12D3KooWNode001", "state": "building", "assigned_at": 1_795_293_032_000u64 + number }],
            "artifacts": [], "not_before_ms": 0, "tally": { "build_failures": 0, "infra_failures": 0 },
        });
        Some(serde_json::to_vec(&job).expect("JSON"))
    };
    for piece in 0..8u64 {
        let steps = (0..500).map(|n| step(piece * 500 + n, piece * 500 + n, (n % 250) as u8, value(piece * 500 + n)));
        db.add(Track::State, steps.collect()).await.expect("adds");
    }
    db.tidy(FOREVER).await.expect("tidies");
    let bytes = db.bytes().await.expect("reads");
    assert!(bytes < 4_000 * 200, "{} bytes a step", bytes / 4_000);
}
