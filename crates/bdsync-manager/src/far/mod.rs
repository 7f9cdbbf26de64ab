//! A target behind a connection command, with a stock-compatible bdsync there.

mod scripts;
mod source;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bdsync_device::Device;
use bdsync_engine::diff::{DiffOptions, DiffStats, Names, Peer, diff};
use bdsync_engine::{Context, Error, Salt, Scanner, SizePolicy};
use bdsync_proto::patch::PatchReader;
use bdsync_target::redo::{RedoState, file_stem};
use bdsync_target::stream::PatchStream;

use crate::config::{Remote, Task, Verify};
use crate::end::{SAMPLE, far_source_size};
use crate::failure::Failure;
use crate::remote::{Connection, End, Session, quote, quote_path};
use crate::report::Phase;
use crate::run::{Job, OpenSource, Ranges};
use crate::state::TaskStats;
use scripts::{APPLY, AT, COMMIT, DROP, GUARD, HOLD, MARK, SURVEY, SYNC, heartbeat, progress};
use source::FarSource;

/// A task's far end.
pub(crate) struct Far<'a> {
    task: &'a Task,
    remote: &'a Remote,
    connection: Connection,
    job: &'a Job<'a>,
}

/// What the far end tells about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    kind: String,
    size: Option<u64>,
    pub(crate) busy: Option<String>,
    folder: bool,
    free_bytes: Option<u64>,
    pub(crate) ready: bool,
    leftover: bool,
    ready_bytes: u64,
    ready_sha256: Option<String>,
    state: Option<RedoState>,
    program: bool,
    sha256: bool,
}

impl Survey {
    pub(crate) fn exists(&self) -> bool {
        self.kind != "missing"
    }
}

impl<'a> Far<'a> {
    pub(crate) fn new(task: &'a Task, remote: &'a Remote, job: &'a Job<'a>, connection: Connection) -> Self {
        Self { task, remote, connection, job }
    }

    /// Brings the target up to date with `source`.
    pub(crate) fn run(&self, source: &mut OpenSource) -> Result<TaskStats, Failure> {
        self.check_volume()?;
        let preparing = |failure: Failure| failure.during("preparing");
        let mut survey = self.survey().map_err(preparing)?;
        self.check(&survey)?;
        self.ensure_target(&mut survey)?;
        // Until the run ends: another manager may be at the same target.
        let _held = self.hold().map_err(preparing)?;
        let mut stats = TaskStats::default();
        if self.task.patch_folder.is_some() && (survey.ready || survey.leftover) {
            stats.finished_earlier_patch = self.finish_earlier(&survey)?;
            survey = self.survey().map_err(preparing)?;
        }
        self.job.note(|pending| pending.patch = survey.ready);
        self.check_space(&survey, source.size())?;
        // One that was just made, or by a run that was killed right after that.
        let is_new = self.task.create_target && survey.kind == "file" && survey.size == Some(0);
        let policy = if is_new { SizePolicy::Resize } else { self.task.compare.size_policy };
        if policy == SizePolicy::MinSize {
            self.check_size(&survey, source.size())?;
        }
        match &self.task.patch_folder {
            Some(folder) if !self.task.in_place => self.two_phases(source, folder, policy, &survey, &mut stats)?,
            _ => {
                self.in_place(source, policy, &mut stats)?;
                if survey.ready {
                    // One that could not be applied must not be some other day.
                    let removed = self.connection.run(&(self.names() + SYNC + DROP));
                    removed.map_err(|failure| failure.during("the target is up to date"))?;
                    self.job.note(|pending| pending.patch = false);
                }
            }
        }
        self.job.note(|pending| pending.partly_changed = false);
        if self.task.verify != Verify::Off {
            self.job.reporter.phase(Phase::Verify, source.size());
            let parts = (self.task.verify == Verify::Sample).then_some(SAMPLE);
            let (ranges, found) =
                self.differences(source.device()?, parts).map_err(|failure| failure.during("verifying"))?;
            stats.verified_bytes = found.compared_bytes;
            ranges.must_be_none(found.differing_blocks)?;
        }
        Ok(stats)
    }

    /// What a run would find. Nothing is written.
    pub(crate) fn dry_run(&self, source: &Arc<Device>) -> Result<TaskStats, Failure> {
        let survey = self.survey()?;
        self.check(&survey)?;
        if !survey.exists() {
            return Ok(TaskStats { changed_bytes: source.size(), ..TaskStats::default() });
        }
        self.job.reporter.phase(Phase::Compare, source.size());
        let (_, found) = self.differences(source, None)?;
        let changed_bytes = found.patch.data_bytes;
        Ok(TaskStats { scanned_bytes: found.compared_bytes, changed_bytes, ..TaskStats::default() })
    }

