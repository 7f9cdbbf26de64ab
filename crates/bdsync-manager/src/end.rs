//! Which ends a task has, and what is done with them.

use std::num::NonZeroUsize;

use bdsync_engine::Cancellation;

use crate::agent::AgentSession;
use crate::cli::BenchArgs;
use crate::config::{AgentMode, Remote, Task};
use crate::deploy;
use crate::failure::Failure;
use crate::far::Far;
use crate::local::{self, Source};
use crate::remote::{Connection, quote_path};
use crate::report::Phase;
use crate::run::{Job, OpenSource, Ranges};
use crate::state::TaskStats;

/// How many spans a sample has.
pub(crate) const SAMPLE: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Refuses a task that has nothing to be done.
fn possible(task: &Task) -> Result<(), Failure> {
    task.problem.as_ref().map_or(Ok(()), |problem| Err(Failure::new(problem)))
}

/// What `check` finds.
pub(crate) struct Found {
    pub(crate) source_bytes: u64,
    pub(crate) target_exists: bool,
    pub(crate) is_ready: bool,
    /// What is used at the other end.
    pub(crate) far_end: Option<String>,
}

/// A far end, in one of the two ways to talk to it.
enum FarEnd<'a> {
    Agent(Box<AgentSession<'a>>),
    Stock(Box<Far<'a>>),
}

fn connect<'a>(task: &'a Task, remote: &'a Remote, job: &'a Job<'a>) -> Result<FarEnd<'a>, Failure> {
    let connection = Connection::new(remote, &task.name, &job.control.cancellation);
    if remote.agent == AgentMode::Stock {
        return Ok(FarEnd::Stock(Box::new(Far::new(task, remote, job, connection))));
    }
    match AgentSession::start(task, job, connection) {
        Ok(session) => Ok(FarEnd::Agent(Box::new(session))),
        // A connection that does not work is no better with stock.
        Err((failure @ Failure::Permanent(_), connection)) if remote.agent == AgentMode::Auto => {
            tracing::warn!(
                task = task.name,
                "There is no agent at {}: {failure}. Falling back to a stock bdsync there ({})",
                remote.label,
                remote.program.display()
            );
            Ok(FarEnd::Stock(Box::new(Far::new(task, remote, job, *connection))))
        }
        Err((failure, _)) => Err(failure.during(&format!("starting the agent at {}", remote.label))),
    }
}

/// The size of a source at the far end, which says that it is of this `kind`.
pub(crate) fn far_source_size(task: &Task, far: &str, kind: &str, size: Option<u64>) -> Result<u64, Failure> {
    let source = task.source.display();
    match (kind, size) {
        ("file" | "block", Some(size)) => Ok(size),
        ("missing", _) => Err(Failure::new(format!("the source {source} does not exist at {far}"))),
        _ => Err(Failure::new(format!("the source {source} is neither a file nor a block device"))),
    }
}

/// A device at the far end has another size than when it was asked for.
pub(crate) fn size_changed(path: &str, far: &str, before: u64, now: u64) -> Failure {
    Failure::new(format!("the size of {path} at {far} has changed from {before} to {now} bytes during the run"))
}

/// The source itself.
fn local_source(task: &Task) -> Result<OpenSource, Failure> {
    OpenSource::open(&task.source)
}

/// Brings a task's target up to date.
pub(crate) fn run(task: &Task, job: &Job<'_>) -> Result<TaskStats, Failure> {
    let Some(remote) = &task.remote else { return local::run(task, &mut local_source(task)?, job) };
    // What is wrong here shows before anything is asked of another machine.
    let source = if task.pull { None } else { Some(local_source(task)?) };
    match (connect(task, remote, job)?, source) {
        (FarEnd::Agent(agent), Some(mut source)) => agent.push(&mut source),
        (FarEnd::Stock(far), Some(mut source)) => far.run(&mut source),
        (FarEnd::Agent(agent), None) => local::run(task, &mut agent.into_source()?, job),
        (FarEnd::Stock(far), None) => local::run(task, &mut far.into_source()?, job),
    }
}

/// What a run would find. Nothing is written.
pub(crate) fn dry_run(task: &Task, job: &Job<'_>) -> Result<TaskStats, Failure> {
    possible(task)?;
    let Some(remote) = &task.remote else { return local::dry_run(task, &mut local_source(task)?, job) };
    match (connect(task, remote, job)?, task.pull) {
        (FarEnd::Agent(mut agent), false) => agent.dry_run(local_source(task)?.device()?),
        (FarEnd::Stock(far), false) => far.dry_run(local_source(task)?.device()?),
        (FarEnd::Agent(agent), true) => local::dry_run(task, &mut agent.into_source()?, job),
        (FarEnd::Stock(far), true) => local::dry_run(task, &mut far.into_source()?, job),
    }
}

/// The ranges that differ.
pub(crate) fn verify(task: &Task, job: &Job<'_>) -> Result<Ranges, Failure> {
    possible(task)?;
    job.reporter.phase(Phase::Verify, 0);
    let local = |source: &mut dyn Source| Ok(local::differences(task, source, false, job)?.0);
    let Some(remote) = &task.remote else { return local(&mut local_source(task)?) };
    match (connect(task, remote, job)?, task.pull) {
        (FarEnd::Agent(mut agent), false) => Ok(agent.differences(local_source(task)?.device()?, None)?.0),
        (FarEnd::Stock(far), false) => Ok(far.differences(local_source(task)?.device()?, None)?.0),
        (FarEnd::Agent(agent), true) => local(&mut agent.into_source()?),
        (FarEnd::Stock(far), true) => local(&mut far.into_source()?),
    }
}

/// Looks at both ends.
pub(crate) fn check(task: &Task, job: &Job<'_>) -> Result<Found, Failure> {
    possible(task)?;
    let local = |source: &dyn Source, far_end| {
        let (target_exists, is_ready) = local::look(task, source)?;
        Ok(Found { source_bytes: source.size(), target_exists, is_ready, far_end })
    };
    let Some(remote) = &task.remote else { return local(&local_source(task)?, None) };
    match (connect(task, remote, job)?, task.pull) {
        (FarEnd::Agent(mut agent), false) => {
            let source_bytes = local_source(task)?.size();
            let (target_exists, is_ready) = agent.look(source_bytes)?;
            Ok(Found { source_bytes, target_exists, is_ready, far_end: Some(agent.name()) })
        }
        (FarEnd::Stock(far), false) => {
            let source_bytes = local_source(task)?.size();
            let survey = far.survey()?;
            far.check(&survey)?;
            far.check_size(&survey, source_bytes)?;
            let far_end = Some(format!("the bdsync {}", remote.program.display()));
            Ok(Found { source_bytes, target_exists: survey.exists(), is_ready: survey.ready, far_end })
        }
        (FarEnd::Agent(agent), true) => {
            let name = agent.name();
            local(&agent.into_source()?, Some(name))
        }
        (FarEnd::Stock(far), true) => {
            let far_end = Some(format!("the bdsync {}", remote.program.display()));
            local(&far.into_source()?, far_end)
        }
    }
}

/// What `bdsync-agent bench` at the other end prints.
pub(crate) fn bench(
    remote: &Remote,
    options: &BenchArgs,
    cancellation: &Cancellation,
    is_json: bool,
) -> Result<String, Failure> {
    let connection = Connection::new(remote, "bench", cancellation);
    let program = deploy::program(&connection, remote)?;
    let mut command = format!("exec {program} bench --seconds {}", options.seconds);
    if let Some(device) = &options.device {
        command += &format!(" --device {}", quote_path(device));
    }
    if is_json {
        command += " --json";
    }
    connection.wants_words();
    connection.run(&command)
}
