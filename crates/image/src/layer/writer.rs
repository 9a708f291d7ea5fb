//! Writing a layer's tar stream, the same bytes for the same entries.

use std::io::{self, Read, Write};

use super::{BLOCK_BYTES, Entry, EntryKind};

/// What an octal field of eleven digits holds: sizes and times.
const OCTAL_11_MAX: u64 = 0o77_777_777_777;
/// What an octal field of seven digits holds: owners and device numbers.
const OCTAL_7_MAX: u64 = 0o7_777_777;

/// A writer of ustar headers, with an extended header only where ustar cannot say it.
///
/// User and group names are never written: they are the building host's, not the image's.
pub struct LayerWriter<W> {
    output: W,
    buffer: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Starts a stream.
    pub fn new(output: W) -> Self {
        Self {
            output,
            buffer: vec![0; 128 << 10],
        }
    }

    /// Writes one entry; for a regular file exactly `entry.size` bytes of `data`. Sparse maps are not written.
    ///
    /// # Errors
    /// Those of either side; `UnexpectedEof` when `data` is shorter than said, as a file that shrinks meanwhile is.
    pub fn append(&mut self, entry: &Entry, mut data: impl Read) -> io::Result<()> {
        let records = extended_records(entry);
        if !records.is_empty() {
            self.extended_header(entry, &records)?;
        }
        let block = header_block(entry)?;
        self.output.write_all(&block)?;
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        let mut left = entry.size;
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            data.read_exact(&mut self.buffer[..want])?;
            self.output.write_all(&self.buffer[..want])?;
            left -= want as u64;
        }
        self.pad(entry.size)
    }

    /// Writes the end marker and gives the output back.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.output)
    }

    fn extended_header(&mut self, entry: &Entry, records: &[u8]) -> io::Result<()> {
        let (_, base) = super::name::split(&entry.path);
        let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        let mut header = Block::new(&name, b'x');
        header.octal(100..108, 0o644)?;
        header.octal(124..136, records.len() as u64)?;
        self.output.write_all(&header.finish())?;
        self.output.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let block = BLOCK_BYTES as u64;
        let padding = usize::try_from((block - size % block) % block).unwrap_or(0);
        self.output.write_all(&[0; BLOCK_BYTES][..padding])
    }
}

/// One header block under construction.
struct Block([u8; BLOCK_BYTES]);

impl Block {
    fn new(name: &[u8], type_flag: u8) -> Self {
        let mut block = [0; BLOCK_BYTES];
        copy_cut(&mut block[..100], name);
        block[156] = type_flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let mut block = Self(block);
        for zero in [100..108, 108..116, 116..124] {
            block.0[zero].copy_from_slice(b"0000000\0");
        }
        for zero in [124..136, 136..148] {
            block.0[zero].copy_from_slice(b"00000000000\0");
        }
        block
    }

    /// Octal with a closing NUL. A value that does not fit is an error: callers put those into an extended header.
    fn octal(&mut self, range: std::ops::Range<usize>, value: u64) -> io::Result<()> {
        let width = range.len() - 1;
        let text = format!("{value:0width$o}");
        if text.len() > width {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "number too large for a tar header",
            ));
        }
        self.0[range][..width].copy_from_slice(text.as_bytes());
        Ok(())
    }

    fn finish(mut self) -> [u8; BLOCK_BYTES] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.0[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        self.0[154] = 0;
        self.0
    }
}

fn header_block(entry: &Entry) -> io::Result<[u8; BLOCK_BYTES]> {
    let (type_flag, link, device) = match &entry.kind {
        EntryKind::File => (b'0', &[][..], None),
        EntryKind::Directory => (b'5', &[][..], None),
        EntryKind::Symlink { target } => (b'2', target.as_slice(), None),
        EntryKind::HardLink { target } => (b'1', target.as_slice(), None),
        EntryKind::CharDevice { number } => (b'3', &[][..], Some(*number)),
        EntryKind::BlockDevice { number } => (b'4', &[][..], Some(*number)),
        EntryKind::Fifo => (b'6', &[][..], None),
    };
    let mut block = Block::new(&written_path(entry), type_flag);
    block.octal(100..108, u64::from(entry.mode))?;
    block.octal(108..116, or_zero(u64::from(entry.uid), OCTAL_7_MAX))?;
    block.octal(116..124, or_zero(u64::from(entry.gid), OCTAL_7_MAX))?;
    block.octal(124..136, or_zero(data_size(entry), OCTAL_11_MAX))?;
    let seconds = u64::try_from(entry.mtime.seconds).unwrap_or(0);
    block.octal(136..148, or_zero(seconds, OCTAL_11_MAX))?;
    copy_cut(&mut block.0[157..257], link);
    if let Some((major, minor)) = device {
        block.octal(329..337, u64::from(major))?;
        block.octal(337..345, u64::from(minor))?;
    }
    Ok(block.finish())
}

/// Directories end in a slash, as every reader since v7 expects; the root is `./`.
fn written_path(entry: &Entry) -> Vec<u8> {
    match (entry.path.as_slice(), &entry.kind) {
        (b"", _) => b"./".to_vec(),
        (path, EntryKind::Directory) => [path, b"/"].concat(),
        (path, _) => path.to_vec(),
    }
}

/// The records ustar has no room for, sorted by key.
fn extended_records(entry: &Entry) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = entry
        .attributes
        .iter()
        .map(|(name, value)| ([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()))
        .collect();
    let mut add = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
    let path = written_path(entry);
    if path.len() > 100 {
        add("path", path);
    }
    if let EntryKind::Symlink { target } | EntryKind::HardLink { target } = &entry.kind
        && target.len() > 100
    {
        add("linkpath", target.clone());
    }
    for (key, value, limit) in [
        ("uid", u64::from(entry.uid), OCTAL_7_MAX),
        ("gid", u64::from(entry.gid), OCTAL_7_MAX),
        ("size", data_size(entry), OCTAL_11_MAX),
    ] {
        if value > limit {
            add(key, value.to_string().into_bytes());
        }
    }
    if let Some(text) = extended_mtime(entry) {
        add("mtime", text.into_bytes());
    }
    records.sort_unstable();
    records
        .iter()
        .flat_map(|(key, value)| record(key, value))
        .collect()
}

/// The mtime where eleven octal digits of seconds cannot say it.
fn extended_mtime(entry: &Entry) -> Option<String> {
    let time = entry.mtime;
    let fits = u64::try_from(time.seconds).is_ok_and(|seconds| seconds <= OCTAL_11_MAX);
    match (fits, time.nanoseconds) {
        (true, 0) => None,
        (_, 0) => Some(time.seconds.to_string()),
        (_, nanoseconds) if time.seconds < 0 => {
            let (whole, fraction) = (-(time.seconds + 1), 1_000_000_000 - nanoseconds);
            Some(format!("-{whole}.{fraction:09}"))
        }
        (_, nanoseconds) => Some(format!("{}.{nanoseconds:09}", time.seconds)),
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn data_size(entry: &Entry) -> u64 {
    if entry.kind == EntryKind::File {
        entry.size
    } else {
        0
    }
}

/// Zero in the header where the extended header tells the value.
const fn or_zero(value: u64, limit: u64) -> u64 {
    if value > limit { 0 } else { value }
}

fn copy_cut(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}
