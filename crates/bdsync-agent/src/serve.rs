//! `bdsync-agent serve` (`proto-spec/agent.md`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bdsync_device::{Access, Device, DeviceKind, plain};
use bdsync_engine::bench::{Plan, measure};
use bdsync_engine::serve::{ServeOptions, serve};
use bdsync_engine::tree::{Link, LinkEvent, LinkOptions, Output, PatchSink, Shape, tree_server};
use bdsync_engine::{Cancellation, Context, Error, Event, ScanOptions, Scanner};
use bdsync_proto::agent::{AGENT_VERSION, AgentMessage, CAPABILITY, ZSTD};
use bdsync_proto::{Hello, MessageType, ProtocolError, limits};
use bdsync_target::TargetError;
use bdsync_target::guard;
use bdsync_target::lvm::Lvm;
use bdsync_target::ops::{
    About, Answer, AppliedPatch, Compare, Compared, Facts, NewSnapshot, PatchGoes, Place, ProgressReport, Ready,
    Request, StoredPatch,
};
use bdsync_target::redo::{Redo, is_file_stem};
use bdsync_target::volume::{self, VolumeName};
use serde::Serialize;

use crate::applied::Applied;
use crate::command_line::ServeOptions as Options;
use crate::gate::{Gate, Handle, is_supported};
use crate::stored::Stored;

/// How much of a patch may wait to be stored, in bytes.
const QUEUE: usize = 4 << 20;

/// How much a pipe to or from the client shall hold, in bytes.
const PIPE: usize = 1 << 20;

/// How often the client is told that all is well.
const PULSE: Duration = Duration::from_secs(1);

/// How long a lock of another process is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: Options) -> Result<()> {
    let gate =
        Gate { allowed: args.restrict_to, read_only: args.read_only, append_only_patches: args.append_only_patches };
    if !gate.allowed.is_empty() && !is_supported() {
        anyhow::bail!("--restrict-to needs Linux 5.6 or later, and /proc");
    }
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    for stream in [&input, &output] {
        // It need not be a pipe, and works with a small one, too.
        let _ = rustix::pipe::fcntl_setpipe_size(stream, PIPE);
    }
    // Both ends say hello at once.
    let hello = Hello::with_capabilities("SERVER", &[&format!("{CAPABILITY}={AGENT_VERSION}"), ZSTD]);
    send_hello(&mut output, &hello).map_err(Error::WritePeer)?;
    let (head, payload) = read_hello(&mut input)?;
    let hello = Hello::parse(&payload).map_err(Error::from)?;
    let capabilities = hello.capabilities("CLIENT");
    let is_agent = capabilities.iter().any(|(name, _)| *name == CAPABILITY);
    let zstd = capabilities.iter().any(|(name, _)| *name == ZSTD);
    let scan = ScanOptions { threads: args.threads, ..ScanOptions::default() };
    let cancellation = Cancellation::new();
    let context = Context { observer: &|_: &Event| {}, cancellation: &cancellation };
    // A client with capabilities may still want plain 0.5: its first message tells.
    let mut first = [0; 5];
    let mut count = 0;
    while is_agent && count < first.len() {
        match input.read(&mut first[count..]).map_err(Error::ReadPeer)? {
            0 => break,
            read => count += read,
        }
    }
    let first = first[..count].to_vec();
    if !is_agent || first.get(4).is_some_and(|kind| *kind == MessageType::DevFile as u8) {
        let prefix = [&head[..], &payload, &first].concat();
        let open = Box::new(move |name: &OsStr| {
            let name = name.to_str().ok_or_else(|| Error::Parameter("the device's name is not UTF-8".into()))?;
            let handle = gate.target(name).map_err(|error| Error::Parameter(error.to_string()))?;
            let device = Device::open(&handle.path, Access::Read);
            device.map_err(|error| Error::Parameter(handle.restore(&error.to_string())))
        });
        let options = ServeOptions { scan, hello_is_said: true, open };
        let input = Prefixed { prefix: Cursor::new(prefix), input };
        return Ok(serve(input, output, options, context)?);
    }
    let link = Link::new(Cursor::new(first).chain(input), output, LinkOptions::Wait(QUEUE), zstd)?;
    Ok(Agent { gate, link, scan, context, held: None, stored: None }.run()?)
}

fn send_hello(output: &mut File, hello: &Hello) -> io::Result<()> {
    let payload = hello.to_payload();
    let mut message = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    message.push(MessageType::Hello as u8);
    message.extend_from_slice(&payload);
    output.write_all(&message)
}

