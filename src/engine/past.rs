//! How the state was before: which of its rows are kept as they change, and how they are put together again.
//!
//! ```text
//!   all rows at one moment ─► the steps after it, oldest first ─► all rows at a later moment ─► State
//! ```
//!
//! A step is what one log entry changed, with the coordinator's time of that entry. Whoever has the same steps sees the same past,
//! whichever node it is. What decides nothing that people see of the hive is left out: remembered replies, the audit log (which tells its
//! own times), and above all digests of keys. Of jobs in the history table the key alone is kept, as in memory.
//! Never done here: keeping any of it, or telling the time.

use std::collections::BTreeMap;

use super::id::UnixMillis;
use super::state::{Change, LoadError, Row, State, table};

/// Rows with their values.
pub type Rows = BTreeMap<Row, Vec<u8>>;

/// Tables of which the past is kept.
const KEPT: [u8; 9] = [
    table::META,
    table::MEMBERS,
    table::RAFT_IDS,
    table::DRONES,
    table::SESSIONS,
    table::JOBS,
    table::HISTORY,
    table::PACKAGES,
    table::LEGACY,
];
/// Instead of a length: the row was deleted.
const DELETED: u32 = u32::MAX;

/// What changed at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: UnixMillis,
    /// Log index of the entry; 0 for what is in no log.
    pub index: u64,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// A step cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step of the past cannot be read")]
pub struct Unreadable;

/// Whether the past of this row is kept.
pub fn is_kept(row: &Row) -> bool {
    // The chain changes with every entry and is shown nowhere.
    KEPT.contains(&row.table) && !(row.table == table::META && row.key == b"chain")
}

/// What of an entry's changes is kept.
pub fn kept(changes: &[Change]) -> Vec<Change> {
    let slim = |change: &Change| match (&change.value, change.row.table) {
        (Some(_), table::HISTORY) => Change { row: change.row.clone(), value: Some(Vec::new()) },
        _ => change.clone(),
    };
    changes.iter().filter(|change| is_kept(&change.row)).map(slim).collect()
}

/// Of all rows, those that are kept.
pub fn kept_rows(rows: impl IntoIterator<Item = (Row, Vec<u8>)>) -> Rows {
    let slim = |(row, value): (Row, Vec<u8>)| {
        let value = if row.table == table::HISTORY { Vec::new() } else { value };
        (row, value)
    };
    rows.into_iter().filter(|(row, _)| is_kept(row)).map(slim).collect()
}

/// Puts changes into rows.
pub fn fold(rows: &mut Rows, changes: Vec<Change>) {
    for Change { row, value } in changes {
        match value {
            Some(value) => rows.insert(row, value),
            None => rows.remove(&row),
        };
    }
}

/// The state that these rows are. It has no audit log, no keys and no chain, and is only to be read.
pub fn state_of(rows: Rows) -> Result<State, LoadError> {
    State::from_rows(rows)
}

/// Changes that lead from one set of rows to another.
pub fn difference(before: &Rows, after: &Rows) -> Vec<Change> {
    let changed = after.iter().filter(|(row, value)| before.get(*row) != Some(*value));
    let changed = changed.map(|(row, value)| Change { row: row.clone(), value: Some(value.clone()) });
    let gone = before.keys().filter(|row| !after.contains_key(*row));
    changed.chain(gone.map(|row| Change { row: row.clone(), value: None })).collect()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(DELETED - 1).to_be_bytes());
    out.extend(bytes);
}

/// A step as bytes. Steps one behind the other can be read one by one.
pub fn encode(step: &Step) -> Vec<u8> {
    let size: usize = step.changes.iter().map(|c| 9 + c.row.key.len() + c.value.as_ref().map_or(0, Vec::len)).sum();
    let mut out = Vec::with_capacity(20 + size);
    out.extend(step.at.0.to_be_bytes());
    out.extend(step.index.to_be_bytes());
    out.extend(u32::try_from(step.changes.len()).unwrap_or(u32::MAX).to_be_bytes());
    for Change { row, value } in &step.changes {
        out.push(row.table);
        put_bytes(&mut out, &row.key);
        match value {
            Some(value) => put_bytes(&mut out, value),
            None => out.extend(DELETED.to_be_bytes()),
        }
    }
    out
}

