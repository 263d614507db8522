//! A stream between nodes, with a note of every message that passes.
//!
//! The bytes go through unchanged and at once; this looks at them on the way. Never done here: refusing, delaying.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BODY_MAX, Note, PROTOCOL, Status, Wire, since_us};
use crate::clock;
use crate::engine::id::PeerId;
use crate::engine::wire::Protocol;
use crate::engine::wire::frames::{self, Passed, Scan, Word};
use crate::transport::ByteStream;

/// Questions on a shared stream whose answers are awaited; of more the oldest is forgotten.
const OPEN_MAX: usize = 512;

/// Wraps a stream of this protocol. `opened_here`: this node opened it.
pub fn tap(wire: &Wire, stream: ByteStream, protocol: &str, peer: &PeerId, opened_here: bool) -> ByteStream {
    // What is typed into a terminal may be a password, and no list of words knows it: of consoles nothing is kept here.
    if !wire.is_on() || protocol == PROTOCOL || protocol.starts_with("/hive/console/") {
        return stream;
    }
    Box::pin(Tapped {
        inner: stream,
        questions: Scan::new(BODY_MAX),
        answers: Scan::new(BODY_MAX),
        talk: Talk {
            wire: wire.clone(),
            protocol: Protocol::of_stream(protocol),
            peer: peer.clone(),
            opened_here,
            asked: None,
            answered: false,
            open: BTreeMap::new(),
        },
    })
}

struct Tapped {
    inner: ByteStream,
    questions: Scan,
    answers: Scan,
    talk: Talk,
}

/// A question that was seen.
#[derive(Clone, Copy)]
struct Asked {
    trace: u64,
    kind: Word,
    began_us: u64,
    wanted: bool,
}

struct Talk {
    wire: Wire,
    protocol: Protocol,
    peer: PeerId,
    opened_here: bool,
    asked: Option<Asked>,
    answered: bool,
    /// By the numbers of a shared stream.
    open: BTreeMap<u64, Asked>,
}

impl Talk {
    fn trace(&self, number: Option<u64>, content: &[u8], bytes: u64) -> u64 {
        let me = self.wire.me().map_or("", PeerId::as_str);
        let (from, to) = if self.opened_here { (me, self.peer.as_str()) } else { (self.peer.as_str(), me) };
        let (number, bytes) = (number.unwrap_or(0).to_be_bytes(), bytes.to_be_bytes());
        frames::trace(&[from.as_bytes(), to.as_bytes(), self.protocol.as_str().as_bytes(), &number, &bytes, content])
    }

    /// Notes a message; says whether bare bytes follow.
    fn passed(&mut self, passed: Passed<'_>, asks: bool) -> bool {
        let shared = frames::shares_stream(self.protocol);
        let (number, content) = match frames::numbered(passed.body).filter(|_| shared) {
            Some((number, content)) => (Some(number), content),
            None => (None, passed.body),
        };
        let kind = frames::kind(self.protocol, content, asks);
        if asks {
            let trace = self.trace(number, content, passed.bytes);
            let asked = Asked { trace, kind, began_us: clock::now_us(), wanted: self.wire.wants(kind, trace) };
            match number {
                Some(number) => {
                    self.open.insert(number, asked);
                    if self.open.len() > OPEN_MAX {
                        self.open.pop_first();
                    }
                }
                None => (self.asked, self.answered) = (Some(asked), false),
            }
            if asked.wanted {
                self.note(asks, kind, content, passed.bytes, asked.trace, None);
            }
            return frames::bare_follows(self.protocol, kind.as_str());
        }
        let asked = match number {
            Some(number) => self.open.remove(&number),
            None => self.asked,
        };
        // The first answer decides how long it took; what follows on the stream is told when there is something to tell.
        let first = number.is_some() || !self.answered;
        self.answered = true;
        let wanted = match asked.filter(|_| first) {
            Some(asked) => asked.wanted,
            None => self.wire.wants(kind, self.trace(number, content, passed.bytes)),
        };
        if wanted {
            let latency_us = asked.filter(|_| first).map(|asked| since_us(asked.began_us));
            let trace = asked.map_or_else(|| self.trace(number, content, passed.bytes), |asked| asked.trace);
            self.note(asks, kind, content, passed.bytes, trace, latency_us);
        }
        frames::bare_follows(self.protocol, kind.as_str())
    }

    fn note(&self, asks: bool, kind: Word, body: &[u8], bytes: u64, trace: u64, latency_us: Option<u64>) {
        let sent = asks == self.opened_here;
        self.wire.note(&Note {
            sent,
            protocol: self.protocol,
            kind,
            peer: Some(&self.peer),
            address: None,
            bytes,
            latency_us,
            status: if asks { Status::None } else { Status::Word(frames::status(kind.as_str())) },
            verdict: if sent { "sent" } else { "taken" },
            trace,
            body,
        });
    }

    /// The stream is over.
    fn ended(&self, bare: Option<(bool, u64)>) {
        let Some(asked) = self.asked else { return };
        let latency_us = Some(since_us(asked.began_us));
        if let Some((asks, bytes)) = bare {
            return self.note(asks, Word::new("Content"), &[], bytes, asked.trace, latency_us);
        }
        // Whoever asked and got nothing wants to see that.
        if !self.answered && self.opened_here {
            self.wire.note(&Note {
                sent: false,
                protocol: self.protocol,
                kind: asked.kind,
                peer: Some(&self.peer),
                address: None,
                bytes: 0,
                latency_us,
                status: Status::Word("no_answer"),
                verdict: "no_answer",
                trace: asked.trace,
                body: &[],
            });
        }
    }
}