/// Reads the first message: its first five bytes, and its payload.
fn read_hello(input: &mut File) -> Result<([u8; 5], Vec<u8>), Error> {
    let ended = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ProtocolError::UnexpectedEnd { expected: "hello".into() }.into(),
        _ => Error::ReadPeer(error),
    };
    let mut head = [0; 5];
    input.read_exact(&mut head).map_err(ended)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if length == 0 || head[4] != MessageType::Hello as u8 || length as usize > 1 + limits::MAX_HELLO {
        let shown = String::from_utf8_lossy(&head).escape_debug().to_string();
        return Err(ProtocolError::BadHello(shown).into());
    }
    let mut payload = vec![0; length as usize - 1];
    input.read_exact(&mut payload).map_err(ended)?;
    Ok((head, payload))
}

/// A stream of which the beginning was read already.
struct Prefixed {
    prefix: Cursor<Vec<u8>>,
    input: File,
}

impl Read for Prefixed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.prefix.read(buffer)? {
            0 => self.input.read(buffer),
            count => Ok(count),
        }
    }
}

impl AsFd for Prefixed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}

struct Agent<'a> {
    gate: Gate,
    link: Link,
    scan: ScanOptions,
    context: Context<'a>,
    /// The target that this session brings up to date; nobody else may meanwhile.
    held: Option<(String, guard::TargetLock)>,
    /// What this session has stored last, and where: its digest is known.
    stored: Option<(Place, StoredPatch)>,
}

type Outcome = Result<serde_json::Value, TargetError>;

fn json(value: impl Serialize) -> Outcome {
    serde_json::to_value(value).map_err(|error| TargetError::refused(format!("no answer can be made: {error}")))
}

