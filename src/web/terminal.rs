//! Terminals in a browser: a ticket bought with the key, a WebSocket opened with the ticket.
//!
//! ```text
//!   POST /api/v2/nodes/NODE/terminal (key) ─► ticket: 128 bit, good once, for 30 s, for this node, from this address
//!   GET  /ws/ssh/NODE (Origin of this very site) ─► first message: the ticket ─► connected, output …
//! ```
//!
//! Browsers put no headers on a WebSocket, and a URL ends up in logs: so the key buys a ticket, and the ticket is the first message.
//! Messages are JSON objects with a `type`. Never done here: running anything (the node whose terminal it is does).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse as _;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::Context;
use super::access::Caller;
use super::answer::{Handled, Problem, Remote};
use super::data::{TerminalKey, TerminalStream, TerminalWord};
use super::guard::{Credential, called_so, same_place};
use crate::api::{ApiError, ErrorCode, TerminalTicket, shown};
use crate::clock::now_ms;
use crate::engine::access::Scope;
use crate::keyring::sha256;

/// A ticket is good for so long, milliseconds.
const TICKET_MS: u64 = 30_000;
/// Tickets that are out at once.
const TICKETS_MAX: usize = 64;
/// Terminals through this node at once, those that have not shown a ticket yet included.
const SOCKETS_MAX: usize = 16;
/// Time for the ticket to come.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest message, bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// Bytes that may wait for a slow browser.
const WAITING_MAX: usize = 1 << 20;
/// A browser that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// So often it is looked whether it is still there; one that does not answer is gone after three times that.
const PING_EVERY: Duration = Duration::from_secs(20);
/// So often it is looked whether what opened a terminal is still good.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Close codes: all is said; not allowed.
const NORMAL: u16 = 1_000;
const POLICY: u16 = 1_008;

/// What a ticket is good for.
struct Ticket {
    node: String,
    by: String,
    from: IpAddr,
    /// Of the page that bought it; none when it was no page.
    origin: Option<String>,
    /// What it was bought with.
    credential: Credential,
    until_ms: u64,
}

/// Tickets that are out, by digest, and room for sockets.
pub(super) struct Terminals {
    tickets: Mutex<BTreeMap<[u8; 32], Ticket>>,
    room: Arc<Semaphore>,
}

impl Default for Terminals {
    fn default() -> Self {
        Self { tickets: Mutex::default(), room: Arc::new(Semaphore::new(SOCKETS_MAX)) }
    }
}

impl Terminals {
    /// Keeps a ticket, and says what it is called. None when too many are out.
    fn issue(&self, ticket: Ticket) -> Option<String> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = now_ms();
        tickets.retain(|_, ticket| ticket.until_ms > now_ms);
        if tickets.len() >= TICKETS_MAX {
            return None;
        }
        let name = hex::encode(rand::random::<[u8; 16]>());
        tickets.insert(sha256(name.as_bytes()), ticket);
        Some(name)
    }

    /// Takes a ticket: whoever asks second finds none, also when it was not his.
    fn redeem(&self, name: &str, node: &str, from: IpAddr, origin: &str) -> Option<Ticket> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up by digest, so that the time it takes tells nothing about tickets that are out.
        let ticket = tickets.remove(&sha256(name.as_bytes()))?;
        let same_origin = ticket.origin.as_deref().is_none_or(|bought| bought == origin);
        let fits = ticket.node == node && ticket.from == from && same_origin && ticket.until_ms > now_ms();
        fits.then_some(ticket)
    }
}

pub(super) async fn ticket(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    Extension(Remote(from)): Extension<Remote>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Handled {
    let node = context.node.may_open(name).await?;
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let (credential, until_ms) = (Credential::of(&headers), now_ms() + TICKET_MS);
    let ticket = Ticket { node: node.clone(), by: caller.name, from, origin, credential, until_ms };
    let ticket = context.terminals.issue(ticket).ok_or_else(|| {
        let message = "too many tickets are out that nobody used";
        Problem::from(ApiError::new(ErrorCode::Unreachable, message, "try again in half a minute"))
    })?;
    let path = format!("/ws/ssh/{node}");
    Ok(context.answer(Ok(TerminalTicket { ticket, node, path, expires_in_ms: TICKET_MS })))
}

pub(super) async fn connect(
    State(context): State<Context>,
    Extension(Remote(from)): Extension<Remote>,
    Path(node): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Handled {
    let origin = of_this_page(&context, &headers)?;
    if uri.query().is_some() {
        return Err(Problem::invalid("the ticket is the first message, and never part of an address"));
    }
    let upgrade = upgrade.map_err(|_| Problem::invalid("this path takes a WebSocket"))?;
    let room = Arc::clone(&context.terminals.room).try_acquire_owned().map_err(|_| {
        Problem::from(ApiError::new(ErrorCode::Unreachable, "too many terminals are open here", "close one"))
    })?;
    let upgrade = upgrade
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(WAITING_MAX);
    Ok(upgrade
        .on_upgrade(move |socket| async move {
            let _room = room;
            converse(&context, socket, node, from, origin).await;
        })
        .into_response())
}

/// The origin, when it is exactly this node's. A program that is no browser says it, too.
fn of_this_page(context: &Context, headers: &HeaderMap) -> Result<String, Problem> {
    called_so(context, headers)?;
    let host = headers.get(header::HOST);
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) if same_place(origin, host) => Ok(origin.to_str().unwrap_or_default().to_owned()),
        _ => {
            let error = ApiError::new(
                ErrorCode::Forbidden,
                "a terminal is opened by the page of this node alone",
                "send the header Origin with this node's own address",
            );
            Err(Problem::from(error).counted("origin"))
        }
    }
}

