//! What is remembered from run to run, and the locks of running ones.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bdsync_engine::Cancellation;
use bdsync_engine::apply::hex;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Task, Way};
use crate::failure::Failure;

const RESULTS: TableDefinition<'_, &str, &str> = TableDefinition::new("results");

/// How long to wait for another process that has the store open.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a task did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskStats {
    /// Bytes that were compared.
    pub(crate) scanned_bytes: u64,
    /// Bytes that differed and were written.
    pub(crate) changed_bytes: u64,
    /// Length of the patch, if there was one.
    pub(crate) patch_bytes: u64,
    pub(crate) generate_seconds: f64,
    pub(crate) apply_seconds: f64,
    /// Whether a patch of an earlier run was finished first.
    pub(crate) finished_earlier_patch: bool,
    /// How many bytes were compared again afterwards.
    pub(crate) verified_bytes: u64,
}

/// How a run of a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Running,
    Ok,
    Failed,
    Skipped,
    Cancelled,
}

/// The last run of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) outcome: Outcome,
    pub(crate) started: String,
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) stats: TaskStats,
    /// When it last went well.
    #[serde(default)]
    pub(crate) last_success: Option<String>,
    /// What the next run has to deal with.
    #[serde(default)]
    pub(crate) pending: Pending,
}

/// What a run leaves when it is killed, or cannot go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pending {
    /// Whether there is a ready patch at the target.
    pub(crate) patch: bool,
    /// The name of a snapshot.
    pub(crate) snapshot: Option<String>,
    /// Whether the target may be partly changed, in place.
    pub(crate) partly_changed: bool,
}

/// The folder with all of it.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// The given folder, or the usual one: `/var/lib` for root, under XDG for a user.
    pub(crate) fn open(given: Option<&Path>) -> Result<Self> {
        let path = match given {
            Some(path) => path.to_path_buf(),
            None if rustix::process::geteuid().is_root() => "/var/lib/bdsync-manager".into(),
            None => {
                let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
                let home = || std::env::home_dir().map(|home| home.join(".local/state"));
                xdg.or_else(home).context("there is no home folder; name one with --state-dir")?.join("bdsync-manager")
            }
        };
        let locks = path.join("locks");
        // What is remembered is nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&locks).with_context(|| {
            format!("cannot make the state folder {} (another one can be named with --state-dir)", path.display())
        })?;
        Ok(Self { path })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else has this name; says whether that took a while.
    pub(crate) fn lock_name(&self, name: &str, cancellation: &Cancellation) -> Result<(NameLock, bool), Failure> {
        let path = self.path.join("locks").join(&hex(&Sha256::digest(format!("name {name}")))[..32]);
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot use the lock {}: {}", path.display(), bdsync_device::plain(&error)))
        };
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        let mut has_waited = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok((NameLock { _file: file }, has_waited)),
                Err(rustix::io::Errno::WOULDBLOCK) if cancellation.is_cancelled() => return Err(Failure::Cancelled),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if !std::mem::replace(&mut has_waited, true) {
                        tracing::info!("Another task uses the name {name}; waiting for it");
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    fn store(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    /// Other processes have it open for moments.
    fn database(&self) -> Result<Database> {
        let path = self.store();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Database::create(&path) {
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result.with_context(|| format!("cannot open {}", path.display())),
            }
        }
    }

    /// Works with the store. A damaged one is moved out of the way: what it remembers is
    /// worth less than a run. (It can make the library panic.)
    fn guarded<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let attempt = || catch_unwind(AssertUnwindSafe(&work));
        let is_bad = |error: &redb::StorageError| match error {
            redb::StorageError::Corrupted(_) => true,
            redb::StorageError::Io(error) => {
                matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
            }
            _ => false,
        };
        let is_damaged = |error: &anyhow::Error| {
            error.chain().any(|cause| match cause.downcast_ref::<DatabaseError>() {
                Some(DatabaseError::Storage(error)) => is_bad(error),
                Some(DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_)) => true,
                Some(_) => false,
                None => cause.downcast_ref::<redb::StorageError>().is_some_and(is_bad),
            })
        };
        match attempt() {
            Ok(Err(error)) if is_damaged(&error) => {}
            Ok(result) => return result,
            Err(_) => {}
        }
        let (store, aside) = (self.store(), self.path.join("state.redb.damaged"));
        tracing::warn!("The state store {} is damaged; it is kept as {}", store.display(), aside.display());
        fs::rename(&store, &aside).with_context(|| format!("cannot move {} away", store.display()))?;
        attempt().unwrap_or_else(|_| Err(anyhow::anyhow!("{} cannot be used", store.display())))
    }

    /// The last run of a task.
    pub(crate) fn record(&self, config: &Path, task: &str) -> Result<Option<Record>> {
        self.guarded(|| self.read_record(config, task))
    }

    fn read_record(&self, config: &Path, task: &str) -> Result<Option<Record>> {
        if !self.store().exists() {
            return Ok(None);
        }
        let database = self.database()?;
        let reading = database.begin_read()?;
        let table = match reading.open_table(RESULTS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = table.get(key(config, task).as_str())?;
        Ok(found.and_then(|text| serde_json::from_str(text.value()).ok()))
    }

    /// Remembers how a task ended; when it last went well is kept.
    pub(crate) fn remember(&self, config: &Path, task: &str, record: Record) -> Result<()> {
        self.guarded(|| self.write_record(config, task, record.clone()))
    }

    /// Remembers what is pending in the midst of a run.
    pub(crate) fn note(&self, config: &Path, task: &str, change: impl Fn(&mut Pending)) -> Result<()> {
        self.guarded(|| {
            let Some(mut record) = self.read_record(config, task)? else { return Ok(()) };
            change(&mut record.pending);
            self.write_record(config, task, record)
        })
    }

    fn write_record(&self, config: &Path, task: &str, mut record: Record) -> Result<()> {
        let key = key(config, task);
        let database = self.database()?;
        let writing = database.begin_write()?;
        {
            let mut table = writing.open_table(RESULTS)?;
            let before: Option<Record> =
                table.get(key.as_str())?.and_then(|text| serde_json::from_str(text.value()).ok());
            record.last_success = match record.outcome {
                Outcome::Ok => Some(record.started.clone()),
                _ => before.and_then(|before| before.last_success),
            };
            table.insert(key.as_str(), serde_json::to_string(&record)?.as_str())?;
        }
        Ok(writing.commit()?)
    }

    fn lock_path(&self, task: &Task) -> PathBuf {
        let mut digest = Sha256::new_with_prefix(task.target.as_os_str().as_encoded_bytes());
        match task.remote.as_ref().filter(|_| !task.pull).map(|remote| &remote.way) {
            None => {}
            Some(Way::Command(words)) => {
                for word in words {
                    digest.update([0]);
                    digest.update(word);
                }
            }
            Some(Way::Ssh(ssh) | Way::OpenSsh(ssh, _)) => {
                digest.update(format!("\0{}\0{}\0{}", ssh.host, ssh.port, ssh.user))
            }
        }
        self.path.join("locks").join(&hex(&digest.finalize())[..32])
    }

    /// Whether a run is at a task's target.
    pub(crate) fn is_locked(&self, task: &Task) -> bool {
        let Ok(file) = File::open(self.lock_path(task)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Takes the lock of a task's target, or says who has it.
    pub(crate) fn lock(&self, task: &Task) -> Result<TargetLock, Failure> {
        let path = self.lock_path(task);
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot use the lock {}: {}", path.display(), bdsync_device::plain(&error)))
        };
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another process" } else { holder };
            return Err(Failure::Locked(format!(
                "the target {} is being synchronised by {holder}",
                task.target.display()
            )));
        }
        let since = jiff::Zoned::now().strftime("%F %T");
        let text = format!("process {} (task {}, since {since})\n", std::process::id(), task.name);
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(failed)?;
        Ok(TargetLock { _file: file })
    }
}

