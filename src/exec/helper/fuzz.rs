//! What may arrive at the helper's socket, the only part that runs as root, and what it may answer.

use super::protocol::{Control, Reply, Request};
use crate::engine::role::Family;
use crate::fuzzing::{SMALL, attack, cbor, made};

#[test]
fn helper() {
    let all = vec![
        made(&Request::Capabilities),
        made(&Request::Reap),
        made(&Request::Install { family: Family::Debian, names: vec!["git".to_owned()] }),
        made(&Request::SyncTrees),
        made(&Request::ClaimAddress { interface: "eth0".to_owned(), cidr: "10.0.0.5/24".to_owned() }),
        made(&Control::Stop),
        made(&Reply::Reaped(vec!["5".to_owned()])),
        made(&Reply::Output(vec![1, 2, 3])),
        made(&Reply::Refused("why".to_owned())),
    ];
    attack("helper", all, SMALL, |bytes| cbor::<Request>(bytes) | cbor::<Control>(bytes) | cbor::<Reply>(bytes));
}
