//! What statements of strangers may and may not do.

use proptest::prelude::*;

use super::*;

const COLUMNS: &[Column] = &[
    Column { name: "id", kind: "INTEGER", meaning: "number" },
    Column { name: "name", kind: "TEXT", meaning: "name" },
    Column { name: "load", kind: "REAL", meaning: "load" },
];
pub(super) const TABLES: &[Table] = &[
    Table { name: "jobs", meaning: "a job", columns: COLUMNS },
    Table { name: "nodes", meaning: "a node", columns: COLUMNS },
];
pub(super) const VIEWS: &[View] =
    &[View { name: "queue", meaning: "a waiting job", select: "SELECT id, name FROM jobs WHERE id > 2" }];

pub(super) const BUDGET: Budget =
    Budget { time: Duration::from_millis(200), rows: 100, bytes: 1 << 20, memory: 128 << 20 };

pub(super) fn explorer() -> Explorer {
    let mut explorer = Explorer::new(TABLES, VIEWS).expect("opens");
    let row = |number: i64| vec![Cell::Integer(number), Cell::Text(format!("job {number}")), Cell::Real(0.5)];
    explorer.add(&TABLES[0], (1..=1_000).map(row)).expect("fills");
    explorer
}

fn ask(explorer: &mut Explorer, sql: &str) -> Result<Found, ExplorerError> {
    explorer.query(sql, BUDGET)
}

#[test]
fn rows_come_back_with_names_and_kinds_and_within_the_budget() {
    let mut explorer = explorer();
    let found =
        ask(&mut explorer, "SELECT id, name AS called, load, NULL AS absent FROM jobs ORDER BY id DESC LIMIT 2;")
            .expect("runs");
    let kinds = [("id", "integer"), ("called", "text"), ("load", "real"), ("absent", "null")];
    assert_eq!(found.columns, kinds.map(|(name, kind)| (name.to_owned(), kind)));
    let first = [Cell::Integer(1_000), Cell::Text("job 1000".to_owned()), Cell::Real(0.5), Cell::Null];
    assert_eq!((found.rows[0].as_slice(), found.rows.len(), found.truncated), (first.as_slice(), 2, false));
    let all = ask(&mut explorer, "SELECT * FROM jobs").expect("runs");
    assert_eq!((all.rows.len(), all.truncated), (100, true));
    let wide = ask(&mut explorer, "SELECT printf('%500000d', id) FROM jobs").expect("runs");
    assert_eq!((wide.rows.len(), wide.truncated), (3, true), "by bytes");
    let joined = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 5)
                  SELECT count(*), max(q.id) FROM up JOIN queue q ON q.id = up.n -- the end";
    assert_eq!(ask(&mut explorer, joined).expect("runs").rows, [[Cell::Integer(3), Cell::Integer(5)]]);
    assert_eq!(
        ask(&mut explorer, "SELECT 1e999, CAST('a' AS BLOB)").expect("runs").rows[0][0],
        Cell::Text("inf".to_owned())
    );
}

#[test]
fn what_a_statement_reads_is_known_before_it_runs() {
    let mut explorer = explorer();
    let read =
        |explorer: &mut Explorer, sql: &str| explorer.tables_of(sql).expect("may run").into_iter().collect::<Vec<_>>();
    assert_eq!(read(&mut explorer, "SELECT count(*) FROM queue"), ["jobs"]);
    assert_eq!(read(&mut explorer, "SELECT 1 WHERE EXISTS (SELECT 1 FROM NODES n, queue)"), ["jobs", "nodes"]);
    assert!(read(&mut explorer, "SELECT 1").is_empty());
    let refused = explorer.tables_of("SELECT * FROM sqlite_schema").expect_err("refused");
    assert_eq!(refused, ExplorerError::Refused("the table sqlite_master".to_owned()));
    assert_eq!(explorer.view_columns("queue").expect("reads"), ["id", "name"]);
}

