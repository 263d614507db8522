//! A real agent on the loopback interface, with a state directory that survives it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until something is there.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn free_port() -> u16 {
    eventually("a free port", || {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    })
}

/// `hive` with these arguments, away from whatever this machine has of hive.
pub(crate) fn hive(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hive"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("HIVE_CONFIG", "/dev/null")
        .env("USER", "ann")
        .env_remove("SUDO_USER");
    for name in ["HIVE_SOCKET", "HIVE_URL", "SWARMV3_URL", "CONTROL_PLANE_PORT", "SWARM_DB_PATH"] {
        command.env_remove(name);
    }
    command
}

/// Exit code, and `data` or `error` of the answer.
pub(crate) fn answer(output: &Output) -> (i32, Value) {
    let envelope: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let data = if envelope["ok"] == true { &envelope["data"] } else { &envelope["error"] };
    (output.status.code().unwrap_or(-1), data.clone())
}

/// `hive … --json --state-dir DIR`.
pub(crate) fn on(directory: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = hive(arguments).arg("--json").arg("--state-dir").arg(directory).output().expect("runs");
    answer(&output)
}

/// A node of a hive of its own.
pub(crate) struct Node {
    root: PathBuf,
    name: String,
    child: Option<Child>,
}

impl Node {
    /// Below `root`, which stays after it.
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let root = root.join(name);
        fs::create_dir_all(&root).expect("directory");
        fs::write(root.join("hive.toml"), "[build]\nslots = 0\n").expect("configuration");
        Self { root, name: name.to_owned(), child: None }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    /// Starts it and waits until it has a quorum.
    pub(crate) fn start(&mut self) {
        self.spawn();
        eventually("a member with a quorum", || {
            let status = self.ask(&["status"])?;
            (status["quorum"] == true && status["self"]["state"] == "member").then_some(())
        });
    }

    pub(crate) fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.root.join("log")).expect("log");
        let mut command = hive(&["agent", "--listen-address", "127.0.0.1", "--interface", "lo", "--helper", "none"]);
        command.args(["--admin", "none", "--found", "--discovery-mdns", "off", "--discovery-legacy-v1", "off"]);
        command.args(["--name", &self.name, "--http", &format!("127.0.0.1:{}", free_port())]);
        command.args(["--port", &free_port().to_string()]);
        for (flag, file) in
            [("--config", "hive.toml"), ("--state-dir", "state"), ("--secret-file", "secret"), ("--socket", "sock")]
        {
            command.arg(flag).arg(self.root.join(file));
        }
        command.args(["--admin-key-file".as_ref(), self.root.join("admin_key").as_os_str()]);
        let child = command.stdout(log.try_clone().expect("log")).stderr(log).process_group(0).spawn();
        self.child = Some(child.expect("agent starts"));
    }

    /// `data` of a command, when it succeeded.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Option<Value> {
        let (code, data) = answer(&self.run(arguments));
        (code == 0).then_some(data)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        // Before the command: behind it may stand `--`.
        let mut command = hive(&["--json", "--socket"]);
        command.arg(self.root.join("sock")).args(arguments).output().expect("runs")
    }

    /// Queues so many jobs that nothing builds here.
    pub(crate) fn queue(&self, jobs: u32, pure: bool) -> Vec<String> {
        let source = self.root.join("source");
        fs::create_dir_all(&source).expect("directory");
        fs::write(source.join("file"), "content").expect("source");
        let source = source.to_string_lossy().into_owned();
        let queue = |number: u32| {
            let word = number.to_string();
            let mut line = vec!["queue", "add", "--backend", "command", "--dir", &source];
            line.extend(pure.then_some("--pure"));
            line.extend(["--", "echo", &word]);
            let data = self.ask(&line).expect("queued");
            data["jobs"][0]["id"].as_str().expect("an id").to_owned()
        };
        (0..jobs).map(queue).collect()
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        eventually("its end", || child.try_wait().expect("our own child"));
    }

    /// Waits until it has ended by itself, and gives its log.
    pub(crate) fn ended(&mut self) -> String {
        let mut child = self.child.take().expect("was started");
        eventually("it gives up", || child.try_wait().expect("our own child"));
        self.log()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill().and_then(|()| child.wait());
        }
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.name, self.log());
        }
    }
}
