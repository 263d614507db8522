//! A peer that speaks the protocols wrong on purpose, with and without the secret, against real agents: rows 1, 3, 4, 7, 10 and 17 of the
//! attack table. Meanwhile agents stay within their memory, and honest people get their answers.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hive::discovery::wire::{Body, Cast, Datagram, Hello, SWIM_MAX};
use hive::engine::beacon::BeaconState;
use hive::engine::command::{Command, Progress, RankedRole, RejectCode, Reply};
use hive::engine::id::{JobId, PeerId, Sha256Hash, Token, UnixMillis};
use hive::engine::job::{FailureClass, Outcome};
use hive::keyring::{Keyring, Secret, hmac};
use hive::transport::{self, Transport as _};
use serde_json::Value;

use crate::building::{building_on, hive_of, queue_script, wait_for_state};
use crate::forming::{one_hive, roles};
use crate::harness::{Agent, Host, SECRET, eventually, in_lab, s, sh};
use crate::mallory::{
    ADDRESS, Answer, Control, Entry, LONGEST, Mallory, Point, RaftBody, RaftCall, Vote, Watch, queues,
};

fn keyring() -> Keyring {
    Keyring::new(&Secret::from_bytes(SECRET.as_bytes()))
}

/// An ear on the bridge: hears what everybody calls.
fn ear() -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("shares the port");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 50_555)).into()).expect("binds");
    let socket: UdpSocket = socket.into();
    socket.join_multicast_v4(&Ipv4Addr::new(239, 255, 0, 1), &ADDRESS).expect("joins");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("sets");
    socket
}

fn hear(ear: &UdpSocket, until: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let (mut heard, mut buffer) = (Vec::new(), [0u8; 2_048]);
    let began = Instant::now();
    while !until(heard.len()) && began.elapsed() < s(20) {
        if let Ok((length, from)) = ear.recv_from(&mut buffer)
            && from.ip() != ADDRESS
        {
            heard.push(buffer[..length].to_vec());
        }
    }
    heard
}

fn target(host: &Host) -> SocketAddr {
    format!("{}:50555", host.address).parse().expect("an address")
}

/// Keeps what was heard for the fuzz targets, where somebody asked for it: `HIVE_CORPORA=DIRECTORY`.
fn record(target: &str, heard: &[Vec<u8>]) {
    let Some(corpora) = std::env::var_os("HIVE_CORPORA") else { return };
    let directory = std::path::Path::new(&corpora).join(target);
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut kept: Vec<&Vec<u8>> = Vec::new();
    for bytes in heard.iter().filter(|bytes| bytes.len() < 3_000) {
        // One of each length: the rest says nothing new.
        if kept.len() < 16 && !kept.iter().any(|other| other.len() == bytes.len()) {
            std::fs::write(directory.join(format!("lab-{:02}", kept.len())), bytes).expect("writes");
            kept.push(bytes);
        }
    }
}