impl Agent<'_> {
    fn run(mut self) -> Result<(), Error> {
        loop {
            match self.link.wait(self.context)? {
                LinkEvent::Message(AgentMessage::Request, payload) => {
                    let outcome = match serde_json::from_slice(&payload) {
                        Ok(Request::Compare(compare)) => self.compare(&compare)?,
                        Ok(request) => {
                            let pulse = Pulse::start(self.link.output().clone())?;
                            let outcome = self.answer(&request, &pulse);
                            drop(pulse);
                            outcome
                        }
                        Err(error) => Err(TargetError::refused(format!("the request is not understood: {error}"))),
                    };
                    let answer = outcome.map_or_else(refused, Answer::Ok);
                    let text = serde_json::to_vec(&answer).unwrap_or_else(|_| br#"{"error":"no answer"}"#.to_vec());
                    self.link.output().send(AgentMessage::Answer, &[&text])?;
                    self.link.output().flush()?;
                }
                // What was on its way when a comparison could not go on.
                LinkEvent::Message(
                    AgentMessage::Refine
                    | AgentMessage::Release
                    | AgentMessage::Fetch
                    | AgentMessage::Patch
                    | AgentMessage::End,
                    _,
                )
                | LinkEvent::Scanned(_)
                | LinkEvent::Tick => {}
                LinkEvent::Message(message, _) => {
                    return Err(bdsync_proto::agent::bad(message, "a request was expected").into());
                }
                LinkEvent::End => return Ok(()),
            }
        }
    }

    fn answer(&mut self, request: &Request, pulse: &Pulse) -> Outcome {
        let observer = |event: &Event| {
            if let Event::Applied { data_bytes } = event {
                pulse.state.done.store(*data_bytes, Ordering::Relaxed);
            }
        };
        let context = Context { observer: &observer, cancellation: self.context.cancellation };
        match request {
            Request::About => json(self.about()),
            Request::Facts { path, place } => self.facts(path, place.as_ref(), context),
            Request::Create { path } => {
                self.gate.may_write("create a target")?;
                let handle = self.gate.target(path)?;
                guard::check_place(Path::new(path))?;
                let made = File::options().write(true).create_new(true).mode(0o600).open(&handle.path);
                made.map_err(|error| {
                    TargetError::refused(format!("cannot create the target {path}: {}", plain(&error)))
                })?;
                json(serde_json::Map::new())
            }
            Request::Discard { place, ready, path } => {
                if *ready {
                    self.gate.may_write("remove a patch")?;
                } else {
                    self.gate.may_store()?;
                }
                self.hold_named(path.as_deref())?;
                let (handle, redo) = self.redo(place)?;
                if *ready && redo.is_ready().map_err(|error| restored(error, &[&handle]))? {
                    redo.drop_ready().map_err(|error| restored(error, &[&handle]))?;
                }
                redo.discard();
                json(serde_json::Map::new())
            }
            Request::Commit { place, state, path } => {
                self.gate.may_store()?;
                self.hold_named(path.as_deref())?;
                let (handle, redo) = self.redo(place)?;
                let is_ready = redo.is_ready().map_err(|error| restored(error, &[&handle]))?;
                if self.gate.append_only_patches && is_ready {
                    let text = "there is a ready patch already, and this agent takes --append-only-patches";
                    return Err(TargetError::refused(text));
                }
                // What was hashed while it was stored is not read once more for that.
                let known = self.stored.take().filter(|(known, _)| known == place);
                let known = known.map(|(_, stored)| (stored.patch_bytes, stored.sha256));
                redo.commit(state, known, context).map_err(|error| restored(error, &[&handle]))?;
                json(serde_json::Map::new())
            }
            Request::Apply { path, place, size_policy } => {
                self.gate.may_write("apply a patch")?;
                let (target, (folder, redo)) = (self.gate.target(path)?, self.redo(place)?);
                is_there(&target)?;
                let handles = [&target, &folder];
                self.hold(&target)?;
                if !redo.is_ready().map_err(|error| restored(error, &handles))? {
                    return json(AppliedPatch { done_before: true, ..AppliedPatch::default() });
                }
                let state = redo.ready_state().map_err(|error| restored(error, &handles))?;
                let Some(state) = state else {
                    let text = format!("the patch for {path} has no state file that is understood; it was not applied");
                    return Err(TargetError::refused(text));
                };
                pulse.state.total.store(state.patch_bytes, Ordering::Relaxed);
                let applied = redo.apply(&target.path, &state, (*size_policy).into(), context);
                let applied = applied.map_err(|error| restored(error, &handles))?;
                json(AppliedPatch {
                    written_bytes: applied.as_ref().map_or(0, |stats| stats.written_bytes),
                    done_before: applied.is_none(),
                })
            }
            Request::Volume { path, vg, wish } => {
                let volume = self.volume(path, vg, "change a volume")?;
                // Whoever has it open keeps LVM from changing it.
                self.held = None;
                json(volume::ensure(&Lvm::of_this_machine(), &volume, wish)?)
            }
            Request::VolumeSnapshot { path, vg, rollback } => {
                let volume = self.volume(path, vg, "take a snapshot")?;
                let name = volume::keep_for_rollback(&Lvm::of_this_machine(), &volume, rollback)?;
                json(NewSnapshot { name })
            }
            Request::VolumeSettled { path, vg, keep } => {
                let volume = self.volume(path, vg, "remove a snapshot")?;
                volume::settle_rollback(&Lvm::of_this_machine(), &volume, *keep)?;
                json(serde_json::Map::new())
            }
            Request::Bench { path, seconds } => {
                let handle = path.as_deref().map(|path| self.gate.target(path)).transpose()?;
                let device = handle.as_ref().map(|handle| handle.path.clone());
                let plan = Plan { device, seconds: seconds.clamp(0.1, 3600.0), ..Plan::default() };
                json(measure(&plan, &mut |_| {})?)
            }
            Request::Compare(_) => Err(TargetError::refused("a comparison has a way of its own")),
        }
    }

    /// A logical volume that may be changed, or made.
    fn volume(&self, path: &str, group: &str, what: &str) -> Result<VolumeName, TargetError> {
        self.gate.may_write(what)?;
        let volume = VolumeName::new(Path::new(path), group)?;
        self.gate.volume(path, group)?;
        Ok(volume)
    }

    /// Locks a target until the session ends, and makes sure that it is the one that was
    /// locked before.
    fn hold(&mut self, target: &Handle) -> Result<(), TargetError> {
        if self.held.as_ref().is_none_or(|(path, _)| *path != target.asked) {
            // What is left over from a connection that broke just now ends by itself.
            let begin = Instant::now();
            let lock = loop {
                match guard::lock_target(&target.path) {
                    Err(_) if begin.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 50),
                    result => break result.map_err(|error| restored(error, &[target]))?,
                }
            };
            self.held = Some((target.asked.clone(), lock));
        }
        match &self.held {
            Some((_, lock)) => lock.check(&target.path).map_err(|error| restored(error, &[target])),
            None => Ok(()),
        }
    }

    /// As [`hold`](Self::hold), for a target that a request names and that is there.
    fn hold_named(&mut self, path: Option<&str>) -> Result<(), TargetError> {
        let Some(path) = path else { return Ok(()) };
        let target = self.gate.target(path)?;
        if target.exists { self.hold(&target) } else { Ok(()) }
    }

    fn about(&self) -> About {
        let system = rustix::system::uname();
        About {
            version: env!("CARGO_PKG_VERSION").into(),
            machine: system.machine().to_string_lossy().into_owned(),
            host: system.nodename().to_string_lossy().into_owned(),
            user: rustix::process::geteuid().as_raw().to_string(),
            time: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            read_only: self.gate.read_only,
            append_only_patches: self.gate.append_only_patches,
            restricted: !self.gate.allowed.is_empty(),
        }
    }

    fn redo(&self, place: &Place) -> Result<(Handle, Redo), TargetError> {
        if !is_file_stem(&place.stem) {
            return Err(TargetError::refused(format!("{:?} is no name of a patch", place.stem)));
        }
        let folder = self.gate.folder(&place.folder)?;
        let redo = Redo::with_stem(&folder.path, &place.stem).map_err(|error| restored(error, &[&folder]))?;
        Ok((folder, redo))
    }

    fn facts(&self, path: &str, place: Option<&Place>, context: Context<'_>) -> Outcome {
        let target = self.gate.target(path)?;
        let mut facts = Facts { kind: "missing".into(), ..Facts::default() };
        if target.exists {
            let metadata = std::fs::metadata(&target.path).map_err(|error| {
                TargetError::refused(format!("cannot look at the target {path}: {}", plain(&error)))
            })?;
            facts.identity = Some(identity(&metadata));
            // Without opening it: what opens a FIFO or a tape does something.
            match Some(&target.path).filter(|_| is_file_or_block(&metadata)) {
                None => facts.kind = "other".into(),
                Some(path) => {
                    let device =
                        Device::open(path, Access::Read).map_err(|error| restored(error.into(), &[&target]))?;
                    facts.kind = if device.kind() == DeviceKind::Block { "block" } else { "file" }.into();
                    facts.size = Some(device.size());
                    facts.busy = guard::busy(path)?;
                    // What a broken connection has left at work claims its target, too.
                    if facts.busy.is_some()
                        && self.held.is_none()
                        && let Err(error @ TargetError::Locked(_)) = guard::lock_target(path)
                    {
                        return Err(restored(error, &[&target]));
                    }
                }
            }
        }
        if let Some(place) = place
            && let Ok((_folder, redo)) = self.redo(place)
        {
            facts.folder = true;
            facts.writable = redo.is_writable();
            facts.free_bytes = redo.free_bytes();
            facts.partial_bytes = redo.partial_bytes();
            facts.leftovers = redo.has_leftovers();
            if redo.is_ready().map_err(|error| restored(error, &[&_folder]))? {
                let state = redo.ready_state().map_err(|error| restored(error, &[&_folder]))?;
                let (bytes, sha256) = redo.ready_digest(context).map_err(|error| restored(error, &[&_folder]))?;
                facts.ready = Some(Ready { bytes, sha256, state });
            }
        }
        json(facts)
    }

    /// Compares, as it is asked for. Errors of the connection end the session.
    fn compare(&mut self, request: &Compare) -> Result<Outcome, Error> {
        let pulse = Pulse::start(self.link.output().clone())?;
        let prepared = self.prepare(request);
        drop(pulse);
        let (scanner, shape, mut sink, handles) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        let compared = Compared { size: scanner.device().size() };
        let answer = match json(compared) {
            Ok(value) => serde_json::to_vec(&Answer::Ok(value)).unwrap_or_default(),
            Err(error) => return Ok(Err(error)),
        };
        self.link.output().send(AgentMessage::Answer, &[&answer])?;
        let result = {
            let sink: Option<&mut dyn PatchSink> = match &mut sink {
                Sink::None => None,
                Sink::Stored(stored) => Some(&mut **stored),
                Sink::Applied(applied) => Some(applied),
            };
            tree_server(&mut self.link, &scanner, &shape, sink, self.context)
        };
        let handles: Vec<&Handle> = handles.iter().collect();
        match result {
            Ok(complete) => Ok(self.complete(request, sink, complete).map_err(|error| restored(error, &handles))),
            // The connection is gone, or of no use: a partial patch stays for another one.
            Err(error @ (Error::Protocol(_) | Error::ReadPeer(_) | Error::WritePeer(_))) => Err(error),
            Err(error) => {
                let _ = self.complete(request, sink, false);
                Ok(Err(restored(error.into(), &handles)))
            }
        }
    }

    fn prepare(&mut self, request: &Compare) -> Result<Prepared, TargetError> {
        let shape = request.shape()?;
        let target = self.gate.target(&request.path)?;
        is_there(&target)?;
        // What is looked at is what will be changed, and nobody else changes it meanwhile.
        if request.patch.is_some() {
            self.hold(&target)?;
        }
        let device = Device::open(&target.path, Access::Read).map_err(|error| restored(error.into(), &[&target]))?;
        if request.fresh {
            device.release(0, device.size());
        }
        let scanner = Scanner::new(Arc::new(device), self.scan)?;
        if request.flush_cache {
            scanner.flush_cache();
        }
        let mut handles = Vec::new();
        let sink = match &request.patch {
            None => Sink::None,
            Some(PatchGoes::Stored { place, offset, sha256 }) => {
                self.gate.may_store()?;
                let (folder, redo) = self.redo(place)?;
                let stored = Stored::new(redo, *offset, sha256, self.context);
                let stored = stored.map_err(|error| restored(error, &[&folder]))?;
                handles.push(folder);
                Sink::Stored(Box::new(stored))
            }
            Some(PatchGoes::Applied { in_place }) => {
                self.gate.may_write("change a target")?;
                let claim = guard::claim(&target.path).map_err(|error| restored(error, &[&target]))?;
                Sink::Applied(Applied::start(&target.path, (*in_place).into(), claim)?)
            }
        };
        handles.push(target);
        Ok((scanner, shape, sink, handles))
    }

    fn complete(&mut self, request: &Compare, sink: Sink, complete: bool) -> Outcome {
        match (sink, complete) {
            (Sink::None, _) => json(serde_json::Map::new()),
            (Sink::Stored(stored), false) => {
                stored.discard();
                json(serde_json::Map::new())
            }
            (Sink::Stored(stored), true) => {
                let _pulse = Pulse::start(self.link.output().clone())?;
                let stored = stored.finish()?;
                if let Some(PatchGoes::Stored { place, .. }) = &request.patch {
                    self.stored = Some((place.clone(), stored.clone()));
                }
                json(stored)
            }
            (Sink::Applied(applied), _) => {
                let _pulse = Pulse::start(self.link.output().clone())?;
                json(applied.finish()?)
            }
        }
    }
}

