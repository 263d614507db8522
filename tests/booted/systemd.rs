//! Debian with systemd: hive gets onto it by cloud-init and by the installer, and stays.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Kind, Machine, booted};
use crate::lab::{Agent, Host, Lab, SECRET, eventually, s};

/// What a person gets to see and fills in.
const USER_DATA: &str = include_str!("../../cloud-init/user-data.yaml");

/// A founded hive of two nodes without machines of their own: a founder and a controller, so that the next one becomes a builder.
pub fn hive_of_two(lab: &mut Lab) -> ([Host; 2], Vec<Agent>, String) {
    let hosts: [Host; 2] = lab.hosts();
    let mut agents = Vec::new();
    for (host, role) in hosts.iter().zip(["founder", "controller"]) {
        agents.push(host.start(&[]));
        let what = format!("{} becomes {role}", host.name);
        eventually(&what, s(30), || host.identity().filter(|identity| identity["role"] == role));
    }
    let hive_id = hosts[0].status().expect("answers")["hive_id"].as_str().expect("founded").to_owned();
    (hosts, agents, hive_id)
}

/// What another node says about a machine that is there.
pub fn alive_as_seen_from(host: &Host, name: &str) -> Option<Value> {
    let status = host.status()?;
    let members = status["members"].as_array()?;
    members.iter().find(|member| member["name"] == name && member["state"] == "alive").cloned()
}

/// Both sides agree within so many seconds that the machine is a member and what it is.
pub fn member_again(machine: &Machine, seed: &Host, hive_id: &str, role: &str, seconds: u64) {
    let since = Instant::now();
    let what = format!("{} is a member and {role}", machine.name());
    eventually(&what, s(seconds), || machine.role_in(hive_id).filter(|is| is == role));
    let what = format!("{} sees {} alive as {role}", seed.name, machine.name());
    eventually(&what, s(15), || alive_as_seen_from(seed, machine.name()).filter(|member| member["role"] == role));
    println!("{what} after {:?}", since.elapsed());
}

/// Queues a job that only a builder may do and that says who does it, and returns its id.
fn queue_for_builder(host: &Host, tool: &str) -> String {
    let sources = host.tmp().join("sources");
    std::fs::create_dir_all(&sources).expect("source directory");
    let script = format!(
        "set -e\nmkdir out\nid -un >out/user\n{tool} --version >out/tool\n\
         if touch /etc/build/by-a-build 2>/dev/null; then echo yes; else echo no; fi >out/writes-etc\n\
         if cat /etc/build/shared_secret >/dev/null 2>&1; then echo yes; else echo no; fi >out/reads-secret\n"
    );
    std::fs::write(sources.join("build.sh"), script).expect("script");
    let options = ["--backend", "command", "--dir", "/tmp/sources", "--artifact", "out/*", "--label", "role:builder"];
    let answer = host.hive(&[&["queue", "add"], &options[..], &["--json", "--", "sh", "build.sh"]].concat());
    assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
    let value: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned()
}

/// Text of an artifact, fetched on `host`.
fn artifact(host: &Host, id: &str, name: &str) -> String {
    let answer = host.hive(&["artifact", "get", id, name, "-o", "/tmp/fetched", "--force"]);
    assert_eq!(answer.code, 0, "{name}: {}{}", answer.stdout, answer.stderr);
    let fetched = host.tmp().join("fetched");
    let file = if fetched.is_dir() { fetched.join(Path::new(name).file_name().expect("a name")) } else { fetched };
    std::fs::read_to_string(file).expect("fetched").trim().to_owned()
}