/// A name that nobody else uses as long as this lives.
#[derive(Debug)]
pub(crate) struct NameLock {
    _file: File,
}

/// Held while a task runs; the system lets go of it, whatever way the process ends.
#[derive(Debug)]
pub(crate) struct TargetLock {
    _file: File,
}

/// Tasks of different files may have the same name.
fn key(config: &Path, task: &str) -> String {
    let config = fs::canonicalize(config).unwrap_or_else(|_| config.to_path_buf());
    format!("{}\n{task}", config.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Outcome, started: &str) -> Record {
        Record {
            outcome,
            started: started.into(),
            seconds: 1.0,
            error: None,
            stats: TaskStats::default(),
            last_success: None,
            pending: Pending::default(),
        }
    }

    #[test]
    fn a_damaged_store_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(Some(folder.path())).unwrap();
        let config = Path::new("/x.toml");
        for round in 0..30 {
            state.remember(config, &format!("task {round}"), record(Outcome::Ok, "1")).unwrap();
        }
        let sound = fs::read(state.store()).unwrap();
        for page in 0..sound.len() / 4096 {
            let mut damaged = sound.clone();
            for (index, byte) in damaged[page * 4096..][..4096].iter_mut().enumerate() {
                *byte ^= (index * 7 + page) as u8;
            }
            fs::write(state.store(), damaged).unwrap();
            // It is found out when it is read or when it is written, or does no harm.
            let _ = state.record(config, "task 1");
            state.remember(config, "task 1", record(Outcome::Ok, "2")).unwrap();
            assert_eq!(state.record(config, "task 1").unwrap().unwrap().started, "2", "page {page}");
        }
    }

    #[test]
    fn the_last_success_outlives_failures() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(Some(folder.path())).unwrap();
        let config = Path::new("/x.toml");
        assert_eq!(state.record(config, "a").unwrap(), None);
        state.remember(config, "a", record(Outcome::Ok, "1")).unwrap();
        state.remember(config, "a", record(Outcome::Failed, "2")).unwrap();
        let found = state.record(config, "a").unwrap().unwrap();
        assert_eq!((found.outcome, found.started.as_str()), (Outcome::Failed, "2"));
        assert_eq!(found.last_success.as_deref(), Some("1"));
        assert_eq!(state.record(config, "b").unwrap(), None);
    }
}
