//! Header blocks: names and values, compressed with one zlib stream for all blocks of a direction.
//!
//! What is received is inflated into a bounded buffer. What is sent is not deflated at all, but wrapped into stored blocks
//! (RFC 1951, section 3.2.4): replies have no headers, and a compressor would cost a quarter of a mebibyte per connection.

use flate2::{Decompress, FlushDecompress, Status};

use super::SpdyError;
use super::dictionary::{DICTIONARY, DICTIONARY_ID};

/// The longest header block once it is inflated, in bytes.
const BLOCK_BYTES_MAX: usize = 32 << 10;
/// The most headers in a block.
const HEADERS_MAX: u32 = 64;

/// A stored block of no bytes.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Names in lower case, and values.
pub(crate) type Headers = Vec<(String, String)>;

/// Inflates the blocks of one direction, all of them and in order: each builds on those before.
#[derive(Debug)]
pub(super) struct HeaderReader {
    zlib: Decompress,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }

    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut block = vec![0; BLOCK_BYTES_MAX + 1];
        let (mut taken, mut filled) = (0, 0);
        loop {
            let (before_in, before_out) = (self.zlib.total_in(), self.zlib.total_out());
            let flush = FlushDecompress::Sync;
            let step = self
                .zlib
                .decompress(&compressed[taken..], &mut block[filled..], flush);
            taken += moved(before_in, self.zlib.total_in());
            filled += moved(before_out, self.zlib.total_out());
            if filled > BLOCK_BYTES_MAX {
                return Err(SpdyError::HeadersTooLong);
            }
            match step {
                Ok(Status::Ok) if taken < compressed.len() => {}
                Ok(Status::Ok | Status::BufError) => break,
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers),
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    let set = self.zlib.set_dictionary(&DICTIONARY);
                    set.map_err(|_| SpdyError::Headers)?;
                }
                Err(_) => return Err(SpdyError::Headers),
            }
        }
        if taken < compressed.len() {
            return Err(SpdyError::Headers);
        }
        block.truncate(filled);
        Ok(block)
    }
}

fn moved(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let count = take_number(&mut block)?;
    if count > HEADERS_MAX {
        return Err(SpdyError::HeadersTooLong);
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut block)?.to_ascii_lowercase();
        if name.is_empty() || headers.iter().any(|(known, _)| *known == name) {
            return Err(SpdyError::Headers);
        }
        headers.push((name, take_text(&mut block)?));
    }
    Ok(headers)
}

fn take_number(block: &mut &[u8]) -> Result<u32, SpdyError> {
    let (number, rest) = block.split_first_chunk().ok_or(SpdyError::Headers)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = usize::try_from(take_number(block)?).map_err(|_| SpdyError::Headers)?;
    let (text, rest) = block.split_at_checked(length).ok_or(SpdyError::Headers)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers)
}

/// Wraps the blocks of one direction.
#[derive(Debug, Default)]
pub(super) struct HeaderWriter {
    has_begun: bool,
}

impl HeaderWriter {
    /// Appends a block with `headers`, whose names are in lower case, to `out`.
    pub(super) fn write(&mut self, headers: &[(&str, &str)], out: &mut Vec<u8>) {
        if !self.has_begun {
            self.has_begun = true;
            // Deflate with a window of 32 KiB, a dictionary, no compression; then which dictionary (RFC 1950).
            out.extend_from_slice(&[0x78, 0x20]);
            out.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        }
        let mut block = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&number(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        for piece in block.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(piece);
        }
        // A flush, as zlib writes it. Without it Go's inflater looks for a next block, finds the frame's end and gives up.
        out.extend_from_slice(&FLUSH);
    }
}

fn number(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A peer that compresses, as all clients do.
    struct Deflater(Compress);

    impl Deflater {
        fn new() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            assert_eq!(zlib.set_dictionary(&DICTIONARY).unwrap(), DICTIONARY_ID);
            Self(zlib)
        }

        fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(block.len() + 1024);
            self.0
                .compress_vec(block, &mut out, FlushCompress::Sync)
                .unwrap();
            out
        }
    }

    fn block_of(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&number(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        // Setting it yields its checksum.
        Deflater::new();
    }

    #[test]
    fn blocks_that_build_on_each_other_are_inflated() {
        let (mut peer, mut reader) = (Deflater::new(), HeaderReader::new());
        for round in 0..3 {
            let id = round.to_string();
            let sent = [("streamType", "stdin"), ("requestID", id.as_str())];
            let headers = reader.read(&peer.deflate(&block_of(&sent))).unwrap();
            let expected = [("streamtype", "stdin"), ("requestid", id.as_str())];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(headers, expected);
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::new());
        let long = "x".repeat(20_000);
        for headers in [&[][..], &[("a", "b"), ("c", long.as_str())], &[("d", "")]] {
            let mut out = Vec::new();
            writer.write(headers, &mut out);
            assert!(out.ends_with(&FLUSH));
            let read = reader.read(&out).unwrap();
            let read: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(read, headers);
        }
    }

    #[test]
    fn a_bomb_and_nonsense_are_refused() {
        let bomb = Deflater::new().deflate(&vec![0; 1 << 20]);
        assert!(bomb.len() < 4096);
        let table = [
            bomb,
            Deflater::new().deflate(&block_of(&[("a", "1"), ("A", "2")])),
            Deflater::new().deflate(&block_of(&[("", "1")])),
            Deflater::new().deflate(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            Deflater::new().deflate(&[0, 0, 0xff, 0xff]),
            Deflater::new().deflate(&[0, 0]),
            b"no zlib".to_vec(),
        ];
        for (row, bytes) in table.iter().enumerate() {
            assert!(HeaderReader::new().read(bytes).is_err(), "row {row}");
        }
    }
}
