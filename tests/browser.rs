//! The dashboard in a real browser: a hive of three on real hosts, the distribution's Chromium, every tab and every button.
//!
//! What is clicked and looked at is `web/tests/browser.mjs`; this starts the hive, queues what is to be seen, kills nodes when the page
//! asks for it, and leaves pictures of every tab in `target/screenshots`. Needs root, as the lab does, and node and chromium
//! (`tests/deps.sh test`).

#![cfg(feature = "node")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout
)]

#[allow(dead_code, reason = "shared with the lab")]
#[path = "lab/harness.rs"]
mod harness;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Agent, Host, Lab, eventually, in_lab_with, s};

const HOSTS: &str = "/run/hosts";
/// Chromium on a busy machine takes seconds for each page.
const DEADLINE: Duration = Duration::from_secs(900);
/// Jobs of the long list.
const MANY: usize = 5_000;
/// What a build is called that wants to be obeyed.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";
/// A build that prints phases, sequences of terminals, markup and an error.
const SCRIPT: &str = "echo '>>> Unpacking source...'\n\
    i=0; while [ $i -lt 200 ]; do echo \"file $i\"; i=$((i+1)); done\n\
    echo '>>> Compiling source in /work ...'\n\
    printf '\\033[31mred\\033[0m \\033]0;title\\007 \\342\\200\\256turned\\n'\n\
    echo '<script>alert(2)</script>'\n\
    echo \"main.c:42:13: error: 'foo' undeclared (first use in this function)\"\n\
    exit 2\n";

/// A build that runs long enough to be looked at half-way.
const SLOW_SCRIPT: &str = "echo '>>> Unpacking source...'\n\
    sleep 4\n\
    echo '>>> Compiling source in /work ...'\n\
    sleep 12\n\
    echo the-end-of-it\n";

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

fn chromium() -> PathBuf {
    let places = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let found = named.into_iter().chain(places).find(|place| place.exists());
    found.expect("there is no Chromium: run `tests/deps.sh test`, or name one in CHROMIUM")
}

/// A hive of three whose coordinator is known, with something in its queue.
struct Site {
    hosts: [Host; 3],
    agents: Vec<Option<Agent>>,
    /// Position of the coordinator; the pages are those of the node behind it, the effects are looked up on the third.
    leader: usize,
    key: String,
    hostile_job: String,
    past_job: String,
}

impl Site {
    fn new(lab: &mut Lab) -> Self {
        let hosts: [Host; 3] = lab.hosts();
        let agents =
            hosts.iter().map(|host| Some(host.start(&["--admin", "0.0.0.0:8093", "--terminal-enabled"]))).collect();
        let leader = eventually("a hive of three with roles", s(90), || {
            let status = hosts[0].status()?;
            let voters = status["members"].as_array()?.iter().filter(|one| one["raft"] == "voter").count();
            let known = voters == 3 && status["quorum"] == true && hosts.iter().all(|host| host.identity().is_some());
            let name = status["coordinator"]["name"].as_str()?.to_owned();
            hosts.iter().position(|host| known && host.name == name)
        });
        let key = eventually("the admin key", s(10), || {
            let read = |host: &Host| fs::read_to_string(host.etc().join("admin_key")).ok();
            hosts.iter().find_map(read).map(|key| key.trim().to_owned())
        });
        let mut site = Self { hosts, agents, leader, key, hostile_job: String::new(), past_job: String::new() };
        site.fill();
        site
    }

    /// The node whose pages are looked at.
    fn seen(&self) -> &Host {
        &self.hosts[(self.leader + 1) % 3]
    }

    /// The node that is neither that nor the coordinator.
    fn other(&self) -> &Host {
        &self.hosts[(self.leader + 2) % 3]
    }

    /// One build that failed, and jobs that no drone can take.
    fn fill(&mut self) {
        let host = self.seen();
        let sources = host.tmp().join("sources");
        fs::create_dir_all(&sources).expect("source directory");
        fs::write(sources.join("build.sh"), SCRIPT).expect("script");
        let add = [
            "queue",
            "add",
            "--backend",
            "command",
            "--dir",
            "/tmp/sources",
            "--pure",
            "--json",
            "--",
            "sh",
            "build.sh",
        ];
        let added = host.hive(&[&add[..], &[HOSTILE]].concat());
        let value: Value = serde_json::from_str(&added.stdout).unwrap_or_else(|_| panic!("{added:?}"));
        self.hostile_job = value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned();

        let host = self.seen();
        let mut lines = String::new();
        let source = json!({ "kind": "git", "url": "https://example.invalid/a.git", "branch": null, "commit": null });
        let mut job = |target: String, after: &[&str]| {
            let job = json!({ "target": target, "backend": "command", "source": source, "argv": ["true"], "labels": ["nowhere"], "after": after });
            writeln!(lines, "{job}").expect("writes");
        };
        (1..=3).for_each(|number| job(format!("app/waits-for-nothing-{number}"), &[]));
        job("graph/first".to_owned(), &[]);
        job("graph/second".to_owned(), &["graph/first"]);
        (0..MANY).for_each(|number| job(format!("many/{number:05}"), &[]));
        fs::write(host.tmp().join("import.jsonl"), lines).expect("writes");
        let imported = host.hive(&["queue", "import", "--name", "many", "/tmp/import.jsonl"]);
        assert_eq!(imported.code, 0, "{imported:?}");
        let failed = |job: Value| (job["attempts"][0]["state"] == "failed").then_some(());
        eventually("the build fails", s(60), || failed(host.json(&["job", "show", &self.hostile_job])?));
    }

