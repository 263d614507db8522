//! TLS between machines: one authority for all nodes, made of the secret, and no key that travels readable.

use serde_json::Value;

use crate::forming::one_hive;
use crate::harness::{Host, in_lab, run};

const ADMIN: &[&str] = &["--admin", "0.0.0.0:8093"];

/// Head and body of what curl is answered, and its exit code.
fn curl(from: &Host, arguments: &[&str]) -> (i32, String) {
    let mut command = from.command("curl");
    command.args(["-s", "-i", "-m", "10"]).args(arguments);
    let answer = run(command);
    (answer.code, answer.stdout.replace("\r\n", "\n"))
}

fn authority(host: &Host) -> Value {
    host.json(&["admin", "ca"]).expect("an authority")
}

#[test]
fn one_authority_is_good_for_all_nodes_and_keys_do_not_travel_readable() {
    in_lab("tls::one_authority_is_good_for_all_nodes_and_keys_do_not_travel_readable", |lab| {
        let hosts: [Host; 2] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(ADMIN)).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        let [here, there] = &hosts;
        assert_eq!(authority(here), authority(there), "the same at every node");
        let ca = here.etc().join("hive-ca.pem");
        std::fs::write(&ca, authority(there)["pem"].as_str().expect("PEM")).expect("written");
        let ca = ca.to_str().expect("UTF-8");

        let (address, name) = (there.address.to_string(), there.name.as_str());
        for port in [8100, 8093] {
            let resolve = format!("{name}:{port}:{address}");
            for host in [address.as_str(), name] {
                let url = format!("https://{host}:{port}/healthz");
                let (code, answer) = curl(here, &["--cacert", ca, "--resolve", &resolve, &url]);
                assert!(code == 0 && answer.starts_with("HTTP/1.1 200"), "{url}: {code} {answer}");
                let (code, _) = curl(here, &["--resolve", &resolve, &url]);
                assert_eq!(code, 60, "{url}: a stranger's certificate for whoever does not know the authority");
            }
        }
        let (_, plain) = curl(here, &[&format!("http://{address}:8100/healthz")]);
        assert!(plain.starts_with("HTTP/1.1 200"), "what only reads goes on as before: {plain}");

        let (_, sent_on) = curl(here, &[&format!("http://{address}:8093/queue?show=all")]);
        let target = format!("location: https://{address}:8093/queue?show=all");
        assert!(sent_on.starts_with("HTTP/1.1 307") && sent_on.contains(&target), "{sent_on}");
        let key = hosts.iter().find_map(|host| std::fs::read_to_string(host.etc().join("admin_key")).ok());
        let key = key.expect("the admin key").trim().to_owned();
        let header = format!("X-Admin-Key: {key}");
        let pause = |url: &str| curl(here, &["--cacert", ca, "-H", &header, "-d", r#"{"action":"pause"}"#, url]).1;
        let refused = pause(&format!("http://{address}:8093/api/v2/control"));
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("hive admin key rotate"), "{refused}");
        assert_eq!(here.status().expect("a status")["queue"]["paused"], false, "nothing came of it");
        let loopback = curl(there, &["-H", &header, "http://127.0.0.1:8093/api/v2/doctor"]).1;
        assert!(loopback.starts_with("HTTP/1.1 200"), "nobody listens within a machine: {loopback}");
        let signed = curl(
            here,
            &[
                "--cacert",
                ca,
                "-d",
                &format!(r#"{{"key":"{key}"}}"#),
                &format!("https://{address}:8093/api/v2/session"),
            ],
        )
        .1;
        assert!(signed.lines().any(|line| line.starts_with("set-cookie: ") && line.ends_with("; Secure")), "{signed}");

        let hive = |url: &str, arguments: &[&str]| {
            let mut command = here.command(crate::harness::PROGRAM);
            command.env("HIVE_ADMIN_KEY", &key).args(["--url", url]).args(arguments);
            run(command)
        };
        let url = there.url(8093);
        let unknown = hive(&url, &["control", "pause"]);
        assert!(unknown.code == 3 && unknown.stderr.contains("hive admin ca --pem"), "{unknown:?}");
        assert_eq!(hive(&url, &["--ca", ca, "control", "pause"]).code, 0);
        assert_eq!(hive(&url, &["--ca", ca, "control", "resume"]).code, 0);
        let other_name = hive("https://127.0.0.1:8093", &["--ca", "/dev/null", "status"]);
        assert!(other_name.code == 3 && other_name.stderr.contains("PEM"), "{other_name:?}");
    });
}
