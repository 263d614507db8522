//! A day with the hive: what scripts and operators call, on a real one.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, run, s};

fn curl(host: &Host, arguments: &[&str]) -> (i32, String) {
    let mut command = host.command("curl");
    command.args(["-s", "-m", "10"]).args(arguments);
    let answer = run(command);
    (answer.code, answer.stdout)
}

fn write(host: &Host, name: &str, text: &str) -> String {
    std::fs::create_dir_all(host.tmp().join("job")).expect("directory");
    std::fs::write(host.tmp().join("job").join(name), text).expect("file");
    "/tmp/job".to_owned()
}

#[test]
fn what_scripts_call_works_on_any_node() {
    in_lab("operating::what_scripts_call_works_on_any_node", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let all: Vec<&Host> = hosts.iter().collect();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        let (hive, coordinator) = one_hive(&all, 40);
        roles(&all, 20);
        let follower = all.iter().find(|host| host.name != coordinator).expect("two of them");

        // Queued on a node that does not coordinate, followed to its end there.
        let directory = write(follower, "build.sh", "echo to the log; mkdir out; echo $0 > out/a.txt; exit $1\n");
        let add = ["queue", "add", "--backend", "command", "--dir", &directory, "--artifact", "out/*", "--wait"];
        let good = follower.hive(&[&add[..], &["--json", "--", "sh", "build.sh", "0"]].concat());
        assert_eq!(good.code, 0, "{good:?}");
        let value: Value = serde_json::from_str(good.stdout.lines().last().expect("JSON")).expect("JSON");
        let id = value["data"]["jobs"][0]["id"].as_str().expect("id").to_owned();
        let bad = follower.hive(&[&add[..], &["--", "sh", "build.sh", "3"]].concat());
        assert_eq!(bad.code, 1, "one of them failed: {bad:?}");

        for host in &all {
            let log = host.hive(&["logs", "-f", &id]);
            assert!(log.code == 0 && log.stdout.contains("to the log"), "{log:?}");
            let explained = host.hive(&["explain", &id]);
            assert_eq!(explained.code, 0, "{explained:?}");
            assert_eq!(host.hive(&["explain", "n1"]).code, 0);
            assert_eq!(host.hive(&["status", "--check"]).code, 0, "{:?}", host.hive(&["status", "--check"]));
            let doctor = host.hive(&["doctor", "--json"]);
            let checks: Value = serde_json::from_str(&doctor.stdout).expect("JSON");
            assert_eq!(doctor.code, 0, "a healthy hive has nothing to mend: {}{}", doctor.stdout, doctor.stderr);
            assert!(checks["data"].to_string().contains("quorum"), "{checks}");
            assert_eq!(curl(host, &["-f", "http://127.0.0.1:8100/readyz"]).0, 0);
            assert_eq!(curl(host, &["-f", "http://127.0.0.1:8100/healthz"]).0, 0);
            let metrics = curl(host, &["-f", "http://127.0.0.1:8100/metrics"]).1;
            assert!(metrics.contains("hive_quorum 1"), "{metrics}");
            let status = curl(host, &["-f", "http://127.0.0.1:8100/api/v2/status"]).1;
            assert!(status.contains(&hive), "{status}");
            let page = curl(host, &["-f", "http://127.0.0.1:8100/"]).1;
            assert!(hosts.iter().all(|host| page.contains(&host.name)), "{page}");
        }
        let fingerprints: Vec<String> =
            all.iter().map(|host| host.hive(&["secret", "fingerprint"]).stdout.trim().to_owned()).collect();
        assert!(fingerprints.iter().all(|text| !text.is_empty() && *text == fingerprints[0]), "{fingerprints:?}");

        let net = hosts[0].json(&["net", "show"]).expect("the interface of the lab");
        assert!(net.to_string().contains("10.77.0.1"), "{net}");
        let free = hosts[0].json(&["net", "next-ip"]).expect("a free address").to_string();
        assert!(free.contains("10.77.0.") && !free.contains("10.77.0.2\""), "asked by ARP: {free}");
    });
}

