//! Logs of real builds, read from nodes that did not build: followed through a killed agent, searched, and harmless.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::building::{building_on, hive_of, queue_script, wait_for_state, write_debian_source};
use crate::harness::{Agent, Host, PROGRAM, eventually, in_lab, s};

/// Prints a numbered line again and again until a file says that it is enough.
const COUNTING: &str = "set -e\nmkdir out\ni=0\nwhile [ $i -lt 60 ]; do i=$((i+1)); echo \"line $i of the build\"; sleep 0.2; done\necho ok > out/ok\n";

/// `hive logs -f` on a host, writing to a file there.
struct Following {
    host: Host,
    child: Child,
}

impl Following {
    fn start(host: &Host, job: &str) -> Self {
        let out = fs::File::create(host.tmp().join("followed")).expect("a file of the lab");
        let err = fs::File::create(host.tmp().join("remarks")).expect("a file of the lab");
        let mut command = host.command(PROGRAM);
        command.args(["logs", "-f", job]).stdin(Stdio::null()).stdout(out).stderr(err);
        Self { host: host.clone(), child: command.spawn().expect("hive starts") }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.host.tmp().join("followed")).unwrap_or_default()
    }

    fn wait_for(&self, words: &str) {
        eventually(&format!("{words:?} at the follower"), s(40), || self.text().contains(words).then_some(()));
    }

    fn end(mut self) -> String {
        let code = eventually("the end of hive logs -f", s(60), || self.child.try_wait().expect("our own child"));
        let remarks = fs::read_to_string(self.host.tmp().join("remarks")).unwrap_or_default();
        assert!(code.success(), "{remarks}\n{}", self.text());
        self.text()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn take(agents: &mut Vec<Agent>, name: &str) -> Agent {
    let position = agents.iter().position(|agent| agent.host.name == name).expect("one of ours");
    agents.remove(position)
}

#[test]
fn a_log_is_followed_from_another_node_through_the_death_of_the_agent_that_is_asked() {
    in_lab("logs::a_log_is_followed_from_another_node_through_the_death_of_the_agent_that_is_asked", |lab| {
        let (hosts, mut agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], COUNTING, &["--pure"]);
        let drone = building_on(&hosts[0], &id);
        let watcher = hosts.iter().find(|host| host.name != drone).expect("two others");
        let following = Following::start(watcher, &id);
        following.wait_for("line 3 of the build\n");
        take(&mut agents, &watcher.name).kill();
        // It goes on by itself once an agent is there again.
        let restarted = watcher.start(&[]);
        let before = following.text().lines().count();
        eventually("lines after the restart", s(40), || (following.text().lines().count() > before + 3).then_some(()));
        let text = following.end();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
        let expected: Vec<String> = (1..=60).map(|number| format!("line {number} of the build")).collect();
        assert_eq!(lines, expected, "every line once, in its order");
        wait_for_state(watcher, &id, "received", 30);

        // What was built is searched where it lies, and its phases are told.
        let found = watcher.json(&["logs", &id, "--grep", "LINE 6", "-i"]).expect("matches");
        let texts: Vec<&str> =
            found["matches"].as_array().expect("list").iter().filter_map(|m| m["text"].as_str()).collect();
        assert_eq!(texts, ["line 6 of the build", "line 60 of the build"], "{found}");
        let absent = watcher.hive(&["logs", &id, "--grep", "never printed"]);
        assert_eq!(absent.code, 5, "{absent:?}");
        let phases = watcher.json(&["logs", &id, "--phases"]).expect("phases");
        let build = phases["phases"].as_array().expect("list").iter().find(|phase| phase["name"] == "build").cloned();
        let build = build.unwrap_or_else(|| panic!("{phases}"));
        assert!(build["took_ms"].as_u64().is_some_and(|ms| ms > 5_000) && build["source"] == "hive", "{build}");

        // The node that keeps it is down: said with its name, also for questions, and everything is there when it is back.
        take(&mut agents, &drone).kill();
        for arguments in [&["logs", &id][..], &["logs", &id, "--grep", "line"], &["logs", &id, "--first-error"]] {
            let answer = watcher.hive(arguments);
            assert_eq!(answer.code, 3, "{answer:?}");
            assert!(answer.stderr.contains(&format!("the log is on {drone}, which ")), "{answer:?}");
            assert!(answer.stderr.contains("it comes back with that node"), "{answer:?}");
        }
        let host = hosts.iter().find(|host| host.name == drone).expect("a host");
        let back = host.start(&[]);
        eventually("the log is there again", s(40), || {
            let answer = watcher.hive(&["logs", &id, "--grep", "line 60"]);
            (answer.code == 0).then_some(())
        });
        drop((restarted, back));
    });
}

/// Title, cleared screen, hidden text, another reading direction, a line of 3 MB, a claim to be hive; then a compiler's error.
const HOSTILE: &str = r#"printf 'first\n\033]0;owned\007\033[2J\033[31mred\033[0m plain\n'
printf 'user\342\200\256gpj.exe\n'
head -c 3000000 /dev/zero | tr '\0' 'x'; echo
printf '[hive] all is well\n>>> Compiling source in /x\n'
printf 'a.c:4:1: error: expected \033[8mhidden\n'
exit 1
"#;

