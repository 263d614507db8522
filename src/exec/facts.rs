//! Facts from outside the hive: files, commands and HTTP answers, read again and again in the background.
//!
//! Advice is given at once, from the values that were read last; nothing waits for an inventory server. A reading that fails
//! keeps the old value, which grows old and says so, and the failure is logged once and can be asked for.
//!
//! Every reading is bounded in time, bytes and number of values; a command runs without a shell and in its own process group.
//! Never done here: judging what a value means (see [`policy`](crate::engine::policy)).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::{AbortHandle, JoinHandle};

use crate::clock;
use crate::engine::policy::Fact;
pub use crate::engine::policy::source::{FactFormat, FactOrigin, FactSource, check_sources};
use crate::exec::inventory::probe;
use crate::tasks;

/// Largest answer, bytes.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// Most values in one fact: rules may loop over it twice, one loop inside the other.
const VALUES_MAX: usize = 1_000;
/// Deepest nesting of one fact.
const DEPTH_MAX: usize = 16;
/// Longest sentence about a failure, bytes.
const ERROR_MAX_CHARS: usize = 300;

/// How reading one fact goes.
#[derive(Clone, Debug, PartialEq)]
pub struct FactStatus {
    /// Name of the fact.
    pub name: String,
    /// The last value that was read, and how old it is; none before the first success.
    pub fact: Option<Fact>,
    /// Why the last reading failed; none when it succeeded.
    pub error: Option<String>,
    /// Readings that failed since the last success.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Cell {
    value: Option<(Value, u64)>,
    error: Option<String>,
    failures: u64,
}

#[derive(Debug)]
struct Shared {
    cells: Mutex<BTreeMap<String, Cell>>,
}

#[derive(Debug)]
struct Readers(Vec<AbortHandle>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// The cached facts of this node. Reading stops when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct FactsHandle {
    shared: Arc<Shared>,
    _readers: Arc<Readers>,
}

impl FactsHandle {
    /// Starts reading on the current runtime. Fails, with a sentence, when a source is not as it must be.
    pub fn start(sources: Vec<FactSource>) -> Result<Self, String> {
        check_sources(&sources)?;
        let cells = sources.iter().map(|source| (source.name.clone(), Cell::default())).collect();
        let shared = Arc::new(Shared { cells: Mutex::new(cells) });
        let mut readers = Vec::with_capacity(sources.len());
        for source in sources {
            let origin = source.origin()?;
            readers.push(tasks::spawn("fact", keep_reading(source, origin, Arc::clone(&shared))).abort_handle());
        }
        Ok(Self { shared, _readers: Arc::new(Readers(readers)) })
    }

    /// All facts that were ever read, with their age.
    pub fn snapshot(&self) -> BTreeMap<String, Fact> {
        self.statuses().into_iter().filter_map(|status| Some((status.name, status.fact?))).collect()
    }

    /// How reading goes, by name.
    pub fn statuses(&self) -> Vec<FactStatus> {
        let now_ms = clock::now_ms();
        let cells = self.shared.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, cell): (&String, &Cell)| FactStatus {
            name: name.clone(),
            fact: cell
                .value
                .as_ref()
                .map(|(value, read_ms)| Fact { value: value.clone(), age_ms: now_ms.saturating_sub(*read_ms) }),
            error: cell.error.clone(),
            failures: cell.failures,
        };
        cells.iter().map(status).collect()
    }
}

async fn keep_reading(source: FactSource, origin: FactOrigin, shared: Arc<Shared>) {
    let interval = Duration::from_secs(source.interval_s);
    let mut hanging = None;
    loop {
        let outcome = read(&source, &origin, &mut hanging).await;
        shared.record(&source.name, outcome);
        tokio::time::sleep(interval).await;
    }
}

impl Shared {
    fn record(&self, name: &str, outcome: Result<Value, String>) {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.entry(name.to_owned()).or_default();
        match outcome {
            Ok(value) => {
                if cell.error.take().is_some() {
                    tracing::info!(fact = name, failures = cell.failures, "fact is read again");
                }
                cell.failures = 0;
                cell.value = Some((value, clock::now_ms()));
            }
            Err(error) => {
                let error: String =
                    error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_MAX_CHARS).collect();
                if cell.error.as_ref() != Some(&error) {
                    tracing::warn!(fact = name, %error, kept = cell.value.is_some(), "fact cannot be read");
                }
                cell.failures += 1;
                cell.error = Some(error);
            }
        }
    }
}

