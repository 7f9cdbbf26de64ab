//! A TCP relay that breaks connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// What happens to a connection once its bytes are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Both directions end.
    Cut,
    /// Nothing moves any more, and nobody is told.
    Stall,
}

/// A relay to a port of this machine; it ends with the test.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    left: Arc<AtomicI64>,
    stall: Arc<AtomicBool>,
}

impl Relay {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// When there is no port to be had.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (left, stall) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicBool::new(false)));
        let (count, stalls) = (Arc::clone(&left), Arc::clone(&stall));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { return };
                let broken = Arc::new(AtomicBool::new(false));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let (count, stalls, broken) = (Arc::clone(&count), Arc::clone(&stalls), Arc::clone(&broken));
                    std::thread::spawn(move || pass(from, to, &count, &stalls, &broken));
                }
            }
        });
        Self { port, left, stall }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets this many bytes through, in both directions and over all connections; then the
    /// connection that wants more breaks, and later ones are left alone.
    pub fn break_after(&self, bytes: u64, how: Break) {
        self.stall.store(how == Break::Stall, Ordering::SeqCst);
        self.left.store(bytes as i64, Ordering::SeqCst);
    }

    /// Whether a connection was broken since it was said when.
    pub fn has_broken(&self) -> bool {
        self.left.load(Ordering::SeqCst) > i64::MAX / 2
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64, stall: &AtomicBool, broken: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if left.fetch_sub(count as i64, Ordering::SeqCst) < count as i64 {
            left.store(i64::MAX, Ordering::SeqCst);
            broken.store(true, Ordering::SeqCst);
            if stall.load(Ordering::SeqCst) {
                // Until one of the ends gives up.
                while from.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
            break;
        }
        if broken.load(Ordering::SeqCst) {
            // The other direction stalls, too.
            continue;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
