//! A target behind a connection command, with a stock-compatible bdsync there.

mod scripts;
mod source;
mod two_phases;

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
use scripts::{DROP, GUARD, HOLD, MARK, SURVEY, SYNC, heartbeat};
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
