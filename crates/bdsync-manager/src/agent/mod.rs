//! A far end with our agent there (`proto-spec/agent.md`): one process and one connection
//! do a whole task.

mod source;
mod upload;
mod volume;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bdsync_device::Device;
use bdsync_engine::apply::hex;
use bdsync_engine::tree::{Differences, Link, LinkOptions, PieceWriter, Shape, TreeStats, tree_client};
use bdsync_engine::{Cancellation, Error, Scanner, SizePolicy};
use bdsync_proto::agent::{AGENT_VERSION, AgentMessage, CAPABILITY, ZSTD};
use bdsync_proto::patch::{PatchHeader, PatchStats, PatchWriter};
use bdsync_proto::{Hello, MessageType, limits};
use bdsync_target::ops::{
    About, Answer, AppliedPatch, Compare, Compared, Facts, PatchGoes, Place, ProgressReport, Request, StoredPatch,
};
use bdsync_target::redo::{RedoState, file_stem};
use bdsync_target::stream::PatchStream;
use serde::de::DeserializeOwned;
use sha2::Digest;

use crate::config::{AgentMode, Task, Verify};
use crate::deploy;
use crate::end::{SAMPLE, far_source_size, size_changed};
use crate::failure::Failure;
use crate::local::{after_earlier, check_size, final_size, missing, vanished};
use crate::remote::{Connection, Session};
use crate::report::Phase;
use crate::run::{Job, OpenSource, Ranges, redo_state};
use crate::state::TaskStats;
use source::AgentSource;
use upload::{Checkpoint, Upload};

/// How many bytes may wait here; the agent never has a reason to send so much.
const QUEUE: usize = 64 << 20;

/// How long a cancelled task waits for the agent to clean up.
const LAST_WORDS: Duration = Duration::from_millis(1200);

/// Length of a salt, in bytes.
const SALT: usize = 16;

/// A running agent.
pub(crate) struct AgentSession<'a> {
    task: &'a Task,
    job: &'a Job<'a>,
    link: Link,
    session: Option<Session>,
    connection: Connection,
    kill: Cancellation,
    about: About,
    /// Whether a comparison is going on that has to be given up.
    is_comparing: bool,
}

/// What becomes of a target.
#[derive(Clone, Copy)]
struct Goal {
    /// The size that it shall have, in bytes.
    size: u64,
    /// The size that it has, in bytes.
    before: u64,
    is_new: bool,
    /// Whether this run made it: there is nothing to go back to.
    created: bool,
}

/// Where a comparison can go on after its connection broke.
pub(crate) struct Resume {
    shape: Shape,
    source_bytes: u64,
    target_bytes: u64,
    identity: Option<String>,
    checkpoints: VecDeque<Checkpoint>,
}

impl<'a> AgentSession<'a> {
    /// Starts the agent.
    pub(crate) fn start(
        task: &'a Task,
        job: &'a Job<'a>,
        connection: Connection,
    ) -> Result<Self, (Failure, Box<Connection>)> {
        let mut kill = Cancellation::new();
        let mut opened = Self::open(&connection, job, &kill);
        // Where it may have to be put there that is found out before.
        let is_installed = connection.remote().agent == AgentMode::Installed;
        if is_installed && matches!(opened, Err(Failure::Permanent(_))) && connection.wants_words() {
            kill.cancel();
            kill = Cancellation::new();
            let first = opened;
            // If it is no better, the first try says more.
            opened = Self::open(&connection, job, &kill).or(first);
        }
        match opened {
            Ok((link, session)) => {
                let about = About::default();
                let session = Some(session);
                let mut agent = Self { task, job, link, session, connection, kill, about, is_comparing: false };
                match agent.call(&Request::About) {
                    Ok(about) => agent.about = about,
                    Err(failure) => return Err((failure, Box::new(agent.give_back()))),
                }
                let About { version, host, machine, time, .. } = &agent.about;
                tracing::debug!(task = task.name, "Agent {version} on {host} ({machine}), where it is {time}");
                Ok(agent)
            }
            Err(failure) => {
                kill.cancel();
                Err((failure, Box::new(connection)))
            }
        }
    }

