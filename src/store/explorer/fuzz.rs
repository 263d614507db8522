//! Statements that the guard lets through, carried out without it: none of them writes, opens or asks for anything but the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::tests::{BUDGET, GREEDY, HOSTILE, TABLES, VIEWS, explorer};
use super::*;
use crate::fuzzing::attack;

/// The same tables without any guard, and a count of what a statement was about to do beside reading them.
struct Scratch {
    connection: Connection,
    written: Arc<AtomicU64>,
}

impl Scratch {
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is counts")]
    fn new() -> Self {
        let mut connection = Connection::open_in_memory().expect("opens");
        for table in TABLES {
            let columns: Vec<String> =
                table.columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
            connection.execute_batch(&format!("CREATE TABLE {}({});", table.name, columns.join(", "))).expect("makes");
        }
        for view in VIEWS {
            connection.execute_batch(&format!("CREATE VIEW {} AS {};", view.name, view.select)).expect("makes");
        }
        connection.execute_batch("INSERT INTO jobs VALUES (1, 'job 1', 0.5), (5, 'job 5', 0.5);").expect("fills");
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let judge = move |context: AuthContext<'_>| {
            let reads = match context.action {
                AuthAction::Select | AuthAction::Recursive | AuthAction::Function { .. } => true,
                AuthAction::Read { table_name, column_name } => {
                    let mut names = TABLES.iter().map(|table| table.name).chain(VIEWS.iter().map(|view| view.name));
                    names.any(|name| name.eq_ignore_ascii_case(table_name))
                        || (column_name.is_empty() && !super::is_reserved(table_name))
                }
                _ => false,
            };
            count.fetch_add(u64::from(!reads), Ordering::Relaxed);
            Authorization::Allow
        };
        connection.authorizer(Some(judge)).expect("sets");
        // Whatever would run on is stopped: what it was about to do was told when it was prepared.
        let mut steps = 0u32;
        let over = move || {
            steps += 1;
            steps.is_multiple_of(50)
        };
        connection.progress_handler(1_000, Some(over)).expect("sets");
        Self { connection, written }
    }

    /// What was counted while the statement was prepared and carried out.
    fn run(&self, sql: &str) -> u64 {
        self.written.store(0, Ordering::Relaxed);
        if let Ok(mut statement) = self.connection.prepare(sql) {
            assert!(statement.readonly(), "{sql}");
            if let Ok(mut rows) = statement.query([]) {
                for _ in 0..50 {
                    if !matches!(rows.next(), Ok(Some(_))) {
                        break;
                    }
                }
            }
        }
        self.written.load(Ordering::Relaxed)
    }
}

#[test]
fn sql() {
    let guard = std::panic::AssertUnwindSafe(std::cell::RefCell::new(explorer()));
    let scratch = std::panic::AssertUnwindSafe(Scratch::new());
    let plain = [
        "SELECT * FROM jobs WHERE id > 2 ORDER BY name LIMIT 3",
        "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 5) SELECT count(*) FROM up, queue",
        "SELECT name, count(*) OVER (PARTITION BY load), json_extract('{\"a\":1}', '$.a') FROM jobs a JOIN nodes USING (id)",
    ];
    let all = plain.iter().chain(HOSTILE).chain(GREEDY).map(|sql| sql.as_bytes().to_vec()).collect();
    attack("sql", all, 16 << 20, move |bytes| {
        let Ok(sql) = std::str::from_utf8(bytes) else { return false };
        let mut guard = guard.borrow_mut();
        let budget = Budget { time: Duration::from_millis(30), rows: 50, ..BUDGET };
        match guard.tables_of(sql) {
            Ok(tables) => {
                assert!(tables.iter().all(|name| TABLES.iter().any(|table| table.name == *name)));
                assert_eq!(scratch.run(sql), 0, "the guard takes what does more than read: {sql}");
                if let Ok(found) = guard.query(sql, budget) {
                    assert!(found.rows.len() <= budget.rows);
                }
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(guard.query(sql, budget).is_err(), "what may not be looked at may not run: {sql}");
                false
            }
        }
    });
}
