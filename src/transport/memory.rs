//! A [`Transport`] within one process, for tests of the adapters that speak over streams.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::{ByteStream, Incoming, Transport};
use crate::engine::id::PeerId;

type Acceptors = Arc<Mutex<BTreeMap<(PeerId, String), mpsc::Sender<Incoming>>>>;

/// A network: every node that was made from it reaches every other.
#[derive(Clone, Default)]
pub struct Network {
    acceptors: Acceptors,
}

impl Network {
    /// The view of one node.
    pub fn node(&self, name: &str) -> Node {
        Node { peer: PeerId::new(name), acceptors: self.acceptors.clone() }
    }
}

/// One node of a [`Network`].
#[derive(Clone)]
pub struct Node {
    /// Who it is.
    pub peer: PeerId,
    acceptors: Acceptors,
}

impl Transport for Node {
    fn open<'a>(&'a self, peer: &'a PeerId, protocol: &'a str) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            let key = (peer.clone(), protocol.to_owned());
            let acceptor = self.acceptors.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let Some(acceptor) = acceptor else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, format!("{peer} cannot be reached")));
            };
            let (near, far) = tokio::io::duplex(64 << 10);
            let incoming = Incoming { peer: self.peer.clone(), stream: Box::pin(far) };
            acceptor.send(incoming).await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
            let stream: ByteStream = Box::pin(near);
            Ok(stream)
        })
    }

    fn accept(&self, protocol: &str) -> io::Result<mpsc::Receiver<Incoming>> {
        let (sender, receiver) = mpsc::channel(64);
        let key = (self.peer.clone(), protocol.to_owned());
        self.acceptors.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sender);
        Ok(receiver)
    }
}
