//! Patches that are kept until they are applied (`proto-spec/redo.md`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bdsync_device::{Access, Device, plain};
use bdsync_engine::apply::{ApplyOptions, ApplyStats, READ_AHEAD_FROM, apply, check, hex};
use bdsync_engine::{Context, SizePolicy};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TargetError;

/// The version of the state file that is written and read.
const FORMAT: u32 = 1;

/// How much of the target's name goes into the files' names, in bytes.
const LABEL: usize = 40;

/// How much of a patch is read at once, in bytes.
const BUFFER: usize = 1 << 18;

/// The state file beside a ready patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedoState {
    /// The version of this format.
    pub format: u32,
    /// The task that made the patch.
    pub task: String,
    /// The machine that it ran on.
    pub host: String,
    /// The source there.
    pub source: String,
    /// The target's path.
    pub target: String,
    /// When, as RFC 3339 says it, in UTC.
    pub created: String,
    /// The patch's length.
    pub patch_bytes: u64,
    /// The patch's SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The size in the patch's header, in bytes.
    pub device_bytes: u64,
    /// The target's size before the patch is applied, in bytes.
    pub target_bytes: u64,
}

/// Who makes a patch, and when.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The task.
    pub task: &'a str,
    /// Its source.
    pub source: &'a Path,
    /// Its target.
    pub target: &'a Path,
    /// The time, as RFC 3339 says it, in UTC.
    pub now: &'a str,
}

impl RedoState {
    /// The state of a patch with this length and SHA-256.
    pub fn new(origin: Origin<'_>, patch: (u64, String), device_bytes: u64, target_bytes: u64) -> Self {
        Self {
            format: FORMAT,
            task: origin.task.into(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            source: origin.source.to_string_lossy().into_owned(),
            target: origin.target.to_string_lossy().into_owned(),
            created: origin.now.into(),
            patch_bytes: patch.0,
            sha256: patch.1,
            device_bytes,
            target_bytes,
        }
    }

    /// The file's content, one line.
    pub fn to_line(&self) -> String {
        // Strings and numbers have a JSON form, always.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a state file says, if it is one that is understood.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|state: &Self| state.format == FORMAT)
    }

    /// Why a ready patch with this length and digest must not be applied to a target of
    /// this size; `None` if it may be.
    pub fn objection(&self, patch_bytes: u64, sha256: Option<&str>, target_bytes: u64) -> Option<String> {
        if self.patch_bytes != patch_bytes || sha256.is_some_and(|sha256| sha256 != self.sha256) {
            return Some("it is not the patch that its state file describes".into());
        }
        if ![self.target_bytes, self.device_bytes].contains(&target_bytes) {
            let (before, after) = (self.target_bytes, self.device_bytes);
            return Some(format!("it is for a target of {before} or {after} bytes, and the target has {target_bytes}"));
        }
        None
    }

    /// With what policy the patch is applied, for a task with `policy`.
    pub fn size_policy(&self, policy: SizePolicy) -> SizePolicy {
        match policy {
            SizePolicy::MinSize if self.target_bytes >= self.device_bytes => SizePolicy::MinSize,
            _ if self.target_bytes == self.device_bytes => SizePolicy::Strict,
            _ => SizePolicy::Resize,
        }
    }
}

/// What the names of all files for a target begin with.
pub fn file_stem(target: &Path) -> String {
    let bytes = target.as_os_str().as_encoded_bytes();
    let name = target.file_name().unwrap_or_default().as_encoded_bytes();
    let label: String = name
        .iter()
        .take(LABEL)
        .map(|byte| if byte.is_ascii_alphanumeric() || b"_-".contains(byte) { char::from(*byte) } else { '_' })
        .collect();
    let key = hex(&Sha256::new_with_prefix(bytes).finalize());
    format!("bdsync-manager-{label}-{}", &key[..16])
}

/// Whether a name is one that [`file_stem`] can give.
pub fn is_file_stem(text: &str) -> bool {
    text.starts_with("bdsync-manager-")
        && text.len() <= "bdsync-manager--".len() + LABEL + 16
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// The files of a target in the patch folder.
#[derive(Clone, Debug)]
pub struct Redo {
    folder: PathBuf,
    partial: PathBuf,
    ready: PathBuf,
    state: PathBuf,
    new_state: PathBuf,
}

impl Redo {
    /// Those of a target by the name that it is configured with.
    ///
    /// # Errors
    ///
    /// When there is no such folder.
    pub fn new(folder: &Path, target: &Path) -> Result<Self, TargetError> {
        Self::with_stem(folder, &file_stem(target))
    }

    /// Those whose names begin with `stem`.
    ///
    /// # Errors
    ///
    /// When there is no such folder.
    pub fn with_stem(folder: &Path, stem: &str) -> Result<Self, TargetError> {
        if !folder.is_dir() {
            let text = format!("the patch folder {} (target_patch_dir) is not there", folder.display());
            return Err(TargetError::refused(text));
        }
        let file = |suffix: &str| folder.join(format!("{stem}.{suffix}"));
        Ok(Self {
            folder: folder.to_path_buf(),
            partial: file("partial"),
            ready: file("ready"),
            state: file("state"),
            new_state: file("state.new"),
        })
    }

    /// Whether there is a ready patch.
    ///
    /// # Errors
    ///
    /// When it cannot be found out.
    pub fn is_ready(&self) -> Result<bool, TargetError> {
        match self.ready.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("look at", &self.ready, &error)),
        }
    }

