//! Row 21 of the attack table: secrets are where their owners put them, and nowhere else. Canaries stand in every place that takes one;
//! afterwards everything that agents wrote, keep in their environment, or hand out is searched for them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::building::{queue_script, wait_for_state};
use crate::forming::{one_hive, roles};
use crate::harness::{Agent, Host, SECRET, eventually, in_lab, run, s};

const JOB_SECRET: &str = "canary-of-the-shop-5f0c7d1be29a";

/// Files below a directory that hold these bytes, besides those that are meant to.
fn holding(directory: &Path, canary: &[u8], meant: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file()
                && !meant.contains(&path)
                && fs::read(&path).is_ok_and(|bytes| bytes.windows(canary.len()).any(|window| window == canary))
            {
                found.push(path);
            }
        }
    }
    found
}

fn keep_job_secret(host: &Host) {
    let directory = host.etc().join("job-secrets");
    fs::create_dir(&directory).expect("makes");
    fs::write(directory.join("DEPLOY_TOKEN"), JOB_SECRET).expect("writes");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    mode(&directory.join("DEPLOY_TOKEN"), 0o600);
    mode(&directory, 0o700);
}

/// They stand nowhere on this host but where they were put, and not in the agent's environment or arguments.
fn look_for(canaries: &[(&str, &str)], host: &Host, agent: &Agent) {
    let root = host.state().parent().expect("a host's directory").to_owned();
    let meant = ["shared_secret", "admin_key", "job-secrets/DEPLOY_TOKEN"].map(|name| host.etc().join(name));
    assert_eq!(holding(&host.etc(), SECRET.as_bytes(), &[]), [meant[0].clone()], "the search finds what is there");
    for &(what, canary) in canaries {
        let found = holding(&root, canary.as_bytes(), &meant);
        assert!(found.is_empty(), "{what} stands in {found:?}");
        for process in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{}/{process}", agent.pid())).expect("readable for root");
            assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()), "{what} in {process}");
        }
    }
}

#[test]
fn row_21_secrets_lie_where_their_owners_put_them_and_nowhere_else() {
    in_lab("canaries::row_21_secrets_lie_where_their_owners_put_them_and_nowhere_else", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        hosts.iter().for_each(keep_job_secret);
        let agents: Vec<_> = hosts.iter().map(|host| host.start(&["--admin", "0.0.0.0:8093"])).collect();
        one_hive(&[&hosts[0], &hosts[1]], 40);
        roles(&[&hosts[0], &hosts[1]], 20);
        let key = eventually("the admin key", s(15), || {
            hosts.iter().find_map(|host| fs::read_to_string(host.etc().join("admin_key")).ok())
        });
        let key = key.trim().to_owned();
        let made =
            hosts[0].json(&["admin", "token", "add", "ci", "--scope", "admin", "--expires", "1d"]).expect("made");
        let token = made["token"].as_str().expect("text").to_owned();

        // Every way in which a secret passes an agent: as header, in a query, as a cookie, in a body, signed, and in a build.
        let ask = |arguments: &[&str]| {
            let mut curl = hosts[0].command("curl");
            curl.args(["-s", "-k", "-m", "15", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments);
            run(curl).stdout
        };
        let admin = hosts[1].url(8093);
        for secret in [&key, &token] {
            let control = eventually("the other node knows the key", s(15), || {
                let body = ["-d", "{\"action\":\"resume\"}"];
                let header = format!("X-Admin-Key: {secret}");
                let code = ask(&[&["-H", header.as_str()], &body[..], &[&format!("{admin}/api/v2/control")]].concat());
                (code == "200").then_some(code)
            });
            assert_eq!(control, "200");
            ask(&["-H", &format!("Authorization: Bearer {secret}"), &format!("{admin}/api/v2/audit")]);
            ask(&[&format!("{admin}/api/v1/events?key={secret}&admin_key={secret}")]);
            ask(&["-d", &format!("{{\"key\":\"{secret}\"}}"), &format!("{admin}/api/v2/session")]);
            ask(&["-d", "{\"sql\":\"SELECT 1\"}", &format!("{admin}/api/v2/sql?token={secret}")]);
            ask(&[
                "-H",
                &format!("X-Admin-Key: {secret}x"),
                &format!("http://{}:8100/api/v2/status", hosts[1].address),
            ]);
        }
        let script = "test ${#DEPLOY_TOKEN} -gt 10\nmkdir out\necho \"[$DEPLOY_TOKEN]\"\nenv | sort > /dev/null\necho made > out/x\n";
        let id = queue_script(&hosts[0], script, &["--secret", "DEPLOY_TOKEN"]);
        wait_for_state(&hosts[0], &id, "received", 60);
        assert!(hosts[1].hive(&["logs", &id]).stdout.contains("[***]"));
        for host in &hosts {
            for file in ["all.jsonl", "all.pcapng"] {
                let export = host.hive(&["wire", "--node", "all", "--export", &format!("/tmp/{file}")]);
                assert_eq!(export.code, 0, "{export:?}");
            }
        }

        let canaries = [
            ("the hive's secret", SECRET),
            ("the admin key", &key),
            ("a token", &token),
            ("a job's secret", JOB_SECRET),
        ];
        for (host, agent) in hosts.iter().zip(&agents) {
            look_for(&canaries, host, agent);
        }
    });
}
