//! Packets of the failure detector from somebody who knows the secret: the reader, and the detector itself.

use super::packet::{Packet, strip, tests::packets};
use super::*;
use crate::discovery::wire::tests::peer;
use crate::fuzzing::{SMALL, attack};

#[test]
fn swim_packet() {
    let made = packets().iter().map(|packet| packet.write().expect("writes")).collect();
    attack("swim_packet", made, SMALL, |bytes| {
        let Ok(packet) = Packet::read(bytes) else { return false };
        let written = packet.write().expect("what was read can be written");
        assert_eq!(Packet::read(&written).as_ref(), Ok(&packet));
        true
    });
}

/// Whatever one member says, nobody becomes a member by it, and what this node sends stays bounded and among members.
#[test]
fn swim_detector() {
    let contact = |number: u8| MemberContact { peer: peer(number), addresses: Vec::new(), incarnation: 1 };
    let written = |packet: &Packet| strip(&packet.write().expect("writes")).expect("strips").to_vec();
    let made = packets().iter().map(written).collect();
    attack("swim_detector", made, 4 * SMALL, move |bytes| {
        let mut swim = Swim::new(peer(2), 1, None, 7);
        swim.set_members(&[1, 2, 3].map(contact), 1_000);
        swim.take_outgoing();
        let taken = swim.handle(&peer(1), bytes, 1_500).is_ok();
        assert_eq!(swim.handle(&peer(9), bytes, 1_500), Err(Reason::Stranger));
        (1..8u64).for_each(|step| swim.tick(1_500 + step * 700));
        let members = [peer(1), peer(3)];
        assert!(swim.active().all(|peer| members.contains(peer)));
        let sent = swim.take_outgoing();
        assert!(sent.len() <= OUTGOING_MAX && sent.iter().all(|out| members.contains(&out.peer)));
        assert!(sent.iter().all(|out| out.packet.len() <= SWIM_MAX));
        swim.report_changes(|change| members.contains(&change.peer));
        assert!(swim.timers.len() < 64, "{} timers after one packet", swim.timers.len());
        taken
    });
}