/// Members, their roles and the history: what no datagram may change.
fn standing(host: &Host) -> Value {
    let status = host.status().expect("a status");
    let members: BTreeMap<&str, (&Value, &Value)> = status["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|member| (member["name"].as_str().expect("a name"), (&member["state"], &member["role"])))
        .collect();
    serde_json::json!({
        "hive": status["hive_id"], "phase": status["self"]["state"], "members": members, "quorum": status["quorum"],
        "coordinator": status["coordinator"]["name"],
    })
}

/// What was recorded, said an hour off, and with a bit turned over.
fn altered(recorded: &[Vec<u8>], ring: &Keyring) -> (Vec<Datagram>, Vec<Vec<u8>>) {
    let (mut shifted, mut changed) = (Vec::new(), Vec::new());
    for bytes in recorded {
        let Ok((datagram, _)) = Datagram::open(bytes, ring) else { continue };
        let hour = 3_600_000;
        shifted.push(Datagram { sent_at: UnixMillis(datagram.sent_at.0.saturating_sub(hour)), ..datagram.clone() });
        shifted.push(Datagram { sent_at: UnixMillis(datagram.sent_at.0 + hour), ..datagram });
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        changed.push(bytes);
    }
    (shifted, changed)
}

/// Somebody who seeks a hive, and is not there.
fn ghost(number: u32) -> Datagram {
    let key = hive::mesh::NodeKey::generate();
    let hello = Hello {
        name: format!("ghost{number}"),
        addresses: vec![ADDRESS.into()],
        mesh_port: 50_555,
        http_port: 8_100,
        state: BeaconState::Seeking,
        nonce: [7; 16],
        digest: [8; 16],
        candidate_ip: None,
        cast: Cast::Broadcast,
    };
    Datagram {
        hive: None,
        sender: key.peer_id(),
        incarnation: 1,
        sequence: 1,
        sent_at: UnixMillis(1_762_605_296_789),
        destination: None,
        body: Body::Hello(hello),
    }
}

/// A fresh node dials those who are not there, in measure, and founds nothing with them.
fn alone_with_ghosts(fresh: Host, ring: &Keyring) {
    let ghosts = std::net::TcpListener::bind((ADDRESS, 50_555)).expect("listens");
    ghosts.set_nonblocking(true).expect("sets");
    let seeking: Vec<Vec<u8>> = (0..200u32).map(|number| ghost(number).seal(ring).expect("fits")).collect();
    let agent = fresh.start(&[]);
    let from = UdpSocket::bind((ADDRESS, 0)).expect("binds");
    let (mut dials, began) = (0usize, Instant::now());
    while began.elapsed() < s(10) {
        for bytes in &seeking {
            let _ = from.send_to(bytes, target(&fresh));
        }
        while let Ok((stream, _)) = ghosts.accept() {
            drop(stream);
            dials += 1;
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    // Two hundred ghosts at one address, called fifty times each.
    assert!(dials <= 400, "{dials} dials in ten seconds");
    Watch::new(std::slice::from_ref(&agent)).well("ghosts");
    drop(from);
    eventually("it founds its own hive when the ghosts are gone", s(60), || {
        let status = fresh.status()?;
        (status["quorum"] == true && status["members"].as_array()?.len() == 1).then_some(())
    });
}

#[test]
fn row_01_recorded_datagrams_change_nothing_and_cause_no_storm_of_dials() {
    in_lab("malicious::row_01_recorded_datagrams_change_nothing_and_cause_no_storm_of_dials", |lab| {
        let ear = ear();
        let hosts: [Host; 3] = lab.hosts();
        let mut agents: Vec<Agent> = hosts.iter().map(|host| host.start(&[])).collect();
        let mut recorded = hear(&ear, |heard| heard >= 25);
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        roles(&hosts.iter().collect::<Vec<_>>(), 20);
        crate::building::voters(&hosts[0], 3);
        recorded.extend(hear(&ear, |heard| heard >= 3));
        assert!(recorded.len() >= 25, "{} datagrams were recorded", recorded.len());
        record("datagram", &recorded);
        let before = standing(&hosts[0]);
        let watch = Watch::new(&agents);
        let replay = |recorded: &[Vec<u8>], rounds: usize| {
            // From another port, and from another address of the attacker.
            let from = UdpSocket::bind((ADDRESS, 0)).expect("binds");
            for _ in 0..rounds {
                for bytes in recorded {
                    hosts.iter().for_each(|host| drop(from.send_to(bytes, target(host))));
                }
            }
        };
        replay(&recorded, 4);
        recorded.reverse();
        replay(&recorded, 4);
        // What a member says about its clock is shown, and nothing follows from it.
        let ring = keyring();
        let (shifted, changed) = altered(&recorded, &ring);
        assert!(!shifted.is_empty(), "the recording is of this hive");
        let shifted: Vec<Vec<u8>> = shifted.iter().filter_map(|datagram| datagram.seal(&ring).ok()).collect();
        replay(&shifted, 2);
        replay(&changed, 2);
        watch.well("replays");
        assert_eq!(standing(&hosts[0]), before, "nothing follows from what was said before");

        // One of them starts anew, with all of that still in the air.
        drop(agents.remove(2));
        agents.push(hosts[2].start(&[]));
        replay(&recorded, 4);
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);

        // A fresh node, alone with ghosts: it dials them, in measure, and founds nothing with them.
        agents.clear();
        alone_with_ghosts(lab.host(), &ring);
    });
}

/// Datagrams as fast as one thread can, for some seconds; how many were sent.
fn flood(hosts: &[Host], seconds: u64, sources: u8, make: impl Fn(u64) -> Vec<u8>) -> u64 {
    let sockets: Vec<UdpSocket> = (0..sources.max(1))
        .map(|number| {
            let own = if number == 0 { ADDRESS } else { Ipv4Addr::new(10, 77, 1, number) };
            UdpSocket::bind((own, 0)).expect("an address of the attacker")
        })
        .collect();
    let targets: Vec<SocketAddr> = hosts.iter().map(target).collect();
    let (began, mut sent) = (Instant::now(), 0u64);
    while began.elapsed() < s(seconds) {
        for _ in 0..64 {
            let bytes = make(sent);
            let socket = &sockets[usize::try_from(sent).expect("small") % sockets.len()];
            targets.iter().for_each(|to| drop(socket.send_to(&bytes, to)));
            sent += targets.len() as u64;
        }
    }
    sent
}

#[test]
fn row_03_floods_of_datagrams_leave_honest_nodes_their_time() {
    in_lab("malicious::row_03_floods_of_datagrams_leave_honest_nodes_their_time", |lab| {
        let ear = ear();
        let (hosts, agents) = hive_of::<2>(lab);
        let recorded = hear(&ear, |heard| heard >= 3);
        drop(ear);
        // 200 addresses of the attacker.
        sh("ip addr add 10.77.1.254/16 dev br0; for i in $(seq 1 199); do ip addr add 10.77.1.$i/32 dev br0; done");
        let newcomer = lab.host();
        for host in hosts.iter().chain([&newcomer]) {
            sh(&format!("ip -n {} route add 10.77.1.0/24 dev eth0", host.name));
        }
        let watch = Watch::new(&agents);
        let wrong = Keyring::new(&Secret::from_bytes(b"another-secret-of-somebody-else-0123456789"));
        let datagram = |ring: &Keyring, number: u64| {
            let sender = PeerId::new(hive::mesh::NodeKey::generate().peer_id().as_str());
            let body = if number.is_multiple_of(2) { Body::Ping([1; 16]) } else { Body::Swim(vec![0; SWIM_MAX]) };
            let sent_at = UnixMillis(1_762_605_296_789);
            let datagram =
                Datagram { hive: None, sender, incarnation: 1, sequence: number + 1, sent_at, destination: None, body };
            datagram.seal(ring).expect("fits")
        };
        let strangers: Vec<Vec<u8>> = (0..200).map(|number| datagram(&wrong, number)).collect();
        let ring = keyring();
        let insiders: Vec<Vec<u8>> = (0..2_000).map(|number| datagram(&ring, number)).collect();
        let pick = |of: &[Vec<u8>], number: u64| of[usize::try_from(number).expect("small") % of.len()].clone();
        let v1 = {
            let payload = br#"{"kind":"HELLO","node_id":"6f1f7f0e","hostname":"old","primary_ip":"10.77.1.9","candidate_ip":null,"ts":"x"}"#;
            let mac = hex::encode(hmac(SECRET.as_bytes(), &[payload]));
            [b"{\"magic\":\"BUILD/HELLO/v1\",\"payload\":", &payload[..], b",\"sig\":\"", mac.as_bytes(), b"\"}"]
                .concat()
        };
        type Make<'a> = Box<dyn Fn(u64) -> Vec<u8> + Sync + 'a>;
        let kinds: Vec<(&str, u8, Make<'_>)> = vec![
            ("junk of one source", 1, Box::new(|number| vec![u8::try_from(number % 251).expect("small"); 900])),
            ("junk of many sources", 199, Box::new(|number| vec![u8::try_from(number % 251).expect("small"); 64])),
            ("another secret, many sources", 199, Box::new(|number| pick(&strangers, number))),
            ("what was said before", 199, Box::new(|number| pick(&recorded, number))),
            ("two thousand senders that know the secret", 199, Box::new(|number| pick(&insiders, number))),
            ("wire v1 with the secret", 199, Box::new(|_| v1.clone())),
        ];
        let mut joining = Vec::new();
        for (number, (what, sources, make)) in kinds.iter().enumerate() {
            if number == 2 {
                joining.push((newcomer.start(&[]), Instant::now()));
            }
            let (sent, queued) = std::thread::scope(|scope| {
                let flooding = scope.spawn(|| flood(&hosts, 5, *sources, make));
                let queued = queues(&hosts[0]);
                watch.well(what);
                (flooding.join().expect("floods"), queued)
            });
            let longest = watch.well(what);
            println!(
                "{what}: {sent} datagrams, status in {longest:?}, queued in {queued:?}, grown {} MiB",
                watch.grown_mib()
            );
            assert!(sent > 10_000, "{what}: that was no flood: {sent}");
            assert!(queued < s(5), "{what}: acknowledged after {queued:?}");
            if number == 3 {
                let all = [&hosts[0], &hosts[1], &newcomer];
                one_hive(&all, 15);
                println!("joined within {:?}", joining[0].1.elapsed());
            }
        }
        one_hive(&[&hosts[0], &hosts[1], &newcomer], 20);
    });
}

/// Messages that claim, nest or go on for ever; each ends in at most a second of everybody's time.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |body: &[u8]| [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat();
    vec![
        ("a frame of 4 GiB", vec![0xff; 64]),
        (
            "a frame just over the cap",
            [&u32::try_from(LONGEST + 1).expect("short").to_be_bytes()[..], &[0; 64]].concat(),
        ),
        ("nested arrays", frame(&[0x9f; 60_000])),
        ("nested maps", frame(&[0xbf, 0x61, 0x61].repeat(20_000))),
        ("nested tags", frame(&[0xc1; 60_000])),
        ("an array of 2^40", frame(&[0x9b, 0, 0, 1, 0, 0, 0, 0, 0])),
        ("a text of 2^40", frame(&[0x7b, 0, 0, 1, 0, 0, 0, 0, 0, b'a'])),
        ("many small items", frame(&[&[0x9a, 0, 0, 0xea, 0x60][..], &[0xf6; 60_000]].concat())),
        ("nothing", frame(b"")),
        ("half a frame", [&60_000u32.to_be_bytes()[..], &[0; 30_000]].concat()),
    ]
}

#[test]
fn row_04_frames_that_lie_nest_or_never_end_cost_an_agent_little() {
    in_lab("malicious::row_04_frames_that_lie_nest_or_never_end_cost_an_agent_little", |lab| {
        let (hosts, agents) = hive_of::<3>(lab);
        let mut mallory = Mallory::among(&hosts);
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 10);
        let leader = mallory.known[&coordinator].clone();
        mallory.join(&leader, "mallory");
        let watch = Watch::new(&agents);
        let consensus = ["raft", "snapshot", "log", "propose"].map(|name| mallory.protocol(name));
        let others = [
            "/hive/control/1",
            "/hive/control-calls/1",
            "/hive/facts/1",
            "/hive/blob/1",
            "/hive/buildlog/1",
            "/hive/loglook/1",
            "/hive/console/1",
            "/hive/wire/1",
        ];
        let protocols: Vec<&str> = consensus.iter().map(String::as_str).chain(others).collect();
        let victim = mallory.peer(&hosts[0]);
        let mut poured = 0;
        for protocol in &protocols {
            for (_, bytes) in bombs() {
                poured += usize::from(mallory.pour(&victim, protocol, &bytes));
            }
            watch.well(protocol);
        }
        assert!(poured > 60, "of {} messages {poured} reached the agent", protocols.len() * bombs().len());
        println!("{poured} bombs: grown {} MiB", watch.grown_mib());

        // As many streams as a connection has, each with the beginning of the largest frame that there is, none of which ends.
        let begun = [&(4u32 << 20).to_be_bytes()[..], &vec![0; (4 << 20) - 1]].concat();
        let runtime = &mallory.runtime;
        for protocol in &consensus {
            let held = runtime.block_on(async {
                use tokio::io::AsyncWriteExt as _;
                let mut held = tokio::task::JoinSet::new();
                for _ in 0..40 {
                    let (mesh, victim, protocol, begun) =
                        (mallory.mesh.clone(), victim.clone(), protocol.clone(), begun.clone());
                    held.spawn(async move {
                        let Ok(mut stream) = mesh.open(&victim, &protocol).await else { return None };
                        let writing = stream.write_all(&begun);
                        let _ = tokio::time::timeout(Duration::from_secs(4), writing).await;
                        Some(stream)
                    });
                }
                held.join_all().await
            });
            let open = held.iter().flatten().count();
            watch.well("forty halves of the largest frame");
            println!("{protocol}: {open} streams held, grown {} MiB", watch.grown_mib());
        }
        assert!(queues(&hosts[1]) < s(5));

        // Many whole questions at once, on one stream, none of whose answers is taken.
        let question = transport::encode(&serde_json::json!({ "nothing": "x".repeat(60_000) })).expect("encodes");
        let flood = (0..200)
            .flat_map(|_| [&u32::try_from(question.len()).expect("short").to_be_bytes()[..], &question].concat());
        let flood: Vec<u8> = flood.collect();
        for protocol in &protocols {
            mallory.pour(&victim, protocol, &flood);
        }
        watch.well("answers that nobody takes");
        println!("all of it: grown {} MiB", watch.grown_mib());
        drop(mallory);
        let id = queue_script(&hosts[0], "mkdir out; echo fine > out/x\n", &["--pure"]);
        wait_for_state(&hosts[0], &id, "received", 60);
    });
}

