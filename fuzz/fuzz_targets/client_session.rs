//! A client's session accepts only what was asked for.
#![no_main]

use bdsync_proto::{BlockRange, ClientEvent, ClientSession, DigestChoice, HashRange, Hello, Hint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let mut session = ClientSession::new(&Hello::client(), b"target.img");
    let mut position = 0;
    let mut asked_hashes = std::collections::VecDeque::new();
    let mut asked_blocks = std::collections::VecDeque::new();
    for piece in data.chunks(usize::from(cut) * 64 + 1) {
        session.receive(piece);
        loop {
            match session.poll() {
                Ok(None) => break,
                Err(error) => {
                    assert!([4, 6].contains(&error.exit_code().code()));
                    return;
                }
                Ok(Some(ClientEvent::Size(_))) => {
                    let choice = DigestChoice { salt: vec![0; 32], digest: "md5".into(), checksum: Some("md5".into()) };
                    session.choose_digests(choice, 16, 16);
                    for count in [75, 1, 3] {
                        let range = HashRange::new(position, 4096, count).expect("within the limits");
                        position = range.end();
                        asked_hashes.push_back(range);
                        session.request_hashes(range);
                    }
                    session.request_hint(Hint::released(position));
                    let block = BlockRange::new(4096, 4096).expect("within the limits");
                    asked_blocks.push_back(block);
                    session.request_block(block);
                    session.request_checksum();
                    session.request_done();
                }
                Ok(Some(ClientEvent::Hashes(range, digests))) => {
                    assert_eq!(asked_hashes.pop_front(), Some(range));
                    assert_eq!(digests.len(), range.count() as usize * 16);
                }
                Ok(Some(ClientEvent::Block(range, bytes))) => {
                    assert_eq!(asked_blocks.pop_front(), Some(range));
                    assert_eq!(bytes.len(), range.length() as usize);
                }
                Ok(Some(ClientEvent::Checksum(digest))) => assert_eq!(digest.len(), 16),
                Ok(Some(ClientEvent::Done)) => assert!(asked_hashes.is_empty() && asked_blocks.is_empty()),
                Ok(Some(ClientEvent::Hello(_) | ClientEvent::HintHeard(_))) => {}
            }
        }
    }
    assert_eq!(session.end_of_input().is_ok(), session.is_done());
});
