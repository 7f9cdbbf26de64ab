//! A server's session never panics, never holds more than it was given, and
//! lets nothing through that is beyond the limits.
#![no_main]

use bdsync_proto::{ServerEvent, ServerSession, limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let mut session = ServerSession::default();
    let mut digest_size = 0;
    for piece in data.chunks(usize::from(cut) * 64 + 1) {
        session.receive(piece);
        while session.has_message() {
            let event = match session.poll() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    assert!([4, 6].contains(&error.exit_code().code()));
                    return;
                }
            };
            match event {
                ServerEvent::Open(name) => {
                    assert!((2..=limits::MAX_DEVICE_NAME).contains(&name.len()) && !name.contains(&0));
                    session.answer_size(100_000);
                }
                ServerEvent::Digests(choice) => {
                    assert!(choice.salt.len() <= limits::MAX_SALT);
                    digest_size = choice.digest.len() % 64 + 1;
                    session.accept_digests(digest_size);
                }
                ServerEvent::Hashes(range) => {
                    assert!(range.end() <= limits::MAX_POSITION && range.step() <= limits::MAX_STEP);
                    session.answer_hashes(&range, &vec![7; range.count() as usize * digest_size]);
                }
                ServerEvent::Hint(hint) => session.answer_hint(hint),
                ServerEvent::Block(range) => {
                    assert!(range.length() as usize <= limits::MAX_BLOCK_ANSWER);
                    session.answer_block(&range, &vec![8; range.length() as usize]);
                }
                ServerEvent::Checksum => session.answer_checksum(&[]),
                ServerEvent::Done => session.answer_done(),
            }
            session.output().clear();
        }
    }
    let _ = session.end_of_input();
});
