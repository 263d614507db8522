//! Logs, commands and terminals of any node for whoever asks this one, and what this node tells of its own.
//!
//! Never done here: deciding who may ask (`web` does), and whether that node allows it (it does itself, `exec::console`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::shared::Shared;
use super::{controlling, internal};
use crate::api::{ApiError, ApiResult, ErrorCode, ExecLine, ExecRequest, MemberState, RecordingList, RecordingView};
use crate::config::Config;
use crate::engine::id::PeerId;
use crate::engine::legacy;
use crate::exec::console::journal::AgentLog;
use crate::exec::console::{Console, Ended, Input, LogSource, LogsAsked, Note, Options, Reply, Request, Size, Talk};
use crate::tasks;
use crate::web::data::{NodeLog, NodeLogQuery, TerminalKey, TerminalStream, TerminalWord};
use crate::web::node::ByteStream;

/// Time of a command when nothing else is said, milliseconds.
const RUN_TIME_MS: u64 = 60_000;
/// A node that lists its recordings does it within this time.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// A node says within this time whether it begins.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The console of this node. What happens in it is written down before it happens.
pub(super) fn open(config: &Config, agent_log: AgentLog) -> Console {
    let terminal = &config.terminal;
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).filter(|home| home.is_dir());
    let options = Options {
        enabled: terminal.enabled,
        node: config.name.clone(),
        shell: terminal.shell.clone(),
        home: home.unwrap_or_else(|| "/".into()),
        recordings: config.state_dir.join("recordings"),
        keep: Duration::from_secs(terminal.keep_days.saturating_mul(86_400)),
        keep_bytes: terminal.keep_mb << 20,
        idle: Duration::from_secs(terminal.idle_s),
        terminals_max: terminal.sessions,
        root: "/".into(),
    };
    let noted = |note: Note| {
        let from = note.from.as_ref().map_or_else(|| "this node".to_owned(), ToString::to_string);
        tracing::info!(what = note.what, by = note.by, from, text = note.text, "an operator works on this node");
    };
    Console::new(options, agent_log, Arc::new(noted))
}

/// Serves other members.
pub(super) fn serve(shared: &Arc<Shared>) -> io::Result<tokio::task::JoinHandle<()>> {
    let known = Arc::clone(shared);
    let is_member = move |peer: &PeerId| known.read(|state| state.member(peer).is_some_and(|member| !member.left));
    shared.console.serve(&shared.mesh, is_member)
}

/// The node that is meant, and its name.
fn node(shared: &Shared, name: &str) -> ApiResult<(PeerId, String)> {
    let peer = shared.read(|state| controlling::node_named(state, name))?;
    let shown = shared.name_of(&peer);
    if peer == legacy::peer_id(&shown) {
        let message = format!("{shown} is a drone of the Python swarm, which has no agent to ask");
        return Err(ApiError::new(ErrorCode::Invalid, message, "install hive there"));
    }
    Ok((peer, shown))
}

async fn talk(shared: &Shared, peer: &PeerId, request: &Request) -> ApiResult<Talk> {
    if *peer == shared.me.peer_id {
        return shared.console.talk(request).await.map_err(internal);
    }
    Talk::open(&shared.mesh, peer, request).await.map_err(|error| unreachable(shared, peer, &error))
}

fn unreachable(shared: &Shared, peer: &PeerId, error: &io::Error) -> ApiError {
    let name = shared.name_of(peer);
    if error.kind() == io::ErrorKind::Unsupported {
        let message = format!("{name} runs a version of hive that does not answer this");
        return ApiError::new(ErrorCode::Unreachable, message, "install this version of hive there");
    }
    let state = match shared.liveness(peer) {
        MemberState::Down => "is down",
        MemberState::Left => "has left the hive",
        MemberState::Alive | MemberState::Suspect | MemberState::Legacy => "cannot be reached",
    };
    ApiError::new(ErrorCode::Unreachable, format!("{name} {state} ({error})"), "see: hive peers")
}

fn broken(shared: &Shared, peer: &PeerId) -> ApiError {
    let message = format!("the connection to {} broke", shared.name_of(peer));
    ApiError::new(ErrorCode::Unreachable, message, "what ran there has ended; see: hive peers")
}

/// Waits until the other side has begun, or says why it does not.
async fn begun(shared: &Shared, peer: &PeerId, talk: &mut Talk) -> ApiResult<()> {
    match tokio::time::timeout(BEGIN_TIMEOUT, talk.next()).await {
        Ok(Some(Reply::Refused(error))) => Err(error),
        Ok(Some(Reply::Begun | Reply::Output { .. } | Reply::Alive | Reply::Recordings(_) | Reply::Ended(_))) => Ok(()),
        Ok(None) | Err(_) => Err(broken(shared, peer)),
    }
}

