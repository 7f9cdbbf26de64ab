//! Reading a patch.

use std::io::{self, Read, Seek, SeekFrom};

use super::{FORMAT_VERSION, MAGIC, PatchChecksum, PatchHeader};
use crate::exit::ExitCode;
use crate::limits::{MAX_DEVICE_NAME, MAX_DIGEST, MAX_DIGEST_NAME, MAX_READ_RECORD};

/// How much is asked of the stream at once, in bytes; more than the longest record.
const BUFFER: usize = 1 << 17;

/// From this length on, in bytes, it is faster to step over a record's data than to read it.
const WORTH_SKIPPING: usize = 2048;

/// What can be wrong with a patch. Offsets are bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// Nothing at all.
    #[error("EOF: the patch is empty; did the program that makes it fail?")]
    Empty,
    /// Something else than a patch.
    #[error("ERROR: Bad header: this is not a bdsync patch")]
    BadMagic,
    /// A patch of another version.
    #[error("ERROR: Bad archive version \"{0}\": this program reads patches of version 0.3")]
    BadVersion(String),
    /// A header that ends early or has values out of range.
    #[error("ERROR: Bad data: {what} in the patch's header, at offset {offset}")]
    BadHeader {
        /// What is wrong.
        what: String,
        /// Where it stands.
        offset: u64,
    },
    /// The patch ends in the middle.
    #[error("Bad data: the patch is cut off at offset {offset}, in {place}")]
    Cut {
        /// Where the end is.
        offset: u64,
        /// What should have come there.
        place: &'static str,
    },
    /// A record that cannot belong to the device.
    #[error(
        "Bad data: the record at offset {offset} of the patch has {length} bytes for position {position}, the device's size is {size}"
    )]
    BadRecord {
        /// Where the record stands.
        offset: u64,
        /// The position it names.
        position: i64,
        /// The length of its data.
        length: usize,
        /// The size in the patch's header.
        size: u64,
    },
    /// A checksum whose lengths are out of range.
    #[error("Bad data: {what} in the patch's checksum, at offset {offset}")]
    BadChecksum {
        /// What is wrong.
        what: String,
        /// Where it stands.
        offset: u64,
    },
    /// The stream failed.
    #[error("Read error: cannot read the patch at offset {offset}: {source}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl PatchError {
    /// The exit code that a program ends with because of this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { .. } => ExitCode::Read,
            _ => ExitCode::PatchFormat,
        }
    }
}

/// Data that shall stand at a position.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where, in bytes; position and length lie within the header's size.
    pub position: u64,
    /// What.
    pub data: &'a [u8],
    /// Whether the next record is known to go on where this one ends. Only a hint:
    /// what was not read yet is not known.
    pub is_continued: bool,
}

/// Reads a patch from a stream, record by record, in constant memory.
#[derive(Debug)]
pub struct PatchReader<R> {
    input: Input<R>,
    header: PatchHeader,
    ended: bool,
}

