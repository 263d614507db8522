//! How long a line of a build takes to whoever watches it from another node.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Effort;
use crate::client::{get, socket_of};
use crate::harness::{Host, Lab, s};
use crate::hive_of::{hive_of, watch};
use crate::row::{Judged, Row};

/// Prints the wall clock in nanoseconds and a line feed, again and again. All hosts of the lab have one clock.
const SCRIPT: &str = "i=0\nwhile [ $i -lt LINES ]; do date +%s%N; sleep 0.05; i=$((i+1)); done\n";

/// Since 1970.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// The drone of the job, once it builds.
fn drone_of(host: &Host, job: &str) -> String {
    watch("the job builds", s(60), Duration::from_millis(20), || {
        let job = get(host, &format!("/api/v2/jobs/{job}"))?;
        let last = job["attempts"].as_array()?.last()?.clone();
        (last["state"] == "building").then(|| last["node"].as_str().map(str::to_owned)).flatten()
    })
}

fn queue(host: &Host, lines: usize) -> String {
    let sources = host.tmp().join("sources");
    fs::create_dir_all(&sources).expect("source directory");
    fs::write(sources.join("build.sh"), SCRIPT.replace("LINES", &lines.to_string())).expect("script");
    let arguments =
        ["queue", "add", "--backend", "command", "--pure", "--dir", "/tmp/sources", "--json", "--", "sh", "build.sh"];
    let answer = host.hive(&arguments);
    let value: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned()
}

/// From the moment a build asks for the time to the moment a watcher on another node has the line, in a hive of three.
pub fn line_to_watcher(lab: &mut Lab, effort: Effort) -> Vec<Row> {
    let (hosts, _agents) = hive_of(lab, 3, &[]);
    let lines = effort.pick(400, 60);
    let job = queue(&hosts[0], lines);
    let drone = drone_of(&hosts[0], &job);
    let watcher = hosts.iter().find(|host| host.name != drone).expect("two others");
    let mut stream = UnixStream::connect(socket_of(watcher)).expect("the watcher's agent answers");
    stream.set_read_timeout(Some(s(30))).expect("a time-out");
    // Version 1.0, so that the lines come without chunks around them.
    let asked = wall_clock();
    write!(stream, "GET /api/v2/jobs/{job}/log?follow=1 HTTP/1.0\r\nhost: localhost\r\n\r\n").expect("asks");
    let (mut samples, mut backlog) = (Vec::new(), 0);
    for line in BufReader::new(stream).lines() {
        let line = line.expect("a line of the log");
        let now = wall_clock();
        let Some(nanos) = line.trim().parse().ok().filter(|_| line.trim().len() == 19) else { continue };
        let printed = Duration::from_nanos(nanos);
        if printed < asked {
            backlog += 1;
        } else {
            samples.push(now.saturating_sub(printed));
        }
    }
    let missing = lines.saturating_sub(samples.len() + backlog);
    vec![
        Row::times("log line from drone to watcher", &samples)
            .goal(Judged::P99, 200.0)
            .note("from `date` in the build to a watcher on another node, three nodes, 20 lines/s")
            .wrong((missing > 0).then(|| format!("{missing} lines did not come"))),
    ]
}
