//! A patch first, whole and durable at the far end, and then the target.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

use bdsync_engine::{Error, SizePolicy};
use bdsync_target::redo::RedoState;
use bdsync_target::stream::PatchStream;

use super::scripts::{APPLY, AT, COMMIT, DROP, GUARD, SYNC, progress};
use super::{Far, Survey};
use crate::failure::Failure;
use crate::remote::{Session, quote};
use crate::report::Phase;
use crate::run::OpenSource;
use crate::state::TaskStats;

impl Far<'_> {
    /// Deals with what an earlier run left; says whether a patch was finished. One that is
    /// of no use stays until there is a better one.
    pub(super) fn finish_earlier(&self, survey: &Survey) -> Result<bool, Failure> {
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

    pub(super) fn two_phases(
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

    pub(super) fn remove_partial(&self) {
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

    pub(super) fn patch_command(&self, resize: SizePolicy) -> String {
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
    pub(super) fn apply(&self, state: &RedoState, is_earlier: bool) -> Result<(), Failure> {
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
    pub(super) fn follow(&self, session: &mut Session) -> bool {
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
}