/// All rows as bytes: one step that sets them.
pub fn encode_rows(at: UnixMillis, index: u64, rows: &Rows) -> Vec<u8> {
    encode(&Step { at, index, changes: difference(&Rows::new(), rows) })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Unreadable> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Unreadable)?;
    *rest = left;
    Ok(taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Unreadable> {
    take(rest, 4)?.try_into().map(u32::from_be_bytes).map_err(|_| Unreadable)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    take(rest, 8)?.try_into().map(u64::from_be_bytes).map_err(|_| Unreadable)
}

fn take_bytes(rest: &mut &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    match take_u32(rest)? {
        DELETED => Ok(None),
        length => take(rest, length as usize).map(|bytes| Some(bytes.to_vec())),
    }
}

/// The first step of these bytes; what is behind it is left in `rest`.
pub fn decode(rest: &mut &[u8]) -> Result<Step, Unreadable> {
    let (at, index, count) = (UnixMillis(take_u64(rest)?), take_u64(rest)?, take_u32(rest)?);
    let mut changes = Vec::new();
    for _ in 0..count {
        let table = *take(rest, 1)?.first().ok_or(Unreadable)?;
        let key = take_bytes(rest)?.ok_or(Unreadable)?;
        changes.push(Change { row: Row { table, key }, value: take_bytes(rest)? });
    }
    Ok(Step { at, index, changes })
}

/// When the first step of these bytes was, without reading it.
pub fn time_of(bytes: &[u8]) -> Result<UnixMillis, Unreadable> {
    take_u64(&mut &*bytes).map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(table: u8, key: Vec<u8>, value: Option<Vec<u8>>) -> Change {
        Change { row: Row { table, key }, value }
    }

    fn any_change() -> impl Strategy<Value = Change> {
        (1u8..14, prop::collection::vec(any::<u8>(), 0..4), prop::option::of(prop::collection::vec(any::<u8>(), 0..9)))
            .prop_map(|(table, key, value)| change(table, key, value))
    }

    fn any_step() -> impl Strategy<Value = Step> {
        (any::<u64>(), any::<u64>(), prop::collection::vec(any_change(), 0..6)).prop_map(|(at, index, changes)| Step {
            at: UnixMillis(at),
            index,
            changes,
        })
    }

    #[test]
    fn secrets_and_what_nobody_sees_are_left_out_and_old_jobs_keep_their_key_alone() {
        let value = Some(vec![1, 2, 3]);
        let tables = [table::KEYS, table::ORIGINS, table::REPLIES, table::AUDIT, table::ASKED];
        let mut changes: Vec<Change> = tables.map(|table| change(table, vec![7], value.clone())).into();
        changes.push(change(table::META, b"chain".to_vec(), value.clone()));
        assert!(kept(&changes).is_empty());
        let old = change(table::HISTORY, vec![9], value.clone());
        let gone = change(table::HISTORY, vec![8], None);
        let meta = change(table::META, b"hive".to_vec(), value);
        let slim = change(table::HISTORY, vec![9], Some(Vec::new()));
        assert_eq!(kept(&[old, gone.clone(), meta.clone()]), [slim, gone, meta]);
    }

    proptest! {
        #[test]
        fn steps_survive_being_written_one_behind_the_other(steps in prop::collection::vec(any_step(), 0..6)) {
            let bytes: Vec<u8> = steps.iter().flat_map(encode).collect();
            let mut rest = bytes.as_slice();
            let mut found = Vec::new();
            while !rest.is_empty() {
                prop_assert_eq!(time_of(rest), Ok(steps[found.len()].at));
                found.push(decode(&mut rest).expect("whole"));
            }
            prop_assert_eq!(found, steps);
        }

        #[test]
        fn torn_and_foreign_bytes_are_refused_without_taking_memory(step in any_step(), cut in 0usize..200, junk in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = encode(&step);
            if cut < bytes.len() {
                prop_assert_eq!(decode(&mut &bytes[..cut]), Err(Unreadable));
            }
            let mut rest = junk.as_slice();
            while !rest.is_empty() && decode(&mut rest).is_ok() {}
        }

        #[test]
        fn the_difference_leads_from_one_to_the_other(steps in prop::collection::vec(any_step(), 0..6), more in prop::collection::vec(any_step(), 0..6)) {
            let mut before = Rows::new();
            steps.into_iter().for_each(|step| fold(&mut before, step.changes));
            let mut after = before.clone();
            more.into_iter().for_each(|step| fold(&mut after, step.changes));
            let mut led = before.clone();
            fold(&mut led, difference(&before, &after));
            prop_assert_eq!(&led, &after);
            let bytes = encode_rows(UnixMillis(1), 2, &after);
            let mut again = Rows::new();
            fold(&mut again, decode(&mut bytes.as_slice()).expect("whole").changes);
            prop_assert_eq!(again, after);
        }
    }
}
