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
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(clock::now_ms() < deadline_ms, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
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
        error_of(FactSource { file: Some(dir.path().to_owned()), ..source("f") }).await.contains("not a regular file")
    );
    assert!(error_of(FactSource { file: Some("/nonexistent".into()), ..source("f") }).await.contains("No such file"));
    assert!(error_of(command("c", "echo oops >&2; exit 3")).await.ends_with("exit code 3: oops"));
    assert!(error_of(command("c", "head -c 70000 /dev/zero")).await.contains("more than 65536 bytes"));
    assert!(error_of(FactSource { timeout_ms: 100, ..command("c", "sleep 60") }).await.contains("no answer within"));
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
    for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zg", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
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
