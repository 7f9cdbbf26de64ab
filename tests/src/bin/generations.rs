//! Writes a number into all blocks of devices, one after the other, then the next number, and
//! so on; and tells whether copies of them are of one moment.
//!
//!     generations write DEVICE...     until it is ended
//!     generations check COPY...       in the same order

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;

const BLOCK: usize = 4096;

/// What direct writes need.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((word, devices)) if word == "write" => write(devices),
        Some((word, copies)) if word == "check" => check(copies),
        _ => panic!("generations write|check PATH..."),
    }
}

fn write(devices: &[String]) -> ExitCode {
    let open = |path: &String| {
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).expect("a device");
        let blocks = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).expect("its size") / BLOCK as u64;
        (file, blocks)
    };
    let devices: Vec<_> = devices.iter().map(open).collect();
    let mut block = Aligned([0; BLOCK]);
    for generation in 1u64.. {
        block.0[..8].copy_from_slice(&generation.to_le_bytes());
        for (file, blocks) in &devices {
            for index in 0..*blocks {
                file.write_all_at(&block.0, index * BLOCK as u64).expect("a block is written");
            }
        }
        if generation == 1 {
            println!("WRITING");
        }
    }
    ExitCode::SUCCESS
}

fn check(copies: &[String]) -> ExitCode {
    let mut generations = Vec::new();
    for copy in copies {
        let content = std::fs::read(copy).expect("a copy");
        generations.extend(
            content.chunks_exact(BLOCK).map(|block| u64::from_le_bytes(block[..8].try_into().expect("eight bytes"))),
        );
    }
    let (first, last) = (generations[0], generations[generations.len() - 1]);
    let is_one_moment = generations.windows(2).all(|pair| pair[0] >= pair[1]) && first - last <= 1 && last > 0;
    println!("generations {last} to {first}: {}", if is_one_moment { "one moment" } else { "NOT of one moment" });
    if is_one_moment { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
