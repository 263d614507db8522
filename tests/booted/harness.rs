//! Machines that boot: an operating system in a container of systemd-nspawn, cabled to the lab's bridge.
//!
//! Its file system is an overlay of a root that `tests/roots.sh` has built once; it keeps what is written through reboots and power
//! losses, until the test ends. Commands are run in it from outside, through the namespaces of its process 1.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Answer, HOSTS, Host, Lab, eventually, in_lab_with, run, s, sh};

/// Whole operating systems boot, and compile, on processors that others use as well.
const DEADLINE: Duration = Duration::from_secs(400);
/// Lines of the journal shown for a machine whose test failed.
const JOURNAL_LINES: &str = "150";

/// Which root a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian as a cloud image has it: systemd, cloud-init, sudo.
    Systemd,
    /// Debian with OpenRC below sysvinit.
    Openrc,
    /// The same with Portage and a tree of two packages, for Gentoo.
    Gentoo,
}

/// Runs `test` in a lab whose machines can boot. `name` is the test's full path as the runner knows it.
pub fn booted(name: &str, test: impl FnOnce(&mut Lab, &Roots)) {
    let roots = Roots::prepare(name);
    // Control groups are the one thing that outlives the lab.
    let _groups = Groups(&roots.group);
    in_lab_with(Path::new(HOSTS), DEADLINE, &[], name, |lab| {
        sh("mkdir -p /run/systemd");
        test(lab, &roots);
    });
}

/// Root file systems to boot from.
pub struct Roots {
    directory: PathBuf,
    group: String,
}

impl Roots {
    /// Builds them when they are not there; that needs the internet, which there is outside of the lab only.
    fn prepare(name: &str) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("roots");
        let answer = Command::new(sources.join("tests/roots.sh")).arg(cache).output().expect("tests/roots.sh runs");
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        let directory = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
        assert!(directory.join("complete").exists(), "{}", directory.display());
        let mut hasher = DefaultHasher::new();
        (sources, name).hash(&mut hasher);
        Self { directory, group: format!("hive-booted-{:016x}", hasher.finish()) }
    }

    /// A machine that has never been started, on the cable of `host`.
    pub fn machine(&self, kind: Kind, host: Host) -> Machine {
        let root = match kind {
            Kind::Systemd => "systemd",
            Kind::Openrc => "openrc",
            Kind::Gentoo => "gentoo",
        };
        let base = self.directory.join(root);
        let place = host.etc().with_file_name("disk");
        let disk = place.display();
        sh(&format!(
            "mkdir {disk} && mount -t tmpfs -o mode=755 tmpfs {disk} && mkdir {disk}/upper {disk}/work {disk}/root && \
             mount -t overlay overlay -o lowerdir='{}',upperdir={disk}/upper,workdir={disk}/work {disk}/root",
            base.display()
        ));
        let machine = Machine { kind, host, root: place.join("root"), group: self.group.clone(), container: None };
        machine.write("etc/hostname", &format!("{}\n", machine.host.name), 0o644);
        machine
    }
}

/// Removes the control groups of a test, once everything in them is dead.
struct Groups<'a>(&'a str);

impl Drop for Groups<'_> {
    fn drop(&mut self) {
        let script = format!(
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup && for i in 1 2 3 4 5; do \
             [ -d {0} ] || exit 0; find {0} -depth -type d -exec rmdir {{}} + && exit 0; sleep 0.2; done",
            self.0
        );
        // Best effort: left behind, they are empty directories.
        let _ = Command::new("unshare").args(["--mount", "sh", "-c", &script]).stderr(Stdio::null()).status();
    }
}

/// A machine; its power is cut when dropped.
pub struct Machine {
    kind: Kind,
    host: Host,
    root: PathBuf,
    group: String,
    container: Option<Child>,
}

impl Machine {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Its address on the bridge.
    pub fn address(&self) -> &str {
        &self.host.address
    }

