//! Configuration files as somebody may write them: taken as settings of the table, or refused with the line at fault.

use super::{file, grammar, table};
use crate::fuzzing::{SMALL, attack};

#[test]
fn config_file() {
    let all = vec![
        super::reference::example_file().into_bytes(),
        b"name = \"build1\"\n[http]\nlisten = \"127.0.0.1:8100\"\n[build]\nslots = 3\n".to_vec(),
        b"join = [\"10.0.0.1\", \"[fd00::1]:50555\", \"build1.example.org\"]\n".to_vec(),
    ];
    attack("config_file", all, 16 * SMALL, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match file::parse("hive.toml", text) {
            Ok(values) => {
                let lines = text.lines().count().max(1);
                for value in &values {
                    assert!(table::find(value.key).is_some() && (1..=lines).contains(&value.line), "{value:?}");
                }
                true
            }
            Err(error) => {
                assert!(!error.problems.is_empty());
                let said = error.to_string();
                assert!(said.contains("hive.toml:"), "it says where: {said}");
                false
            }
        }
    });
}

/// Addresses, networks and names of the configuration: what is accepted holds no blank and nothing that is obeyed.
#[test]
fn config_words() {
    let all = [
        "10.0.0.1",
        "[fd00::1]:50555",
        "build1.example.org:9",
        "eth*",
        "10.0.0.0/8",
        "/hive",
        "https://a.example:8443",
        "239.255.0.1",
        "ssh://root@bin.example.org/var/x",
        "hive=debug,info",
        "127.0.0.1:80",
    ];
    let rules: [fn(&str) -> bool; 10] = [
        grammar::is_join_target,
        grammar::is_node_name,
        grammar::is_interface_pattern,
        grammar::is_network,
        grammar::is_base_path,
        grammar::is_origin,
        grammar::is_socket_address,
        grammar::is_ip_address,
        grammar::is_multicast_group,
        grammar::is_user_name,
    ];
    attack("config_words", all.iter().map(|text| text.as_bytes().to_vec()).collect(), SMALL, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let mut taken = false;
        for (number, rule) in rules.iter().enumerate() {
            if rule(text) {
                taken = true;
                assert!(!text.contains(|c: char| c.is_control() || c.is_whitespace()), "rule {number}: {text:?}");
            }
        }
        if let Some(target) = grammar::JoinTarget::parse(text) {
            assert!(!target.host.is_empty() && grammar::is_join_target(text), "{target:?}");
        }
        taken
    });
}
