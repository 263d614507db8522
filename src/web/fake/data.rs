//! What the node for the tests of the router says of data.

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;

use super::FakeNode;
use crate::api::{
    ApiError, ErrorCode, ExecRequest, RecordingList, SqlAnswer, SqlColumn, SqlRequest, SqlSchema, SqlTable,
    SqlTableColumn,
};
use crate::web::data::{DataApi, NodeLogQuery, TerminalKey, TerminalStream, TerminalWord};
use crate::web::node::{Answer, ByteStream};

impl DataApi for FakeNode {
    fn sql_schema(&self) -> Answer<'_, SqlSchema> {
        let column = SqlTableColumn { name: "id".to_owned(), kind: "TEXT".to_owned(), meaning: "its id".to_owned() };
        let table = SqlTable {
            name: "jobs".to_owned(),
            kind: "table".to_owned(),
            meaning: "One job.".to_owned(),
            columns: vec![column],
        };
        self.later(SqlSchema { tables: vec![table], rows_default: 1_000, rows_max: 10_000, timeout_ms: 2_000 })
    }

    fn sql(&self, request: SqlRequest) -> Answer<'_, SqlAnswer> {
        self.act(format!("sql {} {:?}", request.query, request.limit));
        let answer = SqlAnswer {
            columns: vec![SqlColumn { name: "id".to_owned(), kind: "text".to_owned() }],
            rows: vec![vec![json!("<script>")]],
            count: 1,
            truncated: false,
            elapsed_ms: 3,
            age_ms: 40,
        };
        self.later(answer)
    }

    fn node_log(&self, name: String, query: NodeLogQuery) -> Answer<'_, ByteStream> {
        self.act(format!("log of {name} {query:?}"));
        self.later(futures::stream::iter([Ok(Bytes::from_static(b"one\n\x1b[2Jtwo\n"))]).boxed())
    }

    fn exec(&self, name: String, request: ExecRequest, by: String) -> Answer<'_, ByteStream> {
        self.act(format!("exec on {name} by {by}: {:?}", request.argv));
        let line = b"{\"type\":\"ended\",\"exit_code\":0,\"signal\":null,\"why\":null}\n";
        self.later(futures::stream::iter([Ok(Bytes::from_static(line))]).boxed())
    }

    fn may_open(&self, name: String) -> Answer<'_, String> {
        if name == "closed" {
            let error = ApiError::new(ErrorCode::Forbidden, "terminals are not allowed on closed", "terminal.enabled");
            return Box::pin(async { Err(error) });
        }
        self.later(name)
    }

    fn terminal(&self, name: String, by: String, size: (u16, u16)) -> Answer<'_, TerminalStream> {
        self.act(format!("terminal on {name} by {by}, {size:?}"));
        let (keys, pressed) = tokio::sync::mpsc::channel(16);
        // An echo: what is typed comes back, `q` ends it.
        let words = futures::stream::unfold(Some(pressed), |pressed| async move {
            let mut pressed = pressed?;
            match pressed.recv().await? {
                TerminalKey::Bytes(bytes) if bytes == b"q" => {
                    Some((TerminalWord::Ended { exit_code: Some(0), why: None }, None))
                }
                TerminalKey::Bytes(bytes) => Some((TerminalWord::Output(bytes.into()), Some(pressed))),
                TerminalKey::Resize { columns, rows } => {
                    Some((TerminalWord::Output(format!("{columns}x{rows}").into()), Some(pressed)))
                }
            }
        });
        self.later(TerminalStream { keys, words: words.boxed() })
    }

    fn recordings(&self) -> Answer<'_, RecordingList> {
        self.later(RecordingList::default())
    }

    fn recording(&self, id: String) -> Answer<'_, ByteStream> {
        self.act(format!("recording {id}"));
        self.later(futures::stream::iter([Ok(Bytes::from_static(b"{\"version\":2}\n"))]).boxed())
    }
}
