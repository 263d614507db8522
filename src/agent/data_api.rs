//! What people look into on this node, as the web sees it. The other half of `node_api`.
//!
//! Never done here: checking who asks (`web` does).

use futures::FutureExt as _;

use super::node_api::Api;
use super::{console, sql};
use crate::api::{ExecRequest, RecordingList, SqlAnswer, SqlRequest, SqlSchema};
use crate::web::data::{DataApi, NodeLogQuery, TerminalStream};
use crate::web::node::{Answer, ByteStream};

impl DataApi for Api {
    fn sql_schema(&self) -> Answer<'_, SqlSchema> {
        async move { sql::schema() }.boxed()
    }

    fn sql(&self, request: SqlRequest) -> Answer<'_, SqlAnswer> {
        sql::query(&self.shared, request).boxed()
    }

    fn node_log(&self, name: String, query: NodeLogQuery) -> Answer<'_, ByteStream> {
        console::logs(&self.shared, name, query).boxed()
    }

    fn exec(&self, name: String, request: ExecRequest, by: String) -> Answer<'_, ByteStream> {
        console::exec(&self.shared, name, request, by).boxed()
    }

    fn may_open(&self, name: String) -> Answer<'_, String> {
        console::may_open(&self.shared, name).boxed()
    }

    fn terminal(&self, name: String, by: String, size: (u16, u16)) -> Answer<'_, TerminalStream> {
        console::terminal(&self.shared, name, by, size).boxed()
    }

    fn recordings(&self) -> Answer<'_, RecordingList> {
        console::recordings(&self.shared).boxed()
    }

    fn recording(&self, id: String) -> Answer<'_, ByteStream> {
        console::recording(&self.shared, id).boxed()
    }
}
