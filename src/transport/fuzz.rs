//! Frames as a peer may send them: the length that it claims, and the numbered envelope of calls.

use super::calls::Frame;
use super::*;
use crate::fuzzing::{attack, cbor, made};

/// A length is checked before anything is read, and never more is taken from memory than the cap.
#[test]
fn frame() {
    let frame = |body: &[u8]| [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat();
    let bodies = [made(&Frame { id: 7, body: vec![1; 40] }), made(&Frame { id: u64::MAX, body: Vec::new() })];
    let mut all: Vec<Vec<u8>> = bodies.iter().map(|body| frame(body)).collect();
    all.push([0xff; 8].to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = std::panic::AssertUnwindSafe(runtime);
    attack("frame", all, (CONTROL_FRAME_MAX * 4) as u64, |bytes| {
        let mut stream = bytes;
        let read = runtime.block_on(read_frame::<Frame>(&mut stream, CONTROL_FRAME_MAX));
        let claimed = bytes.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize);
        match (read, claimed) {
            (Ok(_), Some(claimed)) => {
                assert_eq!(bytes.len() - stream.len(), claimed + 4, "exactly one frame is taken");
                assert!(claimed <= CONTROL_FRAME_MAX && cbor::<Frame>(&bytes[4..claimed + 4]));
                true
            }
            (Err(error), Some(claimed)) if claimed > CONTROL_FRAME_MAX => {
                assert_eq!((error.kind(), stream.len()), (io::ErrorKind::InvalidData, bytes.len() - 4));
                false
            }
            (Err(_), _) => false,
            (Ok(_), None) => panic!("a frame out of {} bytes", bytes.len()),
        }
    });
}