    /// The connection, to be used in another way.
    fn give_back(mut self) -> Connection {
        self.kill.cancel();
        self.session = None;
        let replacement = Connection::new(self.connection.remote(), &self.task.name, &self.job.control.cancellation);
        std::mem::replace(&mut self.connection, replacement)
    }

    fn open(connection: &Connection, job: &Job<'_>, kill: &Cancellation) -> Result<(Link, Session), Failure> {
        // A cancelled task has a moment left for the agent to clean up.
        let (cancellation, end) = (job.control.cancellation.clone(), kill.clone());
        connection.runtime().spawn(async move {
            while !end.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if cancellation.is_cancelled() {
                    tokio::time::sleep(LAST_WORDS).await;
                    end.cancel();
                }
            }
        });
        let mut session = deploy::start(connection, connection.remote(), kill)?;
        let (Some(mut output), Some(mut input)) = (session.stdin.take(), session.stdout.take()) else {
            return Err(Failure::new("the agent has no streams"));
        };
        let greeted = greet(&mut output, &mut input);
        match greeted {
            Ok(zstd) => {
                let link = Link::new(input, output, LinkOptions::Refuse(QUEUE), zstd)?;
                Ok((link, session))
            }
            Err(text) => {
                drop((output, input));
                let end = session.wait()?;
                end.is_connected()?;
                let said = if end.said.is_empty() { text } else { format!("{text} ({})", end.said) };
                Err(Failure::new(match end.code() {
                    Some(126 | 127) => format!("it cannot be run: {said}"),
                    _ => said,
                }))
            }
        }
    }

    /// What is used at the far end.
    pub(crate) fn name(&self) -> String {
        format!("bdsync-agent {} on {}", self.about.version, self.about.host)
    }

    fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let text = serde_json::to_vec(request).map_err(|error| Failure::new(format!("no request: {error}")))?;
        let reporter = self.job.reporter;
        let answer = self.link.call(&text, &mut |payload| show(payload, reporter), self.job.context());
        self.take(answer)
    }

    fn take<T: DeserializeOwned>(&mut self, answer: Result<Vec<u8>, Error>) -> Result<T, Failure> {
        let answer = answer.and_then(|payload| Answer::parse(&payload)).map_err(|error| self.blame(error))?;
        match answer {
            Answer::Ok(value) => serde_json::from_value(value)
                .map_err(|error| Failure::new(format!("the agent's answer is not understood: {error}"))),
            Answer::Error(text) => Err(Failure::new(text)),
            Answer::Locked(text) => Err(Failure::TargetLocked(text)),
        }
    }

    /// What really went wrong.
    fn blame(&mut self, error: Error) -> Failure {
        if self.job.control.cancellation.is_cancelled() {
            return Failure::Cancelled;
        }
        match error {
            Error::Remote(payload) => match Answer::parse(&payload) {
                Ok(Answer::Error(text)) => Failure::new(text),
                Ok(Answer::Locked(text)) => Failure::TargetLocked(text),
                _ => Failure::new("the agent's answer is not understood"),
            },
            Error::ReadPeer(_) | Error::WritePeer(_) => self.connection_failure(&error),
            Error::Protocol(bdsync_proto::ProtocolError::UnexpectedEnd { .. }) => self.connection_failure(&error),
            other => other.into(),
        }
    }

    /// A connection that broke: how the agent ended says more than the streams do.
    fn connection_failure(&mut self, error: &Error) -> Failure {
        let Some(session) = self.session.take() else { return Failure::Connection(error.to_string()) };
        // It ends by itself now; if not, not for long.
        let (kill, ended) = (self.kill.clone(), Cancellation::new());
        let (timer_kill, timer_ended) = (kill.clone(), ended.clone());
        self.connection.runtime().spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if !timer_ended.is_cancelled() {
                timer_kill.cancel();
            }
        });
        let end = session.wait();
        ended.cancel();
        let told: Result<(), Failure> = end.and_then(|end| {
            end.is_connected()?;
            let said = if end.said.is_empty() { error.to_string() } else { end.said.clone() };
            let code = end.code().map_or_else(String::new, |code| format!(" with exit status {code}"));
            Err(Failure::Connection(format!("the agent at {} ended{code}: {said}", self.connection.name())))
        });
        match told {
            Err(failure @ Failure::Connection(_)) => failure,
            // It was ended by us, because it did not end by itself.
            _ => Failure::Connection(format!("the connection {} broke: {error}", self.connection.name())),
        }
    }

    fn target(&self) -> String {
        self.task.target.to_string_lossy().into_owned()
    }

    fn place(&self) -> Option<Place> {
        let folder = self.task.patch_folder.as_ref()?;
        Some(Place { folder: folder.to_string_lossy().into_owned(), stem: file_stem(&self.task.target) })
    }

    fn facts(&mut self) -> Result<Facts, Failure> {
        let (path, place) = (self.target(), self.place());
        self.call(&Request::Facts { path, place })
    }

    /// Refuses what must not or cannot be done, before anything is.
    fn check(&self, facts: &Facts) -> Result<(), Failure> {
        let target = self.task.target.display();
        if let Some(busy) = &facts.busy {
            return Err(Failure::new(format!("the target {target} {busy}; nothing was changed")));
        }
        match facts.kind.as_str() {
            "other" => return Err(Failure::new(format!("the target {target} is neither a file nor a block device"))),
            // A volume may be there and not be active.
            "missing" if !self.task.create_target && self.task.volume.is_none() => return Err(missing()),
            _ => {}
        }
        match &self.task.patch_folder {
            Some(folder) if !self.task.in_place && (!facts.folder || !facts.writable) => Err(Failure::new(format!(
                "the patch folder {} (target_patch_dir) is not there, or cannot be written",
                folder.display()
            ))),
            _ => Ok(()),
        }
    }

    /// What `check` tells: whether the target is there, and has a ready patch.
    pub(crate) fn look(&mut self, source_bytes: u64) -> Result<(bool, bool), Failure> {
        let facts = self.facts()?;
        self.check(&facts)?;
        if let Some(size) = facts.size {
            check_size(self.task, source_bytes, size, facts.kind == "block")?;
        }
        match facts.kind != "missing" || self.task.create_target {
            true => Ok((facts.kind != "missing", facts.ready.is_some())),
            false => Err(missing()),
        }
    }

    /// What a run would find. Nothing is written.
    pub(crate) fn dry_run(&mut self, source: &Arc<Device>) -> Result<TaskStats, Failure> {
        let facts = self.facts()?;
        self.check(&facts)?;
        if facts.kind == "missing" && !self.task.create_target {
            return Err(missing());
        }
        if facts.kind == "missing" {
            return Ok(TaskStats { changed_bytes: source.size(), ..TaskStats::default() });
        }
        self.job.reporter.phase(Phase::Compare, source.size());
        let (_, found) = self.differences(source, None)?;
        let (scanned_bytes, changed_bytes) = (found.compared_bytes, found.differing_bytes);
        Ok(TaskStats { scanned_bytes, changed_bytes, ..TaskStats::default() })
    }

    /// Brings the far target up to date with `source`.
    pub(crate) fn push(mut self, source: &mut OpenSource) -> Result<TaskStats, Failure> {
        let preparing = |failure: Failure| failure.during("preparing");
        let mut facts = self.facts().map_err(preparing)?;
        self.check(&facts)?;
        let mut created = false;
        if facts.kind == "missing" && self.task.volume.is_some() {
            created = self.ensure_volume(source.size(), false).map_err(preparing)?;
            facts = self.facts().map_err(preparing)?;
        } else if facts.kind == "missing" {
            let target = self.task.target.display();
            tracing::warn!(task = self.task.name, "Creating missing target file: {target}");
            let path = self.target();
            self.call::<serde::de::IgnoredAny>(&Request::Create { path })
                .map_err(|failure| failure.during("creating the target"))?;
            facts = self.facts().map_err(preparing)?;
        }
        let mut stats = TaskStats::default();
        let place = self.place().filter(|_| !self.task.in_place || facts.folder);
        if let Some(place) = &place {
            stats.finished_earlier_patch = self.finish_earlier(place, &facts)?;
            facts = self.facts().map_err(preparing)?;
            self.job.note(|pending| pending.patch = facts.ready.is_some());
            let expected = self.job.expected_patch_bytes.min(source.size());
            if !self.task.in_place
                && let Some(free) = facts.free_bytes.filter(|free| *free < expected.max(4096))
            {
                return Err(Failure::NoSpace(format!(
                    "not enough space in the patch folder {}: {free} bytes are free, and the last patch had {expected}; nothing was changed",
                    place.folder
                )));
            }
        }
        // One that applies nothing resizes nothing either; whoever applies does, if it must be.
        let is_enough = self.about.append_only_patches && facts.size >= Some(source.size());
        if self.task.volume.is_some() && facts.size != Some(source.size()) && !is_enough {
            self.ensure_volume(source.size(), false).map_err(preparing)?;
            facts = self.facts().map_err(preparing)?;
        }
        let target_bytes = facts.size.unwrap_or(0);
        // One that was just made, or by a run that was killed right after that.
        let is_new = self.task.create_target && facts.kind == "file" && target_bytes == 0;
        let size = final_size(self.task, source.size(), target_bytes, facts.kind == "block", is_new)
            .map_err(|failure| after_earlier(failure, &stats))?;
        let goal = Goal { size, before: target_bytes, is_new, created };
        match place {
            Some(place) if !self.task.in_place => self.two_phases(source, &place, &facts, goal, &mut stats)?,
            place => {
                self.in_place(source, goal, &mut stats)?;
                // One that could not be applied must not be some other day.
                if let Some(place) = place.filter(|_| facts.ready.is_some()) {
                    let path = Some(self.target());
                    let removed = self.call::<serde::de::IgnoredAny>(&Request::Discard { place, ready: true, path });
                    removed.map_err(|failure| failure.during("the target is up to date"))?;
                    self.job.note(|pending| pending.patch = false);
                }
            }
        }
        if !self.about.append_only_patches {
            self.job.note(|pending| pending.partly_changed = false);
        }
        if self.task.verify != Verify::Off && !self.about.append_only_patches {
            self.job.reporter.phase(Phase::Verify, source.size());
            let parts = (self.task.verify == Verify::Sample).then_some(SAMPLE);
            let (ranges, found) =
                self.differences(source.device()?, parts).map_err(|failure| failure.during("verifying"))?;
            stats.verified_bytes = found.compared_bytes;
            ranges.must_be_none(found.differing_blocks)?;
        }
        self.settle_volume(source.size()).map_err(|failure| failure.during("the target is up to date"))?;
        Ok(stats)
    }

    /// Deals with what an earlier run left; says whether a patch was finished.
    fn finish_earlier(&mut self, place: &Place, facts: &Facts) -> Result<bool, Failure> {
        let Some(ready) = &facts.ready else {
            let can_resume = self.job.resume.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if (facts.leftovers || facts.partial_bytes.is_some()) && !can_resume {
                let request = Request::Discard { place: place.clone(), ready: false, path: Some(self.target()) };
                self.call::<serde::de::IgnoredAny>(&request).map_err(|failure| failure.during("removing leftovers"))?;
            }
            return Ok(false);
        };
        if self.about.append_only_patches {
            return Err(Failure::new(format!(
                "the patch of an earlier run is still to be applied at {}, whose agent applies none (--append-only-patches)",
                self.connection.name()
            )));
        }
        let objection = match &ready.state {
            None => Some("there is no state file to it that is understood".to_string()),
            Some(state) => {
                let target = facts.size.unwrap_or(state.target_bytes);
                state.objection(ready.bytes, Some(&ready.sha256), target)
            }
        };
        match (objection, &ready.state) {
            (None, Some(state)) => {
                tracing::warn!(task = self.task.name, "Finishing the patch that a run of {} left", state.created);
                self.job.reporter.phase(Phase::Finish, state.patch_bytes);
                self.apply(place, state)
            }
            (why, _) => {
                let why = why.unwrap_or_default();
                tracing::warn!(
                    task = self.task.name,
                    "The patch of an earlier run cannot be applied: {why}. All is compared anew"
                );
                Ok(false)
            }
        }
    }

    fn shape(&self, length: u64) -> Result<Shape, Failure> {
        let compare = &self.task.compare;
        let mut salt = vec![0; SALT];
        let filled = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
        filled.map_err(|error| Failure::from(Error::Random(error.into())))?;
        Ok(Shape::new(compare.block_size, compare.digest.algorithm, salt, length))
    }

    /// Has the agent begin a comparison of its device, which had `bytes` bytes before.
    fn begin(&mut self, request: Compare, bytes: u64) -> Result<(), Failure> {
        let path = request.path.clone();
        let compared = self.call::<Compared>(&Request::Compare(request))?;
        self.is_comparing = true;
        if compared.size != bytes {
            self.abandon();
            return Err(size_changed(&path, self.connection.name(), bytes, compared.size));
        }
        Ok(())
    }

    /// Compares, as it was begun, with what `differences` makes of it; the agent waits for
    /// the end then.
    fn compare(
        &mut self,
        device: &Arc<Device>,
        shape: &Shape,
        fetch: bool,
        differences: &mut dyn Differences,
    ) -> Result<TreeStats, Failure> {
        let scanner = Scanner::new(Arc::clone(device), self.task.compare.scan())?;
        if self.task.compare.flush_cache {
            scanner.flush_cache();
        }
        let found = tree_client(&mut self.link, &scanner, shape, fetch, differences, self.job.context());
        found.map_err(|error| {
            // After its answer it expects no end any more.
            self.is_comparing = !matches!(error, Error::Remote(_));
            self.blame(error)
        })
    }

    /// Compares and sends the patch; gives what is in it and, if it is kept, its SHA-256.
    fn send(
        &mut self,
        source: &Arc<Device>,
        shape: &Shape,
        upload: &mut Upload,
    ) -> Result<(PatchStats, Option<String>), Failure> {
        self.compare(source, shape, false, upload)?;
        upload.finish().map_err(|error| self.blame(error))
    }

    /// Ends a comparison.
    fn end<T: DeserializeOwned>(&mut self, complete: bool) -> Result<T, Failure> {
        self.is_comparing = false;
        let ended = self.link.output().send(AgentMessage::End, &[&[u8::from(!complete)]]);
        let reporter = self.job.reporter;
        let answer = ended.and_then(|()| self.link.answer(&mut |payload| show(payload, reporter), self.job.context()));
        self.take(answer)
    }

    fn two_phases(
        &mut self,
        source: &mut OpenSource,
        place: &Place,
        facts: &Facts,
        goal: Goal,
        stats: &mut TaskStats,
    ) -> Result<(), Failure> {
        let Goal { size, before: target_bytes, is_new, created } = goal;
        let started = Instant::now();
        self.job.comparing(self.task, source)?;
        self.job.reporter.phase(Phase::Compare, size);
        let generating = |failure: Failure| failure.during("generating the patch; the target was not changed");
        let before = self.job.resume.lock().unwrap_or_else(PoisonError::into_inner).take();
        let before = before.filter(|resume| {
            (resume.source_bytes, resume.target_bytes, &resume.identity)
                == (source.size(), target_bytes, &facts.identity)
                && resume.shape.length == size
        });
        let partial = facts.partial_bytes.unwrap_or(0);
        let checkpoint = before.as_ref().and_then(|resume| {
            resume.checkpoints.iter().rev().find(|checkpoint| checkpoint.patch.patch_bytes <= partial).cloned()
        });
        let mut shape = match &before {
            Some(resume) => resume.shape.clone(),
            None => self.shape(size)?,
        };
        shape.start = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.position);
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        let (offset, sha256) = match &checkpoint {
            Some(checkpoint) => {
                let offset = checkpoint.patch.patch_bytes;
                tracing::info!(task = self.task.name, "Going on at {} bytes of the source", checkpoint.position);
                (offset, hex(&checkpoint.digest.clone().finalize()))
            }
            None => (0, String::new()),
        };
        request.patch = Some(PatchGoes::Stored { place: place.clone(), offset, sha256 });
        match self.begin(request, target_bytes) {
            // It cannot be gone on with (its machine may have lost the end of it).
            Err(Failure::Permanent(why)) if checkpoint.is_some() => {
                tracing::warn!(task = self.task.name, "{why}. All is compared anew");
                return self.two_phases(source, place, facts, goal, stats);
            }
            Err(failure) => {
                // What was found so far is as good as before.
                *self.job.resume.lock().unwrap_or_else(PoisonError::into_inner) = before;
                return Err(generating(failure));
            }
            Ok(()) => {}
        }
        let mut upload = self.upload(source.device()?, size, true, checkpoint.as_ref())?;
        let compared = self.send(source.device()?, &shape, &mut upload);
        let (patch, sha256) = compared.map_err(|failure| {
            if failure.is_worth_a_retry() {
                let resume = Resume {
                    shape: Shape { start: 0, ..shape.clone() },
                    source_bytes: source.size(),
                    target_bytes,
                    identity: facts.identity.clone(),
                    checkpoints: std::mem::take(&mut upload.checkpoints),
                };
                *self.job.resume.lock().unwrap_or_else(PoisonError::into_inner) = Some(resume);
            } else {
                self.abandon();
            }
            generating(failure)
        })?;
        let sha256 = sha256.unwrap_or_default();
        drop(upload);
        self.job.compared(self.task, source);
        stats.scanned_bytes = size;
        stats.changed_bytes = patch.data_bytes;
        stats.patch_bytes = patch.patch_bytes;
        let is_resized = target_bytes != size && (is_new || self.task.compare.size_policy != SizePolicy::MinSize);
        if patch.record_count == 0 && !is_resized {
            self.end::<serde::de::IgnoredAny>(false).map_err(generating)?;
            if facts.ready.is_some() {
                // Source and target are equal: nothing is left for it to do.
                let request = Request::Discard { place: place.clone(), ready: true, path: Some(self.target()) };
                self.call::<serde::de::IgnoredAny>(&request)?;
                self.job.note(|pending| pending.patch = false);
            }
            stats.generate_seconds = started.elapsed().as_secs_f64();
            return Ok(());
        }
        self.job.reporter.phase(Phase::Commit, patch.patch_bytes);
        let stored: StoredPatch = self.end(true).map_err(generating)?;
        if (stored.patch_bytes, &stored.sha256) != (patch.patch_bytes, &sha256) {
            self.discard(place);
            return Err(generating(Failure::Connection("the stored patch is not what was sent".into())));
        }
        if !created {
            self.keep_for_rollback(patch.data_bytes).map_err(|failure| {
                self.discard(place);
                failure.during("keeping the target as it was; it was not changed")
            })?;
        }
        let state = redo_state(self.task, (patch.patch_bytes, sha256), size, target_bytes);
        let request = Request::Commit { place: place.clone(), state: state.clone(), path: Some(self.target()) };
        let committed = self.call::<serde::de::IgnoredAny>(&request);
        committed.map_err(|failure| {
            self.discard(place);
            failure.during("checking the stored patch; the target was not changed")
        })?;
        self.job.note(|pending| pending.patch = true);
        stats.generate_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        if self.about.append_only_patches {
            tracing::warn!(
                task = self.task.name,
                "The patch is ready at {}, whose agent applies none (--append-only-patches)",
                self.connection.name()
            );
            return Ok(());
        }
        if !self.apply(place, &state)? {
            return Err(vanished());
        }
        stats.apply_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// What writes the patch, which is `kept` at the far end or applied at once.
    fn upload(
        &self,
        source: &Arc<Device>,
        size: u64,
        kept: bool,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Upload, Failure> {
        let pieces = PieceWriter::new(self.link.output().clone(), AgentMessage::Patch, self.link.zstd())?;
        let new = if kept { PatchStream::new } else { PatchStream::unhashed };
        let mut stream = new(pieces, self.task.bandwidth_limit, &self.job.control.cancellation);
        let broken = |error: io::Error| Failure::from(Error::WritePatch(error));
        let patch = match checkpoint {
            Some(checkpoint) => {
                stream.resume(checkpoint.patch.patch_bytes, checkpoint.digest.clone());
                PatchWriter::resume(stream, size, checkpoint.patch)
            }
            None => {
                let device = self.task.target.as_os_str().as_encoded_bytes().to_vec();
                PatchWriter::new(stream, &PatchHeader { size, device }).map_err(broken)?
            }
        };
        Ok(Upload::new(patch, source, checkpoint))
    }

    fn in_place(&mut self, source: &mut OpenSource, goal: Goal, stats: &mut TaskStats) -> Result<(), Failure> {
        let Goal { size, before: target_bytes, is_new, created } = goal;
        let started = Instant::now();
        self.job.reporter.phase(Phase::Compare, size);
        let partly = |failure: Failure| {
            failure.during("changing the target in place; it may be PARTLY CHANGED until a run ends well")
        };
        self.job.comparing(self.task, source)?;
        let keeping = |failure: Failure| failure.during("keeping the target as it was; it was not changed");
        if !created {
            self.keep_for_rollback(0).map_err(keeping)?;
        }
        let policy = if is_new { SizePolicy::Resize } else { self.task.compare.size_policy };
        let shape = self.shape(size)?;
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        request.patch = Some(PatchGoes::Applied { in_place: policy.into() });
        self.begin(request, target_bytes)?;
        self.job.note(|pending| pending.partly_changed = true);
        let mut upload = self.upload(source.device()?, size, false, None)?;
        let (patch, _) = self.send(source.device()?, &shape, &mut upload).map_err(|failure| {
            self.abandon();
            partly(failure)
        })?;
        self.end::<AppliedPatch>(true).map_err(partly)?;
        stats.scanned_bytes = size;
        stats.changed_bytes = patch.data_bytes;
        stats.patch_bytes = patch.patch_bytes;
        stats.apply_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Has the ready patch applied; says whether there still was one.
    fn apply(&mut self, place: &Place, state: &RedoState) -> Result<bool, Failure> {
        self.job.reporter.phase(Phase::Apply, state.patch_bytes);
        let size_policy = self.task.compare.size_policy.into();
        let request = Request::Apply { path: self.target(), place: place.clone(), size_policy };
        let applied = self.call::<AppliedPatch>(&request).map_err(|failure| {
            failure.during("applying the patch (it stays at the target until the next run finishes it)")
        })?;
        self.job.note(|pending| pending.patch = false);
        Ok(!applied.done_before)
    }

    /// Removes what is worth nothing; if that does not work, the next run does it.
    fn discard(&mut self, place: &Place) {
        let request = Request::Discard { place: place.clone(), ready: false, path: Some(self.target()) };
        if let Err(failure) = self.call::<serde::de::IgnoredAny>(&request) {
            tracing::debug!(task = self.task.name, "Not cleaned up: {failure}");
        }
    }

    /// Has the agent remove a partial patch, even when everything is to end.
    fn abandon(&mut self) {
        if !std::mem::take(&mut self.is_comparing) {
            return;
        }
        let observer = |_: &bdsync_engine::Event| {};
        let context = bdsync_engine::Context { observer: &observer, cancellation: &self.kill };
        // Not for longer than a cancelled task would wait: an agent can go on talking.
        let kill = self.kill.clone();
        self.connection.runtime().spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            kill.cancel();
        });
        let sent = self.link.output().send(AgentMessage::End, &[&[1]]);
        // If it does not come to that, the next run does it.
        let _ = sent.and_then(|()| self.link.answer(&mut |_| {}, context));
    }

    /// The ranges that differ, as (start, end) in bytes, and the totals; of `parts` only.
    pub(crate) fn differences(
        &mut self,
        source: &Arc<Device>,
        parts: Option<NonZeroUsize>,
    ) -> Result<(Ranges, TreeStats), Failure> {
        let facts = self.facts()?;
        if facts.kind == "missing" {
            return Err(Failure::new(format!("the target {} does not exist", self.task.target.display())));
        }
        let (from, to) = (source.size(), facts.size.unwrap_or(0));
        let mut shape = self.shape(from.min(to))?;
        shape.parts = parts;
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        // What counts is what the disk has, and not what was written to it just now.
        request.fresh = true;
        let mut ranges = RangeList::default();
        self.begin(request, to)?;
        let mut found = self.compare(source, &shape, false, &mut ranges)?;
        self.end::<serde::de::IgnoredAny>(true)?;
        // What only one of them has differs, whatever it is.
        let is_short = self.task.volume.is_some() && to < from;
        if from != to && (self.task.compare.size_policy != SizePolicy::MinSize || is_short) {
            ranges.0.add(from.min(to), from.max(to));
            found.differing_blocks += from.abs_diff(to).div_ceil(shape.block_size);
            found.differing_bytes += from.saturating_sub(to);
        }
        Ok((ranges.0, found))
    }

    /// A source at the far end.
    pub(crate) fn into_source(mut self) -> Result<AgentSource<'a>, Failure> {
        let path = self.task.source.to_string_lossy().into_owned();
        let facts: Facts = self.call(&Request::Facts { path, place: None })?;
        let size = far_source_size(self.task, self.connection.name(), &facts.kind, facts.size)?;
        Ok(AgentSource { agent: self, size })
    }
}

