//! Ways to find each other one at a time, and the Python nodes of wire v1.

use std::fs;

use crate::forming::{one_hive, roles};
use crate::harness::{Host, eventually, in_lab, run, s};

const NO_BROADCAST: &str = "ether type ip ip daddr '{ 10.77.0.255, 255.255.255.255 }'";
const NO_GROUP: &str = "ether type ip ip daddr 239.255.0.1";
const NO_MDNS: &str = "ether type ip ip daddr 224.0.0.251";
const NO_GROUP_V6: &str = "ether type ip6 ip6 daddr ff02::efff:1";
const NO_MDNS_V6: &str = "ether type ip6 ip6 daddr ff02::fb";

#[test]
fn broadcast_alone_is_enough() {
    in_lab("wire::broadcast_alone_is_enough", |lab| {
        lab.drop_frames(NO_GROUP);
        lab.drop_frames(NO_GROUP_V6);
        lab.drop_frames(NO_MDNS);
        lab.drop_frames(NO_MDNS_V6);
        let hosts: [Host; 3] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 30);
    });
}

#[test]
fn multicast_alone_is_enough() {
    in_lab("wire::multicast_alone_is_enough", |lab| {
        lab.drop_frames(NO_BROADCAST);
        lab.drop_frames(NO_MDNS);
        lab.drop_frames(NO_MDNS_V6);
        let hosts: [Host; 3] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 30);
    });
}

#[test]
fn ipv6_alone_is_enough() {
    in_lab("wire::ipv6_alone_is_enough", |lab| {
        lab.drop_frames(NO_MDNS_V6);
        let hosts: [Host; 3] = std::array::from_fn(|_| lab.host_v6());
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
    });
}

#[test]
fn mdns_over_ipv6_alone_is_enough() {
    in_lab("wire::mdns_over_ipv6_alone_is_enough", |lab| {
        lab.drop_frames(NO_GROUP_V6);
        let hosts: [Host; 3] = std::array::from_fn(|_| lab.host_v6());
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 60);
    });
}

#[test]
fn mdns_alone_is_enough() {
    in_lab("wire::mdns_alone_is_enough", |lab| {
        lab.drop_frames(NO_BROADCAST);
        lab.drop_frames(NO_GROUP);
        lab.drop_frames(NO_GROUP_V6);
        let hosts: [Host; 3] = lab.hosts();
        let _agents: Vec<_> = hosts.iter().map(|host| host.start(&[])).collect();
        one_hive(&hosts.iter().collect::<Vec<_>>(), 60);
    });
}

#[test]
fn join_alone_is_enough() {
    in_lab("wire::join_alone_is_enough", |lab| {
        lab.drop_frames(NO_BROADCAST);
        lab.drop_frames(NO_GROUP);
        lab.drop_frames(NO_GROUP_V6);
        lab.drop_frames(NO_MDNS);
        lab.drop_frames(NO_MDNS_V6);
        let [first, second] = lab.hosts();
        let _founder = first.start(&[]);
        roles(&[&first], 15);
        let _joiner = second.start(&["--join", "10.77.0.1", "--no-found"]);
        one_hive(&[&first, &second], 30);
    });
}

#[test]
fn expect_waits_for_so_many_and_no_found_never_founds() {
    in_lab("wire::expect_waits_for_so_many_and_no_found_never_founds", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let mut agents = vec![hosts[0].start(&["--expect", "3"]), hosts[1].start(&["--expect", "3"])];
        eventually("it says what it waits for", s(15), || {
            let status = hosts[0].status()?;
            (status["self"]["state"] == "seeking" && status["notices"].to_string().contains('3')).then_some(())
        });
        agents.push(hosts[2].start(&["--no-found"]));
        one_hive(&hosts.iter().collect::<Vec<_>>(), 40);
        assert_ne!(roles(&[&hosts[2]], 20), ["founder"]);
    });
}

