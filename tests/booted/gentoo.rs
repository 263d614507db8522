//! Portage on machines that boot: packages as Gentoo builds them, by root through the helper, from one drone to the other.

use std::fs;
use std::path::Path;

use hive::engine::id::{JobId, SessionId};
use hive::engine::job::{JobSpec, Work};
use serde_json::{Value, json};

use crate::gpkg::Signer;
use crate::harness::{Kind, Machine, Roots, booted};
use crate::lab::{Host, Lab, SECRET, eventually, s};
use crate::openrc::BUILDER;
use crate::systemd::{hive_of_two, member_again};

/// The tree that every machine has when it is made.
const TREE: &str = "Sat, 21 Nov 2026 00:45:01 +0000";
/// Only what is signed counts, for hive on every node.
const SIGNED: &str = "portage_verify_keys = \"/etc/build/portage.gpg\"\nportage_signatures = \"demand\"\n";
/// The library's package below the staging directory of whoever has one.
const STAGED: &str = "/var/cache/hive/staging/portage/amd64/dev-libs/libswarm/libswarm-1.0-1.gpkg.tar";

/// A machine with Portage that a node installed, with a label of its own.
fn drone(
    lab: &mut Lab,
    roots: &Roots,
    (seed, hive_id): (&Host, &str),
    label: &str,
    more: &str,
    prepare: impl FnOnce(&Machine),
) -> Machine {
    let mut machine = roots.machine(Kind::Gentoo, lab.bare_host());
    machine.write("etc/build/shared_secret", &format!("{SECRET}\n"), 0o600);
    machine.write("etc/build/hive.toml", &format!("label = [\"{label}\"]\n{more}"), 0o644);
    let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles");
    for role in fs::read_dir(roles).expect("the shipped roles").flatten() {
        machine.copy(&role.path(), &format!("etc/build/roles/{}", role.file_name().display()));
    }
    machine.write("etc/build/roles/builder.toml", BUILDER, 0o644);
    prepare(&machine);
    machine.power_on();
    machine.wait_until_up(s(60));
    let script = format!(
        "if [ -d /etc/portage/gnupg ]; then chmod -R go-rwx /etc/portage/gnupg && gpg --homedir /etc/portage/gnupg --batch --check-trustdb; fi; \
         curl -fsS -o /root/bootstrap.sh http://{0}:8100/bootstrap.sh && sh /root/bootstrap.sh {0} --deadline 40",
        seed.address
    );
    let answer = machine.run(&["sh", "-c", &script]);
    assert_eq!(answer.code, 0, "{}{}\n{}", answer.stdout, answer.stderr, machine.log());
    member_again(&machine, seed, hive_id, "builder", 30);
    machine
}

/// Portage there signs what it packs and takes nothing that is not signed; the key is trusted by Portage and by hive.
fn sign(machine: &Machine, signer: &Signer) {
    let home = signer.home.path();
    let keys = fs::read_dir(home.join("private-keys-v1.d")).expect("keys").flatten();
    for key in keys {
        machine.copy(&key.path(), &format!("etc/portage/gnupg/private-keys-v1.d/{}", key.file_name().display()));
    }
    for file in ["pubring.kbx", "trustdb.gpg"] {
        machine.copy(&home.join(file), &format!("etc/portage/gnupg/{file}"));
    }
    machine.copy(&signer.keys(), "etc/build/portage.gpg");
    let conf = "FEATURES=\"-sandbox -usersandbox binpkg-signing binpkg-request-signature\"\n\
                BINPKG_GPG_SIGNING_GPG_HOME=\"/etc/portage/gnupg\"\nBINPKG_GPG_SIGNING_KEY=\"ours@example.invalid\"\n\
                BINPKG_GPG_VERIFY_GPG_HOME=\"/etc/portage/gnupg\"\n\
                GPG_VERIFY_USER_DROP=\"root\"\nGPG_VERIFY_GROUP_DROP=\"root\"\n";
    machine.write("etc/portage/make.conf", conf, 0o644);
}

/// Queues one atom on this machine, for this machine.
fn queue(machine: &Machine, label: &str, atom: &str, tree: &str) -> String {
    let id = JobId(uuid::Uuid::new_v4());
    let work = Work::Portage { atom: atom.to_owned(), tree: Some(tree.to_owned()) };
    let labels = [label.to_owned()].into();
    let spec = JobSpec { pure: true, labels, ..JobSpec::new(id, atom, work) };
    let request = json!({ "session": SessionId(uuid::Uuid::new_v4()), "jobs": [spec] });
    machine.write("root/job.json", &request.to_string(), 0o600);
    let submit = "curl -fsS --unix-socket /run/hive/hive.sock -H 'content-type: application/json' --data-binary @/root/job.json http://hive/api/v2/jobs";
    let answer = machine.run(&["sh", "-c", submit]);
    assert_eq!(answer.code, 0, "{answer:?}\n{}", machine.log());
    id.to_string()
}