/// Stands in: a seed directory for a metadata service, a local directory of the real packages for the Debian archive.
#[test]
fn a_debian_host_with_nothing_but_cloud_init_user_data_becomes_a_builder_and_stays_one() {
    let name = "systemd::a_debian_host_with_nothing_but_cloud_init_user_data_becomes_a_builder_and_stays_one";
    booted(name, |lab, roots| {
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let seed = &hosts[0];

        let mut machine = roots.machine(Kind::Systemd, lab.bare_host());
        assert!(!machine.has("usr/local/bin/hive") && !machine.has("etc/build"), "the image has no hive");
        let user_data = USER_DATA.replace("HIVE_SECRET_HERE", SECRET).replace("HIVE_NODE_ADDRESS_HERE", &seed.address);
        machine.write("var/lib/cloud/seed/nocloud/user-data", &user_data, 0o600);
        let meta_data = format!("instance-id: i-1\nlocal-hostname: {}\n", machine.name());
        machine.write("var/lib/cloud/seed/nocloud/meta-data", &meta_data, 0o600);
        machine.power_on();

        member_again(&machine, seed, &hive_id, "builder", 90);
        let status = machine.run(&["cloud-init", "status", "--wait"]);
        assert!(status.stdout.contains("status: done"), "{status:?}\n{}", machine.log());
        let active = machine.run(&["systemctl", "is-active", "hive", "hive-helper"]);
        assert_eq!((active.code, active.stdout.as_str()), (0, "active\nactive\n"), "{}", machine.log());
        let helper = machine.sh("journalctl --no-pager --unit=hive-helper").expect("a journal");
        assert!(helper.contains("helper ready"), "it says what it does: {helper}");
        let alias = machine.run(&["systemctl", "status", "--no-pager", "build-agent"]);
        assert!(alias.code == 0 && alias.stdout.contains("active (running)"), "{alias:?}");

        let installed = eventually("the packages of the role are installed", s(120), || {
            machine.identity().filter(|identity| {
                let state = identity["packages_state"].as_str().unwrap_or_default();
                assert!(!state.starts_with("failed"), "{identity}\n{}\n{}", apt_log(&machine), machine.log());
                state == "installed"
            })
        });
        let packages = installed["packages"].as_array().expect("a list");
        assert!(packages.iter().any(|package| package == "maven"), "{installed}");
        for package in packages {
            let package = package.as_str().expect("a name");
            let state = machine.run(&["dpkg-query", "-W", "-f", "${db:Status-Status}", package]);
            assert_eq!(state.stdout, "installed", "{package}");
        }

        let asked = machine.sh("journalctl --no-pager --unit=hive | grep --count 'the hive has decided'");
        assert_eq!(asked.as_deref(), Some("1"), "{}", machine.log());

        the_agent_has_no_rights(&machine);
        a_job_is_built_there_without_rights(&machine, seed, "mvn");

        assert_eq!(machine.run(&["systemctl", "restart", "hive"]).code, 0, "{}", machine.log());
        member_again(&machine, seed, &hive_id, "builder", 20);

        let killed = machine.agent();
        machine.kill_agent();
        let what = "systemd starts the killed agent again";
        eventually(what, s(20), || machine.agent().filter(|agent| Some(*agent) != killed));
        member_again(&machine, seed, &hive_id, "builder", 20);

        machine.reboot();
        member_again(&machine, seed, &hive_id, "builder", 60);

        machine.power_loss();
        machine.power_on();
        member_again(&machine, seed, &hive_id, "builder", 60);
        assert_eq!(machine.identity().expect("kept")["ballot"], installed["ballot"], "nobody was asked again");
        a_job_is_built_there_without_rights(&machine, seed, "mvn");
    });
}

/// What apt and dpkg said, maintainer scripts included.
fn apt_log(machine: &Machine) -> String {
    machine.sh("tail -n 60 /var/log/apt/term.log; df -h / /tmp").unwrap_or_default()
}

/// What only a builder may do is done on the machine, with the package of its role, by a user who is neither root nor the agent that
/// holds the keys.
pub fn a_job_is_built_there_without_rights(machine: &Machine, seed: &Host, tool: &str) {
    let id = queue_for_builder(seed, tool);
    let done = eventually("the job is built", s(60), || {
        let job = seed.json(&["job", "show", &id])?;
        assert_ne!(job["state"], "blocked", "{job}\n{}", machine.log());
        (job["state"] == "received").then_some(job)
    });
    let attempts = done["attempts"].as_array().expect("attempts");
    let accepted = attempts.iter().find(|attempt| attempt["state"] == "accepted").expect("one was accepted");
    assert_eq!(accepted["node"], machine.name(), "{done}");
    assert_eq!(artifact(seed, &id, "user"), "hive-build");
    assert!(!artifact(seed, &id, "tool").is_empty());
    assert_eq!(artifact(seed, &id, "writes-etc"), "no");
    assert_eq!(artifact(seed, &id, "reads-secret"), "no");
}

/// The agent, which talks to the network, can become nobody else.
fn the_agent_has_no_rights(machine: &Machine) {
    let agent = machine.agent().expect("it runs");
    let facts = machine.sh(&format!("cat /proc/{agent}/status")).expect("it runs");
    for fact in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2"] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
}