#[test]
fn nodes_that_boot_apart_under_loss_found_one_hive() {
    in_lab("wire::nodes_that_boot_apart_under_loss_found_one_hive", |lab| {
        lab.lose(20);
        let hosts: [Host; 4] = lab.hosts();
        let mut agents = Vec::new();
        for host in &hosts {
            agents.push(host.start(&[]));
            // The next one boots while this one is somewhere in its founding second.
            eventually("it seeks", s(10), || host.status().map(|_| ()));
        }
        one_hive(&hosts.iter().collect::<Vec<_>>(), 60);
    });
}

/// What the Python agent of wire v1 does at start: HELLO, collect WELCOME, IDENTIFY, collect ADVICE; prints what it got.
const V1_NODE: &str = r#"
import datetime, hashlib, hmac, json, socket, sys, time
secret = open('/etc/build/shared_secret').read().strip().encode()
def send(sock, payload):
    text = json.dumps(payload, separators=(',', ':'))
    sig = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    message = json.dumps({'magic': 'BUILD/HELLO/v1', 'payload': payload, 'sig': sig}, separators=(',', ':'))
    sock.sendto(message.encode(), ('10.77.0.255', 50555))
def verify(message):
    text = json.dumps(message['payload'], separators=(',', ':'))
    return hmac.compare_digest(hmac.new(secret, text.encode(), hashlib.sha256).hexdigest(), message['sig'])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sock.bind(('', 50555))
sock.settimeout(0.2)
def base(kind):
    return {'kind': kind, 'node_id': '6f1f7f0e-6b0b-4b0e-9d0e-0c8f3a1b2c3d', 'hostname': 'old-python', 'primary_ip': '10.77.0.3',
            'candidate_ip': None, 'ts': datetime.datetime.utcnow().isoformat() + 'Z'}
def collect(kind, seconds):
    end = time.monotonic() + seconds
    got = []
    while time.monotonic() < end:
        try: data, source = sock.recvfrom(8192)
        except socket.timeout: continue
        try: message = json.loads(data.decode('utf-8'))
        except Exception: continue
        if message.get('magic') == 'BUILD/HELLO/v1' and message['payload'].get('kind') == kind and source[0] != '10.77.0.3':
            if not verify(message): print('BAD SIGNATURE'); sys.exit(1)
            got.append(message['payload'])
    return got
for _ in range(3):
    send(sock, base('HELLO')); time.sleep(0.3)
welcomes = collect('WELCOME', 2)
question = base('IDENTIFY'); question['request'] = 'who_am_i'
send(sock, question)
advice = collect('ADVICE', 2)
print(json.dumps({'welcomed_by': sorted({w['hostname'] for w in welcomes}), 'advice': advice}))
"#;

#[test]
fn a_v1_node_is_welcomed_advised_and_listed() {
    in_lab("wire::a_v1_node_is_welcomed_advised_and_listed", |lab| {
        let hosts: [Host; 3] = lab.hosts();
        let _agents = [hosts[0].start(&[]), hosts[1].start(&[])];
        one_hive(&[&hosts[0], &hosts[1]], 30);
        roles(&[&hosts[0], &hosts[1]], 20);
        fs::write(hosts[2].tmp().join("v1.py"), V1_NODE).expect("script");
        let mut python = hosts[2].command("/usr/bin/python3");
        python.arg("/tmp/v1.py");
        let answer = run(python);
        assert_eq!(answer.code, 0, "{}{}", answer.stdout, answer.stderr);
        let got: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!(got["welcomed_by"], serde_json::json!(["n1", "n2"]), "{got}");
        let advice = got["advice"].as_array().expect("list");
        assert!(advice.iter().all(|one| one["suggested_role"] == "builder" && one["packages"].is_array()), "{got}");
        assert!(!advice.is_empty(), "{got}");
        let members = hosts[0].status().expect("status")["members"].clone();
        let legacy = members.as_array().expect("list").iter().find(|member| member["name"] == "old-python").cloned();
        assert_eq!(legacy.expect("listed")["state"], "legacy");
    });
}