/// Waits until it is done.
fn built(machine: &Machine, id: &str, (failed_max, seconds): (usize, u64)) -> Value {
    eventually(&format!("{id} is built on {}", machine.name()), s(seconds), || {
        let job = machine.json(&["job", "show", id])?;
        let failed = job["attempts"].as_array()?.iter().filter(|attempt| attempt["state"] == "failed").count();
        let log = || machine.run(&["hive", "logs", id]).stdout;
        assert!(job["state"] != "blocked" && failed <= failed_max, "{job}\n{}", log());
        (job["state"] == "received").then_some(job)
    })
}

fn build(machine: &Machine, label: &str, atom: &str) -> Value {
    let id = queue(machine, label, atom, TREE);
    built(machine, &id, (0, 150))
}

fn artifact(job: &Value) -> (&str, &str) {
    let artifacts = job["artifacts"].as_array().expect("artifacts");
    assert_eq!(artifacts.len(), 1, "{job}");
    (job["id"].as_str().expect("id"), artifacts[0]["name"].as_str().expect("name"))
}

/// A drone that signs and keeps staging, with the library built and served by hive, and the address of its packages.
fn first_drone(lab: &mut Lab, roots: &Roots, hive: (&Host, &str), signer: &Signer) -> (Machine, String) {
    let more = format!("staging_path = \"/var/cache/hive/staging\"\n[build]\n{SIGNED}");
    let first = drone(lab, roots, hive, "drone-one", &more, |machine| sign(machine, signer));
    let job = build(&first, "drone-one", "dev-libs/libswarm");
    assert_eq!(artifact(&job).1, "libswarm-1.0-1.gpkg.tar");
    let url = format!("http://{}:8100/staging/portage/amd64/", first.address());
    eventually("the package is served by hive", s(60), || {
        first.sh(&format!("curl -fsS {url}Packages | grep -x 'PATH: dev-libs/libswarm/libswarm-1.0-1.gpkg.tar'"))
    });
    assert!(first.has(STAGED.trim_start_matches('/')));
    (first, url)
}

/// Another one, which takes what it needs from there.
fn second_drone(lab: &mut Lab, roots: &Roots, hive: (&Host, &str), signer: &Signer, url: &str) -> Machine {
    let more = format!("[build]\nbinhost = \"{url}\"\n{SIGNED}");
    drone(lab, roots, hive, "drone-two", &more, |machine| sign(machine, signer))
}

/// Stands in: Debian with OpenRC and Portage, and a tree of two packages, for Gentoo.
#[test]
fn a_package_that_was_damaged_in_staging_is_refused_until_it_is_whole_again() {
    booted("gentoo::a_package_that_was_damaged_in_staging_is_refused_until_it_is_whole_again", |lab, roots| {
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let (hive, signer) = ((&hosts[0], hive_id.as_str()), Signer::new("ours"));
        let (first, url) = first_drone(lab, roots, hive, &signer);
        // Four bytes of what is served are others: Portage refuses it, nothing of it is installed, and it is not the package's fault.
        let damage = format!(
            "cp -p {STAGED} /root/whole && printf evil | dd of={STAGED} bs=1 seek=3000 conv=notrunc status=none && touch -r /root/whole {STAGED}"
        );
        assert!(first.sh(&damage).is_some());
        let second = second_drone(lab, roots, hive, &signer, &url);
        let id = queue(&second, "drone-two", "app-misc/hello-swarm", TREE);
        let attempt = eventually("the damaged package is refused", s(120), || {
            let job = second.json(&["job", "show", &id])?;
            job["attempts"].as_array()?.first().filter(|attempt| attempt["state"] == "failed").cloned()
        });
        let log = second.run(&["hive", "logs", &id]).stdout;
        assert_eq!(attempt["class"], "infra", "{attempt}\n{log}");
        assert!(attempt["reason"].as_str().is_some_and(|why| why.contains("came damaged")), "{attempt}\n{log}");
        assert!(second.sh("! test -e /usr/lib64/libswarm.so.1 && ! test -e /usr/bin/hello-swarm").is_some(), "{log}");
        // It is tried again by itself; now the package is whole.
        assert!(first.sh(&format!("cp -p /root/whole {STAGED}")).is_some());
        built(&second, &id, (3, 150));
        assert_eq!(second.sh("ldconfig /usr/lib64 && hello-swarm").as_deref(), Some("hello, swarm!"));
    });
}