    /// Asks the far end for everything that is to be known before anything is done.
    pub(crate) fn survey(&self) -> Result<Survey, Failure> {
        let folder = self.task.patch_folder.as_deref();
        let stem = folder.map(|folder| folder.join(file_stem(&self.task.target)));
        let words = [
            ("t", quote_path(&self.task.target)),
            ("d", folder.map(quote_path).unwrap_or_default()),
            ("k", stem.as_deref().map(quote_path).unwrap_or_default()),
            ("b", quote(&self.remote.program.to_string_lossy())),
        ];
        self.ask(&words.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>())
    }

    fn ask(&self, set: &str) -> Result<Survey, Failure> {
        let script = format!("{set}echo '{MARK}'\n{}{GUARD}{SURVEY}", heartbeat());
        let output = self.connection.run_first(&script, MARK)?;
        let mut survey = Survey::default();
        for line in output.lines().skip_while(|line| line.trim_end() != MARK).skip(1) {
            let Some((key, value)) = line.trim_end().split_once('=') else { continue };
            match key {
                "kind" => survey.kind = value.into(),
                "size" => survey.size = value.trim().parse().ok(),
                "busy" => drop(survey.busy.get_or_insert_with(|| value.into())),
                "folder" => survey.folder = true,
                "free_kib" => survey.free_bytes = value.parse().ok().map(|kib: u64| kib.saturating_mul(1024)),
                "ready" => survey.ready = true,
                "leftover" => survey.leftover = true,
                "ready_bytes" => survey.ready_bytes = value.trim().parse().unwrap_or(0),
                "ready_sha256" => survey.ready_sha256 = Some(value.chars().take(64).collect()),
                "state" => survey.state = RedoState::parse(value),
                "program" => survey.program = true,
                "sha256sum" => survey.sha256 = true,
                "end" => return Ok(survey),
                _ => {}
            }
        }
        Err(Failure::Connection(format!("{} broke off while it was asked about the target", self.connection.name())))
    }

    fn check_volume(&self) -> Result<(), Failure> {
        match self.task.volume {
            Some(_) => Err(Failure::new(format!(
                "a logical volume at {} (target_vg) needs the agent there, not a stock bdsync; nothing was changed",
                self.remote.label
            ))),
            None => Ok(()),
        }
    }

    /// Refuses what must not or cannot be done, before anything is.
    pub(crate) fn check(&self, survey: &Survey) -> Result<(), Failure> {
        self.check_volume()?;
        let target = self.task.target.display();
        if !survey.program {
            return Err(self.no_program());
        }
        if let Some(busy) = &survey.busy {
            return Err(Failure::new(format!("the target {target} {busy}; nothing was changed")));
        }
        if survey.kind == "other" {
            return Err(Failure::new(format!("the target {target} is neither a file nor a block device")));
        }
        if !survey.exists() && !self.task.create_target {
            return Err(Failure::new("The target does not exist (while 'create_target_if_missing' is disabled)"));
        }
        let Some(folder) = self.task.patch_folder.as_ref().filter(|_| !self.task.in_place) else { return Ok(()) };
        if !survey.folder {
            return Err(Failure::new(format!(
                "the patch folder {} (target_patch_dir) is not there, or cannot be written",
                folder.display()
            )));
        }
        Ok(())
    }

    /// Refuses sizes that a run would refuse.
    pub(crate) fn check_size(&self, survey: &Survey, source_bytes: u64) -> Result<(), Failure> {
        let Some(size) = survey.size else { return Ok(()) };
        crate::local::check_size(self.task, source_bytes, size, survey.kind == "block")
    }

    /// Refuses to begin where a patch as long as the last one would not fit.
    fn check_space(&self, survey: &Survey, source_bytes: u64) -> Result<(), Failure> {
        let Some(folder) = self.task.patch_folder.as_ref().filter(|_| !self.task.in_place) else { return Ok(()) };
        let expected = self.job.expected_patch_bytes.min(source_bytes);
        match survey.free_bytes.filter(|free| *free < expected.max(4096)) {
            Some(free) => Err(Failure::NoSpace(format!(
                "not enough space in the patch folder {}: {free} bytes are free, and the last patch had {expected}; nothing was changed",
                folder.display()
            ))),
            None => Ok(()),
        }
    }

