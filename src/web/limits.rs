//! How many may talk at once, and for how long one may keep the other waiting.
//!
//! A connection takes a slot, counted in all and per source; a source is an IPv4 address or an IPv6 /64. A peer that stops reading
//! is cut off. Never done here: parsing HTTP.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Most connections at once. A page and a `curl` per member of the largest hive fit.
pub const CONNECTIONS_MAX: usize = 256;
/// Most connections at once from one source: browsers open six.
pub const CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// The same for this machine itself, which stands for several programs.
pub const CONNECTIONS_LOOPBACK_MAX: usize = 64;

/// Most connections, in all and per source.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// From one source.
    pub per_source: usize,
    /// From this machine.
    pub loopback: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { total: CONNECTIONS_MAX, per_source: CONNECTIONS_PER_SOURCE_MAX, loopback: CONNECTIONS_LOOPBACK_MAX }
    }
}

/// Who counts as one source: whoever has one IPv6 address has 2^64 of them.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Counts connections.
#[derive(Debug)]
pub(super) struct Slots {
    caps: Caps,
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    source: IpAddr,
}

impl Slots {
    pub(super) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self { caps, taken: Mutex::new(BTreeMap::new()) })
    }

    /// A place for one more connection from `address`, if there is one.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let source = source(address);
        let cap = if source.is_loopback() { self.caps.loopback } else { self.caps.per_source };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let mine = taken.get(&source).copied().unwrap_or(0);
        if total >= self.caps.total || mine >= cap {
            return None;
        }
        taken.insert(source, mine + 1);
        Some(Slot { slots: Arc::clone(self), source })
    }

    /// Connections at this moment.
    pub(super) fn open(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// A stream that fails when its peer does not take a byte for a while. Reading is not limited here: a connection that waits for the
/// next line of a log is silent and fine.
pub(super) struct Patient<S> {
    stream: S,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, stall: Duration) -> Self {
        Self { stream, stall, stalled: None }
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not take what it asked for")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(context, progress)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(context, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_shutdown(context);
        this.judge(context, progress)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.judge(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn slots_are_counted_per_source_and_in_all_and_given_back() {
        let slots = Slots::new(Caps { total: 5, per_source: 2, loopback: 3 });
        let first = slots.take(ip("10.0.0.1")).expect("room");
        let _second = slots.take(ip("::ffff:10.0.0.1")).expect("room");
        assert!(slots.take(ip("10.0.0.1")).is_none(), "the mapped address is the same source");
        let _v6 = slots.take(ip("2001:db8::1")).expect("room");
        let _v6_again = slots.take(ip("2001:db8::2")).expect("room");
        assert!(slots.take(ip("2001:db8::3")).is_none(), "one /64 is one source");
        let _local = slots.take(ip("127.0.0.1")).expect("room");
        assert!(slots.take(ip("127.0.0.1")).is_none(), "full in all");
        drop(first);
        assert_eq!(slots.open(), 4);
        assert!(slots.take(ip("10.0.0.1")).is_some());
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_cut_off() {
        let (near, _far) = tokio::io::duplex(16);
        let mut patient = Patient::new(near, Duration::from_millis(20));
        let error = patient.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