    /// Whether an earlier run left something that is worth nothing.
    pub fn has_leftovers(&self) -> bool {
        let stale = matches!(self.is_ready(), Ok(false)) && self.state.symlink_metadata().is_ok();
        stale || [&self.partial, &self.new_state].iter().any(|path| path.symlink_metadata().is_ok())
    }

    /// Whether files can be made in the folder.
    pub fn is_writable(&self) -> bool {
        rustix::fs::access(&self.folder, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// How much space is left for a user in the folder, in bytes.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.folder).ok()?;
        Some(stat.f_bavail * stat.f_frsize)
    }

    /// How long a patch is that is being written, or was.
    pub fn partial_bytes(&self) -> Option<u64> {
        self.partial.symlink_metadata().ok().map(|metadata| metadata.len())
    }

    /// The state file of the ready patch, if there is one that is understood.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn ready_state(&self) -> Result<Option<RedoState>, TargetError> {
        let failed = |error: io::Error| self.failed("read", &self.state, &error);
        let file = match open(&self.state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(1 << 16).read_to_end(&mut bytes).map_err(failed)?;
        Ok(RedoState::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Length and SHA-256 of the ready patch.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn ready_digest(&self, context: Context<'_>) -> Result<(u64, String), TargetError> {
        self.digest(&self.ready, u64::MAX, context).map(|(bytes, digest)| (bytes, hex(&digest.finalize())))
    }

    fn failed(&self, what: &str, path: &Path, error: &io::Error) -> TargetError {
        TargetError::refused(format!("cannot {what} {}: {}; the target was not changed", path.display(), plain(error)))
    }

    /// The same where the target may be changed already.
    fn failed_later(what: &str, path: &Path, error: &io::Error) -> TargetError {
        TargetError::refused(format!("cannot {what} {}: {}", path.display(), plain(error)))
    }

    /// Makes what was renamed and removed durable.
    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder).and_then(|folder| folder.sync_all())
    }

    /// Removes what is not worth anything.
    pub fn discard(&self) {
        for path in [&self.partial, &self.new_state] {
            // The next run does the same.
            let _ = fs::remove_file(path);
        }
        if matches!(self.is_ready(), Ok(false)) {
            let _ = fs::remove_file(&self.state);
        }
    }

    /// Removes a ready patch that must not be applied, or not again, for good.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn drop_ready(&self) -> Result<(), TargetError> {
        fs::remove_file(&self.ready).map_err(|error| Self::failed_later("remove", &self.ready, &error))?;
        // Worth nothing without the patch.
        let _ = fs::remove_file(&self.state);
        self.sync_folder().map_err(|error| Self::failed_later("sync", &self.folder, &error))
    }