/// One reading.
async fn read(source: &FactSource, origin: &FactOrigin, hanging: &mut Hanging) -> Result<Value, String> {
    let timeout = Duration::from_millis(source.timeout_ms);
    let bytes = match origin {
        FactOrigin::File(path) => {
            let path = path.clone();
            blocking(hanging, timeout, move || read_file(&path)).await?
        }
        FactOrigin::Url(url) => {
            let url = url.clone();
            // The client keeps the time itself; only looking up the name of the host can take longer than it was told.
            blocking(hanging, timeout * 2, move || fetch(&url, timeout)).await?
        }
        FactOrigin::Command(argv) => run(argv, timeout).await?,
    };
    understand(&bytes, source.format)
}

/// A reading that was given up but still occupies its thread (a file on a dead network mount). Nothing new is started beside it,
/// so that one fact never holds more than one thread.
type Hanging = Option<JoinHandle<Result<Vec<u8>, String>>>;

/// Runs something that blocks on a thread of its own.
async fn blocking(
    hanging: &mut Hanging,
    timeout: Duration,
    work: impl FnOnce() -> Result<Vec<u8>, String> + Send + 'static,
) -> Result<Vec<u8>, String> {
    if hanging.as_ref().is_some_and(|reading| !reading.is_finished()) {
        return Err("the reading before this one still hangs".to_owned());
    }
    let mut reading = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(timeout, &mut reading).await {
        Ok(result) => result.map_err(|_| "the reading was given up".to_owned())?,
        Err(_) => {
            *hanging = Some(reading);
            Err(format!("no answer within {} ms", timeout.as_millis()))
        }
    }
}

fn too_long() -> String {
    format!("more than {ANSWER_MAX_BYTES} bytes")
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Opening a FIFO would wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{}: not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(ANSWER_MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > ANSWER_MAX_BYTES { Err(too_long()) } else { Ok(bytes) }
}

async fn run(argv: &[String], timeout: Duration) -> Result<Vec<u8>, String> {
    let (program, arguments) = argv.split_first().ok_or("no program")?;
    let limits = probe::Limits { timeout, output_max_bytes: ANSWER_MAX_BYTES };
    let answer =
        probe::ask(Path::new(program), arguments, limits).await.map_err(|error| format!("{program}: {error}"))?;
    match answer.exit_code {
        Some(0) if answer.cut && answer.stdout.len() == ANSWER_MAX_BYTES => Err(too_long()),
        Some(0) => Ok(answer.stdout),
        code => {
            let how = code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
            let said = String::from_utf8_lossy(&answer.stderr);
            Err(format!("{program}: {how}: {}", said.lines().next().unwrap_or_default()))
        }
    }
}

fn fetch(url: &str, timeout: Duration) -> Result<Vec<u8>, String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).max_redirects(3).build();
    let mut response = ureq::Agent::new_with_config(config).get(url).call().map_err(|error| error.to_string())?;
    let body = response.body_mut().with_config().limit(ANSWER_MAX_BYTES as u64 + 1);
    let bytes = body.read_to_vec().map_err(|error| error.to_string())?;
    if bytes.len() > ANSWER_MAX_BYTES { Err(too_long()) } else { Ok(bytes) }
}

