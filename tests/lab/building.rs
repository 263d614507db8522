//! Jobs end exactly once, whoever dies, and their artifacts are everywhere.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::forming::one_hive;
use crate::harness::{Agent, Host, Lab, eventually, in_lab, s};

/// Waits until so many vote: before, the loss of one may be the loss of all.
pub fn voters(host: &Host, expected: usize) {
    eventually("as many voters as the hive should have", s(30), || {
        let status = host.status()?;
        let voters = status["members"].as_array()?.iter().filter(|member| member["raft"] == "voter").count();
        (voters == expected).then_some(())
    });
}

/// A hive of `N`, all in it.
pub fn hive_of<const N: usize>(lab: &mut Lab) -> ([Host; N], Vec<Agent>) {
    let hosts: [Host; N] = lab.hosts();
    let agents = hosts.iter().map(|host| host.start(&[])).collect();
    one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
    voters(
        &hosts[0],
        if N >= 5 {
            5
        } else if N >= 3 {
            3
        } else {
            1
        },
    );
    (hosts, agents)
}

/// Queues one `command` job on `host` from a directory with `script`, and returns its id.
pub fn queue_script(host: &Host, script: &str, more: &[&str]) -> String {
    let sources = host.tmp().join("sources");
    fs::create_dir_all(&sources).expect("source directory");
    fs::write(sources.join("build.sh"), script).expect("script");
    let mut arguments = vec!["queue", "add", "--backend", "command", "--dir", "/tmp/sources", "--artifact", "out/*"];
    arguments.extend_from_slice(more);
    arguments.extend_from_slice(&["--json", "--", "sh", "build.sh"]);
    let answer = host.hive(&arguments);
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    let value: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    fs::remove_dir_all(&sources).expect("the sources are gone once the job is queued");
    value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned()
}

fn job(host: &Host, id: &str) -> Option<Value> {
    host.json(&["job", "show", id])
}

pub fn wait_for_state(host: &Host, id: &str, state: &str, seconds: u64) -> Value {
    eventually(&format!("job {id} {state}"), s(seconds), || job(host, id).filter(|job| job["state"] == state))
}

/// The attempt that builds, once it does.
pub fn building_on(host: &Host, id: &str) -> String {
    eventually("an attempt that builds", s(30), || {
        let job = job(host, id)?;
        let last = job["attempts"].as_array()?.last()?.clone();
        (last["state"] == "building").then(|| last["node"].as_str().expect("name").to_owned())
    })
}

/// At most one attempt was accepted, and the job's artifacts are there.
fn ended_exactly_once(job: &Value) {
    let attempts = job["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.iter().filter(|attempt| attempt["state"] == "accepted").count(), 1, "{job}");
    assert!(!job["artifacts"].as_array().expect("artifacts").is_empty(), "{job}");
}

const SLOW: &str = "set -e\nmkdir -p out\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo step $i; sleep 0.5; done\necho done > out/result.txt\n";

#[test]
fn a_job_queued_anywhere_is_built_and_its_artifact_fetched_anywhere() {
    in_lab("building::a_job_queued_anywhere_is_built_and_its_artifact_fetched_anywhere", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[2], "mkdir out && echo hello from the hive > out/hello.txt && echo built\n", &[]);
        let done = wait_for_state(&hosts[0], &id, "received", 60);
        ended_exactly_once(&done);
        for host in &hosts {
            let answer = host.hive(&["artifact", "get", &id, "hello.txt", "-o", "/tmp/fetched"]);
            assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
            let fetched = host.tmp().join("fetched");
            let file = if fetched.is_dir() { fetched.join("hello.txt") } else { fetched };
            assert_eq!(fs::read_to_string(file).expect("fetched"), "hello from the hive\n");
            let log = host.hive(&["logs", &id]);
            assert!(log.stdout.contains("built"), "{}: {}{}", host.name, log.stdout, log.stderr);
        }
    });
}

#[test]
fn a_failing_job_is_retried_elsewhere_and_then_blocked_with_its_reason() {
    in_lab("building::a_failing_job_is_retried_elsewhere_and_then_blocked_with_its_reason", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], "echo about to fail\nexit 3\n", &["--pure"]);
        let ended = eventually("blocked or failed", s(60), || {
            job(&hosts[1], &id).filter(|job| job["state"] == "blocked" || job["state"] == "failed")
        });
        let attempts = ended["attempts"].as_array().expect("attempts");
        assert!(attempts.len() >= 2, "{ended}");
        assert_ne!(attempts[0]["node"], attempts[1]["node"], "the second try runs elsewhere: {ended}");
        assert_eq!(attempts[0]["exit_code"], 3);
        assert_eq!(attempts[0]["class"], "build");
        let explained = hosts[2].hive(&["explain", &id]);
        assert_eq!(explained.code, 0, "{}", explained.stderr);
    });
}

#[test]
fn a_killed_coordinator_does_not_lose_the_build() {
    in_lab("building::a_killed_coordinator_does_not_lose_the_build", |lab| {
        let (hosts, mut agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], SLOW, &["--pure"]);
        building_on(&hosts[0], &id);
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 20);
        let position = agents.iter().position(|agent| agent.host.name == coordinator).expect("one of ours");
        agents.remove(position).kill();
        let other = hosts.iter().find(|host| host.name != coordinator).expect("two are left");
        ended_exactly_once(&wait_for_state(other, &id, "received", 90));
        let status = other.status().expect("answers");
        assert_ne!(status["coordinator"]["name"].as_str(), Some(coordinator.as_str()), "{status}");
    });
}