    /// Refuses to begin where a patch as long as the last one would not fit.
    ///
    /// # Errors
    ///
    /// There is not enough space.
    pub fn check_space(&self, expected: u64) -> Result<(), TargetError> {
        match self.free_bytes() {
            Some(free) if free < expected.max(4096) => Err(TargetError::NoSpace(format!(
                "not enough space in the patch folder {}: {free} bytes are free, and the last patch had {expected}; nothing was changed",
                self.folder.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Why the ready patch must not be applied to this target.
    ///
    /// # Errors
    ///
    /// When it cannot be found out.
    pub fn objection(&self, target: &Path, context: Context<'_>) -> Result<Option<String>, TargetError> {
        let Some(state) = self.ready_state()? else {
            return Ok(Some("there is no state file to it that is understood".into()));
        };
        let (bytes, sha256) = self.ready_digest(context)?;
        let target = Device::open(target, Access::Read)?.size();
        Ok(state.objection(bytes, Some(&sha256), target))
    }

    /// Begins a patch.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn begin(&self) -> Result<File, TargetError> {
        // Whatever stands there under this name was not made by this run.
        let _ = fs::remove_file(&self.partial);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.partial)
            .map_err(|error| self.failed("write", &self.partial, &error))
    }

    /// Goes on with a patch whose first `offset` bytes have this SHA-256; what is behind
    /// them is dropped. Gives the running digest, too. `None`: it is not that patch.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn resume(
        &self,
        offset: u64,
        sha256: &str,
        context: Context<'_>,
    ) -> Result<Option<(File, Sha256)>, TargetError> {
        let (bytes, digest) = self.digest(&self.partial, offset, context)?;
        if bytes != offset || hex(&digest.clone().finalize()) != sha256 {
            return Ok(None);
        }
        let failed = |error: io::Error| self.failed("write", &self.partial, &error);
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.partial);
        let mut file = opened.map_err(failed)?;
        file.set_len(offset).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Some((file, digest)))
    }

    /// Says what went wrong with writing the patch.
    pub fn write_failed(&self, error: &io::Error) -> TargetError {
        self.failed("write", &self.partial, error)
    }

