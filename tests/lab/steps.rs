//! Death at every step of a job: assigned, building, uploading, accepted. Of the coordinator, and of the drone.
//!
//! The state is watched over the socket of a node that stays, so that the blow falls within milliseconds of the step.

use serde_json::Value;

use crate::building::{queue_script, voters, wait_for_state};
use crate::client::{Client, socket_of};
use crate::forming::one_hive;
use crate::harness::{Agent, Host, eventually, in_lab, s};

/// Some files, and large ones, so that a step can be met while it lasts.
const SCRIPT: &str =
    "set -e\nmkdir -p out\necho begin\nsleep 1\nhead -c 60000000 /dev/urandom > out/big\necho done > out/small\n";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Coordinator,
    Drone,
}

fn last_attempt(client: &mut Client, id: &str) -> Option<Value> {
    let job = client.get(&format!("/api/v2/jobs/{id}"))?;
    job["attempts"].as_array()?.last().cloned()
}

/// Waits until the job's attempt is at this step, or past it, and gives its drone. The steps are short: none is waited for with a pause.
fn reached(host: &Host, id: &str, step: &str) -> (String, String) {
    let order = ["assigned", "building", "uploading", "accepted"];
    let place = |state: &str| order.iter().position(|known| *known == state);
    let mut client = eventually("a connection", s(10), || Client::connect(&socket_of(host)));
    eventually(&format!("an attempt that is {step}"), s(60), || {
        let attempt = last_attempt(&mut client, id)?;
        let state = attempt["state"].as_str()?;
        (place(state) >= place(step)).then(|| (attempt["node"].as_str().expect("a name").to_owned(), state.to_owned()))
    })
}

/// The host of this name, with its agent.
fn of_name(agents: &mut Vec<(Host, Agent)>, name: &str) -> (Host, Agent) {
    let position = agents.iter().position(|(host, _)| host.name == name).expect("one of them");
    agents.swap_remove(position)
}

fn deaths(name: &'static str, victim: Victim) {
    in_lab(name, |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let mut agents: Vec<(Host, Agent)> = hosts.iter().map(|host| (host.clone(), host.start(&[]))).collect();
        let all: Vec<&Host> = hosts.iter().collect();
        one_hive(&all, 40);
        voters(&hosts[0], 3);
        let mut met = Vec::new();
        for step in ["assigned", "building", "uploading", "accepted"] {
            let (_, coordinator) = one_hive(&all, 60);
            // The drone is not the coordinator, so that each dies alone.
            let drone = hosts.iter().find(|host| host.name != coordinator).expect("another").name.clone();
            let watcher = hosts.iter().find(|host| host.name != coordinator && host.name != drone).expect("a third");
            let label = format!("node:{drone}");
            // Elsewhere it may go only when the drone has died.
            let more: &[&str] =
                if victim == Victim::Coordinator { &["--label", &label, "--pure"] } else { &["--pure"] };
            let id = queue_script(watcher, SCRIPT, more);
            let (on, state) = reached(watcher, &id, step);
            met.push((step, state));
            let name = match victim {
                Victim::Coordinator => coordinator,
                // Whoever watches must live; then it is told of by whoever is left.
                Victim::Drone => on,
            };
            let (host, agent) = of_name(&mut agents, &name);
            agent.kill();
            let left = agents.first().expect("others live").0.clone();
            let received = wait_for_state(&left, &id, "received", 90);
            let attempts = received["attempts"].as_array().expect("attempts");
            let accepted = attempts.iter().filter(|attempt| attempt["state"] == "accepted").count();
            assert_eq!(accepted, 1, "{victim:?} at {step}: {received}");
            let again = host.start(&[]);
            agents.push((host, again));
            one_hive(&all, 60);
            // The same for everyone, and its files are to be had from those that did not die.
            for host in &hosts {
                let shown = wait_for_state(host, &id, "received", 30);
                assert_eq!(shown["artifacts"], received["artifacts"], "{victim:?} at {step}, as {} has it", host.name);
            }
            let got = left.hive(&["artifact", "get", &id, "big", "--output", "/tmp/fetched", "--force"]);
            assert_eq!(got.code, 0, "{victim:?} at {step}: {got:?}");
        }
        let early = met.iter().filter(|(step, state)| step == state).count();
        assert!(early >= 3, "the blows have to fall at their steps: {met:?}");
    });
}

#[test]
fn the_coordinator_dies_at_every_step_of_a_job() {
    deaths("steps::the_coordinator_dies_at_every_step_of_a_job", Victim::Coordinator);
}

#[test]
fn the_drone_dies_at_every_step_of_a_job() {
    deaths("steps::the_drone_dies_at_every_step_of_a_job", Victim::Drone);
}