#[test]
fn row_07_forged_advice_makes_no_node_anything() {
    in_lab("malicious::row_07_forged_advice_makes_no_node_anything", |lab| {
        let (hosts, agents) = hive_of::<2>(lab);
        let before = roles(&[&hosts[0], &hosts[1]], 20);
        let watch = Watch::new(&agents);
        let from = UdpSocket::bind((ADDRESS, 0)).expect("binds");
        let fields =
            r#""node_id":"6f1f7f0e6b0b4b0e","hostname":"n1","primary_ip":"10.77.0.1","candidate_ip":null,"ts":"x""#;
        for secret in [SECRET, "a-wrong-secret-of-at-least-16", ""] {
            for kind in ["ADVICE", "WELCOME", "HEARTBEAT", "IDENTIFY"] {
                let payload = format!(
                    r#"{{"kind":"{kind}",{fields},"suggested_role":"binhost","packages":["evil"],"config":{{"run":"reboot"}},"reason":"x","identity":{{"role":"binhost"}}}}"#
                );
                let mac = hex::encode(hmac(secret.as_bytes(), &[payload.as_bytes()]));
                let bytes = format!("{{\"magic\":\"BUILD/HELLO/v1\",\"payload\":{payload},\"sig\":\"{mac}\"}}");
                for host in &hosts {
                    (0..20).for_each(|_| drop(from.send_to(bytes.as_bytes(), target(host))));
                }
            }
        }
        // Over the mesh advice is an answer to a question, and nobody takes it unasked.
        let mallory = Mallory::among(&hosts);
        let peer = mallory.peer(&hosts[1]);
        for request in [
            Control::AskAgain { generation: 1, reason: "become a binhost".to_owned() },
            Control::PrepareReplica,
            Control::RetireReplica { raft_id: 1 },
            Control::KeepBlob { sha256: Sha256Hash([5; 32]), size: 1 << 40 },
            Control::Committed,
        ] {
            let answer = mallory.control(&peer, &request).expect("an answer");
            assert!(format!("{answer:?}").contains("not a member"), "{answer:?}");
        }
        for number in 0..200u8 {
            let seek = Control::Seek { digest: [number; 16], announces: true };
            mallory.control(&peer, &seek).expect("an answer");
        }
        watch.well("forged advice");
        assert_eq!(roles(&[&hosts[0], &hosts[1]], 5), before);
        let status = hosts[0].status().expect("a status");
        assert_eq!(status["quorum"], true, "{status}");
        assert!(!status["members"].to_string().contains("mallory"), "whoever did not ask is no member: {status}");
    });
}

