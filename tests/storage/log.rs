//! `raft.db`: made, opened, voted in, appended to, truncated, purged, set aside and made anew.

use std::collections::BTreeMap;
use std::path::Path;

use crash_disk::Random;
use hive::engine::id::{Epoch, EpochId, HiveId};
use hive::store::raft_db::{Binding, FILE, Genesis, Loaded, LogPoint, RaftDb, RaftMeta, RawEntry};
use hive::store::{FatalHook, set_aside};
use tokio::sync::oneshot;

use super::harness::{Promise, Story, Subject};

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Weak {
    #[default]
    Nothing,
    /// `synchronous=NORMAL`: commits are not synced one by one.
    Normal,
    /// Acknowledges entries when they are queued.
    AnswersEarly,
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) weak: Weak,
}

/// What a Raft directory holds; none when there is none.
pub(crate) type Content = Option<Held>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    raft_id: u64,
    vote: Option<Vec<u8>>,
    committed: Option<LogPoint>,
    purged: Option<LogPoint>,
    entries: BTreeMap<u64, RawEntry>,
}

impl Held {
    fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().or(self.purged.map(|purged| purged.index)).unwrap_or_default()
    }
}

/// So many steps a story has.
const ROUNDS: u64 = 22;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn genesis(root: &Path, raft_id: u64, random: &mut Random) -> Result<Genesis, String> {
    let meta = RaftMeta {
        raft_id,
        hive_id: HiveId([1; 16]),
        epoch: Epoch { counter: 1, id: EpochId([2; 16]) },
        binding: Binding::of(root).map_err(text)?,
    };
    Ok(Genesis { meta, entries: vec![entry(0, 0, random), entry(0, 1, random)], purged: None, vote: None })
}

fn bytes(random: &mut Random, most: u64) -> Vec<u8> {
    (0..random.below(most) + 1).map(|_| random.number().to_le_bytes()[0]).collect()
}

fn entry(term: u64, index: u64, random: &mut Random) -> RawEntry {
    // Most are small; some fill several pages.
    let most = if random.percent(20) { 9_000 } else { 300 };
    RawEntry { at: LogPoint { term, index }, bytes: bytes(random, most) }
}

struct Actor<'a> {
    story: &'a mut Story<Content>,
    random: &'a mut Random,
    weak: Weak,
    db: RaftDb,
    held: Held,
    term: u64,
}

async fn open(story: &Story<Content>, weak: Weak) -> Result<RaftDb, String> {
    let opened = RaftDb::open(&story.root(), story.hook()).map_err(text)?;
    let (db, _) = opened.ok_or("there is no database")?;
    // So that checkpoints happen in a short story, too.
    db.database().checkpoint_after(12);
    if weak == Weak::Normal {
        let normal = |connection: &mut rusqlite::Connection| connection.pragma_update(None, "synchronous", "NORMAL");
        db.database().exclusive(normal).await.map_err(text)?.map_err(text)?;
    }
    Ok(db)
}

impl Actor<'_> {
    fn ask(&mut self) -> Promise {
        self.story.ask(Some(self.held.clone()))
    }

    async fn vote(&mut self) -> Result<(), String> {
        self.term += 1;
        let vote = [self.term.to_le_bytes().to_vec(), bytes(self.random, 40)].concat();
        self.held.vote = Some(vote.clone());
        let promise = self.ask();
        self.db.save_vote(vote).await.map_err(text)?;
        promise.keep();
        Ok(())
    }

    /// Several appends at once, as they come together in one transaction.
    async fn append(&mut self) -> Result<(), String> {
        let mut answers = Vec::new();
        for _ in 0..=self.random.below(3) {
            let first = self.held.last() + 1;
            let end = first + 1 + self.random.below(3);
            let entries: Vec<RawEntry> = (first..end).map(|index| entry(self.term, index, self.random)).collect();
            let committed = self.random.percent(40).then(|| LogPoint { term: self.term, index: first - 1 });
            self.held.committed = committed.or(self.held.committed);
            self.held.entries.extend(entries.iter().map(|entry| (entry.at.index, entry.clone())));
            let promise = self.ask();
            if self.weak == Weak::AnswersEarly {
                promise.keep();
            }
            let (told, answer) = oneshot::channel();
            let done = move || {
                promise.keep();
                let _ = told.send(());
            };
            self.db.append(entries, committed, done).await.map_err(text)?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(text)?;
        }
        Ok(())
    }

    async fn truncate(&mut self) -> Result<(), String> {
        let lowest = self.held.purged.map_or(0, |purged| purged.index);
        let keep = self.held.last().saturating_sub(self.random.below(3)).max(lowest);
        self.held.entries.retain(|index, _| *index <= keep);
        let promise = self.ask();
        self.db.truncate_after(Some(keep)).await.map_err(text)?;
        promise.keep();
        Ok(())
    }

    async fn purge(&mut self) -> Result<(), String> {
        let Some(upto) = self.held.entries.values().nth(2).map(|entry| entry.at) else { return Ok(()) };
        self.held.purged = Some(upto);
        self.held.entries.retain(|index, _| *index > upto.index);
        let promise = self.ask();
        self.db.purge(upto).await.map_err(text)?;
        promise.keep();
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), String> {
        self.db.database().close().await;
        self.db = open(self.story, self.weak).await?;
        Ok(())
    }

    /// As when a node gives up its part, and gets another one.
    async fn begin_anew(&mut self) -> Result<(), String> {
        self.db.database().close().await;
        let promise = self.story.ask(None);
        set_aside(&self.story.root(), FILE).map_err(text)?;
        promise.keep();
        let raft_id = self.held.raft_id + 1;
        self.held = make(self.story, raft_id, self.random)?;
        self.db = open(self.story, self.weak).await?;
        Ok(())
    }

    async fn go(&mut self, rounds: u64) -> Result<(), String> {
        for round in 0..rounds {
            if round == rounds / 2 {
                self.begin_anew().await?;
            }
            match self.random.below(10) {
                0..=1 => self.vote().await?,
                2..=6 => self.append().await?,
                7 => self.truncate().await?,
                8 => self.purge().await?,
                _ => self.reopen().await?,
            }
        }
        Ok(())
    }
}