    /// A build that takes a while, to be looked at when it is over.
    fn run_for_a_while(&mut self) {
        let host = self.seen();
        fs::write(host.tmp().join("sources/slow.sh"), SLOW_SCRIPT).expect("script");
        let add =
            ["queue", "add", "--backend", "command", "--dir", "/tmp/sources", "--pure", "--priority", "9", "--json"];
        let added = host.hive(&[&add[..], &["--", "sh", "slow.sh", "past/runs"]].concat());
        let value: Value = serde_json::from_str(&added.stdout).unwrap_or_else(|_| panic!("{added:?}"));
        self.past_job = value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned();
    }

    fn environment(&self) -> String {
        let at = |host: &Host, port: u16| host.url(port);
        let environment = json!({
            "public": at(self.seen(), 8100),
            "admin": at(self.seen(), 8093),
            "other": at(self.other(), 8100),
            "otherName": self.other().name,
            "coordinatorName": self.hosts[self.leader].name,
            "key": self.key,
            "hostileJob": self.hostile_job,
            "pastJob": self.past_job,
            "many": MANY,
            "chromium": chromium(),
            "screenshots": Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots"),
        });
        environment.to_string()
    }

    /// Runs parts of the script; `heard` gets each line that it says.
    fn browse(&mut self, parts: &[&str], mut heard: impl FnMut(&mut Self, &str)) {
        assert!(
            web().join("node_modules/playwright-core").is_dir(),
            "what drives the browser is not there: run `npm ci --ignore-scripts` in web/"
        );
        let mut command = Command::new("node");
        command.arg("tests/browser.mjs").args(parts).current_dir(web()).env("BROWSER_TEST", self.environment());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("node starts (tests/deps.sh test)");
        let mut child = Reaped(child);
        let lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
        for line in lines.map_while(Result::ok) {
            println!("browser: {line}");
            heard(self, &line);
        }
        let status = child.0.wait().expect("waits for its own child");
        assert!(status.success(), "{parts:?}: {status}");
    }

    fn kill(&mut self, position: usize) {
        if let Some(agent) = self.agents[position].take() {
            agent.kill();
        }
    }
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_site(name: &str, test: impl FnOnce(Site)) {
    in_lab_with(Path::new(HOSTS), DEADLINE, &[], name, |lab| test(Site::new(lab)));
}

/// Runs a script of `web/package.json`.
fn npm(script: &str) {
    let output = Command::new("npm").args(["run", "--silent", script]).current_dir(web()).output();
    let output = output.expect("npm starts (tests/deps.sh test)");
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}", told.concat());
}

#[test]
fn the_types_of_the_dashboard_fit() {
    npm("check");
}

#[test]
fn parts_of_the_dashboard_that_need_no_browser_hold() {
    npm("test");
}

#[test]
fn every_tab_and_every_button_works_on_a_node_that_does_not_coordinate() {
    with_site("every_tab_and_every_button_works_on_a_node_that_does_not_coordinate", |mut site| {
        site.browse(&["everyTab", "keys", "hostile", "others", "scrolls", "acts"], |_, _| {});
    });
}

#[test]
fn messages_data_terminals_and_logs_are_looked_into_from_any_node() {
    with_site("messages_data_terminals_and_logs_are_looked_into_from_any_node", |mut site| {
        site.browse(&["dots", "wire", "data", "terminal"], |_, _| {});
    });
}

#[test]
fn every_tab_shows_the_hive_as_it_was_and_is_live_again() {
    with_site("every_tab_shows_the_hive_as_it_was_and_is_live_again", |mut site| {
        site.run_for_a_while();
        site.browse(&["replay"], |_, _| {});
    });
}

#[test]
fn the_page_stays_when_the_coordinator_dies_and_when_nobody_answers() {
    with_site("the_page_stays_when_the_coordinator_dies_and_when_nobody_answers", |mut site| {
        let (seen, other) = ((site.leader + 1) % 3, (site.leader + 2) % 3);
        site.browse(&["gone"], |site, line| match line {
            "OPEN" => site.kill(site.leader),
            "ELECTED" => site.kill(other),
            "ALONE" => site.kill(seen),
            _ => {}
        });
    });
}
