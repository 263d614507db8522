//! Finished packages come into the staging directory of whichever node has one, once, and are found from everywhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::building::{hive_of, wait_for_state, write_debian_source};
use crate::gpkg;
use crate::harness::{Host, eventually, in_lab, run, s};

/// The body of an answer and its status.
fn get(host: &Host, path: &str) -> (String, String) {
    let mut command = host.command("curl");
    command.args(["-s", "--path-as-is", "--max-time", "20", "-w", "\n%{http_code}"]);
    command.arg(format!("http://127.0.0.1:8100{path}"));
    let answer = run(command).stdout;
    let (body, code) = answer.rsplit_once('\n').expect("a status");
    (body.to_owned(), code.trim().to_owned())
}

fn staged(host: &Host, atom: &str) -> Value {
    let (body, _) = get(host, &format!("/api/v2/staged?atom={atom}"));
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[test]
fn results_of_the_time_before_come_into_staging_once_and_uploads_are_checked_from_any_node() {
    in_lab("staging::results_of_the_time_before_come_into_staging_once_and_uploads_are_checked_from_any_node", |lab| {
        let (hosts, mut agents) = hive_of::<3>(lab);
        write_debian_source(&hosts[1].tmp().join("greeting"));
        let queued = hosts[1].json(&["queue", "add", "--backend", "debian", "/tmp/greeting"]).expect("queued");
        let id = queued["jobs"][0]["id"].as_str().expect("id").to_owned();
        wait_for_state(&hosts[0], &id, "received", 150);
        let answer = staged(&hosts[0], "app-misc/hello-1.0");
        let why = answer["data"]["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.starts_with("no node of the hive has a staging directory"), "{answer}");

        let keeper = &hosts[2];
        agents.pop().expect("the third").terminate();
        let agent = keeper.start(&["--staging-path", "/tmp/staging"]);
        let pool = keeper.tmp().join("staging/debian");
        let changes = || {
            let arch = fs::read_dir(&pool).ok()?.flatten().next()?.path().join("pool/g/greeting");
            let mut files: Vec<_> = fs::read_dir(arch).ok()?.flatten().map(|entry| entry.path()).collect();
            files.sort();
            files.iter().any(|file| file.extension().is_some_and(|ending| ending == "changes")).then_some(files)
        };
        let files = eventually("the result is staged", s(60), changes);
        assert!(files.iter().any(|file| file.extension().is_some_and(|ending| ending == "deb")), "{files:?}");
        let inodes = || files.iter().map(|file| fs::metadata(file).expect("there").ino()).collect::<Vec<_>>();
        let before = inodes();
        eventually("others know who has staging", s(30), || {
            let members = hosts[0].status()?["members"].clone();
            let has = |member: &&Value| member["staging"] == true && member["name"] == keeper.name.as_str();
            members.as_array()?.iter().find(has).map(drop)
        });

        let deb = files.iter().find(|file| file.extension().is_some_and(|ending| ending == "deb")).expect("deb");
        let below = deb.strip_prefix(keeper.tmp().join("staging")).expect("below").display().to_string();
        assert_eq!(get(keeper, &format!("/staging/{below}")).1, "200");
        for path in ["/staging/debian/../../etc/passwd", "/staging/.hive/progress.json", "/staging/debian/%2e%2e/x/y"] {
            let (body, code) = get(keeper, path);
            assert!(matches!(code.as_str(), "404" | "400"), "{path}: {code} {body}");
        }
        assert_eq!(get(&hosts[0], &format!("/staging/{below}")).1, "404", "only who has it serves it");

        let upload = keeper.tmp().join("staging/app-misc");
        fs::create_dir_all(&upload).expect("mkdir");
        let good = gpkg::package("app-misc", "hello-1.0", None, b"hello");
        let write = |bytes: &[u8]| fs::write(upload.join("hello-1.0.gpkg.tar"), bytes).expect("writes");
        let ask = || staged(&hosts[0], "=app-misc/hello-1.0")["data"].clone();
        assert_eq!(ask()["found"], false);
        write(&good);
        let found = ask();
        assert_eq!((&found["found"], &found["path"]), (&true.into(), &"app-misc/hello-1.0.gpkg.tar".into()), "{found}");
        assert_eq!(found["node"], keeper.name.as_str());
        write(&good[..good.len() - 1_024 * 3]);
        let why = ask()["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("no whole package"), "{why}");
        write(b"junk");
        let why = ask()["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("was removed") && !upload.join("hello-1.0.gpkg.tar").exists(), "{why}");

        agent.kill();
        eventually("one that is away is not taken for one that has nothing", s(40), || {
            let answer = staged(&hosts[0], "app-misc/hello-1.0");
            (answer["ok"] == false && answer["error"]["code"] == "unreachable").then_some(())
        });
        fs::remove_file(keeper.tmp().join("staging/.hive/progress.json")).expect("it was saved");
        let _agent = keeper.start(&["--staging-path", "/tmp/staging"]);
        eventually("it is there again", s(60), || {
            keeper.tmp().join("staging/.hive/progress.json").exists().then_some(())
        });
        assert_eq!(inodes(), before, "nothing is put twice");
        assert_eq!(changes().expect("there").len(), files.len());
    });
}