fn make(story: &mut Story<Content>, raft_id: u64, random: &mut Random) -> Result<Held, String> {
    let root = story.root();
    let genesis = genesis(&root, raft_id, random)?;
    let entries = genesis.entries.iter().map(|entry| (entry.at.index, entry.clone())).collect();
    let held = Held { raft_id, entries, ..Held::default() };
    let promise = story.ask(Some(held.clone()));
    RaftDb::create(&root, &genesis).map_err(text)?;
    promise.keep();
    Ok(held)
}

impl Subject for Log {
    type Content = Content;
    const NAME: &'static str = "raft.db";
    const FAULTS_ONE_IN: u64 = 5;

    /// That there is none is no promise: whoever makes a new one makes that durable, and until then nobody votes.
    fn is_relied_on(content: &Content) -> bool {
        content.is_some()
    }

    async fn act(&self, story: &mut Story<Content>, random: &mut Random) -> Result<(), String> {
        let held = make(story, 7, random)?;
        let db = open(story, self.weak).await?;
        let mut actor = Actor { story, random, weak: self.weak, db, held, term: 1 };
        let gone = actor.go(ROUNDS).await;
        if gone.is_err() && actor.story.ends().await {
            // Whoever still asks is refused.
            let (told, answer) = oneshot::channel();
            let more = actor.db.append(Vec::new(), None, move || told.send(()).unwrap_or_default()).await;
            assert!(more.is_err() || answer.await.is_err(), "it went on behind an error");
            assert!(actor.db.save_vote(vec![1]).await.is_err(), "it went on behind an error");
        }
        actor.db.database().close().await;
        gone
    }

    async fn reopen(root: &Path) -> Result<Content, String> {
        let hook = FatalHook::new(|_| {});
        let Some((db, loaded)) = RaftDb::open(root, hook).map_err(text)? else {
            return Ok(None);
        };
        let content = read(&db, loaded).await;
        db.database().close().await;
        content.map(Some)
    }
}

async fn read(db: &RaftDb, loaded: Loaded) -> Result<Held, String> {
    sound(db.database()).await?;
    let entries = db.read(0, u64::MAX, usize::MAX).await.map_err(text)?;
    if let Some(last) = entries.last()
        && loaded.last != Some(last.at)
    {
        return Err(format!("it says that it ends at {:?} and ends at {:?}", loaded.last, last.at));
    }
    let Loaded { meta, vote, committed, purged, .. } = loaded;
    let entries = entries.into_iter().map(|entry| (entry.at.index, entry)).collect();
    Ok(Held { raft_id: meta.raft_id, vote, committed, purged, entries })
}

/// SQLite finds nothing wrong with it.
pub(crate) async fn sound(db: &hive::store::database::Database) -> Result<(), String> {
    let check = |connection: &mut rusqlite::Connection| {
        connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
    };
    let found = db.exclusive(check).await.map_err(text)?.map_err(text)?;
    if found == "ok" { Ok(()) } else { Err(found) }
}