/// Stands in: Debian with OpenRC and Portage, and a tree of two packages, for Gentoo.
#[test]
fn a_second_gentoo_host_installs_what_the_first_one_built_and_signed() {
    booted("gentoo::a_second_gentoo_host_installs_what_the_first_one_built_and_signed", |lab, roots| {
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let (hive, signer) = ((&hosts[0], hive_id.as_str()), Signer::new("ours"));
        let (first, url) = first_drone(lab, roots, hive, &signer);
        let second = second_drone(lab, roots, hive, &signer, &url);
        let job = build(&second, "drone-two", "app-misc/hello-swarm");
        let (id, name) = artifact(&job);
        assert_eq!(name, "hello-swarm-1.0-1.gpkg.tar");
        let log = second.run(&["hive", "logs", id]).stdout;
        assert!(log.contains("Emerging binary (1 of 2) dev-libs/libswarm-1.0"), "{log}");
        let run = second.sh("ldconfig /usr/lib64 && hello-swarm");
        assert_eq!(run.as_deref(), Some("hello, swarm!"), "installed, and it runs");

        // Resolved by one of them, built in order by whoever can.
        let queued = second
            .json(&["queue", "add", "--backend", "portage", "app-misc/hello-swarm", "--empty-tree"])
            .expect("queued");
        let session = queued["session"].as_str().expect("a session").to_owned();
        let shown = eventually("the resolved session is built", s(150), || {
            second.json(&["session", "show", &session]).filter(|shown| shown["phase"] == "completed")
        });
        assert_eq!(shown["completed_packages"], 3, "the resolution and two packages: {shown}");
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

/// Stands in: a directory beside it, by rsync, for a mirror of the tree.
#[test]
fn a_gentoo_host_with_an_older_tree_syncs_by_its_helper_before_it_builds() {
    booted("gentoo::a_gentoo_host_with_an_older_tree_syncs_by_its_helper_before_it_builds", |lab, roots| {
        const OLDER: &str = "Fri, 20 Nov 2026 00:45:01 +0000";
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let hive = (&hosts[0], hive_id.as_str());
        let more = "[build]\nportage_sync_interval_s = 8\n";
        let machine = drone(lab, roots, hive, "drone-late", more, |machine| {
            machine.write("var/db/repos/tiny/metadata/timestamp.chk", &format!("{OLDER}\n"), 0o644);
            let conf = "[tiny]\nlocation = /var/db/repos/tiny\nsync-type = rsync\nsync-uri = file:///srv/mirror/\n\
                        sync-rsync-verify-metamanifest = no\nauto-sync = yes\n";
            machine.write("etc/portage/repos.conf", conf, 0o644);
        });
        let id = queue(&machine, "drone-late", "dev-libs/libswarm", TREE);
        // There is no mirror yet: it is told to sync, that fails, and everybody can see so.
        let why = eventually("the failed sync is told of on another node", s(60), || {
            let told = hosts[1].json(&["explain", &id])?;
            let lines = told["details"].as_array()?.clone();
            let line = lines.iter().find(|line| line["name"] == machine.name())?;
            let why = line["why"].as_str()?.to_owned();
            why.contains("that failed").then_some(why)
        });
        let begins = format!("its tree is {OLDER}, the session needs {TREE}; told to sync; that failed ");
        assert!(why.starts_with(&begins), "{why}");
        let status = machine.status().expect("answers");
        assert!(status["notices"].to_string().contains("package tree could not be synced"), "{status}");
        assert!(machine.log().contains("emerge --sync: "), "its output is in the log");
        assert_eq!(machine.json(&["job", "show", &id]).expect("a job")["state"], "needed");

        let mirror = format!(
            "cp -a /var/db/repos/tiny /root/mirror && echo '{TREE}' >/root/mirror/metadata/timestamp.chk && mv /root/mirror /srv/mirror"
        );
        assert!(machine.sh(&mirror).is_some());
        let job = built(&machine, &id, (0, 120));
        assert_eq!(job["attempts"].as_array().map(Vec::len), Some(1), "it got no work before it had the tree: {job}");
        assert_eq!(machine.sh("cat /var/db/repos/tiny/metadata/timestamp.chk").as_deref(), Some(TREE));
        assert_eq!(machine.sh("stat -c %U /var/db/repos/tiny/metadata/timestamp.chk").as_deref(), Some("root"));
        let nodes = machine.sh(&format!("curl -fsS http://{}:8100/api/v2/nodes", hosts[0].address));
        assert!(
            nodes.is_some_and(|nodes| nodes.contains(TREE) && !nodes.contains(OLDER)),
            "the hive knows its new tree"
        );
    });
}
