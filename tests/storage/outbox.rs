//! `outbox.db`: results put, replaced, and forgotten.

use std::path::Path;

use crash_disk::Random;
use hive::store::FatalHook;
use hive::store::outbox::{Outbox, Record};

use super::harness::{Story, Subject};

#[derive(Default)]
pub(crate) struct Outboxes {
    /// On purpose: commits are not synced one by one.
    pub(crate) normal: bool,
}

const ROUNDS: u64 = 25;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

async fn go(outbox: &Outbox, story: &mut Story<Vec<Record>>, random: &mut Random) -> Result<(), String> {
    for _ in 0..ROUNDS {
        let mut records = story.last().clone();
        if random.percent(30) && !records.is_empty() {
            let at = usize::try_from(random.below(records.len() as u64)).unwrap_or_default();
            let gone = records.remove(at);
            let promise = story.ask(records);
            outbox.done(gone.key).await.map_err(text)?;
            promise.keep();
            continue;
        }
        let key = format!("attempt-{}", random.below(12));
        let value: Vec<u8> = (0..random.below(3_000)).map(|_| random.number().to_le_bytes()[0]).collect();
        match records.iter_mut().find(|record| record.key == key) {
            Some(record) => record.value.clone_from(&value),
            None => records.push(Record { key: key.clone(), value: value.clone() }),
        }
        let promise = story.ask(records);
        if outbox.put(key, value).await.map_err(text)? {
            promise.keep();
        }
    }
    Ok(())
}

impl Subject for Outboxes {
    type Content = Vec<Record>;
    const NAME: &'static str = "outbox.db";
    const FAULTS_ONE_IN: u64 = 12;

    async fn act(&self, story: &mut Story<Vec<Record>>, random: &mut Random) -> Result<(), String> {
        for round in 0..2 {
            let outbox = Outbox::open(&story.root(), story.hook()).map_err(text)?;
            outbox.database().checkpoint_after(12);
            if self.normal {
                let normal =
                    |connection: &mut rusqlite::Connection| connection.pragma_update(None, "synchronous", "NORMAL");
                outbox.database().exclusive(normal).await.map_err(text)?.map_err(text)?;
            }
            let gone = go(&outbox, story, random).await;
            if gone.is_err() {
                assert!(story.ends().await, "round {round}: it refused and went on: {gone:?}");
                assert!(outbox.put("more".to_owned(), Vec::new()).await.is_err(), "it went on behind an error");
            }
            outbox.close().await;
            gone?;
        }
        Ok(())
    }

    async fn reopen(root: &Path) -> Result<Vec<Record>, String> {
        let hook = FatalHook::new(|_| {});
        let outbox = Outbox::open(root, hook).map_err(text)?;
        let sound = super::log::sound(outbox.database()).await;
        let records = outbox.list(10_000).await.map_err(text);
        outbox.close().await;
        sound?;
        records
    }
}
