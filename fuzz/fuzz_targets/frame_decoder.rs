//! Frames come out of a stream in pieces as they come out of the whole.
#![no_main]

use bdsync_proto::{FrameDecoder, Message};
use libfuzzer_sys::fuzz_target;

/// All frames of a stream that is pushed in pieces of `cut` bytes, and how it ends.
fn frames(data: &[u8], cut: usize) -> (Vec<(u8, Vec<u8>)>, Option<String>) {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    for piece in data.chunks(cut) {
        decoder.push(piece);
        loop {
            assert!(decoder.pending() <= data.len());
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    // Whatever parses is written again to the same message.
                    if let Ok(message) = Message::parse(&frame) {
                        let mut bytes = Vec::new();
                        message.encode(&mut bytes);
                        let mut again = FrameDecoder::new();
                        again.push(&bytes);
                        let frame = again.next_frame().expect("ours").expect("whole");
                        assert_eq!(Message::parse(&frame).as_ref(), Ok(&message));
                    }
                    frames.push((frame.message as u8, frame.payload.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let (whole, whole_error) = frames(data, data.len().max(1));
    let (pieces, pieces_error) = frames(data, usize::from(cut) + 1);
    assert_eq!(whole_error.is_some(), pieces_error.is_some());
    // An oversize length spoils what was not taken before it was seen, so the whole may give less.
    assert_eq!(whole[..], pieces[..whole.len()]);
});
