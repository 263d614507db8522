//! The raw socket below Noise, with a counter and a switch that ends it at once.
//!
//! Closing a connection in order needs the other side, or at least room in the send buffer. When the other side is a machine
//! that lost power, neither is there, and the connection would stay for minutes beside its successor. Never done here: deciding
//! when.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;

/// Controls one socket from outside.
#[derive(Default)]
pub(crate) struct SocketControl {
    ended: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl SocketControl {
    /// Every read and write fails from now on.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Bytes received and sent so far, encryption included.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    fn check(&self) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// Finds the control of a socket by the address of its other end, until its connection is established.
#[derive(Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<BTreeMap<SocketAddr, Vec<Weak<SocketControl>>>>>);

impl Sockets {
    /// Wraps a new socket.
    pub(crate) fn wrap<S>(&self, socket: S, point: &ConnectedPoint) -> Socket<S> {
        let control = Arc::new(SocketControl::default());
        if let Some(address) = socket_addr(point.get_remote_address()) {
            let mut sockets = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // The dead go first, so the map holds no more than what is open.
            sockets.retain(|_, controls| {
                controls.retain(|control| control.strong_count() > 0);
                !controls.is_empty()
            });
            sockets.entry(address).or_default().push(Arc::downgrade(&control));
        }
        Socket { socket, control }
    }

    /// The newest living socket to this address, handed out once.
    pub(crate) fn take(&self, point: &ConnectedPoint) -> Option<Arc<SocketControl>> {
        let address = socket_addr(point.get_remote_address())?;
        let mut sockets = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let controls = sockets.get_mut(&address)?;
        let newest = std::iter::from_fn(|| controls.pop()).find_map(|control| control.upgrade());
        if controls.is_empty() {
            sockets.remove(&address);
        }
        newest
    }
}

/// The `IP:PORT` of a TCP multiaddress, whatever follows it.
pub(crate) fn socket_addr(address: &Multiaddr) -> Option<SocketAddr> {
    let mut protocols = address.iter();
    let network = protocols.next()?;
    let Some(Protocol::Tcp(port)) = protocols.next() else { return None };
    if let Protocol::Ip4(ip) = network {
        Some(SocketAddr::new(ip.into(), port))
    } else if let Protocol::Ip6(ip) = network {
        Some(SocketAddr::new(ip.into(), port))
    } else {
        None
    }
}

/// The TCP multiaddress of an `IP:PORT`.
pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// A counted socket that can be ended.
pub(crate) struct Socket<S> {
    socket: S,
    control: Arc<SocketControl>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.control.reader.register(cx.waker());
        self.control.check()?;
        let poll = Pin::new(&mut self.socket).poll_read(cx, buf);
        if let Poll::Ready(Ok(count)) = &poll {
            self.control.bytes_in.fetch_add(*count as u64, Ordering::Relaxed);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        self.control.check()?;
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &poll {
            self.control.bytes_out.fetch_add(*count as u64, Ordering::Relaxed);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.check()?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.check()?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_read_that_waits_for_ever_ends_when_the_switch_is_thrown() {
        use tokio_util::compat::TokioAsyncReadCompatExt as _;
        let (near, _far) = tokio::io::duplex(64);
        let control = Arc::new(SocketControl::default());
        let mut socket = Socket { socket: near.compat(), control: Arc::clone(&control) };
        let reading = crate::tasks::spawn("test-read", async move { socket.read(&mut [0u8; 8]).await });
        tokio::task::yield_now().await;
        control.end();
        let result = tokio::time::timeout(std::time::Duration::from_secs(2), reading).await.expect("wakes");
        assert_eq!(result.expect("no panic").expect_err("ended").kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn addresses_convert_and_foreign_ones_do_not() {
        for text in ["10.0.0.1:50555", "[fd00::1]:7"] {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(socket_addr(&multiaddr(address)), Some(address));
        }
        let foreign: Multiaddr = "/dns4/example.org/tcp/1".parse().expect("multiaddr");
        assert_eq!(socket_addr(&foreign), None);
    }
}
