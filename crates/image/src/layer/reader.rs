//! Reading a layer's tar stream entry by entry.

use std::io::{BufRead, ErrorKind};

use orlop_sys::beneath::FileTime;

use super::error::TarError;
use super::fields::{device_number, owner, pick, set_long, stored_size, unsigned};
use super::header::{Dialect, Header, number, until_nul};
use super::pax::{Extended, parse_decimal};
use super::sparse::{self, Fragment, SparseMap};
use super::{BLOCK_BYTES, Entry, EntryKind, Limits, name};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// How the sequence of entries ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// With the zero blocks that POSIX asks for.
    Present,
    /// At the end of the stream, between two entries: cut off there, or written by a tool that leaves them out.
    /// Only a digest over the whole stream can tell which.
    Missing,
}

/// A strict reader of one layer's stream. It is not resumable: after an error, drop it.
///
/// Its buffering is the input's: data is handed out from there without another copy.
pub struct LayerReader<R> {
    input: R,
    limits: Limits,
    /// Bytes taken from `input`.
    position: u64,
    /// Bytes of the current entry's data not yet taken.
    data_left: u64,
    /// Bytes that fill the current entry's last block.
    padding: u64,
    entries: u64,
    devices: u64,
    end: Option<EndMarker>,
}

/// What the headers before an entry's own said about it.
#[derive(Default)]
struct Prelude {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> LayerReader<R> {
    /// How many bytes of the stream have been taken.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Starts at the beginning of an uncompressed stream.
    pub const fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            position: 0,
            data_left: 0,
            padding: 0,
            entries: 0,
            devices: 0,
            end: None,
        }
    }

    /// How many entries there have been.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How the entries ended, once [`Self::next_entry`] has returned `None`.
    pub const fn end(&self) -> Option<EndMarker> {
        self.end
    }

    /// Gives the input back, for instance to drain what stands behind the end marker.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, or `None` at the end. Data of the previous entry that was not read is passed over.
    ///
    /// # Errors
    /// See [`TarError`]; after one, nothing further can be read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut prelude = Prelude::default();
        loop {
            let position = self.position;
            let Some(block) = self.header_block(&prelude)? else {
                return Ok(None);
            };
            let header = Header::new(&block, position)?;
            match header.type_flag() {
                b'x' => self.extended(&header, &mut prelude)?,
                b'g' => {
                    let data = self.small_data(&header, "global extended header")?;
                    Extended::parse(&data, &self.limits)?.check_global()?;
                }
                b'L' => {
                    let name = self.long_text(&header)?;
                    set_long(&mut prelude.long_name, name)?;
                }
                b'K' => {
                    let name = self.long_text(&header)?;
                    set_long(&mut prelude.long_link, name)?;
                }
                // A label of the volume: no file.
                b'V' => {}
                _ => return self.entry(&header, prelude).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data, empty at its end. Call [`Self::consume`] with what was used.
    ///
    /// # Errors
    /// [`TarError::Truncated`] when the stream ends before the data does.
    pub fn chunk(&mut self) -> Result<&[u8], TarError> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let (position, left) = (self.position, self.data_left);
        let available = fill(&mut self.input, position)?;
        if available.is_empty() {
            let part = "an entry's data";
            return Err(TarError::Truncated { position, part });
        }
        let take = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(available.len());
        Ok(&available[..take])
    }

    /// Marks `count` bytes of the last [`Self::chunk`] as used.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.position += count as u64;
        self.data_left = self.data_left.saturating_sub(count as u64);
    }

    /// Passes over what is left of an entry. Its padding may be missing at the very end of the stream: umoci writes such
    /// layers, and no byte of a file is lost with it.
    fn skip_rest(&mut self) -> Result<(), TarError> {
        while self.data_left > 0 {
            let count = self.chunk()?.len();
            self.consume(count);
        }
        let mut padding = std::mem::take(&mut self.padding);
        while padding > 0 {
            let available = fill(&mut self.input, self.position)?.len() as u64;
            if available == 0 {
                return Ok(());
            }
            let count = available.min(padding);
            self.input
                .consume(usize::try_from(count).unwrap_or(BLOCK_BYTES));
            self.position += count;
            padding -= count;
        }
        Ok(())
    }

    /// The next block that is a header; `None` at the end of the entries.
    fn header_block(&mut self, prelude: &Prelude) -> Result<Option<[u8; BLOCK_BYTES]>, TarError> {
        let position = self.position;
        let first = self.block()?;
        match first {
            Some(block) if !is_zero(&block) => return Ok(Some(block)),
            Some(_) => {
                if let Some(second) = self.block()?
                    && !is_zero(&second)
                {
                    let reason = format!("a lone zero block at byte {position}");
                    return Err(TarError::ambiguous(b"", reason));
                }
                self.end = Some(EndMarker::Present);
            }
            None => self.end = Some(EndMarker::Missing),
        }
        if prelude.is_empty() {
            return Ok(None);
        }
        let part = "an extended header without its entry";
        Err(TarError::Truncated { position, part })
    }

    /// The next block, `None` when the stream ends exactly before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let available = fill(&mut self.input, self.position)?;
            if available.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                let position = self.position;
                return Err(TarError::Truncated {
                    position,
                    part: "a block",
                });
            }
            let take = available.len().min(BLOCK_BYTES - filled);
            block[filled..filled + take].copy_from_slice(&available[..take]);
            self.input.consume(take);
            self.position += take as u64;
            filled += take;
        }
        Ok(Some(block))
    }

    fn extended(&mut self, header: &Header<'_>, prelude: &mut Prelude) -> Result<(), TarError> {
        let data = self.small_data(header, "extended header")?;
        if prelude.extended.is_some() {
            let reason = "two extended headers in a row";
            return Err(TarError::ambiguous(&header.name(), reason));
        }
        prelude.extended = Some(Extended::parse(&data, &self.limits)?);
        Ok(())
    }

    fn long_text(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let data = self.small_data(header, "long name")?;
        Ok(until_nul(&data).to_vec())
    }

    /// The whole data of a header-like entry, which has to fit into memory.
    fn small_data(&mut self, header: &Header<'_>, what: &'static str) -> Result<Vec<u8>, TarError> {
        let size = unsigned(header.size()?, header, "size")?;
        let limit = self.limits.extended_header_bytes_max as u64;
        if size > limit {
            return Err(TarError::limit(
                &header.name(),
                "extended header in bytes",
                size,
                limit,
            ));
        }
        self.begin_data(size);
        let mut data = Vec::new();
        loop {
            let chunk = match self.chunk() {
                Err(TarError::Truncated { position, .. }) => {
                    return Err(TarError::Truncated {
                        position,
                        part: what,
                    });
                }
                other => other?,
            };
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let count = chunk.len();
            self.consume(count);
        }
        self.skip_rest()?;
        Ok(data)
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn entry(&mut self, header: &Header<'_>, prelude: Prelude) -> Result<Entry, TarError> {
        self.count(header)?;
        let extended = prelude.extended.unwrap_or_default();
        let raw_path = pick(
            extended.path.as_deref(),
            prelude.long_name.as_deref(),
            header.name(),
        )?;
        let raw_link = pick(
            extended.link_path.as_deref(),
            prelude.long_link.as_deref(),
            header.link_name().to_vec(),
        )?;
        let path = name::normalise(&raw_path, &self.limits)?;
        let stored = stored_size(header, extended.size, &path)?;
        let kind = self.kind(header, &raw_path, raw_link)?;
        let has_data = self.begin_entry_data(header, &kind, stored, &path)?;
        let (size, sparse) = if has_data {
            self.sparse(header, &extended, stored, &path)?
        } else {
            (0, None)
        };
        Ok(Entry {
            mode: u32::try_from(header.mode()? & 0o7777).unwrap_or(0),
            uid: owner(extended.uid, header.uid()?, "uid", &path)?,
            gid: owner(extended.gid, header.gid()?, "gid", &path)?,
            mtime: match extended.mtime {
                Some(time) => time,
                None => FileTime {
                    seconds: header.mtime()?,
                    nanoseconds: 0,
                },
            },
            atime: extended.atime,
            attributes: extended.attributes,
            path,
            kind,
            size,
            sparse,
        })
    }

    /// Sets up the data that follows; whether there is any for this kind of entry.
    fn begin_entry_data(
        &mut self,
        header: &Header<'_>,
        kind: &EntryKind,
        stored: u64,
        path: &[u8],
    ) -> Result<bool, TarError> {
        match kind {
            EntryKind::File => {
                self.begin_data(stored);
                Ok(true)
            }
            // Old writers leave the file's size in a further name's header; no reader expects data there.
            EntryKind::HardLink { .. } => Ok(false),
            // GNU's list of a directory's names for incremental dumps.
            EntryKind::Directory if header.type_flag() == b'D' => {
                self.begin_data(stored);
                Ok(false)
            }
            EntryKind::Directory
            | EntryKind::Symlink { .. }
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => {
                if stored != 0 {
                    let reason =
                        "it has a size, which some unpackers skip as data and others do not";
                    return Err(TarError::ambiguous(path, reason));
                }
                Ok(false)
            }
        }
    }

    fn count(&mut self, header: &Header<'_>) -> Result<(), TarError> {
        self.entries += 1;
        let limit = self.limits.entries_max;
        if self.entries > limit {
            return Err(TarError::limit(
                &header.name(),
                "number of entries",
                self.entries,
                limit,
            ));
        }
        if matches!(header.type_flag(), b'3' | b'4') {
            self.devices += 1;
            let limit = self.limits.devices_max;
            if self.devices > limit {
                return Err(TarError::limit(
                    &header.name(),
                    "number of devices",
                    self.devices,
                    limit,
                ));
            }
        }
        Ok(())
    }

    fn kind(&self, header: &Header<'_>, path: &[u8], link: Vec<u8>) -> Result<EntryKind, TarError> {
        match header.type_flag() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            b'0' | 0 if path.ends_with(b"/") => Ok(EntryKind::Directory),
            b'0' | 0 | b'7' | b'S' => Ok(EntryKind::File),
            b'5' | b'D' => Ok(EntryKind::Directory),
            b'1' => Ok(EntryKind::HardLink {
                target: name::normalise(&link, &self.limits)?,
            }),
            b'2' => {
                name::check_text(&link, "link target", &self.limits)?;
                if link.is_empty() {
                    return Err(TarError::field(path, "link target", "is empty"));
                }
                Ok(EntryKind::Symlink { target: link })
            }
            b'3' => Ok(EntryKind::CharDevice {
                number: device_number(header)?,
            }),
            b'4' => Ok(EntryKind::BlockDevice {
                number: device_number(header)?,
            }),
            b'6' => Ok(EntryKind::Fifo),
            other => Err(TarError::Type {
                path: super::error::shown(path),
                type_flag: char::from(other),
            }),
        }
    }

    /// The size with holes, and the map, if the file is sparse in any of the four formats.
    fn sparse(
        &mut self,
        header: &Header<'_>,
        extended: &Extended,
        stored: u64,
        path: &[u8],
    ) -> Result<(u64, Option<SparseMap>), TarError> {
        let old_gnu = header.type_flag() == b'S';
        let records = &extended.sparse;
        let (real_size, fragments) = match (old_gnu, records.is_sparse()) {
            (false, false) => return Ok((stored, None)),
            (true, true) => {
                let reason = "two sparse maps";
                return Err(TarError::ambiguous(path, reason));
            }
            (true, false) => self.old_gnu_map(header, path)?,
            (false, true) => {
                let real_size = records.real_size.ok_or_else(|| {
                    TarError::field(path, "sparse map", "the real size is missing")
                })?;
                let fragments = match (records.major, records.minor) {
                    (Some(1), Some(0)) => self.inline_map(path)?,
                    (None | Some(0), _) => sparse::from_records(records, path)?,
                    (Some(_), _) => {
                        return Err(TarError::field(
                            path,
                            "sparse map",
                            "unknown format version",
                        ));
                    }
                };
                (real_size, fragments)
            }
        };
        self.check_fragments(fragments.len(), path)?;
        if i64::try_from(real_size).is_err() {
            return Err(TarError::field(path, "sparse size", "is too large"));
        }
        let map = SparseMap::new(fragments, real_size, self.data_left, path)?;
        Ok((real_size, Some(map)))
    }

    /// The map of an `S` header: four slots, then blocks of twenty-one before the data.
    fn old_gnu_map(
        &mut self,
        header: &Header<'_>,
        path: &[u8],
    ) -> Result<(u64, Vec<Fragment>), TarError> {
        let bad = || TarError::field(path, "sparse map", "it does not parse");
        if header.dialect() != Dialect::Gnu {
            return Err(TarError::field(path, "sparse map", "not in a GNU header"));
        }
        let (slots, mut more, real_size) = header.gnu_sparse();
        let mut fragments = Vec::new();
        sparse::gnu_slots(slots, &mut fragments).ok_or_else(bad)?;
        while more {
            self.check_fragments(fragments.len(), path)?;
            let position = self.position;
            let part = "a sparse map";
            let block = self
                .block()?
                .ok_or(TarError::Truncated { position, part })?;
            sparse::gnu_slots(&block[..504], &mut fragments).ok_or_else(bad)?;
            more = block[504] != 0;
        }
        let real_size = number(real_size).and_then(|size| u64::try_from(size).ok());
        Ok((real_size.ok_or_else(bad)?, fragments))
    }

    /// The map of format 1.0: decimal lines in front of the data, filled up to a block.
    fn inline_map(&mut self, path: &[u8]) -> Result<Vec<Fragment>, TarError> {
        let bad = || TarError::field(path, "sparse map", "it does not parse");
        let mut block = Vec::new();
        let mut at = 0;
        let count = self.inline_number(&mut block, &mut at, path)?;
        let count = usize::try_from(count).map_err(|_| bad())?;
        self.check_fragments(count, path)?;
        let mut numbers = Vec::new();
        for _ in 0..count * 2 {
            numbers.push(self.inline_number(&mut block, &mut at, path)?);
        }
        sparse::pairs(&numbers).ok_or_else(bad)
    }

    fn inline_number(
        &mut self,
        block: &mut Vec<u8>,
        at: &mut usize,
        path: &[u8],
    ) -> Result<u64, TarError> {
        let bad = || TarError::field(path, "sparse map", "it does not parse");
        let mut digits = Vec::with_capacity(20);
        loop {
            if *at == block.len() {
                if self.data_left < BLOCK {
                    return Err(bad());
                }
                let position = self.position;
                let part = "a sparse map";
                *block = self
                    .block()?
                    .ok_or(TarError::Truncated { position, part })?
                    .to_vec();
                self.data_left -= BLOCK;
                *at = 0;
            }
            let byte = block[*at];
            *at += 1;
            if byte == b'\n' {
                return parse_decimal(&digits).ok_or_else(bad);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(bad());
            }
        }
    }

    fn check_fragments(&self, count: usize, path: &[u8]) -> Result<(), TarError> {
        let limit = self.limits.sparse_fragments_max;
        if count > limit {
            return Err(TarError::limit(
                path,
                "sparse fragments",
                count as u64,
                limit as u64,
            ));
        }
        Ok(())
    }
}