impl<R: Read> PatchReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// No patch, one of another version, or a header that ends early.
    pub fn new(stream: R) -> Result<Self, PatchError> {
        let mut input = Input { stream, buffer: vec![0; BUFFER], start: 0, end: 0, consumed: 0, ahead: BUFFER };
        let available = input.fill(MAGIC.len() + FORMAT_VERSION.len())?;
        let start = input.available();
        let prefix = start.len().min(MAGIC.len());
        if start.is_empty() {
            return Err(PatchError::Empty);
        }
        if start[..prefix] != MAGIC[..prefix] {
            return Err(PatchError::BadMagic);
        }
        if !available {
            return Err(PatchError::Cut { offset: start.len() as u64, place: "the header" });
        }
        input.take(MAGIC.len(), "the header")?;
        let version: [u8; 4] = input.array("the header")?;
        if &version != FORMAT_VERSION {
            let shown = String::from_utf8_lossy(&version).escape_debug().to_string();
            return Err(PatchError::BadVersion(shown));
        }
        let offset = input.consumed;
        let size = i64::from_le_bytes(input.array("the header")?);
        let Ok(size) = u64::try_from(size) else {
            return Err(PatchError::BadHeader { what: format!("a size of {size}"), offset });
        };
        let offset = input.consumed;
        let name_length = usize::from(u16::from_le_bytes(input.array("the header")?));
        if name_length > MAX_DEVICE_NAME {
            let what = format!("a device name of {name_length} bytes (the limit is {MAX_DEVICE_NAME})");
            return Err(PatchError::BadHeader { what, offset });
        }
        let device = input.take(name_length, "the device's name")?.to_vec();
        Ok(Self { input, header: PatchHeader { size, device }, ended: false })
    }

    /// What stands in front of the records.
    pub fn header(&self) -> &PatchHeader {
        &self.header
    }

    /// The next record, or `None` at the end marker.
    ///
    /// # Errors
    ///
    /// A record outside the device, a patch that is cut off, a stream that fails.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, PatchError> {
        let Some((position, length)) = self.next_head()? else { return Ok(None) };
        let input = &mut self.input;
        input.take(length, "a record's data")?;
        let is_continued = input.available().first_chunk().is_some_and(|head| {
            let (next, next_length) = split_head(head);
            next_length > 0 && u64::try_from(next) == Ok(position + length as u64)
        });
        let data = &input.buffer[input.start - length..input.start];
        Ok(Some(Record { position, data, is_continued }))
    }

    /// The position and the length of the next record's data; `None` at the end marker.
    fn next_head(&mut self) -> Result<Option<(u64, usize)>, PatchError> {
        if self.ended {
            return Ok(None);
        }
        let offset = self.input.consumed;
        let head: [u8; 10] = self.input.array("a record's head, before the end marker")?;
        let (position, length) = split_head(&head);
        if position == 0 && length == 0 {
            self.ended = true;
            return Ok(None);
        }
        let size = self.header.size;
        let within = |at: &u64| at.checked_add(length as u64).is_some_and(|end| end <= size);
        match u64::try_from(position).ok().filter(within) {
            Some(position) => Ok(Some((position, length))),
            None => Err(PatchError::BadRecord { offset, position, length, size }),
        }
    }

    /// Reads what is left of the records, and the checksum. What follows is not read.
    ///
    /// # Errors
    ///
    /// As [`next_record`](Self::next_record), and a checksum that is out of range or cut off.
    pub fn finish(mut self) -> Result<Option<PatchChecksum>, PatchError> {
        while self.next_record()?.is_some() {}
        let place = "the checksum";
        let offset = self.input.consumed;
        let [name_length] = self.input.array(place)?;
        if name_length == 0 {
            return Ok(None);
        }
        if usize::from(name_length) > MAX_DIGEST_NAME {
            let what = format!("a name of {name_length} bytes (the limit is {MAX_DIGEST_NAME})");
            return Err(PatchError::BadChecksum { what, offset });
        }
        let name = String::from_utf8(self.input.take(name_length.into(), place)?.to_vec());
        let name = name.map_err(|_| PatchError::BadChecksum { what: "a name that is not text".into(), offset })?;
        let offset = self.input.consumed;
        let [digest_length] = self.input.array(place)?;
        if usize::from(digest_length) > MAX_DIGEST {
            let what = format!("a digest of {digest_length} bytes (the limit is {MAX_DIGEST})");
            return Err(PatchError::BadChecksum { what, offset });
        }
        let digest = self.input.take(digest_length.into(), place)?.to_vec();
        Ok(Some(PatchChecksum { name, digest }))
    }
}

impl<R: Read + Seek> PatchReader<R> {
    /// Steps over the next record; gives the length of its data in bytes, or `None`
    /// at the end marker. Long data is not read.
    ///
    /// # Errors
    ///
    /// As [`next_record`](Self::next_record).
    pub fn skip_record(&mut self) -> Result<Option<usize>, PatchError> {
        let Some((_, length)) = self.next_head()? else { return Ok(None) };
        self.input.skip(length, "a record's data")?;
        Ok(Some(length))
    }
}