/// Whatever writes, leaves the tables, copies, loads, or tells what is not in them.
pub(super) const HOSTILE: &[&str] = &[
    "INSERT INTO jobs VALUES (1, 'x', 0)",
    "INSERT INTO jobs VALUES (1, 'x', 0) RETURNING id",
    "UPDATE jobs SET name = 'x'",
    "UPDATE jobs SET name = 'x' RETURNING *",
    "DELETE FROM jobs",
    "DELETE FROM jobs RETURNING id",
    "WITH x AS (SELECT 1) DELETE FROM jobs RETURNING id",
    "REPLACE INTO jobs VALUES (1, 'x', 0)",
    "DROP TABLE jobs",
    "DROP VIEW queue",
    "ALTER TABLE jobs RENAME TO other",
    "CREATE TABLE other(x)",
    "CREATE TABLE other AS SELECT * FROM jobs",
    "CREATE TEMP TABLE other(x)",
    "CREATE VIEW other AS SELECT 1",
    "CREATE INDEX other ON jobs(id)",
    "CREATE TRIGGER other AFTER INSERT ON jobs BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE other USING fts5(x)",
    "CREATE VIRTUAL TABLE temp.other USING dbstat(main)",
    "ATTACH '/tmp/hive-explorer-test.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '/tmp/hive-explorer-test.db'",
    "BEGIN",
    "SAVEPOINT x",
    "COMMIT",
    "ANALYZE",
    "REINDEX",
    "PRAGMA table_info(jobs)",
    "PRAGMA database_list",
    "PRAGMA journal_mode = WAL",
    "PRAGMA temp_store_directory = '/tmp'",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA max_page_count = 999999999",
    "PRAGMA writable_schema = 1",
    "SELECT * FROM pragma_database_list",
    "SELECT count(*) FROM pragma_table_info('jobs')",
    "SELECT * FROM pragma_compile_options",
    "SELECT * FROM sqlite_master",
    "SELECT count(*) FROM sqlite_schema",
    "SELECT name FROM sqlite_temp_master",
    "SELECT * FROM dbstat",
    "SELECT count(*) FROM dbstat",
    "SELECT * FROM json_each('[1]')",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT load_extension('/tmp/x.so')",
    "SELECT writefile('/tmp/hive-explorer-test.db', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT edit('x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts5(1)",
    "SELECT zeroblob(1000000000)",
    "SELECT randomblob(1000000000)",
    "SELECT sqlite_version()",
    "SELECT sqlite_source_id()",
    "SELECT sqlite_compileoption_get(1)",
    "SELECT sqlite_log(1, 'forged')",
    "SELECT last_insert_rowid()",
    "SELECT changes()",
    "EXPLAIN SELECT * FROM jobs",
    "EXPLAIN QUERY PLAN SELECT * FROM jobs",
    "SELECT 1; DELETE FROM jobs",
    "SELECT 1; SELECT 2",
    "SELECT ?1",
    "SELECT * FROM jobs WHERE id = :id",
    "",
    "   -- nothing",
    ";",
    "SELECT",
    "hello",
    "SELECT * FROM tokens",
    "SELECT \"text in double quotes\"",
    "SELECT nothing FROM jobs",
];

/// Whatever would run for ever, or eat the machine.
pub(super) const GREEDY: &[&str] = &[
    "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up) SELECT count(*) FROM up",
    "WITH RECURSIVE up(n) AS (SELECT 1 UNION SELECT n + 1 FROM up) SELECT n FROM up WHERE n < 0",
    "SELECT count(*) FROM jobs a, jobs b, jobs c, jobs d WHERE a.name LIKE '%' || b.name || c.name || d.name",
    "SELECT count(*) FROM jobs a, jobs b, jobs c ORDER BY a.name || b.name || c.name",
    "SELECT max(replace(printf('%100000d', a.id), ' ', hex(b.name))) FROM jobs a, jobs b, jobs c",
    "SELECT a.id, printf('%500000d', b.id) AS w FROM jobs a, jobs b ORDER BY w, random()",
    "SELECT group_concat(a.name || b.name || c.name) FROM jobs a, jobs b, jobs c",
    "SELECT DISTINCT printf('%300000d', a.id * 1000 + b.id) FROM jobs a, jobs b ORDER BY 1 DESC",
    "WITH w AS MATERIALIZED (SELECT printf('%900000d', a.id) AS x FROM jobs a, jobs b) SELECT count(*), max(x) FROM w",
];

#[test]
fn what_is_not_a_harmless_select_is_refused_and_leaves_no_trace() {
    let mut explorer = explorer();
    for sql in HOSTILE {
        let error = ask(&mut explorer, sql).expect_err(sql);
        assert!(matches!(error, ExplorerError::Refused(_) | ExplorerError::Invalid(_)), "{sql}: {error:?}");
        assert!(!error.to_string().is_empty(), "{sql}");
    }
    assert!(!std::path::Path::new("/tmp/hive-explorer-test.db").exists());
    intact(&mut explorer);
}

fn intact(explorer: &mut Explorer) {
    let sum = ask(explorer, "SELECT count(*), sum(id), min(name) FROM jobs").expect("runs").rows;
    assert_eq!(sum, [[Cell::Integer(1_000), Cell::Integer(500_500), Cell::Text("job 1".to_owned())]]);
    let tables: i64 = explorer
        .connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .expect("our own statements are free");
    assert_eq!(tables, 3);
}