#[test]
fn a_stranger_gets_nothing_that_needs_the_secret_and_is_counted() {
    in_lab("operating::a_stranger_gets_nothing_that_needs_the_secret_and_is_counted", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let _agents = [hosts[0].start(&[]), hosts[1].start(&[])];
        one_hive(&[&hosts[0], &hosts[1]], 30);
        let url = format!("http://{}:8100", hosts[0].address);
        for path in ["/hive/peers", "/bootstrap/../etc/build/shared_secret", "/api/v2/doctor"] {
            let (_, answer) = curl(&hosts[1], &["-o", "/dev/null", "-w", "%{http_code}", &format!("{url}{path}")]);
            assert!(["403", "404", "405", "421"].contains(&answer.as_str()), "{path}: {answer}");
        }
        let signed = hosts[1].hive(&["secret", "sign", "GET", "/hive/peers"]);
        assert_eq!(signed.code, 0, "{signed:?}");
        let header = format!("X-Hive-Auth: {}", signed.stdout.trim());
        let (code, peers) = curl(&hosts[1], &["-f", "-H", &header, &format!("{url}/hive/peers")]);
        assert!(code == 0 && peers.contains(&hosts[1].address), "{code} {peers}");
        let (_, again) =
            curl(&hosts[1], &["-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &format!("{url}/hive/peers")]);
        assert_eq!(again, "403", "a header is good once");
        let metrics = curl(&hosts[0], &["-f", "http://127.0.0.1:8100/metrics"]).1;
        assert!(
            metrics.lines().any(|line| line.starts_with("hive_http_refused_total{") && !line.ends_with(" 0")),
            "{metrics}"
        );

        // What arrives at the port of the mesh and of discovery from somebody without the secret changes nothing.
        let mut junk = hosts[1].command("bash");
        junk.args([
            "-c",
            &format!(
                "for i in $(seq 200); do head -c $((RANDOM % 1400)) /dev/urandom > /dev/udp/{0}/50555; done; \
             for i in $(seq 20); do timeout 1 bash -c 'head -c 4096 /dev/urandom > /dev/tcp/{0}/50555' || true; done",
                hosts[0].address
            ),
        ]);
        assert_eq!(run(junk).code, 0);
        one_hive(&[&hosts[0], &hosts[1]], 20);
        assert!(!hosts[0].log().contains("panicked"), "{}", hosts[0].log());
    });
}

#[test]
fn datagrams_are_shown_as_they_come() {
    in_lab("operating::datagrams_are_shown_as_they_come", |lab| {
        let [first, second] = lab.hosts();
        let _first = first.start(&[]);
        one_hive(&[&first], 30);
        let mut command = first.command(crate::harness::PROGRAM);
        command.args(["listen", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut listening = command.spawn().expect("starts");
        let lines = BufReader::new(listening.stdout.take().expect("piped"));
        let _second = second.start(&[]);
        let seen =
            lines.lines().map_while(Result::ok).find(|line| line.contains("n2") || line.contains(&second.address));
        listening.kill().expect("ends");
        listening.wait().expect("ended");
        let record: Value = serde_json::from_str(&seen.expect("a datagram of the second")).expect("JSON");
        assert!(record.is_object(), "{record}");
        eventually("both in one hive", s(30), || {
            first.status().filter(|status| status["members"].as_array().map(Vec::len) == Some(2))
        });
    });
}

/// State, cause and remedy of a doctor's check, and the doctor's exit code.
fn doctor(host: &Host, name: &str) -> (i32, String, String, String) {
    let answer = host.hive(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let checks = report["data"]["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    let text = |key: &str| check[key].as_str().expect("text").to_owned();
    (answer.code, text("state"), text("cause"), text("remedy"))
}

/// Runs shell lines on a host.
fn shell(host: &Host, lines: &str) {
    let mut command = host.command("bash");
    command.args(["-e", "-c", lines]);
    let answer = run(command);
    assert_eq!(answer.code, 0, "{lines}: {}", answer.stderr);
}

#[test]
fn the_doctor_names_the_firewall_that_keeps_a_node_out_and_its_remedy_lets_it_in() {
    in_lab("operating::the_doctor_names_the_firewall_that_keeps_a_node_out_and_its_remedy_lets_it_in", |lab| {
        let [first, by_rule, by_policy] = lab.hosts();
        let _first = first.start(&[]);
        one_hive(&[&first], 30);
        let chain = "nft add table inet filter; nft add chain inet filter input";
        shell(
            &by_rule,
            &format!(
                "{chain} '{{ type filter hook input priority 0; policy accept; }}'
                 nft add rule inet filter input tcp dport 22 accept
                 nft add rule inet filter input meta l4proto '{{ tcp, udp }}' th dport '{{ 5353, 50555 }}' drop"
            ),
        );
        shell(
            &by_policy,
            &format!(
                "{chain} '{{ type filter hook input priority 0; policy drop; }}'
                 nft add rule inet filter input iifname lo accept
                 nft add rule inet filter input ct state established,related accept"
            ),
        );
        // They must not found a hive of their own: nobody is heard, as nobody would be.
        let _others = [by_rule.start(&["--no-found"]), by_policy.start(&["--no-found"])];
        for (host, cause) in
            [(&by_rule, "5353, 50555"), (&by_policy, "drops in inet filter input what no rule accepts")]
        {
            eventually("the agent answers", s(20), || host.status());
            let (code, state, found, remedy) = doctor(host, "firewall");
            assert_eq!((code, state.as_str()), (6, "fail"), "{found}");
            assert!(found.contains("nftables drops") && found.contains(cause), "{found}");
            assert!(host.status().expect("answers")["hive_id"].is_null(), "the firewall keeps it out");
            // What is printed is what mends it, as it stands.
            shell(host, &remedy);
        }
        one_hive(&[&first, &by_rule, &by_policy], 40);
        for host in [&by_rule, &by_policy] {
            let (_, state, found, _) = doctor(host, "firewall");
            assert_eq!(state, "ok", "{found}");
        }
    });
}
