//! Bringing a device up to date with a patch (`proto-spec/patch.md`, applying).

use std::ffi::{OsStr, OsString};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::sync::mpsc::{channel, sync_channel};

use bdsync_device::{Access, Device, DeviceError};
use bdsync_hash::{Algorithm, Checksum, is_zero};
use bdsync_proto::limits::TWO_PASS_FACTOR;
use bdsync_proto::patch::{PatchChecksum, PatchError, PatchHeader, PatchReader, Record};

use crate::error::{Error, Result};
use crate::events::{Context, Event};
use crate::options::SizePolicy;

/// Up to how much neighbouring data is written at once, in bytes.
const WRITE: usize = 1 << 20;

/// How many pieces of that size are read ahead.
const AHEAD: usize = 2;

/// How many runs of records a piece has at most.
const RUNS: usize = 4096;

/// From how much data on reading ahead saves more time than starting a thread takes, in bytes.
pub const READ_AHEAD_FROM: u64 = 32 << 20;

/// After how many bytes the observer is told again.
const REPORT: u64 = 1 << 20;

/// Where the device's name stands in a patch, in bytes.
const NAME_OFFSET: u64 = 21;

/// How to apply.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// The device to patch; `None`: the one that the patch names.
    pub device: Option<OsString>,
    /// What to do when the device has another size than the patch says.
    pub size_policy: SizePolicy,
    /// Tell the observer when the sizes differ, although that is no error.
    pub warn_size: bool,
    /// Tell the observer when the patch was made for a device of another name.
    pub warn_device: bool,
    /// Give the space of zeros back to the file system or the disk.
    pub punch_holes: bool,
    /// Read the patch in a thread of its own while what came before is written. Only for
    /// a patch whose reading does not have to wait for anybody: an error of the device
    /// shows when the next piece is read.
    pub read_ahead: bool,
    /// Compare the patch's checksum with the device afterwards.
    pub verify: Option<VerifyOptions>,
}

/// How the patch that is to be verified was made: what its checksum covers depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Size of the blocks that were compared, in bytes.
    pub block_size: u64,
    /// Whether they were compared in two passes.
    pub two_pass: bool,
}

/// What a whole patch contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchSummary {
    /// Its header.
    pub header: PatchHeader,
    /// How many records it has.
    pub record_count: u64,
    /// Length of the data in its records, in bytes.
    pub data_bytes: u64,
    /// Its checksum, if it has one.
    pub checksum: Option<PatchChecksum>,
}

/// What applying did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyStats {
    /// How many records were applied.
    pub record_count: u64,
    /// How many bytes were written to the device.
    pub written_bytes: u64,
    /// The device's size afterwards, in bytes.
    pub device_bytes: u64,
    /// The patch's checksum, if it has one.
    pub checksum: Option<PatchChecksum>,
}

/// Looks through a patch to its end and changes nothing.
///
/// # Errors
///
/// Anything that keeps the patch from being applied as a whole.
pub fn check(patch: impl Read + Seek, context: Context<'_>) -> Result<PatchSummary> {
    let mut reader = PatchReader::new(patch)?;
    let (mut record_count, mut data_bytes) = (0, 0);
    while let Some(length) = reader.skip_record()? {
        record_count += 1;
        data_bytes += length as u64;
        context.cancellation.check()?;
    }
    let header = reader.header().clone();
    Ok(PatchSummary { header, record_count, data_bytes, checksum: reader.finish()? })
}

/// Applies a patch and makes the result durable.
///
/// The patch is applied as it is read. Who can read it twice should [`check`] it first.
///
/// # Errors
///
/// Whatever ends it early; once something was written or resized the error is
/// [`Error::PartlyApplied`], which says how much.
pub fn apply(patch: impl Read + Send, options: &ApplyOptions, context: Context<'_>) -> Result<ApplyStats> {
    let mut reader = PatchReader::new(patch)?;
    let header = reader.header().clone();
    let mut target = Target::open(&header, options, context)?;
    let result = target.write_all(&mut reader, context).and_then(|()| Ok(reader.finish()?)).and_then(|checksum| {
        target.device.sync()?;
        Ok(checksum)
    });
    let checksum = result.map_err(|cause| target.partly_applied(cause))?;
    if let Some(verify) = &options.verify {
        target.verify(header.size, checksum.as_ref(), verify, context)?;
    }
    Ok(ApplyStats {
        record_count: target.record_count,
        written_bytes: target.written_bytes,
        device_bytes: target.device.size(),
        checksum,
    })
}

/// Records whose data is written together where they are neighbours.
#[derive(Default)]
struct Batch {
    /// The data of all runs.
    data: Vec<u8>,
    runs: Vec<Run>,
}

/// Neighbouring records.
struct Run {
    position: u64,
    length: usize,
    record_count: u64,
    /// Whether they are zeros that shall take no space.
    is_hole: bool,
}

