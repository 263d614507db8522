//! HTTP of a node: the public port, read-only for everyone, and the local socket, for whoever may control the agent.
//!
//! ```text
//!   TCP 8100 ──► serve ──► routes (Anyone, Secret) ──┐
//!   socket   ──► serve ──► routes (all) ─────────────┴──► NodeApi, implemented by the agent
//! ```
//!
//! Both listeners are bound by [`bind`] before the agent does anything else, so that a port that is taken stops it early, and answer from
//! [`Bound::serve`] on. One table of routes says for each who may use it. Every answer carries the log index and its age. Never done
//! here: deciding, and writing over the public port other than what an HMAC of the secret guards.

pub mod access;
pub mod answer;
pub mod auth;
pub mod bootstrap;
pub mod data;
pub mod escape;
pub mod limits;
pub mod node;

mod app;
mod audit;
pub mod backup;
mod badge;
mod browse;
mod capture;
mod console;
mod farm;
pub mod guard;
mod hive;
mod legacy;
mod live;
mod logs;
mod open;
mod openapi;
mod page;
mod people;
mod proxy;
mod reads;
mod recent;
mod replay;
mod routes;
mod serve;
mod session;
mod terminal;
mod tls;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::web::bootstrap::Bootstrap;
use crate::web::limits::Caps;
pub use crate::web::node::NodeApi;
pub use crate::web::open::PublicPage;
pub use crate::web::serve::{BindError, Bound, Handle, bind};
pub use crate::web::tls::Tls;
use crate::wire::Wire;

/// Port of the public API.
pub const HTTP_PORT: u16 = 8100;

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the public API listens; port 0 takes any.
    pub http: SocketAddr,
    /// Where the hive is controlled with a key; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// What an operator decided about keys, drones of the build swarm, and pages of other sites.
    pub rules: guard::Rules,
    /// The local socket.
    pub socket: PathBuf,
    /// Names by which clients may address this node on guarded paths, besides any IP address and `localhost`.
    pub host_names: Vec<String>,
    /// Path under which a proxy shows this node, without a slash at its end; empty: at the top.
    pub base_path: String,
    /// Proxies that say truly for whom they ask.
    pub trusted_proxies: Vec<IpNet>,
    /// How much anyone may see without a key.
    pub public_page: PublicPage,
    /// Most connections of the public API.
    pub caps: Caps,
    /// Longest time until a request's head is complete, and longest idle time between requests.
    pub header_timeout: Duration,
    /// Longest time that a client may keep an answer waiting without taking a byte of it.
    pub stall_timeout: Duration,
    /// The program that `/bootstrap/` hands out.
    pub executable: PathBuf,
    /// Takes notes of requests.
    pub wire: Wire,
    /// What both ports speak besides plain HTTP; none: nothing.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            http: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), HTTP_PORT),
            admin: None,
            rules: guard::Rules::default(),
            socket: PathBuf::from("/run/hive/hive.sock"),
            host_names: Vec::new(),
            base_path: String::new(),
            trusted_proxies: Vec::new(),
            public_page: PublicPage::default(),
            caps: Caps::default(),
            header_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            // Stays readable after an upgrade has replaced the file.
            executable: PathBuf::from("/proc/self/exe"),
            wire: Wire::default(),
            tls: None,
        }
    }
}

/// What handlers share.
#[derive(Clone)]
struct Context {
    node: Arc<dyn NodeApi>,
    guard: Arc<auth::Guard>,
    keeper: Arc<guard::Guard>,
    bootstrap: Arc<Bootstrap>,
    host_names: Arc<Vec<String>>,
    public_page: PublicPage,
    /// In front of every path, without a slash at its end; may be empty.
    base_path: Arc<String>,
    meter: Arc<serve::Meter>,
    recent: Arc<recent::Recent>,
    wire: Wire,
    terminals: Arc<terminal::Terminals>,
    live: Arc<live::Hub>,
    tls: Option<Tls>,
    /// See [`answer::REQUEST_TIMEOUT`].
    request_timeout: Duration,
}

impl Context {
    fn new(node: Arc<dyn NodeApi>, options: &Options, meter: Arc<serve::Meter>) -> Self {
        Self {
            node,
            guard: Arc::default(),
            keeper: Arc::new(guard::Guard::new(options.rules.clone())),
            bootstrap: Arc::new(Bootstrap::new(options.executable.clone())),
            host_names: Arc::new(options.host_names.clone()),
            public_page: options.public_page,
            base_path: Arc::new(options.base_path.clone()),
            meter,
            recent: Arc::default(),
            wire: options.wire.clone(),
            terminals: Arc::default(),
            live: Arc::default(),
            tls: options.tls.clone(),
            request_timeout: answer::REQUEST_TIMEOUT,
        }
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod fuzz;