impl Prelude {
    fn is_empty(&self) -> bool {
        self.extended.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

fn fill<R: BufRead>(input: &mut R, position: u64) -> Result<&[u8], TarError> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(TarError::Read { position, source }),
        }
    }
    // The second call returns what the first one buffered; borrowing it inside the loop is beyond the checker.
    input
        .fill_buf()
        .map_err(|source| TarError::Read { position, source })
}

fn is_zero(block: &[u8; BLOCK_BYTES]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::LayerWriter;
    use super::*;

    /// Reads everything a stream has; an error ends it.
    fn read_all(bytes: &[u8]) -> Result<u64, TarError> {
        let limits = Limits {
            extended_header_bytes_max: 4096,
            sparse_fragments_max: 64,
            ..Limits::default()
        };
        let mut reader = LayerReader::new(bytes, limits);
        while reader.next_entry()?.is_some() {
            while !reader.chunk()?.is_empty() {
                let count = reader.chunk()?.len();
                reader.consume(count);
            }
        }
        Ok(reader.entries())
    }

    fn sample() -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new());
        let mut entry = Entry {
            path: vec![b'n'; 130],
            kind: EntryKind::File,
            mode: 0o644,
            uid: 3_000_000,
            gid: 0,
            size: 700,
            mtime: FileTime {
                seconds: -5,
                nanoseconds: 5,
            },
            atime: None,
            attributes: vec![(b"user.a".to_vec(), b"1\n2".to_vec())],
            sparse: None,
        };
        writer.append(&entry, &[7; 700][..]).unwrap();
        entry.kind = EntryKind::Symlink {
            target: vec![b't'; 300],
        };
        writer.append(&entry, std::io::empty()).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_the_writer_writes_the_reader_reads() {
        let bytes = sample();
        let mut reader = LayerReader::new(&bytes[..], Limits::default());
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            (entry.path.len(), entry.uid, entry.size),
            (130, 3_000_000, 700)
        );
        assert_eq!(
            entry.mtime,
            FileTime {
                seconds: -5,
                nanoseconds: 5
            }
        );
        assert_eq!(entry.attributes, [(b"user.a".to_vec(), b"1\n2".to_vec())]);
        let link = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            link.kind,
            EntryKind::Symlink {
                target: vec![b't'; 300]
            }
        );
        assert!(reader.next_entry().unwrap().is_none());
        assert_eq!(reader.end(), Some(EndMarker::Present));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000)) {
            let _read = read_all(&bytes);
        }

        #[test]
        fn no_damage_makes_the_reader_panic_or_run_on(
            changes in proptest::collection::vec((0_usize..4096, proptest::prelude::any::<u8>()), 1..8),
            cut in 0_usize..8192,
        ) {
            let mut bytes = sample();
            for (at, byte) in changes {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            // Sums are made right again, so that the damage gets past them.
            for start in (0..bytes.len()).step_by(BLOCK_BYTES) {
                let block = &mut bytes[start..start + BLOCK_BYTES];
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
            bytes.truncate(cut.max(1));
            let _read = read_all(&bytes);
        }
    }
}
