//! Portage on machines that boot: packages as Gentoo builds them, by root through the helper, from one drone to the other.

use std::fs;
use std::path::Path;

use hive::engine::id::{JobId, SessionId};
use hive::engine::job::{JobSpec, Work};
use serde_json::{Value, json};

use crate::harness::{Kind, Machine, Roots, booted};
use crate::lab::{Host, Lab, SECRET, eventually, s};
use crate::openrc::BUILDER;
use crate::systemd::{hive_of_two, member_again};

/// A machine with Portage that a node installed, with a label of its own.
fn drone(lab: &mut Lab, roots: &Roots, seed: &Host, hive_id: &str, label: &str, more: &str) -> Machine {
    let mut machine = roots.machine(Kind::Gentoo, lab.bare_host());
    machine.write("etc/build/shared_secret", &format!("{SECRET}\n"), 0o600);
    machine.write("etc/build/hive.toml", &format!("label = [\"{label}\"]\n{more}"), 0o644);
    let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles");
    for role in fs::read_dir(roles).expect("the shipped roles").flatten() {
        machine.copy(&role.path(), &format!("etc/build/roles/{}", role.file_name().display()));
    }
    machine.write("etc/build/roles/builder.toml", BUILDER, 0o644);
    machine.power_on();
    machine.wait_until_up(s(60));
    let script = format!(
        "curl -fsS -o /root/bootstrap.sh http://{0}:8100/bootstrap.sh && sh /root/bootstrap.sh {0} --deadline 40",
        seed.address
    );
    let answer = machine.run(&["sh", "-c", &script]);
    assert_eq!(answer.code, 0, "{}{}\n{}", answer.stdout, answer.stderr, machine.log());
    member_again(&machine, seed, hive_id, "builder", 30);
    machine
}

/// Queues one atom on this machine, for this machine, and waits for its end.
fn build(machine: &Machine, label: &str, atom: &str) -> Value {
    let id = JobId(uuid::Uuid::new_v4());
    let work = Work::Portage { atom: atom.to_owned(), tree: Some("Sat, 21 Nov 2026 00:45:01 +0000".to_owned()) };
    let labels = [label.to_owned()].into();
    let spec = JobSpec { pure: true, labels, ..JobSpec::new(id, atom, work) };
    let request = json!({ "session": SessionId(uuid::Uuid::new_v4()), "jobs": [spec] });
    machine.write("root/job.json", &request.to_string(), 0o600);
    let submit = "curl -fsS --unix-socket /run/hive/hive.sock -H 'content-type: application/json' --data-binary @/root/job.json http://hive/api/v2/jobs";
    let answer = machine.run(&["sh", "-c", submit]);
    assert_eq!(answer.code, 0, "{answer:?}\n{}", machine.log());
    let id = id.to_string();
    eventually(&format!("{atom} is built on {}", machine.name()), s(90), || {
        let job = machine.json(&["job", "show", &id])?;
        assert!(job["state"] != "blocked" && job["state"] != "failed", "{job}\n{}", machine.log());
        (job["state"] == "received").then_some(job)
    })
}

fn artifact(job: &Value) -> (&str, &str) {
    let artifacts = job["artifacts"].as_array().expect("artifacts");
    assert_eq!(artifacts.len(), 1, "{job}");
    (job["id"].as_str().expect("id"), artifacts[0]["name"].as_str().expect("name"))
}

/// Stands in: Debian with OpenRC and Portage, and a tree of two packages, for Gentoo; a plain web server for the hive's staging.
#[test]
fn a_second_gentoo_host_installs_what_the_first_one_built() {
    booted("gentoo::a_second_gentoo_host_installs_what_the_first_one_built", |lab, roots| {
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let first = drone(lab, roots, &hosts[0], &hive_id, "drone-one", "");
        let job = build(&first, "drone-one", "dev-libs/libswarm");
        let (id, name) = artifact(&job);
        assert_eq!(name, "libswarm-1.0-1.gpkg.tar");
        let publish = format!(
            "set -e; mkdir -p /srv/staging/dev-libs/libswarm; cd /srv/staging; hive artifact get {id} {name} -o dev-libs/libswarm/{name} >/dev/null; \
             PKGDIR=/srv/staging emaint binhost --fix >/dev/null; setsid python3 -m http.server 8200 >/dev/null 2>&1 </dev/null &"
        );
        assert!(first.sh(&publish).is_some(), "{}", first.log());
        let url = format!("http://{}:8200/", first.address());
        eventually("the package is served", s(20), || first.sh(&format!("curl -fsS {url}Packages")));

        let more = format!("[build]\nbinhost = \"{url}\"\n");
        let second = drone(lab, roots, &hosts[0], &hive_id, "drone-two", &more);
        let job = build(&second, "drone-two", "app-misc/hello-swarm");
        let (id, name) = artifact(&job);
        assert_eq!(name, "hello-swarm-1.0-1.gpkg.tar");
        let log = second.run(&["hive", "logs", id]).stdout;
        assert!(log.contains("Emerging binary (1 of 2) dev-libs/libswarm-1.0"), "{log}");
        let run = second.sh("ldconfig /usr/lib64 && hello-swarm");
        assert_eq!(run.as_deref(), Some("hello, swarm!"), "installed, and it runs");

        // Resolved by one of them, built in order by whoever can.
        let resolved = second.run(&[
            "hive",
            "queue",
            "add",
            "--backend",
            "portage",
            "app-misc/hello-swarm",
            "--empty-tree",
            "--wait",
            "--json",
        ]);
        assert_eq!(resolved.code, 0, "{resolved:?}\n{}", second.log());
        let session: Value = serde_json::from_str(&resolved.stdout).expect("JSON");
        let done = (&session["data"]["phase"], &session["data"]["completed_packages"]);
        assert_eq!(done, (&json!("completed"), &json!(3)), "the resolution and two packages: {session}");
        let unknown = first.run(&["hive", "queue", "add", "--backend", "portage", "app-misc/helo-swarm", "--wait"]);
        assert_eq!(unknown.code, 1, "{unknown:?}");
        assert!(
            (unknown.stdout.clone() + &unknown.stderr).contains("app-misc/hello-swarm"),
            "the nearest name: {unknown:?}"
        );
        for machine in [&first, &second] {
            assert_eq!(machine.sh("ls /var/cache/hive/portage").as_deref(), Some(""), "nothing is left behind");
            let packages = "test ! -e /var/cache/binpkgs || find /var/cache/binpkgs -name '*.gpkg.tar'";
            assert_eq!(machine.sh(packages).as_deref(), Some(""), "nothing went to the host's own packages");
        }
    });
}
