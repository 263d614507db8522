//! The lab: hosts that are network namespaces on one bridge, with their own `/var/lib/build`, `/etc/build`, `/run/hive` and `/tmp`.
//!
//! [`in_lab`] runs its test again inside private mount, network, PID, UTS and IPC namespaces; a deadline ends all of it. Inside,
//! every host has the address `10.77.0.N/24` and runs agents with their defaults.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Set inside the lab, to the directory of its hosts.
const INSIDE: &str = "HIVE_LAB";
/// Root directories of the hosts: on the lab's own tmpfs. Twenty machines have twenty disks; here they would share one, and
/// every fsync of all of them would queue. SIGKILL loses nothing of what was written, there as here.
pub const HOSTS: &str = "/run/hosts";
/// A lab that lives longer than this is killed and its test fails.
const LAB_DEADLINE: Duration = Duration::from_secs(240);
/// The program as hosts see it: their own `/tmp` may hide where it was built.
pub const PROGRAM: &str = "/run/lab/hive";
/// The secret that hosts share unless a test says otherwise.
pub const SECRET: &str = "5f0c7d1be29a4836a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718";

/// Runs `test` in a lab of its own. `name` is the test's full path as the runner knows it.
pub fn in_lab(name: &str, test: impl FnOnce(&mut Lab)) {
    in_lab_with(Path::new(HOSTS), LAB_DEADLINE, &[], name, test);
}

/// The same with the hosts' directories elsewhere (on a real disk, say), another deadline, and more variables inside.
pub fn in_lab_with(
    hosts_on: &Path,
    deadline: Duration,
    more: &[(&str, std::ffi::OsString)],
    name: &str,
    test: impl FnOnce(&mut Lab),
) {
    if let Some(directory) = std::env::var_os(INSIDE).map(PathBuf::from) {
        let mut lab = Lab::new(directory.clone());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut lab)));
        if let Err(panic) = outcome {
            print_logs(&directory);
            std::panic::resume_unwind(panic);
        }
        return;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "the lab needs root for namespaces: run `sudo make test` (nothing on the host is touched)"
    );
    let script = "mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/netns /run/lock; \
                  mount -t sysfs sysfs /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
                  ip link set lo up; exec \"$@\"";
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--uts", "--ipc", "bash", "-c", script, "_"])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, hosts_on)
        .envs(more.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("unshare (package util-linux) starts");
    let status = wait(&mut child, deadline);
    if !status.is_some_and(|status| status.success()) {
        match status {
            Some(status) => panic!("{name} failed inside its lab: {status}"),
            None => {
                // SIGKILL: `unshare --fork` ignores SIGTERM; --kill-child takes the rest down with it.
                child.kill().expect("kills its own child");
                child.wait().expect("reaps its own child");
                panic!("{name} did not end within {deadline:?}");
            }
        }
    }
}

fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + deadline;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("waits for its own child") {
            return Some(status);
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    None
}

fn print_logs(directory: &Path) {
    let Ok(hosts) = fs::read_dir(directory) else { return };
    let mut logs: Vec<PathBuf> =
        hosts.flatten().map(|host| host.path().join("agent.log")).filter(|p| p.exists()).collect();
    logs.sort();
    for log in logs {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("---- {} (last 40 of {} lines)", log.display(), lines.len());
        for line in &lines[lines.len().saturating_sub(40)..] {
            eprintln!("{line}");
        }
    }
}

/// A network of hosts.
pub struct Lab {
    directory: PathBuf,
    hosts: usize,
}

impl Lab {
    fn new(directory: PathBuf) -> Self {
        sh(
            "ip link add br0 type bridge forward_delay 0 && ip addr add 10.77.0.254/24 broadcast 10.77.0.255 dev br0 && ip link set br0 up",
        );
        let built = env!("CARGO_BIN_EXE_hive");
        sh(&format!("mkdir -p /run/lab && touch {PROGRAM} && mount --bind '{built}' {PROGRAM}"));
        Self { directory, hosts: 0 }
    }

    /// The next host, cabled to the bridge, with the lab's secret.
    pub fn host(&mut self) -> Host {
        let host = self.bare_host();
        host.write_secret(SECRET);
        host
    }