    /// Checks the patch whole, and makes it the one that counts. `known` is its length and
    /// SHA-256 where they were found as it was written.
    ///
    /// # Errors
    ///
    /// It is not what was written, or it cannot be made durable.
    pub fn commit(
        &self,
        state: &RedoState,
        known: Option<(u64, String)>,
        context: Context<'_>,
    ) -> Result<(), TargetError> {
        if RedoState::parse(&state.to_line()).is_none() {
            let text = format!("a state of format {} is not understood; the target was not changed", state.format);
            return Err(TargetError::refused(text));
        }
        let (bytes, sha256) = match known {
            Some((bytes, sha256)) if self.partial_bytes() == Some(bytes) => (bytes, sha256),
            _ => {
                let (bytes, digest) = self.digest(&self.partial, u64::MAX, context)?;
                (bytes, hex(&digest.finalize()))
            }
        };
        if (bytes, &sha256) != (state.patch_bytes, &state.sha256) {
            let partial = self.partial.display();
            return Err(TargetError::refused(format!(
                "the patch {partial} is not what was written; the target was not changed"
            )));
        }
        let failed = |error: io::Error| self.failed("check", &self.partial, &error);
        let file = open(&self.partial).map_err(failed)?;
        check(&file, context)?;
        file.sync_all().map_err(failed)?;
        let failed = |error: io::Error| self.failed("write", &self.new_state, &error);
        let _ = fs::remove_file(&self.new_state);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.new_state).map_err(failed)?;
        let line = state.to_line() + "\n";
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&self.new_state, &self.state).map_err(failed)?;
        fs::rename(&self.partial, &self.ready).map_err(|error| self.failed("rename", &self.partial, &error))?;
        self.sync_folder().map_err(|error| self.failed("sync", &self.folder, &error))
    }

    /// Applies the ready patch, which has this state, to `target` and removes it. `None`: there
    /// is no ready patch any more.
    ///
    /// # Errors
    ///
    /// Whatever ends it early; the patch stays then.
    pub fn apply(
        &self,
        target: &Path,
        state: &RedoState,
        policy: SizePolicy,
        context: Context<'_>,
    ) -> Result<Option<ApplyStats>, TargetError> {
        let ready = self.ready.display();
        let stays = format!("applying the patch (it stays in {ready}, and the next run finishes it)");
        let file = match open(&self.ready) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("open", &self.ready, &error).during(&stays)),
        };
        lock(&file, context).map_err(|error| error.during(&stays))?;
        // A process left over from a broken connection may have done it meanwhile.
        if !self.is_ready().map_err(|error| error.during(&stays))? {
            return Ok(None);
        }
        // Much can have happened while it was compared.
        let refuse = |text: String| TargetError::refused(format!("{text}; the target was not changed")).during(&stays);
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let locked = file.metadata().and_then(|locked| Ok((inode(locked), inode(self.ready.symlink_metadata()?))));
        let (locked, named) = locked.map_err(|error| self.failed("look at", &self.ready, &error).during(&stays))?;
        if locked != named || self.ready_state().map_err(|error| error.during(&stays))?.as_ref() != Some(state) {
            return Err(refuse(format!("another patch has taken the place of {ready}")));
        }
        let _claim = crate::guard::claim(target).map_err(|error| error.during(&stays))?;
        let size = Device::open(target, Access::Read).map_err(|error| TargetError::from(error).during(&stays))?.size();
        if let Some(why) = state.objection(state.patch_bytes, None, size) {
            return Err(refuse(format!("the size of {} has changed: {why}", target.display())));
        }
        let options = ApplyOptions {
            device: Some(target.into()),
            size_policy: state.size_policy(policy),
            warn_size: false,
            warn_device: false,
            punch_holes: false,
            read_ahead: state.patch_bytes >= READ_AHEAD_FROM,
            verify: None,
        };
        let applied = apply(&file, &options, context).map_err(|error| TargetError::Engine(error).during(&stays))?;
        self.drop_ready()?;
        Ok(Some(applied))
    }

    /// Length and SHA-256 of the first `limit` bytes of a file.
    fn digest(&self, path: &Path, limit: u64, context: Context<'_>) -> Result<(u64, Sha256), TargetError> {
        let failed = |error: io::Error| self.failed("read", path, &error);
        let mut file = open(path).map_err(failed)?.take(limit);
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        loop {
            if context.cancellation.is_cancelled() {
                return Err(bdsync_engine::Error::Cancelled.into());
            }
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok((bytes, digest)),
                count => {
                    digest.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
            context.observer.event(&bdsync_engine::Event::Waiting);
        }
    }
}

