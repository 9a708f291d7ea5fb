//! Reading compressed layers.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::{Compression, CompressionError, MAGIC_BYTES};

/// The buffer between the blob and the decompressor.
const INPUT_BYTES: usize = 64 << 10;

/// What a layer may expand to. The defaults let every honest layer through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes one layer may decompress to.
    pub bytes_max: u64,
    /// The most bytes that may come out for each byte that went in, once past `ratio_free_bytes`.
    pub ratio_max: u64,
    /// Bytes that may come out whatever the ratio: deflate alone reaches 1032 on zeros, and small layers of zeros
    /// are honest.
    pub ratio_free_bytes: u64,
    /// The largest zstd window as a power of two; one such window is memory that a layer can claim.
    pub zstd_window_log_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 30,
            ratio_max: 200,
            ratio_free_bytes: 1 << 30,
            zstd_window_log_max: 27,
        }
    }
}

/// A reader of a layer's uncompressed stream.
///
/// Exceeded bounds come out as an [`io::Error`] whose inner error is a [`CompressionError`].
pub struct Decompressor<R: Read> {
    kind: Compression,
    stream: Stream<Source<R>>,
    bounds: Bounds,
    produced: u64,
}

enum Stream<S: Read> {
    Plain(BufReader<S>),
    Gzip(Box<MultiGzDecoder<BufReader<S>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<S>>>),
}

/// The blob with the bytes that were looked at put back, counting what is taken.
struct Source<R> {
    head: io::Cursor<Vec<u8>>,
    rest: R,
    taken: u64,
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes and starts.
    ///
    /// # Errors
    /// The blob's, and zstd's when it finds no memory.
    pub fn new(mut blob: R, bounds: Bounds) -> io::Result<Self> {
        let mut head = Vec::with_capacity(MAGIC_BYTES);
        blob.by_ref()
            .take(MAGIC_BYTES as u64)
            .read_to_end(&mut head)?;
        let kind = Compression::detect(&head);
        let source = Source {
            head: io::Cursor::new(head),
            rest: blob,
            taken: 0,
        };
        let input = BufReader::with_capacity(INPUT_BYTES, source);
        let stream = match kind {
            Compression::None => Stream::Plain(input),
            Compression::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(bounds.zstd_window_log_max)?;
                Stream::Zstd(Box::new(decoder))
            }
        };
        Ok(Self {
            kind,
            stream,
            bounds,
            produced: 0,
        })
    }

    /// What the blob turned out to be.
    pub const fn compression(&self) -> Compression {
        self.kind
    }

    /// Compressed bytes taken from the blob so far.
    pub fn compressed_bytes(&self) -> u64 {
        match &self.stream {
            Stream::Plain(input) => input.get_ref().taken,
            Stream::Gzip(decoder) => decoder.get_ref().get_ref().taken,
            Stream::Zstd(decoder) => decoder.get_ref().get_ref().taken,
        }
    }

    fn check(&self) -> Result<(), CompressionError> {
        let bounds = &self.bounds;
        if self.produced > bounds.bytes_max {
            return Err(CompressionError::TooLarge {
                limit: bounds.bytes_max,
            });
        }
        let compressed = self.compressed_bytes();
        let allowed = compressed.saturating_mul(bounds.ratio_max);
        if self.produced > bounds.ratio_free_bytes && self.produced > allowed {
            return Err(CompressionError::Bomb {
                compressed,
                produced: self.produced,
                ratio_max: bounds.ratio_max,
            });
        }
        Ok(())
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Stream::Plain(input) => input.read(buffer)?,
            Stream::Gzip(decoder) => decoder.read(buffer)?,
            Stream::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.produced += count as u64;
        self.check().map_err(io::Error::other)?;
        Ok(count)
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.head.read(buffer)? {
            0 => self.rest.read(buffer)?,
            count => count,
        };
        self.taken += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 3).unwrap()
    }

    fn read(blob: &[u8], bounds: Bounds) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompressor::new(blob, bounds)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_kind_is_found_by_its_bytes_and_read_to_the_end() {
        let skippable = [
            &[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..],
            &zstd(b"hello"),
        ]
        .concat();
        for (blob, kind) in [
            (b"hello".to_vec(), Compression::None),
            (gzip(b"hello"), Compression::Gzip),
            (
                [gzip(b"he"), gzip(b""), gzip(b"llo")].concat(),
                Compression::Gzip,
            ),
            (zstd(b"hello"), Compression::Zstd),
            ([zstd(b"he"), zstd(b"llo")].concat(), Compression::Zstd),
            (skippable, Compression::Zstd),
        ] {
            assert_eq!(
                Decompressor::new(&blob[..], Bounds::default())
                    .unwrap()
                    .compression(),
                kind
            );
            assert_eq!(read(&blob, Bounds::default()).unwrap(), b"hello");
        }
        assert_eq!(read(b"", Bounds::default()).unwrap(), b"");
    }

    #[test]
    fn a_cut_or_dirty_stream_is_an_error() {
        let blob = gzip(&[7; 10_000]);
        assert!(read(&blob[..blob.len() - 1], Bounds::default()).is_err());
        assert!(
            read(
                &[&blob[..], b"trailing garbage"].concat(),
                Bounds::default()
            )
            .is_err()
        );
        let blob = zstd(&[7; 10_000]);
        assert!(read(&blob[..blob.len() - 1], Bounds::default()).is_err());
    }

    #[test]
    fn a_bomb_and_an_endless_stream_are_cut_off() {
        let bounds = Bounds {
            bytes_max: 1 << 20,
            ratio_max: 100,
            ratio_free_bytes: 64 << 10,
            zstd_window_log_max: 27,
        };
        for blob in [gzip(&vec![0; 900 << 10]), zstd(&vec![0; 900 << 10])] {
            let error = read(&blob, bounds).unwrap_err();
            let inner = error.get_ref().unwrap().downcast_ref::<CompressionError>();
            assert!(
                matches!(inner, Some(CompressionError::Bomb { .. })),
                "{error}"
            );
        }
        let error = read(&vec![1; (1 << 20) + 1], bounds).unwrap_err();
        assert!(
            error.to_string().contains("more than 1048576 bytes"),
            "{error}"
        );
    }

    #[test]
    fn an_honest_layer_of_zeros_passes_the_defaults() {
        assert_eq!(
            read(&gzip(&vec![0; 8 << 20]), Bounds::default())
                .unwrap()
                .len(),
            8 << 20
        );
    }
}
