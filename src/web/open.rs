//! How much anyone may see: everything, a summary, or nothing without a key.
//!
//! In front of every route that is open to anyone, at both ports; over the socket everything is seen. Who has a key or a session that
//! reads sees everything. Never done here: deciding what a key opens.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::answer::Remote;
use super::{Context, guard};
use crate::api::Status;
use crate::engine::access::Scope;
use crate::engine::id::PeerId;

/// How much anyone may see without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublicPage {
    /// All that there is to read.
    #[default]
    Full,
    /// That the hive lives and how much it does: no addresses, no logs, no packages.
    Summary,
    /// Nothing.
    Off,
}

/// When a route that is open to anyone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It tells nothing of the hive, or serves machines that have no key.
    Always,
    /// Its handler leaves out what a summary has not.
    Summary,
    /// Only when everything is shown.
    Full,
}

/// In the extensions of a request: whoever asks may see no more than a summary.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnlySummary;

/// Lets through what may be seen.
pub(super) async fn shown(
    State((context, shown)): State<(Context, Shown)>,
    mut request: Request,
    next: Next,
) -> Response {
    if shown == Shown::Always || context.public_page == PublicPage::Full {
        return next.run(request).await;
    }
    let summary = context.public_page == PublicPage::Summary && shown == Shown::Summary;
    if summary && !guard::presents(request.headers()) {
        request.extensions_mut().insert(OnlySummary);
        return next.run(request).await;
    }
    let from = request.extensions().get::<Remote>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |remote| remote.0);
    match guard::authorize(&context, request.headers(), None, from, Scope::Read, true) {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What a summary has of the state of things.
pub(super) fn summarised(status: Status) -> Status {
    let nobody = PeerId::new("");
    let mut status = status;
    status.this.peer_id = nobody.clone();
    if let Some(coordinator) = &mut status.coordinator {
        coordinator.peer_id = nobody;
    }
    for member in &mut status.members {
        member.addresses.clear();
        member.peer_id = None;
    }
    // They name packages, nodes and addresses.
    status.notices.clear();
    if !status.degraded.is_empty() {
        status.degraded = vec!["something does not work as it should; whoever has a key sees what".to_owned()];
    }
    status
}
