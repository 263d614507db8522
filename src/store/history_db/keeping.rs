//! What keeps the past small: pressing steps together, bases from which a moment is near, and forgetting.
//!
//! ```text
//!   base due: as many bytes of steps since the last one as it has itself, or a day, or a quarter of the space
//! ```
//!
//! So reading a moment costs at most about twice its rows, bases take no more space than steps, and what is too old goes a day late at
//! most. Never done here: reading a moment.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{BLOCK_BYTES, Bounds, Track, press, signed};
use crate::engine::id::UnixMillis;
use crate::engine::past;

/// A base of less than so many bytes is not made anew for its size.
const BASE_MIN_BYTES: i64 = 1 << 20;
/// A base is made anew after this time, milliseconds, if anything changed.
const BASE_AGE_MS: i64 = 86_400_000;

/// Where the log index of a track's end is noted when there is no step any more that tells it.
pub(super) fn index_key(track: Track) -> String {
    format!("index {}", track.number())
}

fn note_index(connection: &Connection, track: Track, index: u64) -> rusqlite::Result<()> {
    connection
        .execute("INSERT OR REPLACE INTO about VALUES (?1, ?2)", params![index_key(track), index.to_be_bytes()])
        .map(drop)
}

/// Writes a base that stands for a step, or for a beginning of its own with the end of what was known before.
pub(super) fn put_base(
    connection: &Connection,
    track: Track,
    seq: u64,
    (at, gap_from): (UnixMillis, Option<UnixMillis>),
    raw: &[u8],
) -> rusqlite::Result<()> {
    if seq >= super::end(connection, track)?.seq {
        let index = past::decode(&mut &*raw).map_err(super::foreign)?.index;
        note_index(connection, track, index)?;
    }
    // One that begins anew stays what it is when it is made again at the same step.
    let sql = "INSERT INTO base VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(track, seq) DO NOTHING";
    let gap_from = gap_from.map(|from| signed(from.0));
    connection
        .execute(
            sql,
            params![track.number(), signed(seq), signed(at.0), gap_from, signed(raw.len() as u64), press(raw)?],
        )
        .map(drop)
}

/// Presses the oldest steps of the tail into a block, when there are so many bytes of them. Whether there may be more.
pub(super) fn press_block(connection: &Connection, track: Track, at_least: i64) -> rusqlite::Result<bool> {
    let waiting: i64 = connection.query_row(
        "SELECT coalesce(sum(length(value)), 0) FROM tail WHERE track = ?1",
        [track.number()],
        |row| row.get(0),
    )?;
    if waiting < at_least {
        return Ok(false);
    }
    let mut raw: Vec<u8> = Vec::new();
    let (mut first, mut last): (Option<(i64, i64)>, (i64, i64)) = (None, (0, 0));
    let mut statement = connection.prepare_cached("SELECT seq, at, value FROM tail WHERE track = ?1 ORDER BY seq")?;
    let mut rows = statement.query([track.number()])?;
    let mut index = 0;
    while let Some(row) = rows.next()? {
        last = (row.get(0)?, row.get(1)?);
        first.get_or_insert(last);
        let value: Vec<u8> = row.get(2)?;
        index = past::decode(&mut value.as_slice()).map_err(super::foreign)?.index;
        raw.extend(value);
        if signed(raw.len() as u64) >= BLOCK_BYTES {
            break;
        }
    }
    let Some((first, first_at)) = first else { return Ok(false) };
    let values = params![track.number(), first, last.0, first_at, last.1, signed(raw.len() as u64), press(&raw)?];
    connection.execute("INSERT INTO block VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", values)?;
    connection.execute("DELETE FROM tail WHERE track = ?1 AND seq <= ?2", [track.number(), last.0])?;
    note_index(connection, track, index)?;
    Ok(waiting > signed(raw.len() as u64))
}

/// Whether a base of what there is now is worth its space.
pub(super) fn base_is_due(connection: &Connection, track: Track, bounds: Bounds) -> rusqlite::Result<bool> {
    let newest = "SELECT seq, at, raw FROM base WHERE track = ?1 ORDER BY seq DESC LIMIT 1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found: Option<(i64, i64, i64)> = connection.query_row(newest, [track.number()], read).optional()?;
    let Some((seq, at, raw)) = found else { return Ok(false) };
    let since = "SELECT coalesce(sum(raw), 0), coalesce(sum(length(value)), 0), max(last_at) FROM block
                 WHERE track = ?1 AND first > ?2";
    let (steps, pressed, mut newest_at): (i64, i64, Option<i64>) =
        connection.query_row(since, [track.number(), seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let tail: Option<i64> = connection.query_row(
        "SELECT max(at) FROM tail WHERE track = ?1 AND seq > ?2",
        [track.number(), seq],
        |row| row.get(0),
    )?;
    newest_at = newest_at.max(tail);
    let is_old = newest_at.is_some_and(|newest| newest.saturating_sub(at) >= BASE_AGE_MS);
    Ok(steps >= raw.max(BASE_MIN_BYTES) || is_old || pressed >= signed(bounds.bytes_max / 4))
}

/// Bytes of all that is kept.
pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT coalesce(sum(length(value)), 0) FROM base) + (SELECT coalesce(sum(length(value)), 0) FROM block)
               + (SELECT coalesce(sum(length(value)), 0) FROM tail)";
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|bytes| bytes.max(0).cast_unsigned())
}

/// Forgets what is older than it need be, then the oldest of what is too much.
pub(super) fn forget(connection: &Connection, bounds: Bounds) -> rusqlite::Result<()> {
    let oldest = signed(bounds.oldest.0);
    connection.execute("DELETE FROM passed WHERE at < ?1", [oldest])?;
    for track in [Track::State, Track::Seen] {
        let needed = "SELECT seq FROM base WHERE track = ?1 AND at <= ?2 ORDER BY seq DESC LIMIT 1";
        let needed: Option<i64> =
            connection.query_row(needed, [track.number(), oldest], |row| row.get(0)).optional()?;
        if let Some(seq) = needed {
            forget_before(connection, track, seq)?;
        }
    }
    while bytes(connection)? > bounds.bytes_max {
        // The second oldest base becomes the first, of whichever track reaches back further. The last one of each stays: with it goes all.
        let second = "SELECT track, (SELECT seq FROM base AS next WHERE next.track = base.track AND next.seq > base.seq ORDER BY seq LIMIT 1)
                      AS second FROM base WHERE second IS NOT NULL ORDER BY at LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
        let Some((track, seq)) = connection.query_row(second, [], read).optional()? else { break };
        let track = if track == Track::State.number() { Track::State } else { Track::Seen };
        forget_before(connection, track, seq)?;
    }
    Ok(())
}

fn forget_before(connection: &Connection, track: Track, seq: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM base WHERE track = ?1 AND seq < ?2", [track.number(), seq])?;
    connection.execute("DELETE FROM block WHERE track = ?1 AND last <= ?2", [track.number(), seq])?;
    connection.execute("DELETE FROM tail WHERE track = ?1 AND seq <= ?2", [track.number(), seq]).map(drop)
}