/// What a browser says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    Ticket {
        ticket: String,
        #[serde(default = "usual_columns")]
        columns: u16,
        #[serde(default = "usual_rows")]
        rows: u16,
    },
    Input {
        data: String,
    },
    Resize {
        #[serde(alias = "cols")]
        columns: u16,
        rows: u16,
    },
}

fn usual_columns() -> u16 {
    80
}

fn usual_rows() -> u16 {
    24
}

async fn converse(context: &Context, mut socket: WebSocket, node: String, from: IpAddr, origin: String) {
    let opened = open(context, &mut socket, &node, from, &origin).await;
    match opened {
        Ok((terminal, credential)) => {
            if tell(&mut socket, &json!({ "type": "connected", "data": node })).await.is_ok() {
                tokio::select! {
                    () = relay(&mut socket, terminal) => return,
                    () = until_revoked(context, &credential) => {}
                }
                let why = "the key or session that opened this terminal opens nothing any more";
                if tell(&mut socket, &json!({ "type": "ended", "exit_code": null, "data": why })).await.is_ok() {
                    close(&mut socket, POLICY, "revoked").await;
                }
            }
        }
        Err(Some(error)) => {
            context.node.refused("terminal", from);
            let said = tell(&mut socket, &json!({ "type": "error", "data": error.message, "error": error })).await;
            if said.is_ok() {
                close(&mut socket, POLICY, "refused").await;
            }
        }
        Err(None) => {}
    }
}

/// Returns when the key was replaced, the token revoked, or the session has ended.
async fn until_revoked(context: &Context, credential: &Credential) {
    while credential.is_good(context, Scope::Admin) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for the ticket and opens the terminal. None: whoever was there has gone.
async fn open(
    context: &Context,
    socket: &mut WebSocket,
    node: &str,
    from: IpAddr,
    origin: &str,
) -> Result<(TerminalStream, Credential), Option<ApiError>> {
    let first = tokio::time::timeout(FIRST_TIMEOUT, socket.recv()).await;
    let text = match first {
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(Some(Ok(_))) | Err(_) => return Err(Some(no_ticket())),
        Ok(Some(Err(_)) | None) => return Err(None),
    };
    let Ok(Said::Ticket { ticket, columns, rows }) = serde_json::from_str::<Said>(&text) else {
        return Err(Some(no_ticket()));
    };
    let ticket = context.terminals.redeem(&ticket, node, from, origin).ok_or_else(no_ticket)?;
    let terminal = context.node.terminal(ticket.node, ticket.by, (columns, rows)).await.map_err(Some)?;
    Ok((terminal, ticket.credential))
}

/// The same words for all that can be wrong with a ticket.
fn no_ticket() -> ApiError {
    let message = "the first message is a ticket for this terminal, not older than 30 s and not used before";
    ApiError::new(ErrorCode::Unauthorized, message, "buy one: POST /api/v2/nodes/NODE/terminal")
}

async fn relay(socket: &mut WebSocket, terminal: TerminalStream) {
    let TerminalStream { keys, mut words } = terminal;
    let mut tail = Vec::new();
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    let mut unanswered = 0;
    loop {
        tokio::select! {
            word = words.next() => match word {
                Some(TerminalWord::Output(bytes)) => {
                    tail.extend_from_slice(&bytes);
                    let text = shown::take_whole(&mut tail);
                    if tell(socket, &json!({ "type": "output", "data": text })).await.is_err() {
                        return;
                    }
                }
                Some(TerminalWord::Ended { exit_code, why }) => {
                    let said = tell(socket, &json!({ "type": "ended", "exit_code": exit_code, "data": why })).await;
                    if said.is_ok() {
                        close(socket, NORMAL, "ended").await;
                    }
                    return;
                }
                None => return,
            },
            said = socket.recv() => {
                unanswered = 0;
                if !heard(said, &keys).await {
                    return;
                }
            }
            _ = pings.tick() => {
                unanswered += 1;
                if unanswered > 3 || send(socket, Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Passes on what a browser says. Whether the terminal goes on.
async fn heard(said: Option<Result<Message, axum::Error>>, keys: &mpsc::Sender<TerminalKey>) -> bool {
    let text = match said {
        Some(Ok(Message::Text(text))) => text,
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => return true,
        Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => return false,
    };
    let key = match serde_json::from_str::<Said>(&text) {
        Ok(Said::Input { data }) => TerminalKey::Bytes(data.into_bytes()),
        Ok(Said::Resize { columns, rows }) => TerminalKey::Resize { columns, rows },
        Ok(Said::Ticket { .. }) | Err(_) => return false,
    };
    keys.send(key).await.is_ok()
}

async fn tell(socket: &mut WebSocket, value: &Value) -> Result<(), ()> {
    send(socket, Message::Text(value.to_string().into())).await
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), ()> {
    match tokio::time::timeout(WRITE_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    // Whoever has gone needs no farewell.
    let _ = send(socket, Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

#[cfg(test)]
mod tests;