/// Refuses to open what was missing when it was looked at: whatever stands there now was not
/// compared with what is allowed.
fn is_there(target: &Handle) -> Result<(), TargetError> {
    match target.exists {
        true => Ok(()),
        false => Err(TargetError::refused(format!("{} does not exist", target.asked))),
    }
}

/// An error with the names that the client knows.
fn restored(error: TargetError, handles: &[&Handle]) -> TargetError {
    let text = handles.iter().fold(error.to_string(), |text, handle| handle.restore(&text));
    match error {
        TargetError::Locked(_) => TargetError::Locked(text),
        TargetError::NoSpace(_) => TargetError::NoSpace(text),
        _ => TargetError::refused(text),
    }
}

fn refused(error: TargetError) -> Answer {
    match error {
        TargetError::Locked(text) => Answer::Locked(text),
        error => Answer::Error(error.to_string()),
    }
}

fn is_file_or_block(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.is_file() || metadata.file_type().is_block_device()
}

fn identity(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::FileTypeExt;
    let number = |device: u64| format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    match metadata.file_type().is_block_device() {
        true => format!("block {}", number(metadata.rdev())),
        false => format!("file {} {}", number(metadata.dev()), metadata.ino()),
    }
}

/// What a comparison needs.
type Prepared = (Arc<Scanner>, Shape, Sink, Vec<Handle>);

/// Where a patch goes.
enum Sink {
    None,
    Stored(Box<Stored>),
    Applied(Applied),
}

/// Tells the client once a second that all is well, as long as it lives.
struct Pulse {
    state: Arc<PulseState>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct PulseState {
    stop: Mutex<bool>,
    stopped: Condvar,
    done: AtomicU64,
    total: AtomicU64,
}

impl Pulse {
    fn start(output: Output) -> Result<Self, Error> {
        let state = Arc::<PulseState>::default();
        let shared = Arc::clone(&state);
        let beat = move || {
            let mut stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let waited = shared.stopped.wait_timeout_while(stop, PULSE, |stop| !*stop);
                stop = waited.unwrap_or_else(PoisonError::into_inner).0;
                if *stop {
                    return;
                }
                let (done, total) = (shared.done.load(Ordering::Relaxed), shared.total.load(Ordering::Relaxed));
                let text = serde_json::to_vec(&ProgressReport { done, total }).unwrap_or_default();
                // Whether anybody hears it shows when the answer is sent.
                let _ = output.send(AgentMessage::Progress, &[&text]).and_then(|()| output.flush());
            }
        };
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(beat);
        let thread = thread.map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        Ok(Self { state, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        *self.state.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