/// Opens a file to read it; a link is none.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// Waits for an exclusive lock on a patch.
fn lock(file: &File, context: Context<'_>) -> Result<(), TargetError> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if !context.cancellation.is_cancelled() => {
                context.observer.event(&bdsync_engine::Event::Waiting);
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(bdsync_engine::Error::Cancelled.into()),
            Err(error) => return Err(TargetError::refused(format!("cannot lock the patch: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_tell_targets_apart() {
        let stem = file_stem(Path::new("/dev/vg/it's a\nname"));
        assert!(stem.starts_with("bdsync-manager-it_s_a_name-"), "{stem}");
        assert_ne!(stem, file_stem(Path::new("/dev/vh/it's a\nname")));
        assert!(is_file_stem(&stem) && !is_file_stem("../x") && !is_file_stem("bdsync-manager-a/b"));
        assert_eq!(file_stem(Path::new("/")).len(), "bdsync-manager--".len() + 16);
    }

    #[test]
    fn a_ready_patch_is_only_for_the_target_it_was_made_for() {
        let state = RedoState {
            format: 1,
            task: "t".into(),
            host: "h".into(),
            source: "s".into(),
            target: "t".into(),
            created: String::new(),
            patch_bytes: 10,
            sha256: "ab".into(),
            device_bytes: 100,
            target_bytes: 50,
        };
        assert_eq!(RedoState::parse(&state.to_line()), Some(state.clone()));
        assert_eq!(RedoState::parse("{}"), None);
        assert_eq!(state.objection(10, Some("ab"), 50), None);
        assert_eq!(state.objection(10, None, 100), None);
        assert!(state.objection(11, Some("ab"), 50).is_some());
        assert!(state.objection(10, Some("cd"), 50).is_some());
        assert!(state.objection(10, Some("ab"), 60).is_some());
    }

    /// A ready patch that changes the first bytes of a target of 5000 bytes, and its state.
    fn ready(folder: &Path, target: &Path) -> (Redo, RedoState) {
        use bdsync_proto::patch::{PatchHeader, PatchWriter};
        fs::write(target, [7; 5000]).unwrap();
        let redo = Redo::new(folder, target).unwrap();
        let mut patch =
            PatchWriter::new(redo.begin().unwrap(), &PatchHeader { size: 5000, device: b"t".to_vec() }).unwrap();
        patch.write_data(0, &[1; 10]).unwrap();
        let (_, stats) = patch.finish(None).unwrap();
        let cancellation = bdsync_engine::Cancellation::new();
        let (_, digest) = redo.digest(&redo.partial, u64::MAX, context(&cancellation)).unwrap();
        let origin = Origin { task: "t", source: Path::new("s"), target, now: "" };
        let state = RedoState::new(origin, (stats.patch_bytes, hex(&digest.finalize())), 5000, 5000);
        (redo, state)
    }

    fn context(cancellation: &bdsync_engine::Cancellation) -> Context<'_> {
        Context { observer: &|_: &bdsync_engine::Event| {}, cancellation }
    }

    #[test]
    fn a_patch_is_applied_once_and_only_as_it_was_committed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let cancellation = bdsync_engine::Cancellation::new();
        let context = context(&cancellation);
        let (redo, state) = ready(folder.path(), &target);
        let later = RedoState { format: 2, ..state.clone() };
        assert!(redo.commit(&later, None, context).unwrap_err().to_string().contains("format 2"));
        redo.commit(&state, None, context).unwrap();
        let apply = |state: &RedoState, policy| redo.apply(&target, state, policy, context);

        let other = RedoState { created: "another time".into(), ..state.clone() };
        let error = apply(&other, SizePolicy::Strict).unwrap_err().to_string();
        assert!(error.contains("another patch has taken the place"), "{error}");
        for (bytes, policy) in [(6000, SizePolicy::Strict), (4000, SizePolicy::MinSize), (6000, SizePolicy::Resize)] {
            fs::write(&target, vec![7; bytes]).unwrap();
            let error = apply(&state, policy).unwrap_err().to_string();
            assert!(error.contains("the size of") && error.contains(&bytes.to_string()), "{error}");
            assert_eq!(fs::read(&target).unwrap(), vec![7; bytes]);
        }
        fs::write(&target, [7; 5000]).unwrap();
        assert!(redo.is_ready().unwrap());
        assert_eq!(apply(&state, SizePolicy::Strict).unwrap().unwrap().written_bytes, 10);
        assert_eq!(fs::read(&target).unwrap()[..11], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7]);
        assert!(!redo.is_ready().unwrap() && !redo.has_leftovers());
        assert_eq!(apply(&state, SizePolicy::Strict).unwrap(), None);
    }
}
