//! What the tests' node answers about its wire.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::json;

use super::{DensityQuery, ExportFormat, OldQuestion, WireApi, WireNews, WireQuery};
use crate::api::{ApiError, ErrorCode, WireConversations, WireDetail, WireFields, WireList};
use crate::engine::wire::filter::Filter;
use crate::engine::wire::look::Density;
use crate::web::fake::FakeNode;
use crate::web::node::{Answer, ByteStream};

impl WireApi for FakeNode {
    fn wire_list(&self, query: WireQuery) -> Answer<'_, WireList> {
        self.act(format!("wire {query:?}"));
        Box::pin(async { Ok(WireList { latest: 7, ..WireList::default() }) })
    }

    fn wire_detail(&self, id: String) -> Answer<'_, WireDetail> {
        let error = ApiError::new(ErrorCode::NotFound, format!("no record {id}"), "");
        Box::pin(async { Err(error) })
    }

    fn wire_conversations(&self, query: WireQuery) -> Answer<'_, WireConversations> {
        self.act(format!("conversations {query:?}"));
        Box::pin(async { Ok(WireConversations::default()) })
    }

    fn wire_density(&self, query: DensityQuery) -> Answer<'_, Density> {
        self.act(format!("density of {} columns", query.buckets));
        Box::pin(async move { Ok(Density { start: query.start, end: query.end, counts: vec![1], refused: vec![0] }) })
    }

    fn wire_fields(&self) -> Answer<'_, WireFields> {
        Box::pin(async { Ok(WireFields { fields: Vec::new(), joins: Vec::new() }) })
    }

    fn wire_export(&self, query: WireQuery, format: ExportFormat) -> Answer<'_, ByteStream> {
        self.act(format!("export {format:?} {:?}", query.filter));
        Box::pin(async { Ok(futures::stream::iter([Ok("{}\n".into())]).boxed()) })
    }

    fn wire_follow(&self, _: Filter) -> BoxStream<'static, WireNews> {
        futures::stream::empty().boxed()
    }

    fn wire_old(&self, question: OldQuestion) -> Answer<'_, serde_json::Value> {
        self.act(format!("old {question:?}"));
        Box::pin(async { Ok(json!({ "entries": [] })) })
    }
}
