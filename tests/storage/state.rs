//! `hive.db`: rows applied, written, made durable, backed up, and replaced by a snapshot.

use std::collections::BTreeMap;
use std::path::Path;

use crash_disk::Random;
use hive::engine::id::{Epoch, EpochId, HiveId};
use hive::engine::state::{Change, Row};
use hive::store::FatalHook;
use hive::store::hive_db::{HiveDb, HiveMeta};
use hive::store::raft_db::LogPoint;

use super::harness::{LOST, Story, Subject};

#[derive(Default)]
pub(crate) struct States {
    /// On purpose: says that something is durable without having made it so.
    pub(crate) answers_without_barrier: bool,
}

/// What the rows stand for, and the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    meta: HiveMeta,
    rows: BTreeMap<Row, Vec<u8>>,
}

const ROUNDS: u64 = 40;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// The content after one more entry, and what it changed.
fn next(content: &Content, random: &mut Random) -> (Content, Vec<Change>) {
    let index = content.meta.applied.map_or(1, |at| at.index + 1);
    let mut after = content.clone();
    let mut changes = BTreeMap::new();
    for _ in 0..=random.below(4) {
        let row = Row { table: 6, key: random.below(30).to_be_bytes().to_vec() };
        let value = random.percent(85).then(|| {
            let most = if random.percent(10) { 12_000 } else { 600 };
            (0..random.below(most) + 1).map(|_| random.number().to_le_bytes()[0]).collect::<Vec<u8>>()
        });
        match &value {
            Some(value) => drop(after.rows.insert(row.clone(), value.clone())),
            None => drop(after.rows.remove(&row)),
        }
        changes.insert(row, value);
    }
    after.meta = HiveMeta {
        hive: Some((HiveId([1; 16]), Epoch { counter: 1, id: EpochId([2; 16]) })),
        applied: Some(LogPoint { term: 1, index }),
        membership: vec![u8::try_from(index % 7).unwrap_or_default(); 20],
        chain: [u8::try_from(index % 251).unwrap_or_default(); 32],
        at: after.meta.at,
    };
    (after, changes.into_iter().map(|(row, value)| Change { row, value }).collect())
}

struct Actor<'a> {
    story: &'a mut Story<Content>,
    random: &'a mut Random,
    db: HiveDb,
    weak: bool,
    elsewhere: tempfile::TempDir,
}

async fn open(story: &Story<Content>) -> Result<HiveDb, String> {
    let (db, meta, rows) = HiveDb::open(&story.root(), story.hook()).map_err(text)?;
    let found = Content { meta, rows: rows.into_iter().collect() };
    if found != *story.last() {
        // Whoever closes it is let go a moment before the process would end.
        if story.ends().await {
            return Err("it ended while it was closed".to_owned());
        }
        let (found, wanted) = (found.meta.applied, story.last().meta.applied);
        return Err(format!("{LOST}: nothing crashed, and {found:?} was found instead of {wanted:?}"));
    }
    // Whoever opens it relies on what it has read.
    story.all().keep();
    // So that checkpoints happen in a short story, too.
    db.database().checkpoint_after(10);
    Ok(db)
}

impl Actor<'_> {
    async fn apply(&mut self) -> Result<(), String> {
        let (after, changes) = next(self.story.last(), self.random);
        let meta = after.meta.clone();
        // Nothing is promised with that: the log repeats it.
        self.story.ask(after);
        self.db.apply(changes, &meta).await.map_err(text)
    }

    async fn barrier(&mut self) -> Result<(), String> {
        if !self.weak {
            self.db.barrier().await.map_err(text)?;
        }
        self.story.all().keep();
        Ok(())
    }

    /// Another replica is further, and its snapshot takes the place of what is here.
    async fn install(&mut self) -> Result<(), String> {
        let directory = self.elsewhere.path();
        let (other, _, _) = HiveDb::open(directory, FatalHook::exit()).map_err(text)?;
        let (mut after, _) = next(self.story.last(), self.random);
        after.rows.clear();
        let (filled, changes) = next(&after, self.random);
        other.apply(changes, &filled.meta).await.map_err(text)?;
        let snapshot = directory.join(format!("snapshot-{}", self.random.number()));
        let meta = other.backup(&snapshot).await.map_err(text)?;
        let (_, rows) = hive::store::hive_db::read_snapshot(&snapshot).map_err(text)?;
        other.close().await;
        let promise = self.story.ask(Content { meta: meta.clone(), rows: rows.into_iter().collect() });
        self.db.install(&snapshot, &meta).await.map_err(text)?;
        promise.keep();
        Ok(())
    }

    /// A copy for another replica, into this directory, as production makes it.
    async fn backup(&mut self) -> Result<(), String> {
        let target = self.story.root().join("copy");
        let made = self.db.backup(&target).await.map_err(text);
        let removed = std::fs::remove_file(&target).map_err(text);
        made.map(drop).and(removed)
    }

    async fn reopen(&mut self) -> Result<(), String> {
        self.db.close().await;
        if self.story.has_ended() {
            return Err("it ended while it was closed".to_owned());
        }
        self.db = open(self.story).await?;
        Ok(())
    }

    /// What only makes durable or reads may be refused, and asked for again later; then it must be true.
    async fn go(&mut self) -> Result<(), String> {
        let mut refused = Ok(());
        for _ in 0..ROUNDS {
            let done = match self.random.below(20) {
                0..=10 => Ok(self.apply().await?),
                // Reading writes first what is pending, without making it durable.
                11..=14 => self.db.point(1).await.map(drop).map_err(text),
                15..=16 => self.barrier().await,
                17 => Ok(self.install().await?),
                18 => self.backup().await,
                _ => Ok(self.reopen().await?),
            };
            if self.story.has_ended() {
                return done.and(Err("it ended".to_owned()));
            }
            refused = refused.and(done);
        }
        refused
    }
}

impl Subject for States {
    type Content = Content;
    const NAME: &'static str = "hive.db";
    const FAULTS_ONE_IN: u64 = 7;

    async fn act(&self, story: &mut Story<Content>, random: &mut Random) -> Result<(), String> {
        let db = open(story).await?;
        let elsewhere = tempfile::tempdir().expect("temporary directory");
        let mut actor = Actor { story, random, db, weak: self.answers_without_barrier, elsewhere };
        let gone = actor.go().await;
        if gone.is_err() && actor.story.ends().await {
            assert!(actor.db.barrier().await.is_err(), "it went on behind an error");
        }
        actor.db.close().await;
        gone
    }

    async fn reopen(root: &Path) -> Result<Content, String> {
        let hook = FatalHook::new(|_| {});
        let (db, meta, rows) = HiveDb::open(root, hook).map_err(text)?;
        let sound = super::log::sound(db.database()).await;
        db.close().await;
        sound?;
        Ok(Content { meta, rows: rows.into_iter().collect() })
    }
}
