//! Questions about a log, answered where it is kept: its length, its phases, the first error, lines that match.
//!
//! `/hive/loglook/1` takes them from other nodes, one request and one answer per stream. Lines are matched as they would be shown,
//! without colours and other sequences. Every answer is bounded in time and size, however long the log or a line of it is; a search
//! that was cut says where to go on. Never done here: asking the hive which node keeps what.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::{Body, CHUNK_BYTES, LogStore, marks};
use crate::api::{LogFirstError, LogMatch, LogMatches, LogPhases, LogSearch};
use crate::clock;
use crate::engine::buildlog::{ErrorScan, Lines, Piece};
use crate::engine::harmless;
use crate::engine::id::{JobId, PeerId};
use crate::tasks;
use crate::transport::{self, CONTROL_FRAME_MAX, Incoming, RAFT_FRAME_MAX, Transport};

/// The protocol's name.
pub const PROTOCOL: &str = "/hive/loglook/1";
/// Longest text or expression that is searched for, bytes.
pub const SEARCH_MAX_BYTES: usize = 1 << 10;
/// Most lines of one answer.
pub const MATCHES_MAX: usize = 1_000;
/// Longest line of an answer, characters; what stands before a match in it, at most.
const EXCERPT_MAX: usize = 300;
const EXCERPT_BEFORE: usize = 80;
/// Longest piece of a line that is looked at in one go, bytes. What lies across two is found when it is no longer than the overlap.
const PIECE_BYTES: usize = 64 << 10;
/// A question is answered with what was found within this time, milliseconds.
const LOOK_MS: u64 = 8_000;
/// How long a question waits for others to be answered first.
const TURN: Duration = Duration::from_secs(5);
/// A peer says what it wants within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long another node's answer is awaited: its turn, the look, and the way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(18);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// How many bytes there are.
    Length,
    /// Where its phases begin.
    Phases,
    /// What went wrong.
    FirstError,
    /// Which lines match.
    Search(LogSearch),
}

/// What a peer asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The job.
    pub job: JobId,
    /// Number of the attempt.
    pub attempt: u32,
    /// About its log.
    pub question: Question,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Raw bytes so far.
    Length(u64),
    /// The phases.
    Phases(LogPhases),
    /// The first error.
    FirstError(LogFirstError),
    /// The lines.
    Matches(LogMatches),
    /// There is no such log here.
    NotFound,
    /// Too much is asked at once.
    Busy,
    /// The question makes no sense, and why.
    Invalid(String),
    /// The log cannot be read, and why.
    Failed(String),
}

/// Serves questions about this node's logs until the transport ends.
pub fn serve<T: Transport>(transport: &T, store: LogStore) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut incoming = transport.accept(PROTOCOL)?;
    Ok(tasks::spawn("loglook", async move {
        while let Some(Incoming { peer, mut stream }) = incoming.recv().await {
            let store = store.clone();
            tasks::spawn("loglook-answer", async move {
                let request = transport::read_frame::<Request>(&mut stream, CONTROL_FRAME_MAX);
                let Ok(Ok(request)) = tokio::time::timeout(REQUEST_TIMEOUT, request).await else { return };
                let found = store.look(request).await;
                if let Err(error) = transport::write_frame(&mut stream, &found, RAFT_FRAME_MAX).await {
                    tracing::debug!(%peer, %error, "an answer about a log was not taken");
                }
            });
        }
    }))
}

/// Asks the node that keeps a log.
pub async fn ask<T: Transport>(transport: &T, peer: &PeerId, request: &Request) -> io::Result<Found> {
    transport::call(transport, peer, PROTOCOL, request, ANSWER_TIMEOUT).await
}

impl LogStore {
    /// Answers a question about a log of this node.
    pub async fn look(&self, request: Request) -> Found {
        let turn = Arc::clone(&self.inner.looks).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else { return Found::Busy };
        let store = self.clone();
        // Goes on for LOOK_MS at most, whether or not somebody still waits; others have their turn after it.
        let look = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.look_now(&request, clock::now_ms() + LOOK_MS)
        });
        match look.await.map_err(io::Error::other).flatten() {
            Ok(found) => found,
            Err(error) => Found::Failed(error.to_string()),
        }
    }

    fn look_now(&self, request: &Request, until_ms: u64) -> io::Result<Found> {
        let Request { job, attempt, question } = request;
        let (job, attempt) = (*job, *attempt);
        let key = (job, attempt);
        let Some(mut body) = self.body(key)? else { return Ok(Found::NotFound) };
        Ok(match question {
            Question::Length => Found::Length(body.length()?),
            Question::Phases => {
                let growing = self.grows(key);
                let (phases, cut) = marks::read(&self.path(key, "marks"))?;
                Found::Phases(LogPhases { job, attempt, phases, cut, growing })
            }
            Question::FirstError => {
                let mut scan = ErrorScan::default();
                let mut lines = Lines::new(PIECE_BYTES, 0, 1, 0);
                let end = read_lines(&mut body, &mut lines, 0, until_ms, |piece| scan.push(&piece))?;
                let complete = end != End::Late;
                Found::FirstError(LogFirstError { job, attempt, error: scan.finish(), complete })
            }
            Question::Search(search) => match Needle::new(search) {
                Ok(needle) => Found::Matches(needle.search(&mut body, (job, attempt), search, until_ms)?),
                Err(why) => Found::Invalid(why),
            },
        })
    }
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There is no more.
    Read,
    /// Nobody wants more.
    Enough,
    /// The time is over.
    Late,
}