    /// The next host, without any secret.
    pub fn bare_host(&mut self) -> Host {
        self.hosts += 1;
        let number = self.hosts;
        let name = format!("n{number}");
        let address = format!("10.77.0.{number}");
        sh(&format!(
            "ip netns add {name} && ip link add v{number} type veth peer name eth0 netns {name} && \
             ip link set v{number} master br0 up && ip -n {name} addr add {address}/24 broadcast 10.77.0.255 dev eth0 && \
             ip -n {name} link set lo up && ip -n {name} link set eth0 up && ip -n {name} route add default via 10.77.0.254"
        ));
        let root = self.directory.join(&name);
        for private in ["state", "etc", "run", "tmp"] {
            fs::create_dir_all(root.join(private)).expect("host directory");
        }
        Host { number, name, address, root }
    }

    /// The next host with IPv6 only: a link-local address and `fd77::<number>`.
    pub fn host_v6(&mut self) -> Host {
        let host = self.host();
        let (name, number) = (&host.name, host.number);
        // `nodad`: nobody else is here, and waiting for that would only make the test slow.
        sh(&format!(
            "ip -n {name} -4 addr flush dev eth0 && ip -n {name} addr add fd77::{number}/64 dev eth0 nodad && \
             ip -n {name} -6 addr add fe80::77:{number}/64 dev eth0 nodad"
        ));
        Host { address: format!("fd77::{number}"), ..host }
    }

    /// So many hosts.
    pub fn hosts<const N: usize>(&mut self) -> [Host; N] {
        std::array::from_fn(|_| self.host())
    }

    /// Tells each of these hosts where the others are on the link. The kernel's table of neighbours holds 1,024 for all hosts together,
    /// too few for more than 32 that all talk to each other; what is told does not count.
    pub fn introduce(&self, hosts: &[Host]) {
        let link = |host: &Host| {
            let mut cat = Command::new("ip");
            cat.args(["netns", "exec", &host.name, "cat", "/sys/class/net/eth0/address"]);
            run(cat).stdout.trim().to_owned()
        };
        let links: Vec<String> = hosts.iter().map(link).collect();
        for host in hosts {
            let others = hosts.iter().zip(&links).filter(|(other, _)| other.number != host.number);
            let lines = others
                .map(|(other, link)| format!("neigh replace {} lladdr {link} nud permanent dev eth0", other.address));
            let batch = lines.collect::<Vec<_>>().join("\n");
            sh(&format!("ip -n {} -batch - <<'END'\n{batch}\nEND", host.name));
        }
    }

    /// Cuts every link between the two sides, at the bridge.
    pub fn partition(&self, left: &[&Host], right: &[&Host]) {
        let set = |side: &[&Host]| side.iter().map(|host| format!("v{}", host.number)).collect::<Vec<_>>().join(", ");
        let (left, right) = (set(left), set(right));
        sh(&format!(
            "nft add table bridge lab && nft add chain bridge lab cut '{{ type filter hook forward priority 0; }}' && \
             nft add rule bridge lab cut iifname '{{ {left} }}' oifname '{{ {right} }}' drop && \
             nft add rule bridge lab cut iifname '{{ {right} }}' oifname '{{ {left} }}' drop"
        ));
    }

    /// Drops so many percent of all frames between hosts.
    pub fn lose(&self, percent: u32) {
        sh(&format!(
            "nft add table bridge lab && nft add chain bridge lab loss '{{ type filter hook forward priority 1; }}' && \
             nft add rule bridge lab loss numgen random mod 100 '<' {percent} drop"
        ));
    }

    /// Drops frames that match an nft expression, such as `udp dport 50555`.
    pub fn drop_frames(&self, expression: &str) {
        sh(&format!(
            "nft add table bridge lab && nft add chain bridge lab filter '{{ type filter hook forward priority 2; }}' && \
             nft add rule bridge lab filter {expression} drop"
        ));
    }

    /// Undoes all faults of the network.
    pub fn heal(&self) {
        sh("nft delete table bridge lab");
    }
}

