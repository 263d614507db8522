//! Messages in a stream: records of what passes this node, as they come, at most as many as a person can see.
//!
//! Per connection and not in the ring: each follows with a filter of its own, and most follow none. Never done here: capturing.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::frame;
use super::logs::Pieces;
use crate::api::LiveWire;
use crate::engine::wire::filter::Filter;
use crate::web::node::NodeApi;

/// Records that fit, several messages to a piece. What was left out is told with the next record.
pub(super) fn follow(node: &Arc<dyn NodeApi>, filter: Filter) -> Pieces {
    let pieces = node.wire().wire_follow(filter).scan(0, |left_out, news| {
        *left_out += news.dropped;
        let mut piece = BytesMut::new();
        for record in news.records {
            piece.extend_from_slice(&frame("wire", None, &LiveWire { record, dropped: std::mem::take(left_out) }));
        }
        futures::future::ready(Some(piece.freeze()))
    });
    pieces.filter(|piece| futures::future::ready(!Bytes::is_empty(piece))).boxed()
}