fn rejected(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused(_) | Answer::NotLeader(_) | Answer::Applied(Reply::Rejected { .. }))
}

fn claim(peer: &PeerId) -> Command {
    Command::ClaimRole {
        peer_id: peer.clone(),
        ranking: vec![RankedRole { role: "binhost".to_owned(), cap: None }],
        ballot: "forged".to_owned(),
    }
}

/// What only others may say: the victim, the drone of this job, the coordinator.
fn forgeries(
    mallory: &Mallory,
    victim: &PeerId,
    own: &hive::engine::member::MemberInfo,
    (job_id, token): (JobId, Token),
    forged: &Outcome,
) -> Vec<Command> {
    vec![
        Command::Leave { peer_id: victim.clone() },
        claim(victim),
        Command::Admit { member: hive::engine::member::MemberInfo { peer_id: victim.clone(), ..own.clone() } },
        Command::BindReplica { peer_id: victim.clone(), raft_id: Some(7) },
        Command::Assign { job: job_id, node: mallory.me.clone() },
        Command::Lose { job: job_id, token, reason: "forged".to_owned() },
        Command::Revoke { job: job_id, token, reason: "forged".to_owned() },
        Command::Report { job: job_id, token, progress: Progress::Ended { outcome: forged.clone() } },
        Command::Report {
            job: job_id,
            token,
            progress: Progress::Ended { outcome: Outcome::Succeeded { artifacts: Vec::new() } },
        },
        Command::BeginEpoch { epoch: mallory.allegiance.epoch },
    ]
}