/// A host of the lab.
#[derive(Clone, Debug)]
pub struct Host {
    number: usize,
    pub name: String,
    pub address: String,
    root: PathBuf,
}

impl Host {
    /// Its private directory that appears as `/etc/build` inside.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// Its private directory that appears as `/var/lib/build` inside.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Its private directory that appears as `/tmp` inside.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Puts a secret where the agent expects it.
    pub fn write_secret(&self, secret: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.etc().join("shared_secret");
        fs::write(&path, secret).expect("writes the secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }

    /// What other hosts ask under: by TLS where keys travel.
    pub fn url(&self, port: u16) -> String {
        format!("{}://{}:{port}", if port == 8093 { "https" } else { "http" }, self.address)
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let root = self.root.display();
        let script = format!(
            "mkdir -p /var/lib/build /etc/build /run/hive && mount --bind {root}/state /var/lib/build && \
             mount --bind {root}/etc /etc/build && mount --bind {root}/run /run/hive && mount --bind {root}/tmp /tmp && exec \"$@\""
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "unshare", "--mount", "--uts", "bash", "-c"]);
        command.arg(format!("hostname {} && {script}", self.name)).arg("_").arg(program);
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("HIVE_")) {
            command.env_remove(key);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts `hive agent` with these further arguments.
    pub fn start(&self, arguments: &[&str]) -> Agent {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.root.join("agent.log")).expect("log file");
        let mut command = self.command(PROGRAM);
        command
            .arg("agent")
            .args(arguments)
            .env("RUST_LOG", std::env::var("LAB_LOG").unwrap_or_else(|_| "hive=info".into()));
        command.stdout(log.try_clone().expect("log file")).stderr(log).process_group(0);
        Agent { host: self.clone(), child: command.spawn().expect("agent starts") }
    }

    /// Runs `hive` with these arguments on this host; ends it after 60 s.
    pub fn hive(&self, arguments: &[&str]) -> Answer {
        let mut command = self.command(PROGRAM);
        command.args(arguments);
        run(command)
    }

    /// `data` of `hive … --json`, when it succeeded.
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let answer = self.hive(&all);
        let envelope: Value = serde_json::from_str(&answer.stdout).ok()?;
        (answer.code == 0).then(|| envelope["data"].clone())
    }

    /// `data` of `hive status --json`.
    pub fn status(&self) -> Option<Value> {
        self.json(&["status"])
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("agent.log")).unwrap_or_default()
    }

    /// `identity.json`, once it is there.
    pub fn identity(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.state().join("identity.json")).ok()?).ok()
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, at most 60 s.
pub fn run(mut command: Command) -> Answer {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("command starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let out = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let err = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = wait(&mut child, Duration::from_secs(60)).unwrap_or_else(|| {
        kill(child.id(), rustix::process::Signal::KILL);
        child.wait().expect("reaps its own child")
    });
    Answer {
        code: status.code().unwrap_or(-1),
        stdout: out.join().expect("reader"),
        stderr: err.join().expect("reader"),
    }
}

/// A running agent. Killed when dropped.
pub struct Agent {
    pub host: Host,
    child: Child,
}

impl Agent {
    /// Pid of the agent itself: `ip`, `unshare` and `bash` have replaced themselves by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a crash.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            kill(self.child.id(), rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// SIGSTOP: it hangs.
    pub fn freeze(&self) {
        kill(self.child.id(), rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        kill(self.child.id(), rustix::process::Signal::CONT);
    }

    /// SIGTERM, and how long it took to end.
    pub fn terminate(mut self) -> Duration {
        let since = Instant::now();
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals its own child");
        let ended = wait(&mut self.child, Duration::from_secs(10));
        assert!(ended.is_some(), "agent of {} did not end within 10 s of SIGTERM", self.host.name);
        since.elapsed()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Runs a shell line of the lab itself; a failure ends the test.
pub fn sh(line: &str) {
    let answer = Command::new("bash").args(["-e", "-c", line]).output().expect("bash");
    assert!(answer.status.success(), "{line}: {}", String::from_utf8_lossy(&answer.stderr));
}

/// Asks until there is an answer; fails with what was awaited.
pub fn eventually<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(since.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Seconds.
pub fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
