//! OpenRC: hive gets onto it from a node, and stays.

use std::fs;
use std::path::Path;

use crate::harness::{Kind, booted};
use crate::lab::{SECRET, eventually, s};
use crate::systemd::{a_job_is_built_there_without_rights, hive_of_two, member_again};

/// What a builder is here: as shipped, with one small package in the place of many.
pub const BUILDER: &str = "name = \"builder\"\npurpose = \"Builds.\"\nrank = 20\nmin = 1\nhealth_check = [\"jq\", \"--version\"]\n\n\
                       [packages]\ndebian = [\"jq\"]\n\n[config]\nbuild_slots = 4\n";

/// Stands in: Debian with OpenRC for Gentoo and Alpine, and jq, from a local directory, for the packages of a builder.
#[test]
fn an_openrc_host_installed_by_a_node_becomes_a_member_and_survives() {
    booted("openrc::an_openrc_host_installed_by_a_node_becomes_a_member_and_survives", |lab, roots| {
        let (hosts, _agents, hive_id) = hive_of_two(lab);
        let seed = &hosts[0];
        let mut machine = roots.machine(Kind::Openrc, lab.bare_host());
        machine.write("etc/build/shared_secret", &format!("{SECRET}\n"), 0o600);
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
        assert!(answer.stdout.contains("Install complete"), "{}", answer.stdout);
        member_again(&machine, seed, &hive_id, "builder", 20);
        eventually("its helper installs the role's package", s(60), || {
            machine.identity().filter(|identity| identity["packages_state"] == "installed")
        });
        a_job_is_built_there_without_rights(&machine, seed, "jq");

        for service in ["hive", "hive-helper"] {
            assert_eq!(machine.run(&["rc-service", service, "status"]).code, 0, "{}", machine.log());
        }
        let killed = machine.agent();
        machine.kill_agent();
        let what = "supervise-daemon starts the killed agent again";
        eventually(what, s(20), || machine.agent().filter(|agent| Some(*agent) != killed));
        member_again(&machine, seed, &hive_id, "builder", 20);

        // What only an edit mends is told where it is started, and is not tried again and again.
        let config = machine.sh("cat /etc/build/hive.toml").expect("the installer made one");
        machine.write("etc/build/hive.toml", "port = 0\n", 0o644);
        let refused = machine.run(&["rc-service", "hive", "restart"]);
        assert!(
            refused.code != 0 && format!("{refused:?}").contains("hive.toml:1: port"),
            "{refused:?}\n{}",
            machine.log()
        );
        assert_eq!(
            (machine.agent(), machine.sh("pgrep -f '[s]upervise-daemon hive '")),
            (None, None),
            "{}",
            machine.log()
        );
        machine.write("etc/build/hive.toml", &config, 0o644);
        assert_eq!(machine.run(&["rc-service", "hive", "restart"]).code, 0, "{}", machine.log());
        member_again(&machine, seed, &hive_id, "builder", 20);

        machine.reboot();
        member_again(&machine, seed, &hive_id, "builder", 60);
        a_job_is_built_there_without_rights(&machine, seed, "jq");
    });
}
