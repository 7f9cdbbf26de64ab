//! Patch files of format 0.3, written, read and applied without the crates
//! under test.

/// The first line of a patch.
pub const MAGIC: &[u8] = b"BDSYNC 0.3\n";

/// A patch in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Size in the header, in bytes.
    pub size: i64,
    /// Device in the header.
    pub device: Vec<u8>,
    /// Positions and data.
    pub records: Vec<(i64, Vec<u8>)>,
    /// Name and value of the checksum.
    pub checksum: Option<(Vec<u8>, Vec<u8>)>,
}

impl Patch {
    /// An empty patch for a device.
    pub fn new(size: i64, device: &str) -> Self {
        Self { size, device: device.as_bytes().to_vec(), ..Self::default() }
    }

    /// With one more record.
    #[must_use]
    pub fn record(mut self, position: i64, data: &[u8]) -> Self {
        self.records.push((position, data.to_vec()));
        self
    }

    /// The bytes of the whole patch.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_open();
        bytes.extend([0; 10]);
        match &self.checksum {
            None => bytes.push(0),
            Some((name, value)) => {
                for field in [name, value] {
                    bytes.push(field.len() as u8);
                    bytes.extend(field);
                }
            }
        }
        bytes
    }

    /// The bytes without end marker and checksum.
    pub fn encode_open(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((self.device.len() as u16).to_le_bytes());
        bytes.extend(&self.device);
        for (position, data) in &self.records {
            bytes.extend(position.to_le_bytes());
            bytes.extend((data.len() as u16).to_le_bytes());
            bytes.extend(data);
        }
        bytes
    }

    /// Reads a patch that ends where the bytes end; `None` for one that is cut.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let size = input.i64()?;
        let length = input.u16()?;
        let device = input.take(length)?.to_vec();
        let mut records = Vec::new();
        loop {
            let position = input.i64()?;
            let length = input.u16()?;
            if position == 0 && length == 0 {
                break;
            }
            records.push((position, input.take(length)?.to_vec()));
        }
        let checksum = match input.u8()? {
            0 => None,
            length => {
                let name = input.take(length)?.to_vec();
                let length = input.u8()?;
                Some((name, input.take(length)?.to_vec()))
            }
        };
        input.0.is_empty().then_some(Self { size, device, records, checksum })
    }

    /// How many bytes the records carry.
    pub fn data_bytes(&self) -> usize {
        self.records.iter().map(|(_, data)| data.len()).sum()
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<usize> {
        self.array::<1>().map(|[byte]| usize::from(byte))
    }

    fn u16(&mut self) -> Option<usize> {
        self.array().map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
