use std::sync::Mutex;

use super::*;

/// Answers as recorded, in order, and remembers what was run.
struct Recorded {
    answers: Mutex<Vec<(i32, &'static str)>>,
    ran: Mutex<Vec<String>>,
}

impl Recorded {
    fn new(answers: &[(i32, &'static str)]) -> Self {
        Self { answers: Mutex::new(answers.iter().rev().copied().collect()), ran: Mutex::default() }
    }

    fn ran(&self) -> Vec<String> {
        self.ran.lock().expect("not poisoned").clone()
    }
}

impl Runner for Recorded {
    fn run<'a>(&'a self, invocation: &'a Invocation, log: LogLine<'a>) -> BoxFuture<'a, io::Result<Finished>> {
        self.ran.lock().expect("not poisoned").push(invocation.argv.join(" "));
        let (code, output) = self.answers.lock().expect("not poisoned").pop().expect("one answer per run");
        output.lines().for_each(log);
        Box::pin(std::future::ready(Ok(Finished { exit_code: Some(code), output: output.to_owned() })))
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn debian(mode: PackagesMode, packages: &[&str], runner: &Recorded) -> PackagesState {
    apply(mode, Some(Family::Debian), &names(packages), runner, &mut |_| {}).await
}

const GIT_IS_THERE: (i32, &str) =
    (1, "git\tinstalled\nmaven\tconfig-files\ndpkg-query: no packages found matching ansible\n");

#[tokio::test]
async fn only_what_is_missing_is_installed() {
    let runner = Recorded::new(&[GIT_IS_THERE, (0, "Setting up ansible\n")]);
    let state = debian(PackagesMode::On, &["ansible", "git", "maven"], &runner).await;
    assert_eq!(state, PackagesState::Installed(names(&["ansible", "maven"])));
    assert_eq!(state.to_string(), "installed");
    assert_eq!(
        runner.ran(),
        [
            "dpkg-query -W -f=${Package}\\t${db:Status-Status}\\n -- ansible git maven",
            "apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold -- ansible maven",
        ]
    );
    let env = install(Family::Debian, &[]).env;
    assert!(env.contains(&("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())));

    let runner = Recorded::new(&[(0, "git\tinstalled\n")]);
    assert_eq!(debian(PackagesMode::On, &["git"], &runner).await, PackagesState::Installed(vec![]));
}

#[tokio::test]
async fn lists_that_do_not_know_a_package_are_fetched_once() {
    let unknown = (100, "Reading package lists...\nE: Unable to locate package ansible\n");
    let runner = Recorded::new(&[(1, ""), unknown, (0, ""), (0, "")]);
    assert_eq!(debian(PackagesMode::On, &["ansible"], &runner).await.to_string(), "installed");
    assert_eq!(runner.ran()[2], "apt-get update -o DPkg::Lock::Timeout=120");

    let runner = Recorded::new(&[(1, ""), unknown, (0, ""), unknown]);
    let state = debian(PackagesMode::On, &["ansible"], &runner).await;
    assert_eq!(state.to_string(), "failed: apt-get: Unable to locate package ansible (exit code 100)");

    let runner = Recorded::new(&[(1, ""), unknown, (100, "E: no network\n")]);
    let state = debian(PackagesMode::On, &["ansible"], &runner).await;
    assert_eq!(state.to_string(), "failed: apt-get update: no network (exit code 100)");

    let denied = (100, "E: Could not open lock file - open (13: Permission denied)\nE: are you root?\n");
    let runner = Recorded::new(&[(1, ""), denied]);
    let state = debian(PackagesMode::On, &["ansible"], &runner).await;
    assert!(state.to_string().contains("Permission denied"), "{state}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_installed_and_a_mode_of_off_runs_nothing() {
    let simulated = "NOTE: This is only a simulation!\nInst libjson (1.0 Debian:12 [amd64])\nInst maven (3.8.7-1)\nConf maven (3.8.7-1)\n";
    let runner = Recorded::new(&[GIT_IS_THERE, (0, simulated)]);
    let state = debian(PackagesMode::DryRun, &["git", "maven"], &runner).await;
    assert_eq!(state, PackagesState::DryRun(names(&["libjson", "maven"])));
    assert_eq!(state.to_string(), "dry-run");
    assert_eq!(runner.ran()[1], "apt-get -s install -y --no-install-recommends -- maven");

    let runner = Recorded::new(&[]);
    assert_eq!(debian(PackagesMode::Off, &["git"], &runner).await.to_string(), "off");
    assert_eq!(debian(PackagesMode::On, &[], &runner).await, PackagesState::Installed(vec![]));
    let state = apply(PackagesMode::On, None, &names(&["git"]), &runner, &mut |_| {}).await;
    assert!(state.to_string().starts_with("failed: no package manager"));
}

#[tokio::test]
async fn portage_is_called_with_its_own_words() {
    let runner = Recorded::new(&[(
        0,
        "[ebuild  N     ] dev-java/maven-bin-3.9.6 \n[binary  N     ] dev-vcs/git-2.43.0 USE=\"x\"\n",
    )]);
    let packages = names(&["dev-java/maven-bin", "dev-vcs/git"]);
    let state = apply(PackagesMode::DryRun, Some(Family::Gentoo), &packages, &runner, &mut |_| {}).await;
    assert_eq!(state, PackagesState::DryRun(names(&["dev-java/maven-bin-3.9.6", "dev-vcs/git-2.43.0"])));
    assert_eq!(runner.ran(), ["emerge --pretend --noreplace --quiet --color=n dev-java/maven-bin dev-vcs/git"]);

    let unknown = "\nemerge: there are no ebuilds to satisfy \"dev-java/maven-bin\".\n\n";
    let runner = Recorded::new(&[(1, unknown)]);
    let state = apply(PackagesMode::On, Some(Family::Gentoo), &packages[..1], &runner, &mut |_| {}).await;
    assert_eq!(
        state.to_string(),
        "failed: emerge: there are no ebuilds to satisfy \"dev-java/maven-bin\". (exit code 1)"
    );
    assert_eq!(runner.ran(), ["emerge --noreplace --quiet --quiet-build=y --ask=n --color=n dev-java/maven-bin"]);
}

#[tokio::test]
async fn names_outside_the_grammar_reach_no_package_manager() {
    for (family, bad) in [
        (Family::Debian, "--allow-unauthenticated"),
        (Family::Debian, "./evil.deb"),
        (Family::Debian, "git=1.0"),
        (Family::Debian, "git;reboot"),
        (Family::Gentoo, "@world"),
        (Family::Gentoo, "--unmerge"),
        (Family::Gentoo, "/etc/passwd"),
    ] {
        for mode in [PackagesMode::On, PackagesMode::DryRun] {
            let runner = Recorded::new(&[]);
            let state = apply(mode, Some(family), &names(&[bad]), &runner, &mut |_| {}).await;
            assert!(state.to_string().ends_with("is no package name"), "{bad}: {state}");
        }
    }
    let many = vec!["git".to_owned(); PACKAGES_MAX + 1];
    assert!(check_names(Family::Debian, &many).is_err());
}

#[tokio::test]
async fn the_local_runner_streams_lines_and_keeps_the_end() {
    let run = |script: &str, timeout_ms| {
        let argv = names(&["/bin/sh", "-c", script]);
        Invocation { argv, env: vec![("X".to_owned(), "y".to_owned())], timeout_ms }
    };
    let mut lines: Vec<String> = vec![];
    let script = "echo $X; printf 'Progress 1\\rProgress 2\\n'; echo err >&2; printf '\\377 end'; exit 7";
    let finished = LocalRunner.run(&run(script, 5_000), &mut |line| lines.push(line.to_owned())).await.expect("runs");
    lines.sort();
    assert_eq!(lines, ["Progress 2", "err", "y", "\u{fffd} end"]);
    assert_eq!(finished.exit_code, Some(7));

    let (mut count, mut longest) = (0, 0);
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end";
    let finished = LocalRunner
        .run(&run(script, 20_000), &mut |line| {
            count += 1;
            longest = longest.max(line.len());
        })
        .await
        .expect("runs");
    assert!(finished.output.len() <= OUTPUT_KEPT_BYTES && finished.output.ends_with("the end\n"));
    assert!(count > 700 && longest <= LINE_MAX_BYTES, "{count} lines of up to {longest}");

    let error = LocalRunner.run(&run("sleep 60", 100), &mut |_| {}).await.expect_err("hangs");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let missing = Invocation { argv: names(&["/nonexistent/apt-get"]), env: vec![], timeout_ms: 1_000 };
    assert!(LocalRunner.run(&missing, &mut |_| {}).await.is_err());
}

/// The real package manager of a Debian or Ubuntu machine, without changing anything.
#[tokio::test]
async fn the_real_apt_answers_as_expected() {
    let mut log = vec![];
    let there = names(&["dpkg", "libc6"]);
    let state =
        apply(PackagesMode::On, Some(Family::Debian), &there, &LocalRunner, &mut |line| log.push(line.to_owned()))
            .await;
    assert_eq!(state, PackagesState::Installed(vec![]), "{log:?}");
    let absent = names(&["dpkg", "hive-has-no-such-package"]);
    let state = apply(PackagesMode::DryRun, Some(Family::Debian), &absent, &LocalRunner, &mut |_| {}).await;
    let expected = "failed: apt-get: Unable to locate package hive-has-no-such-package (exit code 100); a real run would fetch the package lists first";
    assert_eq!(state.to_string(), expected);
    let simulated =
        LocalRunner.run(&simulate(Family::Debian, &names(&["dpkg"])), &mut |_| {}).await.expect("apt-get runs");
    assert_eq!((simulated.exit_code, would_install(Family::Debian, &simulated.output)), (Some(0), vec![]));
}

#[tokio::test]
async fn health_checks_succeed_fail_and_end() {
    let check = |argv: &[&str]| {
        let argv = names(argv);
        async move { health_check(&argv, Duration::from_millis(300)).await }
    };
    assert_eq!(check(&[]).await, Ok(()));
    assert_eq!(check(&["true"]).await, Ok(()));
    assert_eq!(check(&["sh", "-c", "echo not fit >&2; exit 2"]).await, Err("sh: not fit (exit code 2)".to_owned()));
    assert!(check(&["hive-has-no-such-program"]).await.expect_err("absent").starts_with("hive-has-no-such-program: "));
    assert!(check(&["sleep", "60"]).await.expect_err("hangs").contains("no answer within"));
}