    /// Locks the target at the far end for as long as what is returned lives.
    fn hold(&self) -> Result<Session, Failure> {
        let mut session = self.connection.start(&(self.names() + HOLD))?;
        let mut line = String::new();
        if let Some(stdout) = session.stdout.take() {
            let mut reader = BufReader::new(stdout);
            // Signs of life, and then the word; without one its end says why.
            while reader.by_ref().take(100).read_line(&mut line).is_ok_and(|count| count > 0) && line == "waiting\n" {
                line.clear();
            }
            session.stdout = Some(reader.into_inner());
        }
        if line.trim_end() == "held" {
            return Ok(session);
        }
        let end = session.wait()?;
        match end.code() {
            Some(75) => Err(Failure::TargetLocked(format!(
                "the target {} is locked by another process at {}: it is being synchronised",
                self.task.target.display(),
                self.connection.name()
            ))),
            _ => Err(end.success().err().unwrap_or_else(|| Failure::Connection("the connection ended early".into()))),
        }
    }

    /// Makes the target if it is missing.
    fn ensure_target(&self, survey: &mut Survey) -> Result<(), Failure> {
        if survey.exists() {
            return Ok(());
        }
        bdsync_target::guard::check_place(&self.task.target)?;
        tracing::warn!(task = self.task.name, "Creating missing target file: {}", self.task.target.display());
        self.connection
            .run(&format!("umask 077; set -C; : > {}", quote_path(&self.task.target)))
            .map_err(|failure| failure.during("creating the target"))?;
        (survey.kind, survey.size) = ("file".into(), Some(0));
        Ok(())
    }

    /// The paths of the files in the patch folder, each as a word for a shell.
    fn names(&self) -> String {
        let folder = self.task.patch_folder.as_deref().unwrap_or(Path::new("."));
        let stem = folder.join(file_stem(&self.task.target));
        format!("d={}\nk={}\nt={}\n", quote_path(folder), quote_path(&stem), quote_path(&self.task.target))
    }

    /// Deals with what an earlier run left; says whether a patch was finished. One that is
    /// of no use stays until there is a better one.
    fn finish_earlier(&self, survey: &Survey) -> Result<bool, Failure> {
        let mut finished = false;
        if survey.ready {
            let objection = match &survey.state {
                None => Some("there is no state file to it that is understood".to_string()),
                Some(state) => {
                    let target = survey.size.unwrap_or(state.target_bytes);
                    state.objection(survey.ready_bytes, survey.ready_sha256.as_deref(), target)
                }
            };
            match (objection, &survey.state) {
                (None, Some(state)) => {
                    tracing::warn!(task = self.task.name, "Finishing the patch that a run of {} left", state.created);
                    self.job.reporter.phase(Phase::Finish, state.patch_bytes);
                    self.apply(state, true)?;
                    finished = true;
                }
                (why, _) => {
                    let why = why.unwrap_or_default();
                    tracing::warn!(
                        task = self.task.name,
                        "The patch of an earlier run cannot be applied: {why}. All is compared anew"
                    );
                }
            }
        }
        let remove = "rm -f -- \"$k.partial\" \"$k.state.new\"\n[ -e \"$k.ready\" ] || rm -f -- \"$k.state\"\n";
        self.connection.run(&(self.names() + remove)).map_err(|failure| failure.during("removing leftovers"))?;
        Ok(finished)
    }

    fn diff_options(&self, size_policy: SizePolicy) -> DiffOptions {
        let compare = &self.task.compare;
        DiffOptions {
            block_size: compare.block_size,
            digest: compare.digest.clone(),
            checksum: compare.checksum.clone(),
            two_pass: compare.two_pass,
            remote_data: false,
            size_policy,
            warn_size: true,
            flush_cache: compare.flush_cache,
            salt: Salt::Random,
            sample: None,
        }
    }

    /// Compares with a server at the far end; the patch goes into `patch`.
    fn compare<W: Write>(
        &self,
        device: &Arc<Device>,
        options: &DiffOptions,
        patch: W,
    ) -> (Result<(W, DiffStats), Error>, Result<End, Failure>) {
        self.compare_with(device, options, patch, self.job.context())
    }