impl Batch {
    /// Adds a record, if there is still room for it.
    fn add(&mut self, piece: &Piece<'_>) -> bool {
        let &Piece { position, data, is_hole, .. } = piece;
        if self.runs.len() == RUNS || (!self.runs.is_empty() && self.data.len() + data.len() > WRITE) {
            return false;
        }
        self.data.extend_from_slice(data);
        match self.runs.last_mut() {
            // Zeros are apart from the rest, if they are to become holes.
            Some(last) if last.position + last.length as u64 == position && last.is_hole == is_hole => {
                last.length += data.len();
                last.record_count += 1;
            }
            _ => self.runs.push(Run { position, length: data.len(), record_count: 1, is_hole }),
        }
        true
    }
}

/// What a record brings to the device.
struct Piece<'a> {
    position: u64,
    data: &'a [u8],
    /// Whether it is zeros that shall take no space.
    is_hole: bool,
    /// Whether it is known that the next record is a neighbour.
    is_continued: bool,
}

/// The records of a patch.
struct Records<'a, R> {
    reader: &'a mut PatchReader<R>,
    /// What lies past this is cut off: the device's end.
    size: u64,
    punch_holes: bool,
}

impl<R: Read> Records<'_, R> {
    fn next(&mut self) -> Result<Option<Piece<'_>>> {
        let Some(Record { position, data, is_continued }) = self.reader.next_record()? else { return Ok(None) };
        let room = self.size.saturating_sub(position);
        let data = &data[..room.min(data.len() as u64) as usize];
        Ok(Some(Piece { position, data, is_hole: self.punch_holes && is_zero(data), is_continued }))
    }
}

/// A device that is being patched.
struct Target {
    device: Device,
    size_before: u64,
    /// Whether anything was written, even if only in part.
    touched: bool,
    record_count: u64,
    written_bytes: u64,
    last_position: u64,
    punch_holes: bool,
    read_ahead: bool,
}

impl Target {
    /// Opens the device and gives it the right size.
    fn open(header: &PatchHeader, options: &ApplyOptions, context: Context<'_>) -> Result<Self> {
        let in_patch = OsStr::from_bytes(&header.device);
        let name = options.device.as_deref().unwrap_or(in_patch);
        if options.warn_device && name != in_patch {
            context.observer.event(&Event::NamesDiffer {
                given: name.to_string_lossy().into_owned(),
                in_patch: in_patch.to_string_lossy().into_owned(),
            });
        }
        if name.as_bytes().contains(&0) {
            let what = "a device name with a NUL byte".to_string();
            return Err(PatchError::BadHeader { what, offset: NAME_OFFSET }.into());
        }
        let mut device = Device::open(name, Access::ReadWrite)?;
        context.observer.event(&Event::Opened { device: name.to_string_lossy().into_owned() });
        let size_before = device.size();
        if size_before != header.size {
            if options.size_policy == SizePolicy::Strict {
                return Err(Error::DifferentSizes {
                    near: "current",
                    near_bytes: size_before,
                    far: "patch",
                    far_bytes: header.size,
                });
            }
            if options.warn_size {
                context.observer.event(&Event::SizesDiffer { local: size_before, remote: header.size });
            }
            if options.size_policy == SizePolicy::Resize {
                device.resize(header.size)?;
            }
        }
        Ok(Self {
            device,
            size_before,
            touched: false,
            record_count: 0,
            written_bytes: 0,
            last_position: 0,
            punch_holes: options.punch_holes,
            read_ahead: options.read_ahead,
        })
    }

    fn write_all<R: Read + Send>(&mut self, reader: &mut PatchReader<R>, context: Context<'_>) -> Result<()> {
        let mut records = Records { reader, size: self.device.size(), punch_holes: self.punch_holes };
        if self.read_ahead {
            return self.write_ahead(records, context);
        }
        let mut batch = Batch::default();
        let mut told = 0;
        let result = loop {
            let piece = match records.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            // What has no neighbours is written from where it is.
            if batch.runs.is_empty() && !piece.is_continued {
                let run =
                    Run { position: piece.position, length: piece.data.len(), record_count: 1, is_hole: piece.is_hole };
                self.write_runs(&[run], piece.data, &mut told, context)?;
                continue;
            }
            if !batch.add(&piece) {
                self.write_batch(&mut batch, &mut told, context)?;
                batch.add(&piece);
            }
            if !piece.is_continued {
                self.write_batch(&mut batch, &mut told, context)?;
            }
        };
        // Good records in front of a bad one are applied, as stock does.
        self.write_batch(&mut batch, &mut told, context)?;
        result
    }