fn split_head(head: &[u8; 10]) -> (i64, usize) {
    let mut position = [0; 8];
    position.copy_from_slice(&head[..8]);
    (i64::from_le_bytes(position), usize::from(u16::from_le_bytes([head[8], head[9]])))
}

/// A stream with a window over it, so that records can be lent without a copy.
#[derive(Debug)]
struct Input<R> {
    stream: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    consumed: u64,
    /// How much is read beyond what is needed, at most.
    ahead: usize,
}

impl<R: Read> Input<R> {
    fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Makes at least `length` bytes available; false if the stream ends before.
    fn fill(&mut self, length: usize) -> Result<bool, PatchError> {
        debug_assert!(length <= MAX_READ_RECORD, "longer than the window is made for");
        if self.buffer.len() - self.start < length {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < length {
            let until = (self.start + length.max(self.ahead)).min(self.buffer.len());
            match self.stream.read(&mut self.buffer[self.end..until]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(PatchError::Read { offset: self.consumed + self.available().len() as u64, source });
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, length: usize, place: &'static str) -> Result<&[u8], PatchError> {
        if !self.fill(length)? {
            return Err(PatchError::Cut { offset: self.consumed + self.available().len() as u64, place });
        }
        let start = self.start;
        self.start += length;
        self.consumed += length as u64;
        Ok(&self.buffer[start..self.start])
    }

    fn array<const N: usize>(&mut self, place: &'static str) -> Result<[u8; N], PatchError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, place)?);
        Ok(bytes)
    }
}

impl<R: Read + Seek> Input<R> {
    /// Passes over `length` bytes; the last of them is read, so that they are known to be there.
    fn skip(&mut self, length: usize, place: &'static str) -> Result<(), PatchError> {
        // Neighbours of a short record are read with it.
        self.ahead = if length < WORTH_SKIPPING { self.buffer.len() } else { 1 };
        let available = self.end - self.start;
        if length < WORTH_SKIPPING || length <= available + 1 {
            return self.take(length, place).map(drop);
        }
        let distance = length - 1 - available;
        let failed = |source| PatchError::Read { offset: self.consumed, source };
        self.stream.seek(SeekFrom::Current(distance as i64)).map_err(failed)?;
        (self.start, self.end) = (0, 0);
        self.consumed += (length - 1) as u64;
        // The last byte and the next record's head come together.
        self.ahead = 1 + 10;
        if self.fill(1)? {
            self.ahead = 1;
            return self.take(1, place).map(drop);
        }
        let failed = |source| PatchError::Read { offset: self.consumed, source };
        let offset = self.stream.seek(SeekFrom::End(0)).map_err(failed)?;
        Err(PatchError::Cut { offset, place })
    }
}

#[cfg(test)]
mod tests {
    use super::super::PatchWriter;
    use super::*;

    fn header() -> PatchHeader {
        PatchHeader { size: 100_000, device: b"/dev/vg/\xffdisk".to_vec() }
    }

    fn checksum() -> PatchChecksum {
        PatchChecksum { name: "md5".into(), digest: vec![7; 16] }
    }

    fn patch(records: &[(u64, &[u8])], checksum: Option<&PatchChecksum>) -> Vec<u8> {
        let mut writer = PatchWriter::new(Vec::new(), &header()).unwrap();
        for (position, data) in records {
            writer.write_data(*position, data).unwrap();
        }
        let (bytes, stats) = writer.finish(checksum).unwrap();
        assert_eq!(stats.patch_bytes, bytes.len() as u64);
        bytes
    }

    type Content = (Vec<(u64, Vec<u8>)>, Option<PatchChecksum>);

    fn read_all(bytes: &[u8]) -> Result<Content, PatchError> {
        let mut reader = PatchReader::new(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next_record()? {
            records.push((record.position, record.data.to_vec()));
        }
        Ok((records, reader.finish()?))
    }

    #[test]
    fn a_patch_reads_as_it_was_written() {
        let long = vec![3; 70_000];
        let bytes = patch(&[(10, b"abc"), (20_000, &long)], Some(&checksum()));
        let (records, read_checksum) = read_all(&bytes).unwrap();
        let shape: Vec<_> = records.iter().map(|(at, data)| (*at, data.len())).collect();
        assert_eq!(shape, [(10, 3), (20_000, 32_768), (52_768, 32_768), (85_536, 4464)]);
        assert_eq!(read_checksum, Some(checksum()));
    }

    #[test]
    fn a_patch_cut_anywhere_is_refused() {
        let bytes = patch(&[(10, b"abc"), (500, b"defg")], Some(&checksum()));
        for cut in 0..bytes.len() {
            let error = read_all(&bytes[..cut]).expect_err("a cut patch");
            assert_eq!(error.exit_code(), ExitCode::PatchFormat, "cut at {cut}");
        }
        assert!(read_all(&bytes).is_ok());
    }

    #[test]
    fn a_checksum_whose_name_is_not_text_is_refused() {
        let mut bytes = patch(&[], Some(&checksum()));
        let name = bytes.len() - 1 - 16 - 3;
        bytes[name] = 0xff;
        assert!(matches!(read_all(&bytes), Err(PatchError::BadChecksum { .. })));
    }

    #[test]
    fn a_record_that_goes_on_in_the_next_says_so() {
        let bytes = patch(&[(10, b"abc"), (13, b"d"), (20, b"e")], None);
        let mut reader = PatchReader::new(&bytes[..]).unwrap();
        let mut continued = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            continued.push(record.is_continued);
        }
        assert_eq!(continued, [true, false, false]);
    }

    #[test]
    fn skipping_finds_the_same_faults_as_reading() {
        let long = vec![3; 70_000];
        let whole = patch(&[(10, b"abc"), (20, &long), (90_100, &long[..3000]), (99_000, b"x")], Some(&checksum()));
        let skip_all = |bytes: &[u8]| -> Result<usize, PatchError> {
            let mut reader = PatchReader::new(io::Cursor::new(bytes))?;
            let mut length = 0;
            while let Some(skipped) = reader.skip_record()? {
                length += skipped;
            }
            reader.finish()?;
            Ok(length)
        };
        assert_eq!(skip_all(&whole).unwrap(), 3 + 70_000 + 3000 + 1);
        for cut in (0..whole.len()).filter(|cut| cut % 97 == 0 || whole.len() - cut < 3200) {
            let (skipped, read) = (skip_all(&whole[..cut]).unwrap_err(), read_all(&whole[..cut]).unwrap_err());
            assert_eq!(skipped.to_string(), read.to_string(), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_the_checksum_is_not_read() {
        let mut bytes = patch(&[(10, b"abc")], None);
        bytes.extend_from_slice(b"garbage");
        assert_eq!(read_all(&bytes).unwrap().1, None);
    }

    #[test]
    fn records_outside_the_device_are_refused() {
        for (position, length) in [(-1i64, 3u16), (100_000, 1), (99_999, 2), (i64::MAX, 1), (i64::MIN, 0)] {
            let mut bytes = patch(&[], None);
            bytes.truncate(bytes.len() - 11);
            bytes.extend_from_slice(&position.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&[0; 300]);
            let error = read_all(&bytes).expect_err("a record outside");
            assert!(matches!(error, PatchError::BadRecord { .. }), "{position} {length}: {error}");
        }
    }

    #[test]
    fn a_writer_refuses_data_past_its_own_header() {
        let mut writer = PatchWriter::new(Vec::new(), &header()).unwrap();
        assert!(writer.write_data(99_999, b"ab").is_err());
        assert!(writer.write_data(u64::MAX, b"ab").is_err());
    }

    #[test]
    fn a_stream_that_gives_one_byte_at_a_time_reads_the_same() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                out[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        let bytes = patch(&[(10, b"abc"), (20, b"d")], Some(&checksum()));
        let mut reader = PatchReader::new(Slow(&bytes)).unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().data, b"abc");
        assert_eq!(reader.finish().unwrap(), Some(checksum()));
    }
}