    fn compare_with<W: Write>(
        &self,
        device: &Arc<Device>,
        options: &DiffOptions,
        patch: W,
        context: Context<'_>,
    ) -> (Result<(W, DiffStats), Error>, Result<End, Failure>) {
        let zero_blocks = if self.task.compare.zero_blocks { " --zeroblocks" } else { "" };
        let script = format!("exec {} --server{zero_blocks}", quote(&self.remote.program.to_string_lossy()));
        let scanner = match Scanner::new(Arc::clone(device), self.task.compare.scan()) {
            Ok(scanner) => scanner,
            Err(error) => return (Err(error), Err(Failure::new("not started"))),
        };
        let mut server = match self.connection.start(&script) {
            Ok(server) => server,
            Err(failure) => return (Err(Error::Cancelled), Err(failure)),
        };
        let (Some(output), Some(input)) = (server.stdin.take(), server.stdout.take()) else {
            return (Err(Error::Cancelled), Err(Failure::new("the server has no streams")));
        };
        let local = Device::path(device).as_os_str().as_encoded_bytes();
        // The far end opens it; a name that short is refused by stock.
        let remote = if self.task.pull { &self.task.source } else { &self.task.target };
        let remote = match remote.to_string_lossy() {
            name if name.len() < 5 && !name.starts_with('/') => format!("././{name}"),
            name => name.into_owned(),
        };
        let names = Names { local, remote: remote.as_bytes() };
        let result = diff(&scanner, names, Peer { input, output }, patch, options, context);
        (result, server.wait())
    }

    /// What really went wrong in a comparison: the connection, the server, or what it says.
    fn blame(&self, error: Error, end: Result<End, Failure>) -> Failure {
        if self.job.control.cancellation.is_cancelled() {
            return Failure::Cancelled;
        }
        let broken = matches!(error, Error::Protocol(_) | Error::ReadPeer(_) | Error::WritePeer(_) | Error::Cancelled);
        match end {
            Err(failure) if broken => failure,
            Ok(end) if broken => {
                if let Err(failure) = end.is_connected() {
                    return failure;
                }
                match end.code() {
                    Some(0) | None => Failure::Connection(error.to_string()),
                    Some(code) => {
                        let said = if end.said.is_empty() { error.to_string() } else { end.said };
                        Failure::new(format!("the remote bdsync ended with exit status {code}: {said}"))
                    }
                }
            }
            _ => error.into(),
        }
    }