    /// The same with the records read in another thread.
    fn write_ahead<R: Read + Send>(&mut self, mut records: Records<'_, R>, context: Context<'_>) -> Result<()> {
        let (sender, batches) = sync_channel::<Batch>(AHEAD);
        let (used, free) = channel();
        for _ in 0..AHEAD + 1 {
            // Its other end is right here.
            let _ = used.send(Batch::default());
        }
        // With everything of its own: who waits for the other must learn of its end.
        std::thread::scope(move |scope| {
            let read = move || {
                let hand_over = |batch: &mut Batch| {
                    // Whoever takes no more has a reason of its own.
                    let next = free.recv().map_err(|_| Error::Cancelled)?;
                    sender.send(std::mem::replace(batch, next)).map_err(|_| Error::Cancelled)
                };
                let mut batch = Batch::default();
                let result = loop {
                    match records.next() {
                        Ok(Some(piece)) if batch.add(&piece) => {}
                        Ok(Some(piece)) => {
                            hand_over(&mut batch)?;
                            batch.add(&piece);
                        }
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                };
                // As above.
                hand_over(&mut batch)?;
                result
            };
            let thread = std::thread::Builder::new().name("patch".into()).spawn_scoped(scope, read);
            let thread = thread.map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
            let mut told = 0;
            for mut batch in &batches {
                self.write_batch(&mut batch, &mut told, context)?;
                // Who has read everything needs none.
                let _ = used.send(batch);
            }
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a batch, and empties it.
    fn write_batch(&mut self, batch: &mut Batch, told: &mut u64, context: Context<'_>) -> Result<()> {
        self.write_runs(&batch.runs, &batch.data, told, context)?;
        batch.data.clear();
        batch.runs.clear();
        Ok(())
    }

    /// Writes runs; `data` is that of one after another.
    fn write_runs(&mut self, runs: &[Run], data: &[u8], told: &mut u64, context: Context<'_>) -> Result<()> {
        context.cancellation.check()?;
        let mut rest = data;
        for run in runs {
            let (data, later) = rest.split_at(run.length);
            rest = later;
            self.write(run, data)?;
        }
        if self.written_bytes >= *told + REPORT {
            *told = self.written_bytes;
            context.observer.event(&Event::Applied { data_bytes: *told });
        }
        Ok(())
    }

    fn write(&mut self, run: &Run, data: &[u8]) -> Result<()> {
        let at = run.position;
        if !data.is_empty() {
            self.touched = true;
            self.last_position = at;
            let written = match run.is_hole {
                true => self.device.write_zeros(at, data.len() as u64),
                false => self.device.write_at(at, data),
            };
            if let Err(error) = written {
                if let DeviceError::Write { position, .. } = &error {
                    self.written_bytes += position - at;
                }
                return Err(error.into());
            }
            self.written_bytes += data.len() as u64;
        }
        self.record_count += run.record_count;
        Ok(())
    }

    /// Says how much of the patch was applied before an error, if any was.
    fn partly_applied(&self, cause: Error) -> Error {
        let (before, now) = (self.size_before, self.device.size());
        if !self.touched && before == now {
            return cause;
        }
        let resized =
            if before == now { String::new() } else { format!(", its size was changed from {before} to {now}") };
        Error::PartlyApplied {
            cause: Box::new(cause),
            device: self.device.path().display().to_string(),
            record_count: self.record_count,
            data_bytes: self.written_bytes,
            last_position: self.last_position,
            resized,
        }
    }

    /// Compares the patch's checksum with the device.
    fn verify(
        &self,
        patch_size: u64,
        checksum: Option<&PatchChecksum>,
        options: &VerifyOptions,
        context: Context<'_>,
    ) -> Result<()> {
        let (algorithm, PatchChecksum { name, digest }) = verifiable(checksum)?;
        let step = options.block_size * if options.two_pass { TWO_PASS_FACTOR } else { 1 };
        let size = self.device.size().min(patch_size);
        let mut running = Checksum::new(algorithm);
        let mut buffer = vec![0; WRITE];
        let mut position = 0;
        while position < size {
            context.cancellation.check()?;
            let length = (size - position).min(WRITE as u64);
            let piece = &mut buffer[..length as usize];
            self.device.read_at(position, piece)?;
            running.update(piece);
            position += length;
        }
        // The source was read as whole blocks, up to the larger of the two sizes: that
        // of a target which has its new size already is not known any more.
        let end = size.next_multiple_of(step);
        running.update_zeros(end - size);
        let mut longer = running.clone();
        longer.update_zeros(size.max(self.size_before).next_multiple_of(step) - end);
        let found = running.finish();
        if found == *digest || longer.finish() == *digest {
            return Ok(());
        }
        Err(Error::ChecksumMismatch {
            name: name.clone(),
            expected: hex(digest),
            found: hex(&found),
            device: self.device.path().display().to_string(),
        })
    }
}

/// The digest of a checksum that can be verified.
///
/// # Errors
///
/// If there is none, or its digest is unknown.
pub fn verifiable(checksum: Option<&PatchChecksum>) -> Result<(Algorithm, &PatchChecksum)> {
    let Some(checksum) = checksum else {
        let text = "the patch has no checksum to verify; make it with --checksum=DIGEST";
        return Err(Error::CannotVerify(text.into()));
    };
    let algorithm = Algorithm::from_str(&checksum.name).map_err(|error| Error::CannotVerify(error.to_string()))?;
    Ok((algorithm, checksum))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