#[test]
fn row_10_a_member_speaks_for_nobody_else_and_deposes_nobody() {
    in_lab("malicious::row_10_a_member_speaks_for_nobody_else_and_deposes_nobody", |lab| {
        let (hosts, agents) = hive_of::<3>(lab);
        let (_, coordinator) = one_hive(&hosts.iter().collect::<Vec<_>>(), 10);
        let mut mallory = Mallory::among(&hosts);
        let leader = mallory.known[&coordinator].clone();
        let follower = hosts.iter().find(|host| host.name != coordinator).expect("another").clone();
        let victim = mallory.peer(&follower);
        // Before it is a member: nothing, not even for itself.
        let me = mallory.me.clone();
        for command in [claim(&me), Command::Leave { peer_id: victim.clone() }] {
            let answer = mallory.propose(&leader, &command);
            assert!(matches!(answer, Answer::NotLeader(None)), "{answer:?}");
        }
        let own = mallory.join(&leader, "mallory");
        let watch = Watch::new(&agents);
        let before = standing(&hosts[0]);

        // Not for the hostile member, which is a drone as well.
        let there = format!("node:{}", follower.name);
        let script = "mkdir out; sleep 20; echo honest > out/x\n";
        let id = queue_script(&hosts[0], script, &["--pure", "--label", &there]);
        let drone = building_on(&hosts[0], &id);
        assert_eq!(drone, follower.name);
        let job = hosts[0].json(&["job", "show", &id]).expect("the job");
        let token = job["attempts"][0]["token"].clone();
        let token: Token = serde_json::from_value(token.clone()).unwrap_or_else(|error| panic!("{token}: {error}"));
        let job_id = serde_json::from_value(Value::from(id.as_str())).expect("an id");
        let forged = Outcome::Failed { class: FailureClass::Build, reason: "forged".to_owned(), exit_code: Some(1) };
        let of_others = forgeries(&mallory, &victim, &own, (job_id, token), &forged);
        for command in &of_others {
            let answer = mallory.propose(&leader, command);
            assert!(
                matches!(&answer, Answer::Applied(Reply::Rejected { code: RejectCode::Stale, .. })),
                "{command:?}: {answer:?}"
            );
            // In the name of the one whom it concerns it is not even read.
            let answer = mallory.propose_as(&victim, &leader, command);
            assert!(matches!(&answer, Answer::Refused(_)), "{command:?}: {answer:?}");
        }
        // What was never issued, and what is stale.
        for counter in [0, token.counter + 1, u64::MAX] {
            let token = Token { counter, ..token };
            let progress = Progress::Ended { outcome: forged.clone() };
            let answer = mallory.propose(&leader, &Command::Report { job: job_id, token, progress });
            assert!(rejected(&answer), "{token:?}: {answer:?}");
        }
        // Whoever joined by a snapshot has no beginning of the log.
        let entries = hosts.iter().map(|host| mallory.log(host)).find(|entries| !entries.is_empty()).expect("a log");
        record("log_batches", &entries.iter().filter_map(|entry| crate::mallory::batch_of(entry)).collect::<Vec<_>>());
        record("log_entries", &entries);
        raft_calls(&hosts, &coordinator, &mallory);
        blobs(&mallory, &victim);
        watch.well("a hostile member");
        let after = standing(&hosts[0]);
        for field in ["hive", "coordinator", "quorum", "phase"] {
            assert_eq!(after[field], before[field], "{field}");
        }
        for host in &hosts {
            assert_eq!(after["members"][&host.name], before["members"][&host.name], "{}", host.name);
        }
        // The drone whose result was forged builds on, and its own result counts.
        let done = wait_for_state(&hosts[0], &id, "received", 60);
        let accepted: Vec<&Value> = done["attempts"].as_array().expect("attempts").iter().collect();
        assert_eq!((accepted.len(), &accepted[0]["node"]), (1, &Value::from(drone)), "{done}");
        assert!(queues(&hosts[1]) < s(5));
    });
}

