//! Named tasks and threads: every piece of concurrent work has a name, and a panic in one ends the process.
//!
//! Half-dead daemons are worse than dead ones: the service manager restarts a process, nobody restarts a task that is gone.
//! [`abort_on_panic`] is installed first thing by the agent. Never done here: deciding what runs.

use std::future::Future;
use std::io;
use std::thread;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Spawns a task on the current runtime under a name that its log lines carry.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}

/// Runs a future on an OS thread of its own with a single-threaded runtime of its own, so that a busy neighbour (builds, HTTP)
/// cannot delay it. The thread ends with the future.
pub fn spawn_thread<F, M>(name: &str, make: M) -> io::Result<thread::JoinHandle<()>>
where
    F: Future<Output = ()>,
    M: FnOnce() -> F + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(async move { make().await }))
}

/// From here on a panic anywhere logs version, place and backtrace, and ends the process with code 101.
pub fn abort_on_panic() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default_hook(info);
        tracing::error!(version = env!("CARGO_PKG_VERSION"), panic = %info, "bug: the agent ends and is restarted");
        std::process::exit(101);
    }));
}