fn read_lines(
    body: &mut Body,
    lines: &mut Lines,
    mut offset: u64,
    until_ms: u64,
    mut each: impl FnMut(Piece<'_>) -> bool,
) -> io::Result<End> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = body.read(offset, &mut buffer)?;
        if length == 0 {
            return Ok(if lines.finish(&mut each) { End::Read } else { End::Enough });
        }
        offset += length as u64;
        if !lines.push(&buffer[..length], &mut each) {
            return Ok(End::Enough);
        }
        if clock::now_ms() >= until_ms {
            return Ok(End::Late);
        }
    }
}

/// What is searched for, made ready. Matching takes time in proportion to the text, whatever the expression.
struct Needle {
    expression: Regex,
}

impl Needle {
    fn new(search: &LogSearch) -> Result<Self, String> {
        if search.text.is_empty() || search.text.len() > SEARCH_MAX_BYTES {
            return Err(format!("a search is for 1 to {SEARCH_MAX_BYTES} bytes of text"));
        }
        let pattern = if search.regex { search.text.clone() } else { regex::escape(&search.text) };
        let mut builder = RegexBuilder::new(&pattern);
        builder.case_insensitive(search.ignore_case).size_limit(1 << 20).dfa_size_limit(1 << 20).nest_limit(50);
        let expression = builder.build().map_err(|error| format!("the expression is not understood: {error}"))?;
        Ok(Self { expression })
    }

    fn search(
        &self,
        body: &mut Body,
        (job, attempt): (JobId, u32),
        search: &LogSearch,
        until_ms: u64,
    ) -> io::Result<LogMatches> {
        let limit = search.limit.clamp(1, MATCHES_MAX);
        let mut lines = Lines::new(PIECE_BYTES, SEARCH_MAX_BYTES, search.line.max(1), search.offset);
        let mut matches: Vec<LogMatch> = Vec::new();
        // Where to go on: the last piece that was begun, with the number of its line.
        let mut place = (search.offset, search.line.max(1));
        let end = read_lines(body, &mut lines, search.offset, until_ms, |piece| {
            place = (piece.offset, piece.line);
            if matches.last().is_some_and(|last| last.line == piece.line) {
                return true;
            }
            let Some(text) = self.excerpt(&piece) else { return true };
            if matches.len() == limit {
                return false;
            }
            matches.push(LogMatch { line: piece.line, offset: piece.offset, text });
            true
        })?;
        let (line, offset) = lines.open_line();
        // Everything before the open line was looked at. One that is longer than a piece is gone on with in its middle.
        if end != End::Enough && offset > place.0 {
            place = (offset, line);
        }
        let (next_offset, next_line) = place;
        Ok(LogMatches { job, attempt, matches, complete: end == End::Read, next_offset, next_line })
    }

