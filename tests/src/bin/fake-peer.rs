//! The other end of a connection, as bad as a script tells it to be.
//!
//! Started as a client's remote command with the path of a script. Each line
//! is an action:
//!
//! - `send HEX`: write these bytes
//! - `file PATH FIRST END`: write the bytes `FIRST..END` of a file
//! - `endless HEX`: write these bytes again and again until the client goes away
//! - `complain COUNT HEX`: write these bytes to stderr so many times
//! - `await COUNT`: read so many bytes
//! - `drain`: read to the end of input
//! - `close`: close stdout
//! - `exit CODE`: end

use std::io::{self, Read, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let script = std::env::args().nth(1).expect("the path of a script");
    let script = std::fs::read_to_string(&script).expect("a script");
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match words.as_slice() {
            ["send", hex] => send(&bytes(hex)),
            ["send"] => Ok(()),
            ["file", path, first, end] => {
                send(&std::fs::read(path).expect("a file to send")[number(first)..number(end)])
            }
            ["endless", hex] => endless(&bytes(hex)),
            ["complain", count, hex] => complain(number(count), &bytes(hex)),
            ["await", count] => io::stdin().read_exact(&mut vec![0; number(count)]),
            ["drain"] => io::copy(&mut io::stdin(), &mut io::sink()).map(drop),
            ["close"] => close(),
            ["exit", code] => return ExitCode::from(number(code) as u8),
            _ => panic!("unknown action: {line}"),
        };
        // A client that goes away ends the script: that is what the tests want of it.
        if done.is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn send(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn endless(bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat((65_536 / bytes.len()).max(1));
    loop {
        send(&many)?;
    }
}

fn complain(count: usize, bytes: &[u8]) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(65_536, io::stderr().lock());
    for _ in 0..count {
        out.write_all(bytes)?;
    }
    out.flush()
}

fn close() -> io::Result<()> {
    // SAFETY: nothing of this program uses the descriptor afterwards but `send`, which fails then.
    unsafe { libc::close(libc::STDOUT_FILENO) };
    Ok(())
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hexadecimal digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}