/// A log of a node.
pub(super) async fn logs(shared: &Arc<Shared>, name: String, query: NodeLogQuery) -> ApiResult<ByteStream> {
    let (peer, _) = node(shared, &name)?;
    let source = match query.log {
        NodeLog::Agent => LogSource::Agent,
        NodeLog::System => LogSource::System,
        NodeLog::Kernel => LogSource::Kernel,
        NodeLog::Emerge => LogSource::Emerge,
    };
    let asked = LogsAsked { source, lines: query.lines, since_unix_s: query.since_unix_s, follow: query.follow };
    let mut talk = talk(shared, &peer, &Request::Logs(asked)).await?;
    begun(shared, &peer, &mut talk).await?;
    Ok(bytes(talk).boxed())
}

/// What comes until the end; a connection that breaks before it is an error.
fn bytes(talk: Talk) -> impl futures::Stream<Item = io::Result<Bytes>> {
    futures::stream::unfold(Some(talk), |talk| async move {
        let mut talk = talk?;
        loop {
            return match talk.next().await {
                Some(Reply::Output { bytes, .. }) => Some((Ok(Bytes::from(bytes)), Some(talk))),
                Some(Reply::Begun | Reply::Alive | Reply::Recordings(_)) => continue,
                Some(Reply::Ended(_)) => None,
                Some(Reply::Refused(error)) => Some((Err(io::Error::other(error)), None)),
                None => Some((Err(io::ErrorKind::ConnectionReset.into()), None)),
            };
        }
    })
}

/// Runs one command on a node; what comes back is one [`ExecLine`] per line.
pub(super) async fn exec(
    shared: &Arc<Shared>,
    name: String,
    request: ExecRequest,
    by: String,
) -> ApiResult<ByteStream> {
    let (peer, shown) = node(shared, &name)?;
    let timeout_ms = request.timeout_ms.unwrap_or(RUN_TIME_MS);
    tracing::info!(by, node = shown, program = request.argv.first(), "an operator runs a command on a node");
    let request = Request::Run { by, argv: request.argv, timeout_ms };
    let mut talk = talk(shared, &peer, &request).await?;
    begun(shared, &peer, &mut talk).await?;
    let lines = futures::stream::unfold(Some((talk, Halves::default())), move |state| {
        let message = format!("the connection to {shown} broke; what ran there has ended");
        async move {
            let (mut talk, mut halves) = state?;
            let (text, over) = loop {
                match talk.next().await {
                    Some(Reply::Output { error, bytes }) => match halves.line(error, &bytes) {
                        Some(line) => break (line_of(&line), false),
                        None => continue,
                    },
                    Some(Reply::Ended(Ended { exit_code, signal, why })) => {
                        let mut text = halves.rest();
                        text.push_str(&line_of(&ExecLine::Ended { exit_code, signal, why }));
                        break (text, true);
                    }
                    Some(Reply::Refused(error)) => break (line_of(&ExecLine::Broken { message: error.message }), true),
                    Some(Reply::Begun | Reply::Alive | Reply::Recordings(_)) => continue,
                    None => break (line_of(&ExecLine::Broken { message }), true),
                }
            };
            Some((Ok(Bytes::from(text)), (!over).then_some((talk, halves))))
        }
    });
    Ok(lines.boxed())
}

fn line_of(line: &ExecLine) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

/// Beginnings of characters whose rest has not come yet, of both outputs.
#[derive(Default)]
struct Halves {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Halves {
    /// What can be shown of this now.
    fn line(&mut self, error: bool, bytes: &[u8]) -> Option<ExecLine> {
        let held = if error { &mut self.err } else { &mut self.out };
        held.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(held) {
            Err(problem) if problem.error_len().is_none() => problem.valid_up_to(),
            Ok(_) | Err(_) => held.len(),
        };
        let rest = held.split_off(whole);
        let whole = std::mem::replace(held, rest);
        (!whole.is_empty()).then(|| output(error, whole))
    }