impl Tapped {
    fn seen(&mut self, bytes: &[u8], sent: bool) {
        let asks = sent == self.talk.opened_here;
        let (scan, talk) = (if asks { &mut self.questions } else { &mut self.answers }, &mut self.talk);
        scan.feed(bytes, |passed| talk.passed(passed, asks));
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let bare = |scan: &Scan, asks| scan.bare_bytes().map(|bytes| (asks, bytes));
        self.talk.ended(bare(&self.answers, false).or_else(|| bare(&self.questions, true)));
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.inner.as_mut().poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &polled
            && let Some(fresh) = buffer.filled().get(before..)
        {
            self.seen(fresh, false);
        }
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.inner.as_mut().poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.seen(bytes.get(..*written).unwrap_or_default(), true);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use tokio::io::AsyncWriteExt as _;

    use super::super::Captured;
    use super::super::tests::wire;
    use super::*;
    use crate::transport::{CONTROL_FRAME_MAX, read_frame, write_frame};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Said {
        Lease { attempts: u32 },
        Leases { valid: Vec<bool> },
        Get { offset: u64 },
        Bytes { length: u64 },
    }

    fn ends(protocol: &str) -> ((Wire, ByteStream), (Wire, ByteStream)) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (asking, answering) = (
            wire(100, 10_000, &[]),
            Wire::new(
                PeerId::new("other"),
                &super::super::Settings { records: 100, body_bytes: 10_000, sample: Vec::new() },
            ),
        );
        let near = tap(&asking, Box::pin(near), protocol, &PeerId::new("other"), true);
        let far = tap(&answering, Box::pin(far), protocol, &PeerId::new("me"), false);
        ((asking, near), (answering, far))
    }

    #[tokio::test]
    async fn question_and_answer_have_one_trace_at_both_ends() {
        let ((asking, mut near), (answering, mut far)) = ends("/hive/control/1");
        write_frame(&mut near, &Said::Lease { attempts: 3 }, CONTROL_FRAME_MAX).await.expect("asks");
        assert_eq!(read_frame::<Said>(&mut far, CONTROL_FRAME_MAX).await.expect("hears"), Said::Lease { attempts: 3 });
        write_frame(&mut far, &Said::Leases { valid: vec![true] }, CONTROL_FRAME_MAX).await.expect("answers");
        read_frame::<Said>(&mut near, CONTROL_FRAME_MAX).await.expect("is answered");
        drop((near, far));
        let (here, there) = (asking.after(0, 10), answering.after(0, 10));
        let kinds = |records: &[Captured]| records.iter().map(|one| (one.kind.shown(), one.sent)).collect::<Vec<_>>();
        assert_eq!(kinds(&here), [("LEASE".to_owned(), true), ("LEASES".to_owned(), false)]);
        assert_eq!(kinds(&there), [("LEASE".to_owned(), false), ("LEASES".to_owned(), true)]);
        let traces: std::collections::BTreeSet<u64> = here.iter().chain(&there).map(|one| one.trace).collect();
        assert_eq!(traces.len(), 1);
        assert!(here[0].latency_us.is_none() && here[1].latency_us.is_some());
        assert_eq!((here[0].bytes, here[0].verdict, here[1].verdict), (there[0].bytes, "sent", "taken"));
        assert_eq!(here[1].status, Status::Word("ok"));
    }

    #[tokio::test]
    async fn bare_bytes_are_one_record_and_silence_is_told() {
        let ((asking, mut near), (_, mut far)) = ends("/hive/blob/1");
        write_frame(&mut near, &Said::Get { offset: 0 }, CONTROL_FRAME_MAX).await.expect("asks");
        read_frame::<Said>(&mut far, CONTROL_FRAME_MAX).await.expect("hears");
        write_frame(&mut far, &Said::Bytes { length: 9_000 }, CONTROL_FRAME_MAX).await.expect("answers");
        far.write_all(&[7; 9_000]).await.expect("sends");
        drop(far);
        read_frame::<Said>(&mut near, CONTROL_FRAME_MAX).await.expect("is answered");
        tokio::io::copy(&mut near, &mut tokio::io::sink()).await.expect("reads");
        drop(near);
        let records = asking.after(0, 10);
        let seen: Vec<_> = records.iter().map(|one| (one.kind.shown(), one.bytes)).collect();
        assert_eq!(seen[2], ("CONTENT".to_owned(), 9_000), "{seen:?}");
        assert_eq!(seen.len(), 3);

        let ((asking, mut near), (_, far)) = ends("/hive/control/1");
        write_frame(&mut near, &Said::Lease { attempts: 1 }, CONTROL_FRAME_MAX).await.expect("asks");
        drop((near, far));
        let last = asking.after(0, 10).pop().expect("a record");
        assert_eq!((last.verdict, last.status), ("no_answer", Status::Word("no_answer")));
    }

    #[tokio::test]
    async fn what_nodes_ask_each_other_about_records_is_not_noted() {
        let ((asking, mut near), _far) = ends(PROTOCOL);
        write_frame(&mut near, &Said::Lease { attempts: 3 }, CONTROL_FRAME_MAX).await.expect("asks");
        assert!(asking.after(0, 10).is_empty());
    }
}