    fn two_phases(
        &self,
        source: &mut OpenSource,
        folder: &Path,
        policy: SizePolicy,
        survey: &Survey,
        stats: &mut TaskStats,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        self.job.comparing(self.task, source)?;
        self.job.reporter.phase(Phase::Compare, source.size());
        let mut store = self.connection.start(&(self.names() + "umask 077\nexec cat > \"$k.partial\""))?;
        let Some(input) = store.stdin.take() else { return Err(Failure::new("the far end has no streams")) };
        let stream = PatchStream::new(input, self.task.bandwidth_limit, &self.job.control.cancellation);
        let stream = io::BufWriter::with_capacity(1 << 16, stream);
        let (result, end) = self.compare(source.device()?, &self.diff_options(policy), stream);
        let compared = match result {
            Ok((stream, compared)) => {
                let flushed = stream.into_inner().map_err(|error| Error::WritePatch(error.into_error()));
                flushed.map(|stream| {
                    let (_, bytes, sha256) = stream.finish();
                    (compared, bytes, sha256.unwrap_or_default())
                })
            }
            Err(error) => Err(error),
        };
        let in_folder = |failure: Failure| failure.during(&format!("storing the patch in {}", folder.display()));
        let generating = |failure: Failure| failure.during("generating the patch; the target was not changed");
        let (compared, bytes, sha256) = match compared {
            Ok(compared) => compared,
            Err(error) => {
                let stored = store.wait();
                self.remove_partial();
                // A store that failed by itself is the cause, whatever came of it.
                if matches!(error, Error::WritePatch(_)) && !self.job.control.cancellation.is_cancelled() {
                    stored.and_then(|end| end.success()).map_err(in_folder)?;
                }
                return Err(generating(self.blame(error, end)));
            }
        };
        end.and_then(|end| end.success()).map_err(generating)?;
        self.job.compared(self.task, source);
        store.wait().and_then(|end| end.success()).map_err(in_folder).inspect_err(|_| self.remove_partial())?;
        let target_bytes = survey.size.unwrap_or(source.size());
        let device_bytes = match policy {
            SizePolicy::MinSize => source.size().min(target_bytes),
            _ => source.size(),
        };
        stats.scanned_bytes = compared.compared_bytes;
        stats.changed_bytes = compared.patch.data_bytes;
        stats.patch_bytes = bytes;
        let is_resized = policy != SizePolicy::MinSize && survey.size != Some(source.size());
        if compared.patch.record_count == 0 && !is_resized {
            self.remove_partial();
            if survey.ready {
                // Source and target are equal: nothing is left for it to do.
                self.connection.run(&(self.names() + SYNC + DROP))?;
                self.job.note(|pending| pending.patch = false);
            }
            stats.generate_seconds = started.elapsed().as_secs_f64();
            return Ok(());
        }
        let state = crate::run::redo_state(self.task, (bytes, sha256), device_bytes, target_bytes);
        self.job.reporter.phase(Phase::Commit, bytes);
        self.commit(&state, survey.sha256).inspect_err(|_| self.remove_partial())?;
        self.job.note(|pending| pending.patch = true);
        stats.generate_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        self.apply(&state, false)?;
        stats.apply_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    fn remove_partial(&self) {
        self.connection.run_last(&(self.names() + "rm -f -- \"$k.partial\" \"$k.state.new\""));
    }

    /// Has the far end check the patch and make it the one that counts.
    fn commit(&self, state: &RedoState, can_hash: bool) -> Result<(), Failure> {
        if !can_hash {
            tracing::warn!(
                task = self.task.name,
                "There is no sha256sum at the far end: only the patch's length is checked"
            );
        }
        let values = format!("n={}\nh={}\ns={}\n", state.patch_bytes, state.sha256, quote(&state.to_line()));
        let mut session = self.connection.start(&(self.names() + &values + &progress() + SYNC + COMMIT))?;
        self.follow(&mut session);
        let end = session.wait()?;
        match end.code() {
            Some(20) => Err(Failure::Connection("the stored patch has another length than what was sent".into())),
            Some(21) => Err(Failure::Connection("the stored patch is not what was sent (its SHA-256 differs)".into())),
            _ => end.success(),
        }
        .map_err(|failure| failure.during("checking the stored patch; the target was not changed"))
    }

    fn patch_command(&self, resize: SizePolicy) -> String {
        let diffsize = match resize {
            SizePolicy::Strict => "",
            SizePolicy::MinSize => " --diffsize=minsize",
            SizePolicy::Resize => " --diffsize=resize",
        };
        let target = self.task.target.to_string_lossy();
        let option = quote(&format!("--patch={target}"));
        format!("{} {option}{diffsize}", quote(&self.remote.program.to_string_lossy()))
    }

    /// Has the far end apply the ready patch and remove it. One of an earlier run may have been
    /// applied meanwhile, by what that run has left.
    fn apply(&self, state: &RedoState, is_earlier: bool) -> Result<(), Failure> {
        self.job.reporter.phase(Phase::Apply, state.patch_bytes);
        let policy = state.size_policy(self.task.compare.size_policy);
        let script = format!(
            "{}earlier={is_earlier}\npatch() {{\n{}\n}}\n{}{SYNC}{GUARD}{APPLY}",
            self.names(),
            self.patch_command(policy),
            progress()
        );
        let applying = |failure: Failure| {
            failure.during("applying the patch (it stays at the target until the next run finishes it)")
        };
        let mut session = self.connection.start(&script).map_err(applying)?;
        let applied = self.follow(&mut session);
        let end = session.wait().map_err(applying)?;
        end.success().map_err(applying)?;
        if !applied {
            return Err(applying(Failure::Connection("the connection ended early".into())));
        }
        self.job.note(|pending| pending.patch = false);
        Ok(())
    }

    /// Shows how far a session says that it is, until its end; whether it says that it applied
    /// the patch.
    fn follow(&self, session: &mut Session) -> bool {
        let Some(stdout) = session.stdout.take() else { return false };
        let mut applied = false;
        for line in BufReader::new(stdout.take(1 << 30)).lines() {
            let Ok(line) = line else { break };
            match line.strip_prefix(AT).map(str::parse) {
                Some(Ok(position)) => self.job.reporter.progress(position, 0),
                _ => applied |= line.trim_end() == "applied",
            }
        }
        applied
    }

    fn in_place(&self, source: &mut OpenSource, policy: SizePolicy, stats: &mut TaskStats) -> Result<(), Failure> {
        let started = Instant::now();
        self.job.comparing(self.task, source)?;
        self.job.reporter.phase(Phase::Compare, source.size());
        let script =
            format!("{}{}{SYNC}{} || exit\nmake_durable \"$t\"", self.names(), heartbeat(), self.patch_command(policy));
        let mut patcher = self.connection.start(&script)?;
        self.job.note(|pending| pending.partly_changed = true);
        patcher.drain();
        let Some(input) = patcher.stdin.take() else { return Err(Failure::new("the far end has no streams")) };
        let stream = PatchStream::unhashed(input, self.task.bandwidth_limit, &self.job.control.cancellation);
        let stream = io::BufWriter::with_capacity(1 << 16, stream);
        let partly = |failure: Failure| {
            failure.during("changing the target in place; it may be PARTLY CHANGED until a run ends well")
        };
        let (result, end) = self.compare(source.device()?, &self.diff_options(policy), stream);
        let compared = match result {
            Ok((stream, compared)) => {
                let flushed = stream.into_inner().map_err(|error| Error::WritePatch(error.into_error()));
                flushed.map(|stream| {
                    stats.patch_bytes = stream.finish().1;
                    compared
                })
            }
            Err(error) => Err(error),
        };
        match compared {
            Ok(compared) => {
                end.and_then(|end| end.success()).map_err(partly)?;
                patcher.wait().and_then(|end| end.success()).map_err(partly)?;
                stats.scanned_bytes = compared.compared_bytes;
                stats.changed_bytes = compared.patch.data_bytes;
                stats.apply_seconds = started.elapsed().as_secs_f64();
                Ok(())
            }
            Err(error) => {
                let patched = patcher.wait();
                if matches!(error, Error::WritePatch(_)) && !self.job.control.cancellation.is_cancelled() {
                    patched.and_then(|end| end.success()).map_err(partly)?;
                }
                Err(partly(self.blame(error, end)))
            }
        }
    }

    /// The ranges that differ, as (start, end) in bytes, and the totals; of `parts` only.
    pub(crate) fn differences(
        &self,
        source: &Arc<Device>,
        parts: Option<NonZeroUsize>,
    ) -> Result<(Ranges, DiffStats), Failure> {
        let survey = self.survey()?;
        if !survey.exists() {
            return Err(Failure::new(format!("the target {} does not exist", self.task.target.display())));
        }
        let failed = |error: io::Error| Failure::new(format!("cannot make a pipe: {error}"));
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut ranges = Ranges::default();
        let (result, end) = std::thread::scope(|scope| {
            let ranges = &mut ranges;
            scope.spawn(move || {
                // A patch that breaks off has its cause elsewhere.
                if let Ok(mut patch) = PatchReader::new(reader) {
                    while let Ok(Some(record)) = patch.next_record() {
                        ranges.add(record.position, record.position + record.data.len() as u64);
                    }
                }
            });
            let options =
                DiffOptions { sample: parts.map(as_parts), checksum: None, ..self.diff_options(SizePolicy::MinSize) };
            let (result, end) = self.compare(source, &options, writer);
            (result.map(|(_, stats)| stats), end)
        });
        let stats = match result {
            Ok(stats) => stats,
            Err(error) => return Err(self.blame(error, end)),
        };
        end.and_then(|end| end.success())?;
        if let Some(size) = survey.size.filter(|size| *size != source.size())
            && self.task.compare.size_policy != SizePolicy::MinSize
        {
            ranges.add(size.min(source.size()), size.max(source.size()));
        }
        Ok((ranges, stats))
    }
}

impl<'a> Far<'a> {
    /// A source at the far end. Its size is asked of the far end's shell.
    pub(crate) fn into_source(self: Box<Self>) -> Result<FarSource<'a>, Failure> {
        let words = format!(
            "t={}\nd=\nk=\nb={}\n",
            quote_path(&self.task.source),
            quote(&self.remote.program.to_string_lossy())
        );
        let survey = self.ask(&words)?;
        if !survey.program {
            return Err(self.no_program());
        }
        let size = far_source_size(self.task, self.connection.name(), &survey.kind, survey.size)?;
        Ok(FarSource { far: self, size })
    }

    fn no_program(&self) -> Failure {
        let program = self.remote.program.display();
        Failure::new(format!("there is no program {program} at {} (setting remote_bdsync_bin)", self.connection.name()))
    }
}

/// A number of parts, for the engine.
fn as_parts(parts: NonZeroUsize) -> NonZeroU64 {
    NonZeroU64::try_from(parts).unwrap_or(NonZeroU64::MIN)
}