/// Votes, appends, transfers and snapshots from somebody who is no voter.
fn raft_calls(hosts: &[Host], coordinator: &str, mallory: &Mallory) {
    let status = hosts[0].status().expect("a status");
    // Whoever joined by a snapshot has no beginning of the log.
    let by_peer = eventually("the log says who votes", s(20), || {
        let voters = |ids: &BTreeMap<PeerId, u64>| mallory.known.values().all(|peer| ids.contains_key(peer));
        hosts.iter().map(|host| mallory.raft_ids(host)).find(voters)
    });
    let raft_id = |name: &str| by_peer[&mallory.known[name]];
    let term = status["coordinator"]["term"].as_u64().expect("a term");
    let ids: Vec<u64> = hosts.iter().map(|host| raft_id(&host.name)).collect();
    for host in hosts {
        let own = raft_id(&host.name);
        let claimed = ids.iter().copied().filter(|id| *id != own).chain([own, 666, u64::MAX, 0]);
        for from in claimed {
            for ahead in [0, 1, 5, 999, 1_000_000, u64::MAX - term] {
                let vote = Vote { term: term + ahead, node: from, committed: true };
                let last = Some(Point { term: term + ahead, index: u64::MAX / 2 });
                let entries = || vec![Entry { at: Point { term: term + ahead, index: 1 }, payload: vec![1, 0x61] }];
                for body in [
                    RaftBody::Append { vote, previous: None, entries: entries(), commit: last, acked_ago_ms: Some(0) },
                    RaftBody::Append { vote, previous: None, entries: Vec::new(), commit: None, acked_ago_ms: None },
                    RaftBody::Vote { vote: Vote { committed: false, ..vote }, last, transfer: true },
                    RaftBody::Vote { vote: Vote { committed: false, ..vote }, last, transfer: false },
                    RaftBody::PreVote { vote: Vote { committed: false, ..vote }, last, transfer: false },
                    RaftBody::Transfer { vote, to: own, last },
                ] {
                    let answer = format!("{:?}", mallory.raft(host, &RaftCall { from, to: own, body }));
                    assert!(answer.contains("Refused"), "{} as {from}, {ahead} terms ahead: {answer}", host.name);
                }
            }
        }
        let elsewhere = RaftBody::Append {
            vote: Vote { term, node: 5, committed: true },
            previous: None,
            entries: Vec::new(),
            commit: None,
            acked_ago_ms: None,
        };
        let answer = format!("{:?}", mallory.raft(host, &RaftCall { from: 5, to: own ^ 1, body: elsewhere }));
        assert!(answer.contains("Refused"), "{answer}");
        #[derive(serde::Serialize)]
        struct Offer {
            size: u64,
            sha256: [u8; 32],
        }
        #[derive(serde::Serialize)]
        struct Snapshot {
            from: u64,
            to: u64,
            vote: Vote,
            offer: Offer,
        }
        let offer = Offer { size: 8 << 30, sha256: [5; 32] };
        let call =
            Snapshot { from: raft_id(coordinator), to: own, vote: Vote { term, node: 5, committed: true }, offer };
        let answer: ciborium::Value =
            mallory.ask(&mallory.peer(host), &mallory.protocol("snapshot"), &call).expect("an answer");
        assert!(format!("{answer:?}").contains("Refused"), "{answer:?}");
    }
}