impl Drop for AgentSession<'_> {
    fn drop(&mut self) {
        self.abandon();
        // Its standard input ends only with the link, which is dropped later.
        self.kill.cancel();
    }
}

#[derive(Default)]
struct RangeList(Ranges);

impl Differences for RangeList {
    fn differs(&mut self, position: u64, length: u64) -> Result<(), Error> {
        self.0.add(position, position + length);
        Ok(())
    }
}

/// Says hello and hears it; says whether pieces may be compressed.
fn greet(output: &mut impl Write, input: &mut impl Read) -> Result<bool, String> {
    let hello = Hello::with_capabilities("CLIENT", &[&format!("{CAPABILITY}={AGENT_VERSION}"), ZSTD]).to_payload();
    let mut message = (hello.len() as u32 + 1).to_le_bytes().to_vec();
    message.push(MessageType::Hello as u8);
    message.extend_from_slice(&hello);
    let failed = |_| "it does not answer".to_string();
    output.write_all(&message).map_err(failed)?;
    let mut head = [0; 5];
    input.read_exact(&mut head).map_err(failed)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if head[4] != MessageType::Hello as u8 || !(1..=limits::MAX_HELLO + 1).contains(&length) {
        let shown = String::from_utf8_lossy(&head).escape_debug().to_string();
        return Err(format!("it answers {shown:?} in place of a hello (does a login script print something?)"));
    }
    let mut payload = vec![0; length - 1];
    input.read_exact(&mut payload).map_err(failed)?;
    let hello = Hello::parse(&payload).map_err(|error| error.to_string())?;
    let capabilities = hello.capabilities("SERVER");
    match capabilities.iter().any(|(name, _)| *name == CAPABILITY) {
        true => Ok(capabilities.iter().any(|(name, _)| *name == ZSTD)),
        false => Err("it is a bdsync without the agent's extension".into()),
    }
}

fn show(payload: &[u8], reporter: &crate::report::TaskReporter) {
    if let Ok(ProgressReport { done, total: 1.. }) = serde_json::from_slice(payload) {
        reporter.progress(done, 0);
    }
}
