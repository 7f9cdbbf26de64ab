//! Connecting: the socket, the host's key, and who logs in.

use std::fs::File;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bdsync_engine::Cancellation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, MethodType, Session};

use crate::config::{CIPHERS, Ssh};
use crate::failure::Failure;
use crate::known_hosts::{Found, KnownHosts};

use super::{AGAIN, TICK};

/// Making a connection.
pub(super) struct Connecting<'a> {
    pub(super) settings: &'a Ssh,
    pub(super) timeout: Duration,
    pub(super) cancellation: &'a Cancellation,
}

impl Connecting<'_> {
    fn place(&self) -> String {
        format!("{}@{}:{}", self.settings.user, self.settings.host, self.settings.port)
    }

    fn broken(&self, what: &str, error: impl std::fmt::Display) -> Failure {
        Failure::Connection(format!("SSH to {}: {what}: {error}", self.place()))
    }

    fn refused(&self, what: impl std::fmt::Display) -> Failure {
        Failure::Unreachable(format!("SSH to {}: {what}", self.place()))
    }

    pub(super) fn connect(&self) -> Result<(Session, TcpStream), Failure> {
        let deadline = Instant::now() + self.timeout;
        let socket = self.socket(deadline)?;
        socket.set_nodelay(true).map_err(|error| self.broken("connecting", error))?;
        let mut session = Session::new().map_err(|error| self.refused(error))?;
        let known = KnownHosts::load(&self.settings.known_hosts).map_err(|text| self.refused(text))?;
        // A key that is known is asked for first.
        let types = known.key_types(&self.settings.host, self.settings.port);
        if !types.is_empty() {
            let mut all = types.clone();
            all.extend(session.supported_algs(MethodType::HostKey).unwrap_or_default().into_iter().map(String::from));
            let mut once: Vec<String> = Vec::new();
            all.into_iter().filter(|name| !name.is_empty()).for_each(|name| {
                if !once.contains(&name) {
                    once.push(name);
                }
            });
            let _ = session.method_pref(MethodType::HostKey, &once.join(","));
        }
        for direction in [MethodType::CryptCs, MethodType::CryptSc] {
            // Without these it takes its own.
            let _ = session.method_pref(direction, CIPHERS);
        }
        session.set_compress(self.settings.compression);
        session.set_tcp_stream(socket.try_clone().map_err(|error| self.broken("connecting", error))?);
        session.set_blocking(false);
        session.set_keepalive(true, self.settings.keepalive.as_secs() as u32);
        self.retry(&session.clone(), &socket, deadline, || session.handshake())
            .map_err(|failure| failure.during("the handshake"))?;
        self.check_host(&session, &known)?;
        self.authenticate(&session, &socket, deadline)?;
        Ok((session, socket))
    }

    fn socket(&self, deadline: Instant) -> Result<TcpStream, Failure> {
        let host = self.settings.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = (host, self.settings.port)
            .to_socket_addrs()
            .map_err(|error| self.broken("looking up its address", error))?;
        let mut last = None;
        for address in addresses {
            // In short waits, so that a stop gets through. The system goes on connecting only
            // as long as the socket lives, so each wait is longer than the one before.
            let mut wait = Duration::from_secs(1);
            loop {
                if self.cancellation.is_cancelled() {
                    return Err(Failure::Cancelled);
                }
                match TcpStream::connect_timeout(&address, wait.min(Duration::from_secs(2))) {
                    Ok(socket) => return Ok(socket),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < deadline => wait *= 2,
                    Err(error) => {
                        last = Some(error);
                        break;
                    }
                }
            }
        }
        let error = last.unwrap_or_else(|| io::Error::other("it has no address"));
        Err(self.broken("connecting", bdsync_device::plain(&error)))
    }

    /// Repeats a step until it does not have to wait any more.
    fn retry<T>(
        &self,
        session: &Session,
        socket: &TcpStream,
        deadline: Instant,
        mut step: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Failure> {
        loop {
            match step() {
                Err(error) if error.code() == AGAIN => {}
                Err(error) => return Err(self.broken("it failed", error)),
                Ok(value) => return Ok(value),
            }
            if self.cancellation.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            if Instant::now() > deadline {
                return Err(self.broken("no answer", format!("within {} seconds", self.timeout.as_secs())));
            }
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
            let _ = poll(&mut [PollFd::new(socket, directions(session))], Some(&tick));
        }
    }

    fn check_host(&self, session: &Session, known: &KnownHosts) -> Result<(), Failure> {
        let Some((key, _)) = session.host_key() else { return Err(self.refused("it has no host key")) };
        match known.look_up(&self.settings.host, self.settings.port, key) {
            Found::Known => Ok(()),
            Found::Unknown(offered) if self.settings.accept_new => {
                known.add(&self.settings.host, self.settings.port, key).map_err(|text| self.refused(text))?;
                tracing::warn!("SSH to {}: the unknown host key {offered} is accepted and kept", self.place());
                Ok(())
            }
            Found::Unknown(offered) => Err(self.refused(format!(
                "its host key {offered} is not in {}; compare it with what `ssh-keygen -lf` says at the other end, and add it, or set host_key_checking = \"accept-new\"",
                self.settings.known_hosts.display()
            ))),
            Found::Other { offered, known, line } => Err(self.refused(format!(
                "ITS HOST KEY HAS CHANGED: it is {offered}, and {}:{line} has {known}. Somebody may be listening in. If the machine was installed anew, remove that line",
                self.settings.known_hosts.display()
            ))),
            Found::Revoked { offered, line } => Err(self.refused(format!(
                "its host key {offered} is revoked by {}:{line}",
                self.settings.known_hosts.display()
            ))),
        }
    }

    fn authenticate(&self, session: &Session, socket: &TcpStream, deadline: Instant) -> Result<(), Failure> {
        let user = &self.settings.user;
        let mut tried = Vec::new();
        let failed = |failure: Failure| match failure {
            // What a key was refused for is no reason to give up.
            Failure::Connection(text) => Ok(text.rsplit(": ").next().unwrap_or_default().to_string()),
            other => Err(other),
        };
        if self.settings.ssh_agent {
            let mut agent = session.agent().map_err(|error| self.refused(error))?;
            match agent.connect().and_then(|()| agent.list_identities()).and_then(|()| agent.identities()) {
                Ok(identities) => {
                    for identity in &identities {
                        match self.retry(session, socket, deadline, || agent.userauth(user, identity)) {
                            Ok(()) => return Ok(()),
                            Err(failure) => {
                                tried.push(format!("{} of ssh-agent ({})", identity.comment(), failed(failure)?))
                            }
                        }
                    }
                    if identities.is_empty() {
                        tried.push("ssh-agent (it has no keys)".into());
                    }
                }
                Err(error) => tried.push(format!("ssh-agent ({})", error.message())),
            }
        }
        for path in &self.settings.identity_files {
            let by_file = || session.userauth_pubkey_file(user, None, path, None);
            match self.retry(session, socket, deadline, by_file) {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    let mut why = failed(failure)?;
                    if let Err(error) = File::open(path) {
                        why = bdsync_device::plain(&error);
                    } else if !why.contains("Username/PublicKey") {
                        why += "; one with a passphrase belongs into ssh-agent";
                    }
                    tried.push(format!("{} ({why})", path.display()));
                }
            }
        }
        let tried =
            if tried.is_empty() { "there is none to try (identity_file, ssh_agent)".into() } else { tried.join(", ") };
        Err(self.refused(format!("no key was accepted: {tried}")))
    }
}

/// What the session waits for.
pub(super) fn directions(session: &Session) -> PollFlags {
    match session.block_directions() {
        BlockDirections::Outbound => PollFlags::OUT | PollFlags::IN,
        BlockDirections::Both => PollFlags::OUT | PollFlags::IN,
        _ => PollFlags::IN,
    }
}