/// Blobs that are not what they are called are fetched once, and never kept.
fn blobs(mallory: &Mallory, victim: &PeerId) {
    use hive::blobs::exchange::{PROTOCOL, Request, Response};
    let mut asked = mallory.mesh.accept(PROTOCOL).expect("serves blobs");
    let serving = mallory.runtime.spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Some(mut incoming) = asked.recv().await {
            while let Ok(request) = transport::read_frame::<Request>(&mut incoming.stream, LONGEST).await {
                let answer = match request {
                    Request::Have { hashes } => Response::Have { sizes: hashes.iter().map(|_| Some(5_000)).collect() },
                    Request::Get { .. } => Response::Bytes { size: 5_000, length: 5_000 },
                };
                if transport::write_frame(&mut incoming.stream, &answer, LONGEST).await.is_err() {
                    break;
                }
                // More than was announced, and not what was asked for.
                if matches!(answer, Response::Bytes { .. }) && incoming.stream.write_all(&[7; 9_000]).await.is_err() {
                    break;
                }
            }
        }
    });
    let sha256 = Sha256Hash([5; 32]);
    let answer = mallory.control(victim, &Control::KeepBlob { sha256, size: 5_000 }).expect("an answer");
    assert!(format!("{answer:?}").contains("Refused"), "{answer:?}");
    let have: Response = mallory.ask(victim, PROTOCOL, &Request::Have { hashes: vec![sha256] }).expect("an answer");
    assert_eq!(have, Response::Have { sizes: vec![None] }, "what is not what it is called is not kept");
    let answer = mallory.control(victim, &Control::KeepBlob { sha256, size: 1 << 50 }).expect("an answer");
    assert!(format!("{answer:?}").contains("Refused"), "{answer:?}");
    serving.abort();
}