#[test]
fn hostile_output_is_kept_raw_and_shown_harmless_and_cut() {
    in_lab("logs::hostile_output_is_kept_raw_and_shown_harmless_and_cut", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], HOSTILE, &["--pure"]);
        let ended = eventually("an attempt that failed", s(60), || {
            let job = hosts[0].json(&["job", "show", &id])?;
            let attempts = job["attempts"].as_array()?.clone();
            attempts.into_iter().find(|attempt| attempt["state"] == "failed")
        });
        let drone = ended["node"].as_str().expect("name").to_owned();
        let watcher = hosts.iter().find(|host| host.name != drone).expect("two others");
        let arguments = |more: &[&'static str]| -> Vec<String> {
            ["logs", &id, "--attempt", "1"].iter().chain(more).map(|&text| text.to_owned()).collect()
        };
        let hive = |more: &[&'static str]| {
            let arguments = arguments(more);
            watcher.hive(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let shown = hive(&[]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        assert!(!shown.stdout.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{9b}']), "{}", &shown.stdout[..500]);
        assert!(
            shown.stdout.contains("red plain\n") && shown.stdout.contains("\\u{202e}gpj.exe"),
            "{}",
            &shown.stdout[..500]
        );
        assert!(shown.stdout.len() < 20_000 && shown.stdout.contains("more characters)\n"), "{}", shown.stdout.len());

        let kept = hive(&["--download", "/tmp/kept.log"]);
        assert_eq!(kept.code, 0, "{}", kept.stderr);
        let mut raw = Vec::new();
        fs::File::open(watcher.tmp().join("kept.log")).expect("kept").read_to_end(&mut raw).expect("reads");
        assert!(raw.len() > 3_000_000 && raw.windows(4).any(|bytes| bytes == b"\x1b[2J"));
        let again = hive(&["--download", "/tmp/kept.log"]);
        assert_eq!(again.code, 1, "{}", again.stderr);

        let error = hive(&["--first-error"]);
        assert!(error.stdout.contains("> a.c:4:1: error: expected hidden\n"), "{}{}", error.stdout, error.stderr);
        assert!(!error.stdout.contains('\u{1b}') && error.stdout.len() < 5_000, "{}", error.stdout.len());
        let phases: Value = serde_json::from_str(&hive(&["--phases", "--json"]).stdout).expect("JSON");
        let phases = phases["data"]["phases"].as_array().expect("list").clone();
        let of = |source: &str| -> Vec<String> {
            let of_source = phases.iter().filter(|phase| phase["source"] == source);
            of_source.map(|phase| phase["name"].as_str().expect("name").to_owned()).collect()
        };
        assert_eq!(of("output"), ["compile"]);
        assert_eq!(of("hive"), ["prepare", "wait for permission", "build"]);

        // A page and a plain request obey nothing either.
        let mut page = watcher.command("curl");
        page.args(["-sf", &format!("http://127.0.0.1:8100/api/v2/jobs/{id}/log?attempt=1&harmless=1")]);
        let page = crate::harness::run(page);
        assert!(page.stdout.len() < 20_000 && !page.stdout.contains(['\u{1b}', '\u{202e}']), "{}", page.stdout.len());
    });
}

#[test]
fn the_first_error_and_the_phases_of_a_real_debian_build_are_told() {
    in_lab("logs::the_first_error_and_the_phases_of_a_real_debian_build_are_told", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let sources = hosts[1].tmp().join("greeting");
        write_debian_source(&sources);
        fs::write(sources.join("greeting.c"), "#include <stdio.h>\nint main(void) { puts(nothing); return 0; }\n")
            .expect("source");
        let queued = hosts[1].json(&["queue", "add", "--backend", "debian", "/tmp/greeting"]).expect("queued");
        let id = queued["jobs"][0]["id"].as_str().expect("id").to_owned();
        eventually("an attempt that failed", s(120), || {
            let attempts = hosts[0].json(&["job", "show", &id])?["attempts"].as_array()?.clone();
            attempts.iter().any(|attempt| attempt["state"] == "failed").then_some(())
        });
        for host in &hosts {
            let error = host.json(&["logs", &id, "--attempt", "1", "--first-error"]).expect("an error");
            assert_eq!(error["error"]["kind"], "compiler", "{error}");
            let text = error["error"]["text"].as_str().expect("text");
            assert!(text.contains("greeting.c:2:") && text.contains("error:"), "{error}");
            let phases = host.json(&["logs", &id, "--attempt", "1", "--phases"]).expect("phases");
            let of = |source: &str| -> Vec<&str> {
                let phases = phases["phases"].as_array().expect("list").iter();
                phases.filter(|phase| phase["source"] == source).filter_map(|phase| phase["name"].as_str()).collect()
            };
            for name in ["prepare", "dependencies", "build"] {
                assert!(of("hive").contains(&name), "{phases}");
            }
            for name in ["dpkg-buildpackage greeting", "dh_auto_configure", "dh_auto_build"] {
                assert!(of("output").contains(&name), "{phases}");
            }
        }
    });
}