    /// Writes a file into its file system, as an image or an administrator with the disk in his hands would.
    pub fn write(&self, path: &str, content: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("directory");
        fs::write(&path, content).expect("writes a file of the machine");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    /// Whether its file system has something there.
    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Copies a file into its file system.
    pub fn copy(&self, from: &Path, path: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("directory");
        fs::copy(from, path).expect("copies a file onto the machine");
    }

    /// Switches it on. Returns at once.
    pub fn power_on(&mut self) {
        assert!(self.container.is_none(), "{} is on already", self.name());
        // 133 is how a container asks to be started again. Each machine has a control group of its own, else two would use one. Its
        // network is set up from outside at each boot, since sysvinit takes all interfaces down when it reboots.
        let script = format!(
            "group=/sys/fs/cgroup/{0}/{1}; mkdir -p $group; echo $BASHPID >$group/cgroup.procs; code=133; \
             while [ $code = 133 ]; do ip -n {1} link set lo up; ip -n {1} link set eth0 up; \
             ip -n {1} route replace default via 10.77.0.254; systemd-nspawn --quiet --directory={2} --machine={1} --register=no --keep-unit \
             --network-namespace-path=/run/netns/{1} --capability=CAP_NET_ADMIN --link-journal=no --console=passive --boot; code=$?; done; exit $code",
            self.group,
            self.name(),
            self.root.display(),
        );
        let log = self.host.etc().with_file_name("agent.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("log file");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("log file")).stderr(log);
        self.container = Some(command.spawn().expect("bash starts"));
    }

    /// Its process 1 as the lab sees it.
    fn leader(&self) -> Option<u32> {
        let group = format!("/{}/{}/", self.group, self.name());
        let is_leader = |pid: &u32| {
            let of_process = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let ids = of_process("status");
            let inside = ids.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let mut inside = inside.split_whitespace();
            inside.next_back() == Some("1") && inside.next().is_some() && of_process("cgroup").contains(&group)
        };
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_leader)
    }

    /// A command that will run on it, unless it is off.
    fn command(&self, arguments: &[&str]) -> Option<Command> {
        let leader = self.leader()?.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--"]);
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command.env("HOME", "/root");
        Some(command)
    }

    /// Runs a command on it as root, at most 60 s. Code -1 with nothing said: it is off.
    pub fn run(&self, arguments: &[&str]) -> Answer {
        match self.command(arguments) {
            Some(command) => run(command),
            None => Answer { code: -1, stdout: String::new(), stderr: String::new() },
        }
    }

    /// What a shell line printed on it, when it succeeded.
    pub fn sh(&self, line: &str) -> Option<String> {
        let answer = self.run(&["sh", "-c", line]);
        (answer.code == 0).then(|| answer.stdout.trim().to_owned())
    }

    /// `data` of `hive … --json` on it, when it succeeded.
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        let answer = self.run(&[&["hive"], arguments, &["--json"]].concat());
        let envelope: Value = serde_json::from_str(&answer.stdout).ok()?;
        (answer.code == 0).then(|| envelope["data"].clone())
    }

    /// `data` of `hive status --json`.
    pub fn status(&self) -> Option<Value> {
        self.json(&["status"])
    }

    /// Its role, once it is a member of this hive, alive in its own eyes, and has one that the hive has committed.
    pub fn role_in(&self, hive_id: &str) -> Option<String> {
        let status = self.status()?;
        if status["hive_id"] != hive_id || status["quorum"] != true || status["self"]["state"] != "member" {
            return None;
        }
        Some(status["self"]["role"].as_str()?.to_owned())
    }

    /// The identity file.
    pub fn identity(&self) -> Option<Value> {
        serde_json::from_str(&self.sh("cat /var/lib/build/identity.json")?).ok()
    }

    /// What its log says; of the agent and its helper, or of everything.
    pub fn log(&self) -> String {
        let line = match self.kind {
            Kind::Systemd => format!("journalctl --no-pager --lines={JOURNAL_LINES} --output=short-precise"),
            Kind::Openrc | Kind::Gentoo => {
                format!("tail -n {JOURNAL_LINES} /var/log/hive/hive.log /var/log/hive-helper.log; rc-status --all")
            }
        };
        let answer = self.run(&["sh", "-c", &line]);
        format!("{}{}", answer.stdout, answer.stderr)
    }

    /// Pid of the agent, as the machine numbers its processes.
    pub fn agent(&self) -> Option<u32> {
        self.sh("pgrep --oldest --exact --euid hive hive")?.parse().ok()
    }

    /// SIGKILL for the agent.
    pub fn kill_agent(&self) {
        let agent = self.agent().expect("the agent runs");
        assert_eq!(self.run(&["kill", "-KILL", &agent.to_string()]).code, 0);
    }

    /// Reboots it in order, and returns when another process 1 runs.
    pub fn reboot(&self) {
        let before = self.leader().expect("it is on");
        // The connection to what is going down may end with an error.
        self.run(&["reboot"]);
        eventually(&format!("{} reboots", self.name()), s(45), || self.leader().filter(|leader| *leader != before));
    }

    /// Pulls the plug: nothing on it gets to do anything any more.
    pub fn power_loss(&mut self) {
        let leader = self.leader().expect("it is on");
        let pid = rustix::process::Pid::from_raw(leader.cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("signals a process of the lab");
        let mut container = self.container.take().expect("it is on");
        let what = format!("{} is off", self.name());
        eventually(&what, s(15), || container.try_wait().expect("waits for its own child"));
    }

    /// Waits until it has booted as far as its init system goes.
    pub fn wait_until_up(&self, deadline: Duration) {
        let line = match self.kind {
            // Degraded is up as well: a container lacks devices that some unit may want.
            Kind::Systemd => "systemctl is-system-running | grep -E '^(running|degraded)$'",
            Kind::Openrc | Kind::Gentoo => "test \"$(cat /run/openrc/softlevel)\" = default && ! pgrep --exact openrc",
        };
        eventually(&format!("{} is up", self.name()), deadline, || self.sh(line));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It goes with the lab, whatever state it is in.
            eprintln!("---- log of {}\n{}", self.name(), self.log());
        } else if self.leader().is_some() && self.container.is_some() {
            self.power_loss();
        }
    }
}