#[test]
fn row_10_gossip_of_many_names_is_kept_of_none() {
    in_lab("malicious::row_10_gossip_of_many_names_is_kept_of_none", |lab| {
        let (hosts, agents) = hive_of::<2>(lab);
        let watch = Watch::new(&agents);
        for number in 0..12 {
            let mallory = Mallory::named(&format!("name{number}"), &hosts);
            let local = hive::mesh::LocalFacts {
                allegiance: Some(mallory.allegiance),
                name: format!("name{number}"),
                member_count: u32::MAX,
                ..hive::mesh::LocalFacts::default()
            };
            mallory.mesh.set_local(&local).expect("facts");
            mallory.runtime.block_on(async {
                for junk in [vec![0x9f; 4_000], vec![0xff; 4_096], b"{}".to_vec(), Vec::new()] {
                    mallory.mesh.publish_status(junk).await.expect("published");
                }
                mallory.mesh.shutdown().await;
            });
        }
        watch.well("gossip");
        let (_, _) = one_hive(&[&hosts[0], &hosts[1]], 20);
    });
}

/// Connections that say nothing, or a byte a second.
#[test]
fn row_17_silent_and_slow_connections_at_every_port_starve_nobody() {
    in_lab("malicious::row_17_silent_and_slow_connections_at_every_port_starve_nobody", |lab| {
        let (hosts, agents) = hive_of::<2>(lab);
        sh("ip addr add 10.77.1.254/16 dev br0; for i in $(seq 1 99); do ip addr add 10.77.1.$i/32 dev br0; done");
        for host in &hosts {
            sh(&format!("ip -n {} route add 10.77.1.0/24 dev eth0", host.name));
        }
        let watch = Watch::new(&agents);
        for (port, first) in
            [(50_555, &b"\x13/multistream/1.0.0\n"[..]), (8_100, &b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n"[..])]
        {
            let to: SocketAddr = format!("{}:{port}", hosts[0].address).parse().expect("an address");
            let mut open: Vec<(TcpStream, bool)> = Vec::new();
            for number in 0..600u32 {
                // From a hundred addresses, so that no cap of one source helps.
                let own = Ipv4Addr::new(10, 77, 1, u8::try_from(number % 99 + 1).expect("small"));
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
                socket.bind(&SocketAddr::from((own, 0)).into()).expect("binds");
                if socket.connect_timeout(&to.into(), Duration::from_millis(500)).is_err() {
                    continue;
                }
                let stream: TcpStream = socket.into();
                stream.set_nonblocking(true).expect("sets");
                open.push((stream, number.is_multiple_of(2)));
            }
            assert!(open.len() > 200, "port {port}: {} connections", open.len());
            let (began, mut at, mut closed, mut honest) = (Instant::now(), 0usize, 0usize, Duration::ZERO);
            while began.elapsed() < s(35) && closed < open.len() {
                for (stream, speaks) in &mut open {
                    if *speaks {
                        let _ = stream.write(&first[at % first.len()..=at % first.len()]);
                    }
                }
                at += 1;
                closed = open.iter_mut().filter_map(|(stream, _)| ended(stream).then_some(())).count();
                // Over the local socket, and over the port itself from the other host.
                honest = honest.max(watch.well("slow connections"));
                let asked = Instant::now();
                let answer = hosts[1]
                    .command("curl")
                    .args([
                        "-sS",
                        "-m",
                        "10",
                        "-o",
                        "/dev/null",
                        "-w",
                        "%{http_code}",
                        &format!("http://{}:8100/api/v1/status", hosts[0].address),
                    ])
                    .output();
                let answer = String::from_utf8_lossy(&answer.expect("curl").stdout).into_owned();
                if port == 50_555 {
                    assert_eq!(answer, "200", "after {:?}", asked.elapsed());
                }
                std::thread::park_timeout(Duration::from_millis(700));
            }
            println!(
                "port {port}: {closed} of {} were closed within {:?}, status at most {honest:?}",
                open.len(),
                began.elapsed()
            );
            assert_eq!(closed, open.len(), "port {port}: some are still open after {:?}", began.elapsed());
        }
        watch.well("slow connections");
        one_hive(&[&hosts[0], &hosts[1]], 20);
    });
}

/// The other side has ended this connection.
fn ended(stream: &mut TcpStream) -> bool {
    let mut buffer = [0u8; 1_024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