#[test]
fn a_frozen_coordinator_is_replaced_and_its_late_word_counts_for_nothing() {
    in_lab("building::a_frozen_coordinator_is_replaced_and_its_late_word_counts_for_nothing", |lab| {
        let (hosts, agents) = hive_of::<3>(lab);
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 20);
        let frozen = agents.iter().find(|agent| agent.host.name == coordinator).expect("one of ours");
        let other = hosts.iter().find(|host| host.name != coordinator).expect("two are left");
        let id = queue_script(other, SLOW, &["--pure"]);
        building_on(other, &id);
        frozen.freeze();
        eventually("another coordinator", s(20), || {
            let status = other.status()?;
            let name = status["coordinator"]["name"].as_str()?.to_owned();
            (name != coordinator && status["quorum"] == true).then_some(())
        });
        let done = wait_for_state(other, &id, "received", 90);
        frozen.thaw();
        ended_exactly_once(&done);
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        for host in &hosts {
            ended_exactly_once(&wait_for_state(host, &id, "received", 10));
        }
    });
}

#[test]
fn a_killed_drones_job_is_built_elsewhere() {
    in_lab("building::a_killed_drones_job_is_built_elsewhere", |lab| {
        let (hosts, mut agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], SLOW, &["--pure"]);
        let drone = building_on(&hosts[0], &id);
        let position = agents.iter().position(|agent| agent.host.name == drone).expect("one of ours");
        agents.remove(position).kill();
        let other = hosts.iter().find(|host| host.name != drone).expect("two are left");
        let done = wait_for_state(other, &id, "received", 90);
        ended_exactly_once(&done);
        assert!(
            done["attempts"].as_array().expect("attempts").iter().any(|attempt| attempt["state"] == "lost"),
            "{done}"
        );
    });
}

#[test]
fn a_cancelled_build_ends_within_five_seconds_and_stays_cancelled() {
    in_lab("building::a_cancelled_build_ends_within_five_seconds_and_stays_cancelled", |lab| {
        let (hosts, _agents) = hive_of::<3>(lab);
        let id = queue_script(&hosts[0], "while true; do echo tick; sleep 0.2; done\n", &[]);
        building_on(&hosts[0], &id);
        assert_eq!(hosts[1].hive(&["job", "cancel", &id]).code, 0);
        wait_for_state(&hosts[2], &id, "cancelled", 5);
        eventually("no attempt runs", s(5), || (hosts[0].status()?["queue"]["building"] == 0).then_some(()));
    });
}

#[test]
fn a_debian_package_is_built_from_its_source_and_fetched_from_a_machine_that_shares_nothing() {
    in_lab(
        "building::a_debian_package_is_built_from_its_source_and_fetched_from_a_machine_that_shares_nothing",
        |lab| {
            let (hosts, _agents) = hive_of::<3>(lab);
            write_debian_source(&hosts[1].tmp().join("greeting"));
            let answer = hosts[1].hive(&["queue", "add", "--backend", "debian", "/tmp/greeting", "--json"]);
            assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
            fs::remove_dir_all(hosts[1].tmp().join("greeting")).expect("sources gone");
            let value: Value = serde_json::from_str(&answer.stdout).expect("JSON");
            let id = value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned();
            let done = wait_for_state(&hosts[0], &id, "received", 150);
            ended_exactly_once(&done);
            let names: Vec<&str> = done["artifacts"]
                .as_array()
                .expect("list")
                .iter()
                .filter_map(|artifact| artifact["name"].as_str())
                .collect();
            for ending in [".deb", ".changes", ".buildinfo"] {
                assert!(names.iter().any(|name| name.ends_with(ending)), "{ending} in {names:?}");
            }
            let builder = done["attempts"].as_array().expect("attempts").last().expect("one")["node"].clone();
            let other = hosts.iter().find(|host| builder != host.name.as_str()).expect("another host");
            let deb = names.iter().find(|name| name.ends_with(".deb") && !name.contains("-dbgsym")).expect("deb");
            let answer = other.hive(&["artifact", "get", &id, deb, "-o", "/tmp"]);
            assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
            let mut inspect = other.command("dpkg-deb");
            inspect.arg("--contents").arg(format!("/tmp/{deb}"));
            let listing = crate::harness::run(inspect);
            assert!(listing.stdout.contains("usr/bin/greeting"), "{}{}", listing.stdout, listing.stderr);
        },
    );
}

/// A small native package that really compiles.
pub fn write_debian_source(directory: &Path) {
    fs::create_dir_all(directory.join("debian/source")).expect("debian/");
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).expect("source file");
    write("greeting.c", "#include <stdio.h>\nint main(void) { puts(\"hello from the hive\"); return 0; }\n");
    write(
        "Makefile",
        "all: greeting\ngreeting: greeting.c\n\t$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $<\n\
         install:\n\tinstall -D -m 0755 greeting $(DESTDIR)/usr/bin/greeting\nclean:\n\trm -f greeting\n",
    );
    write(
        "debian/control",
        "Source: greeting\nSection: misc\nPriority: optional\nMaintainer: Hive Lab <lab@example.invalid>\nBuild-Depends: debhelper-compat (= 13)\nStandards-Version: 4.6.2\n\nPackage: greeting\nArchitecture: any\nDepends: ${shlibs:Depends}, ${misc:Depends}\nDescription: says hello\n A package that the lab builds.\n",
    );
    write(
        "debian/changelog",
        "greeting (1.0) unstable; urgency=low\n\n  * First.\n\n -- Hive Lab <lab@example.invalid>  Sat, 08 Nov 2025 12:34:56 +0000\n",
    );
    write("debian/rules", "#!/usr/bin/make -f\n%:\n\tdh $@\n");
    write("debian/source/format", "3.0 (native)\n");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory.join("debian/rules"), fs::Permissions::from_mode(0o755)).expect("chmod");
}