/// The release directory that `install.sh` is run from, on a machine.
pub fn unpack_release(machine: &Machine) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in
        ["install.sh", "systemd/hive.service", "systemd/hive-helper.service", "openrc/hive", "openrc/hive-helper"]
    {
        machine.copy(&sources.join(file), &format!("root/hive/{file}"));
    }
    machine.copy(Path::new(env!("CARGO_BIN_EXE_hive")), "root/hive/hive");
}

/// A firewall as people write it: nothing comes in that nobody has asked for.
const FIREWALL: &str = "#!/usr/sbin/nft -f
flush ruleset
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iif lo accept
		icmp type echo-request accept
	}
}
";

/// As people have it from the earlier system.
const OLD_UNIT: &str =
    "[Unit]\nDescription=old\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn install_sh_with_nothing_configured_founds_behind_a_firewall_and_says_how_the_next_one_joins() {
    let name = "systemd::install_sh_with_nothing_configured_founds_behind_a_firewall_and_says_how_the_next_one_joins";
    booted(name, |lab, roots| {
        let mut machine = roots.machine(Kind::Systemd, lab.bare_host());
        // No seed: a machine that was installed by hand, whose network somebody else has set up.
        machine.write("etc/cloud/cloud-init.disabled", "", 0o644);
        machine.write("etc/nftables.conf", FIREWALL, 0o755);
        // What the Python agent left: a unit under a name that is an alias of ours.
        machine.write("etc/systemd/system/build-agent.service", OLD_UNIT, 0o644);
        unpack_release(&machine);
        machine.power_on();
        machine.wait_until_up(s(60));
        assert_eq!(machine.run(&["systemctl", "enable", "--now", "build-agent"]).code, 0, "{}", machine.log());
        assert_eq!(machine.run(&["systemctl", "enable", "--now", "nftables"]).code, 0, "{}", machine.log());

        let answer = machine.run(&["sh", "/root/hive/install.sh", "--deadline", "40"]);
        assert_eq!(answer.code, 0, "{}{}\n{}", answer.stdout, answer.stderr, machine.log());
        let secret = machine.sh("cat /etc/build/shared_secret").expect("it made a secret");
        assert!(answer.stdout.contains(&secret), "it is printed: {}", answer.stdout);
        assert!(answer.stdout.contains("/etc/build/shared_secret"), "and where it goes: {}", answer.stdout);
        let mode = machine.sh("stat -c '%a %U' /etc/build/shared_secret").expect("it is there");
        assert!(["600 hive", "640 root", "600 root"].contains(&mode.as_str()), "{mode}");
        let old = "build-agent.service of an earlier system is stopped and disabled";
        assert!(answer.stdout.contains(old), "{}", answer.stdout);
        assert!(machine.has("etc/systemd/system/build-agent.service.before-hive"));
        let alias = machine.sh("systemctl show --property=Id --value build-agent");
        assert_eq!(alias.as_deref(), Some("hive.service"), "the old name means hive now");
        let status = machine.status().expect("answers");
        assert_eq!(status["self"]["role"], "founder", "{status}");
        let hive_id = status["hive_id"].as_str().expect("founded").to_owned();

        // What was printed is all that the next one needs.
        let next = lab.bare_host();
        next.write_secret(&secret);
        let _agent = next.start(&[]);
        eventually("the next one joins", s(40), || next.status().filter(|status| status["hive_id"] == hive_id));
        let rules = machine.sh("nft list ruleset").expect("a firewall");
        assert!(rules.contains("policy drop") && rules.contains("50555"), "{rules}");

        // Running it again is an upgrade, which loses nothing and prints no secret.
        let again = machine.run(&["sh", "/root/hive/install.sh", "--deadline", "40"]);
        assert_eq!(again.code, 0, "{}{}\n{}", again.stdout, again.stderr, machine.log());
        assert!(!again.stdout.contains(&secret), "{}", again.stdout);
        member_again(&machine, &next, &hive_id, "founder", 20);

        machine.reboot();
        member_again(&machine, &next, &hive_id, "founder", 60);
        let rules = machine.sh("nft list ruleset").expect("a firewall");
        assert!(rules.contains("policy drop") && rules.matches("50555").count() == 2, "still open, once each: {rules}");
        let open = next
            .command("curl")
            .args(["-fsS", "--max-time", "5"])
            .arg(format!("http://{}:8100/healthz", machine.address()))
            .output();
        assert!(open.expect("curl runs").status.success(), "{rules}");
    });
}