    fn rest(&mut self) -> String {
        let (out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        let lines = [(false, out), (true, err)].into_iter().filter(|(_, bytes)| !bytes.is_empty());
        lines.map(|(error, bytes)| line_of(&output(error, bytes))).collect()
    }
}

fn output(error: bool, bytes: Vec<u8>) -> ExecLine {
    let (text, hex) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(other) => (None, Some(hex::encode(other.as_bytes()))),
    };
    if error { ExecLine::Stderr { text, hex } } else { ExecLine::Stdout { text, hex } }
}

/// Whether a terminal may be opened on a node, and its name.
pub(super) async fn may_open(shared: &Arc<Shared>, name: String) -> ApiResult<String> {
    let (peer, shown) = node(shared, &name)?;
    let mut talk = talk(shared, &peer, &Request::MayOpen).await?;
    begun(shared, &peer, &mut talk).await?;
    Ok(shown)
}

/// Opens a terminal on a node.
pub(super) async fn terminal(
    shared: &Arc<Shared>,
    name: String,
    by: String,
    (columns, rows): (u16, u16),
) -> ApiResult<TerminalStream> {
    let (peer, shown) = node(shared, &name)?;
    tracing::info!(by, node = shown, "an operator opens a terminal on a node");
    let request = Request::Terminal { by, size: Size { columns, rows } };
    let mut talk = talk(shared, &peer, &request).await?;
    begun(shared, &peer, &mut talk).await?;
    let inputs = talk.inputs();
    let (keys, mut pressed) = mpsc::channel(16);
    tasks::spawn("terminal-keys", async move {
        while let Some(key) = pressed.recv().await {
            let input = match key {
                TerminalKey::Bytes(bytes) => Input::Bytes(bytes),
                TerminalKey::Resize { columns, rows } => Input::Resize(Size { columns, rows }),
            };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    });
    let words = futures::stream::unfold(Some(talk), |talk| async move {
        let mut talk = talk?;
        loop {
            return match talk.next().await {
                Some(Reply::Output { bytes, .. }) => Some((TerminalWord::Output(bytes.into()), Some(talk))),
                Some(Reply::Begun | Reply::Alive | Reply::Recordings(_)) => continue,
                Some(Reply::Ended(ended)) => {
                    Some((TerminalWord::Ended { exit_code: ended.exit_code, why: ended.why }, None))
                }
                Some(Reply::Refused(error)) => {
                    Some((TerminalWord::Ended { exit_code: None, why: Some(error.message) }, None))
                }
                None => {
                    let why = Some("the connection to the node broke".to_owned());
                    Some((TerminalWord::Ended { exit_code: None, why }, None))
                }
            };
        }
    });
    Ok(TerminalStream { keys, words: words.boxed() })
}

/// What was recorded on all nodes.
pub(super) async fn recordings(shared: &Arc<Shared>) -> ApiResult<RecordingList> {
    let mut peers = shared.alive_peers();
    peers.push(shared.me.peer_id.clone());
    let ask = async |peer: PeerId| {
        let listed = async {
            let mut talk = talk(shared, &peer, &Request::Recordings).await.ok()?;
            match talk.next().await {
                Some(Reply::Recordings(list)) => Some(list),
                Some(_) | None => None,
            }
        };
        let listed = tokio::time::timeout(LIST_TIMEOUT, listed).await.ok().flatten();
        (shared.name_of(&peer), listed)
    };
    let mut list = RecordingList::default();
    for (node, listed) in futures::future::join_all(peers.into_iter().map(ask)).await {
        match listed {
            Some(listed) => list.recordings.extend(listed.into_iter().map(|recording| RecordingView {
                id: format!("{node}:{}", recording.id),
                node: node.clone(),
                by: recording.by,
                started_at: recording.started_at,
                duration_ms: recording.duration_ms,
                size_bytes: recording.size_bytes,
                columns: recording.size.columns,
                rows: recording.size.rows,
            })),
            None => list.unreachable.push(node),
        }
    }
    list.recordings.sort_by_key(|recording| std::cmp::Reverse((recording.started_at, recording.id.clone())));
    list.unreachable.sort();
    Ok(list)
}

/// A recording, as asciicast.
pub(super) async fn recording(shared: &Arc<Shared>, id: String) -> ApiResult<ByteStream> {
    let Some((name, id)) = id.split_once(':') else {
        return Err(ApiError::new(ErrorCode::NotFound, "a recording is named NODE:NAME", "see: hive recording list"));
    };
    let (peer, _) = node(shared, name)?;
    let mut talk = talk(shared, &peer, &Request::Recording { id: id.to_owned() }).await?;
    begun(shared, &peer, &mut talk).await?;
    Ok(bytes(talk).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_text_without_torn_characters_or_hexadecimal_digits() {
        let mut halves = Halves::default();
        let snowman = "☃".as_bytes();
        assert_eq!(halves.line(false, &snowman[..2]), None);
        let err = ExecLine::Stderr { text: Some("e".to_owned()), hex: None };
        assert_eq!(halves.line(true, b"e"), Some(err), "the two do not mix");
        let whole = ExecLine::Stdout { text: Some("☃\n".to_owned()), hex: None };
        assert_eq!(halves.line(false, &[&snowman[2..], b"\n"].concat()), Some(whole));
        let odd = ExecLine::Stdout { text: None, hex: Some("ff00".to_owned()) };
        assert_eq!(halves.line(false, b"\xff\0"), Some(odd.clone()));
        assert_eq!(line_of(&odd), "{\"type\":\"stdout\",\"hex\":\"ff00\"}\n");
        assert_eq!(halves.line(false, &snowman[..1]), None);
        assert_eq!(
            halves.rest(),
            "{\"type\":\"stdout\",\"hex\":\"e2\"}\n",
            "what never became a character is not lost"
        );
    }
}