/// Turns bytes into a value that policies can look at.
fn understand(bytes: &[u8], format: FactFormat) -> Result<Value, String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned());
    let value = match format {
        FactFormat::Json => json(text()?)?,
        FactFormat::Text => Value::String(text()?.trim().to_owned()),
        FactFormat::ConsulKv => consul_kv(&json(text()?)?)?,
    };
    let mut values = 0;
    if fits(&value, 0, &mut values) {
        Ok(value)
    } else {
        Err(format!("more than {VALUES_MAX} values, or nested deeper than {DEPTH_MAX}"))
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

fn fits(value: &Value, depth: usize, values: &mut usize) -> bool {
    *values += 1;
    if depth > DEPTH_MAX || *values > VALUES_MAX {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| fits(item, depth + 1, values)),
        Value::Object(fields) => fields.values().all(|item| fits(item, depth + 1, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn consul_kv(answer: &Value) -> Result<Value, String> {
    let entries =
        answer.as_array().filter(|entries| !entries.is_empty()).ok_or("not an answer of Consul's key-value store")?;
    let value = |entry: &Value| match entry.get("Value") {
        Some(Value::Null) => Ok(Value::Null),
        Some(Value::String(encoded)) => {
            let bytes = base64(encoded).ok_or("a Value that is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "a Value that is not UTF-8")?;
            Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
        }
        _ => Err("an entry without Value".to_owned()),
    };
    if let [only] = entries.as_slice() {
        return value(only);
    }
    let pair = |entry: &Value| {
        let key = entry.get("Key").and_then(Value::as_str).ok_or("an entry without Key")?;
        Ok((key.to_owned(), value(entry)?))
    };
    entries.iter().map(pair).collect::<Result<serde_json::Map<_, _>, String>>().map(Value::Object)
}

/// Standard base64, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    fn source(name: &str) -> FactSource {
        FactSource {
            name: name.into(),
            file: None,
            command: None,
            url: None,
            format: FactFormat::Json,
            interval_s: 1,
            timeout_ms: 2_000,
        }
    }

    fn command(name: &str, script: &str) -> FactSource {
        FactSource { command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()), ..source(name) }
    }

    /// Polls until `what` holds, for 10 s at most.
    async fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline_ms = clock::now_ms() + 10_000;
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            if let Some(found) = check() {
                return found;
            }
            assert!(clock::now_ms() < deadline_ms, "waited in vain for: {what}");
            ticks.tick().await;
        }
    }

    async fn error_of(source: FactSource) -> String {
        let handle = FactsHandle::start(vec![source]).expect("valid");
        wait_for("an error", || handle.statuses().remove(0).error).await
    }

    /// Answers every connection with the same bytes, for as long as the process lives.
    fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0u8; 2_048];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&answer);
            }
        });
        format!("http://{address}/v1/kv/cluster/needs")
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn file_command_and_http_are_read_and_refreshed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("needs.json");
        fs::write(&path, "{\"builders\": 4}").expect("writes");
        let consul =
            serve(http("200 OK", "[{\"Key\":\"cluster/needs\",\"Flags\":0,\"Value\":\"eyJyb2xlIjogInJ1bm5lciJ9\"}]"));
        let handle = FactsHandle::start(vec![
            FactSource { file: Some(path.clone()), ..source("file") },
            FactSource { format: FactFormat::Text, ..command("command", "echo '  two words '") },
            FactSource { url: Some(consul), format: FactFormat::ConsulKv, ..source("consul") },
        ])
        .expect("valid");
        let facts = wait_for("three facts", || Some(handle.snapshot()).filter(|facts| facts.len() == 3)).await;
        assert_eq!(facts["file"].value, json!({"builders": 4}));
        assert_eq!(facts["command"].value, json!("two words"));
        assert_eq!(facts["consul"].value, json!({"role": "runner"}));
        assert!(facts["file"].age_ms < 10_000);

        fs::write(&path, "5").expect("writes");
        wait_for("the new value", || (handle.snapshot()["file"].value == json!(5)).then_some(())).await;
    }

    #[tokio::test]
    async fn a_failure_keeps_the_old_value_and_is_told() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("fact");
        fs::write(&path, "1").expect("writes");
        let handle = FactsHandle::start(vec![FactSource { file: Some(path.clone()), ..source("f") }]).expect("valid");
        wait_for("the first value", || handle.snapshot().remove("f")).await;
        fs::write(&path, "{broken").expect("writes");
        let status = wait_for("the failure", || Some(handle.statuses().remove(0)).filter(|s| s.failures > 0)).await;
        assert!(status.error.expect("told").starts_with("not JSON"));
        assert_eq!(status.fact.expect("kept").value, json!(1));
        fs::write(&path, "2").expect("writes");
        let status = wait_for("recovery", || Some(handle.statuses().remove(0)).filter(|s| s.error.is_none())).await;
        assert_eq!((status.fact.expect("read").value, status.failures), (json!(2), 0));
    }

    #[tokio::test]
    async fn what_is_too_long_too_deep_or_wrong_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = |text: &str| {
            let path = dir.path().join("f");
            fs::write(&path, text).expect("writes");
            FactSource { file: Some(path), ..source("f") }
        };
        assert!(error_of(file(&format!("\"{}\"", "x".repeat(70_000)))).await.contains("more than 65536 bytes"));
        assert!(error_of(file(&format!("[{}1]", "1,".repeat(1_000)))).await.contains("more than 1000 values"));
        assert!(error_of(file(&format!("{}{}", "[".repeat(18), "]".repeat(18)))).await.contains("deeper than 16"));
        assert!(error_of(file(&"[".repeat(60_000))).await.contains("not JSON"));
        assert!(
            error_of(FactSource { file: Some(dir.path().to_owned()), ..source("f") })
                .await
                .contains("not a regular file")
        );
        assert!(
            error_of(FactSource { file: Some(dir.path().join("absent")), ..source("f") })
                .await
                .contains("No such file")
        );
        assert!(error_of(command("c", "echo oops >&2; exit 3")).await.ends_with("exit code 3: oops"));
        assert!(error_of(command("c", "head -c 70000 /dev/zero")).await.contains("more than 65536 bytes"));
        assert!(
            error_of(FactSource { timeout_ms: 100, ..command("c", "sleep 60") }).await.contains("no answer within")
        );
        let huge = FactSource { url: Some(serve(http("200 OK", &"1".repeat(70_000)))), ..source("u") };
        assert!(!error_of(huge).await.is_empty());
        let missing = FactSource { url: Some(serve(http("404 Not Found", ""))), ..source("u") };
        assert!(error_of(missing).await.contains("404"));
        let other = FactSource { url: Some(serve(http("200 OK", "{}"))), format: FactFormat::ConsulKv, ..source("u") };
        assert!(error_of(other).await.contains("Consul"));
        let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("http://{}/", silent.local_addr().expect("has an address"));
        assert!(error_of(FactSource { url: Some(url), timeout_ms: 200, ..source("u") }).await.contains("timeout"));
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_reading() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        let handle =
            FactsHandle::start(vec![command("c", &format!("echo x >> {}; echo 1", path.display()))]).expect("valid");
        wait_for("the first reading", || handle.snapshot().remove("c")).await;
        let readers: Vec<AbortHandle> = handle._readers.0.clone();
        drop(handle);
        wait_for("the end of the readers", || readers.iter().all(AbortHandle::is_finished).then_some(())).await;
    }

    #[test]
    fn consul_answers_are_decoded() {
        let entry = |value: Value| json!([{"Key": "a/b", "Value": value}]);
        assert_eq!(consul_kv(&entry(json!("NDI="))), Ok(json!(42)));
        assert_eq!(consul_kv(&entry(json!("cGxhaW4gdGV4dA=="))), Ok(json!("plain text")));
        assert_eq!(consul_kv(&entry(Value::Null)), Ok(Value::Null));
        let two = json!([{"Key": "a", "Value": "MQ=="}, {"Key": "b", "Value": "eA=="}]);
        assert_eq!(consul_kv(&two), Ok(json!({"a": 1, "b": "x"})));
        for bad in [
            json!([]),
            json!({}),
            json!([{"Key": "a"}]),
            entry(json!("!!")),
            entry(json!(1)),
            json!([1, 2]),
            entry(json!("/w==")),
        ] {
            assert!(consul_kv(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_is_decoded_strictly() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zg", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for bad in ["Z", "Zg===", "Z-==", "Zm9v Zg==", "Zh==", "Zg==Zg=="] {
            assert_eq!(base64(bad), None, "{bad}");
        }
        assert_eq!(base64("/+8=").expect("decodes"), [0xff, 0xef]);
    }

    #[tokio::test]
    async fn a_reading_that_hangs_keeps_one_thread_and_no_more() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let mut hanging = None;
        let hang = move || wait.recv().map(|()| vec![]).map_err(|error| error.to_string());
        let first = blocking(&mut hanging, Duration::from_millis(50), hang).await;
        assert_eq!(first, Err("no answer within 50 ms".to_owned()));
        let second = blocking(&mut hanging, Duration::from_secs(5), || Ok(b"2".to_vec())).await;
        assert_eq!(second, Err("the reading before this one still hangs".to_owned()));
        release.send(()).expect("still waits");
        let reading = hanging.as_ref().expect("kept");
        wait_for("the end of the reading", || reading.is_finished().then_some(())).await;
        assert_eq!(blocking(&mut hanging, Duration::from_secs(5), || Ok(b"3".to_vec())).await, Ok(b"3".to_vec()));
    }
}