    /// What is shown of a piece that matches.
    fn excerpt(&self, piece: &Piece<'_>) -> Option<String> {
        let mut text = String::from_utf8_lossy(piece.bytes);
        if text.chars().any(harmless::is_hostile) {
            text = harmless::plain(&text).collect::<String>().into();
        }
        let found = self.expression.find(&text)?;
        let begin = text[..found.start()].char_indices().rev().nth(EXCERPT_BEFORE - 1).map_or(0, |(at, _)| at);
        let before = if begin > 0 || !piece.is_first() { "…" } else { "" };
        Some(harmless::line(&format!("{before}{}", &text[begin..]), EXCERPT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;
    use crate::transport::memory::Network;

    const JOB: JobId = JobId(uuid::Uuid::from_u128(7));

    fn search(text: &str) -> LogSearch {
        LogSearch { text: text.to_owned(), regex: false, ignore_case: false, limit: 100, offset: 0, line: 0 }
    }

    fn matches(store: &LogStore, search: LogSearch) -> LogMatches {
        let request = Request { job: JOB, attempt: 1, question: Question::Search(search) };
        let Found::Matches(matches) = store.look_now(&request, u64::MAX).expect("looks") else { panic!("matches") };
        matches
    }

    fn lines_of(matches: &LogMatches) -> Vec<u64> {
        matches.matches.iter().map(|one| one.line).collect()
    }

    /// A finished log of `bytes`, packed or not.
    fn log(bytes: &[u8], compress_min_bytes: u64) -> (tempfile::TempDir, LogStore) {
        let (directory, store) = store(compress_min_bytes);
        let mut writer = store.create(JOB, 1, 1 << 30).expect("creates");
        writer.write(bytes).expect("writes");
        writer.finish().expect("finishes");
        (directory, store)
    }

    #[test]
    fn lines_are_found_as_they_are_shown_in_both_forms() {
        let text = b"first\n\x1b[31mer\x1b[0mror: one\nERROR: two\n\xff error: three\x1b]0;title\x07\n";
        for compress_min_bytes in [1, 1 << 30] {
            let (_directory, store) = log(text, compress_min_bytes);
            let found = matches(&store, search("error:"));
            let shown: Vec<_> = found.matches.iter().map(|one| (one.line, one.offset, one.text.as_str())).collect();
            assert_eq!(shown, [(2, 6, "error: one"), (4, 37, "\u{fffd} error: three")]);
            assert!(found.complete);
            assert_eq!((found.next_offset, found.next_line), (text.len() as u64, 5));
            let ignoring = LogSearch { ignore_case: true, ..search("error:") };
            assert_eq!(lines_of(&matches(&store, ignoring)), [2, 3, 4]);
            let expression = LogSearch { regex: true, ..search("^(ERR|fir)") };
            assert_eq!(lines_of(&matches(&store, expression)), [1, 3]);
            assert_eq!(lines_of(&matches(&store, search("[31m"))), [0u64; 0], "what is not shown is not found");
        }
    }

    #[test]
    fn a_cut_search_goes_on_where_it_says() {
        let text: String = (1..=5_000).map(|line| format!("line {line} {}\n", line % 7)).collect();
        let (_directory, store) = log(text.as_bytes(), 1);
        let mut all = Vec::new();
        let mut next = LogSearch { limit: 100, ..search(" 3") };
        loop {
            let found = matches(&store, next.clone());
            assert!(found.matches.len() <= 100);
            all.extend(lines_of(&found));
            if found.complete {
                break;
            }
            next = LogSearch { offset: found.next_offset, line: found.next_line, ..next };
        }
        let expected: Vec<u64> =
            text.lines().zip(1..).filter(|(line, _)| line.contains(" 3")).map(|(_, number)| number).collect();
        assert_eq!(all, expected);
        // Out of time at once: it still gets on, and says where.
        let request = Request { job: JOB, attempt: 1, question: Question::Search(search("nowhere")) };
        let Found::Matches(late) = store.look_now(&request, 0).expect("looks") else { panic!("matches") };
        assert!(!late.complete && late.next_offset > 0 && late.next_line > 1, "{late:?}");
    }

    #[test]
    fn a_line_without_end_is_searched_in_bounded_memory_and_shown_cut() {
        let mut text = vec![b'x'; 3 << 20];
        // Across the border of two pieces.
        let at = PIECE_BYTES - 3;
        text[at..at + 6].copy_from_slice(b"needle");
        text.extend_from_slice(b"\nshort needle\n");
        let (_directory, store) = log(&text, 1);
        let found = matches(&store, search("needle"));
        assert_eq!(lines_of(&found), [1, 2]);
        assert!(found.matches[0].text.contains("needle") && found.matches[0].text.chars().count() <= EXCERPT_MAX);
        assert!(found.matches[0].offset <= at as u64);
        assert_eq!(found.matches[1].text, "short needle");
    }

    #[test]
    fn bad_questions_are_refused() {
        let (_directory, store) = log(b"a\n", 1);
        for bad in [
            search(""),
            search(&"x".repeat(SEARCH_MAX_BYTES + 1)),
            LogSearch { regex: true, ..search("(") },
            LogSearch { regex: true, ..search("(a{1000}){1000}") },
        ] {
            let request = Request { job: JOB, attempt: 1, question: Question::Search(bad) };
            assert!(matches!(store.look_now(&request, u64::MAX).expect("looks"), Found::Invalid(_)));
        }
        let request = Request { job: JOB, attempt: 2, question: Question::Length };
        assert_eq!(store.look_now(&request, u64::MAX).expect("looks"), Found::NotFound);
    }

    #[tokio::test]
    async fn other_nodes_are_answered() {
        let (_directory, store) = store(1 << 30);
        let mut writer = store.create(JOB, 1, 1 << 20).expect("creates");
        writer.phase("build");
        writer.write(b"cc a.c\na.c:1:1: error: no\n").expect("writes");
        let network = Network::default();
        serve(&network.node("far"), store).expect("serves");
        let (near, far) = (network.node("near"), PeerId::new("far"));
        let ask =
            async |question| ask(&near, &far, &Request { job: JOB, attempt: 1, question }).await.expect("answers");
        assert_eq!(ask(Question::Length).await, Found::Length(26));
        let Found::FirstError(found) = ask(Question::FirstError).await else { panic!("first error") };
        assert_eq!(found.error.map(|error| (error.line, error.offset)), Some((2, 7)));
        let Found::Phases(phases) = ask(Question::Phases).await else { panic!("phases") };
        assert_eq!((phases.phases[0].name.as_str(), phases.growing), ("build", true));
        let Found::Matches(found) = ask(Question::Search(search("a.c"))).await else { panic!("matches") };
        assert_eq!(lines_of(&found), [1, 2]);
    }
}