#[test]
fn what_would_take_for_ever_is_stopped_in_time_and_within_memory() {
    let mut explorer = explorer();
    for sql in GREEDY {
        let (began_ms, before) = (now_ms(), resident_bytes());
        let error = ask(&mut explorer, sql).expect_err(sql);
        let limit =
            matches!(&error, ExplorerError::Invalid(why) if why.contains("too big") || why.contains("too large"));
        assert!(limit || matches!(error, ExplorerError::TooLong(_) | ExplorerError::TooLarge(_)), "{sql}: {error:?}");
        let took_ms = now_ms() - began_ms;
        assert!(u128::from(took_ms) < BUDGET.time.as_millis() * 20, "{sql}: {took_ms} ms");
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 2 * BUDGET.memory, "{sql}: {} MiB", grown >> 20);
    }
    intact(&mut explorer);
}

#[test]
fn what_is_too_large_to_be_read_is_refused() {
    let mut explorer = explorer();
    let long = format!("SELECT {}", "1 + ".repeat(40_000));
    let deep = format!("SELECT {}1{}", "(1 + ".repeat(200), ")".repeat(200));
    let compound = vec!["SELECT 1"; 50].join(" UNION ALL ");
    let many: Vec<String> = (0..300).map(|number| format!("id AS c{number}")).collect();
    let columns = format!("SELECT {} FROM jobs", many.join(", "));
    for sql in [long, deep, compound, columns] {
        let error = ask(&mut explorer, &sql).expect_err("refused");
        assert!(matches!(error, ExplorerError::Invalid(_)), "{error:?}");
    }
    intact(&mut explorer);
}

/// Pieces of statements.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "SELECT", "FROM", "WHERE", "jobs", "queue", "nodes", "id", "name", "*", ",", "(", ")", "1", "'x'", "=",
    "||", "UNION", "ALL", "WITH", "RECURSIVE", "AS", "t", "INSERT", "INTO", "DELETE", "UPDATE", "SET", "DROP",
    "TABLE", "ATTACH", "'/tmp/hive-explorer-test.db'", "VACUUM", "PRAGMA", "writable_schema", "sqlite_master",
    "load_extension", "count", "printf", "zeroblob", "999999999", ";", "ORDER", "BY", "LIMIT", "JOIN", "ON",
    "CREATE", "TEMP", "VIEW", "TRIGGER", "BEGIN", "END", "EXPLAIN", "QUERY", "PLAN", "RETURNING", "VALUES",
    "NOT", "NULL", "CASE", "WHEN", "THEN", "GROUP", "HAVING", "OVER", "PARTITION", "json_each",
    "pragma_table_info", "main", ".", "temp", "\0", "\u{202e}",
];

/// Text that is often nearly SQL: what a person or an attacker may build out of the grammar's pieces.
fn statement() -> impl Strategy<Value = String> {
    let word = prop::sample::select(WORDS);
    let free = prop::collection::vec(word, 0..24).prop_map(|words| words.join(" "));
    let inner = prop::sample::select(vec![
        "jobs",
        "queue",
        "(SELECT id, name FROM jobs LIMIT 3)",
        "sqlite_master",
        "dbstat",
        "pragma_table_list",
        "temp.x",
    ]);
    let call = prop::sample::select(vec![
        "id",
        "count(*)",
        "name || hex(name)",
        "load_extension('x')",
        "printf('%9999999d', id)",
        "randomblob(999999999)",
        "(SELECT max(id) FROM jobs)",
        "writefile('/tmp/hive-explorer-test.db', name)",
        "replace(name, 'j', name)",
    ]);
    let shaped = (call, inner.clone(), inner, any::<bool>()).prop_map(|(call, from, with, sort)| {
        format!("SELECT {call} FROM {from} AS a, {with} AS b {}", if sort { "ORDER BY random()" } else { "" })
    });
    prop_oneof![free, shaped, any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is asked: an answer or an error in time, and the tables as before.
    #[test]
    fn no_statement_changes_anything(statements in prop::collection::vec(statement(), 1..5)) {
        thread_local! {
            static EXPLORER: std::cell::RefCell<Explorer> = std::cell::RefCell::new(explorer());
        }
        EXPLORER.with_borrow_mut(|explorer| {
            for sql in &statements {
                let began_ms = now_ms();
                let budget = Budget { time: Duration::from_millis(50), ..BUDGET };
                if let Ok(found) = explorer.query(sql, budget) {
                    assert!(found.rows.len() <= BUDGET.rows);
                    assert!(!sql.contains("sqlite_master") || !format!("{:?}", found.rows).contains("CREATE TABLE"), "{sql}");
                }
                assert!(now_ms() - began_ms < 2_000, "{sql}");
                assert!(explorer.connection.is_autocommit(), "{sql}");
            }
            intact(explorer);
        });
        assert!(!std::path::Path::new("/tmp/hive-explorer-test.db").exists());
    }
}
