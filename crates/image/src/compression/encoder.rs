//! Writing compressed layers, digesting both sides on the way.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use orlop_types::Digest;
use sha2::{Digest as _, Sha256};

use super::Compression;

/// The speed everyone's layers are made with; higher levels cost much CPU for few bytes.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// What a written layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The OCI media type.
    pub media_type: &'static str,
    /// The digest of the blob as written.
    pub digest: Digest,
    /// The length of the blob in bytes.
    pub size: u64,
    /// The digest of the uncompressed stream, as the image's config lists it.
    pub diff_id: Digest,
    /// The length of the uncompressed stream in bytes.
    pub uncompressed_size: u64,
}

/// Compresses what is written to it. The same bytes give the same blob: no names or times are recorded.
pub struct Encoder<W: Write> {
    kind: Compression,
    stream: Stream<Hashing<W>>,
    diff: Sha256,
    uncompressed: u64,
}

enum Stream<S: Write> {
    Plain(S),
    Gzip(Box<GzEncoder<S>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, S>>),
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Encoder<W> {
    /// Starts a blob.
    ///
    /// # Errors
    /// zstd's when it finds no memory.
    pub fn new(output: W, kind: Compression) -> io::Result<Self> {
        let sink = Hashing {
            inner: output,
            hash: Sha256::new(),
            count: 0,
        };
        let stream = match kind {
            Compression::None => Stream::Plain(sink),
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Stream::Gzip(Box::new(GzEncoder::new(sink, level)))
            }
            Compression::Zstd => Stream::Zstd(Box::new(zstd::stream::write::Encoder::new(
                sink, ZSTD_LEVEL,
            )?)),
        };
        Ok(Self {
            kind,
            stream,
            diff: Sha256::new(),
            uncompressed: 0,
        })
    }

    /// Ends the blob and flushes the output.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(self) -> io::Result<LayerBlob> {
        let mut sink = match self.stream {
            Stream::Plain(sink) => sink,
            Stream::Gzip(encoder) => encoder.finish()?,
            Stream::Zstd(encoder) => encoder.finish()?,
        };
        sink.inner.flush()?;
        Ok(LayerBlob {
            media_type: match self.kind {
                Compression::None => "application/vnd.oci.image.layer.v1.tar",
                Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            },
            digest: Digest::sha256(sink.hash.finalize().into()),
            size: sink.count,
            diff_id: Digest::sha256(self.diff.finalize().into()),
            uncompressed_size: self.uncompressed,
        })
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Stream::Plain(sink) => sink.write(data)?,
            Stream::Gzip(encoder) => encoder.write(data)?,
            Stream::Zstd(encoder) => encoder.write(data)?,
        };
        self.diff.update(&data[..count]);
        self.uncompressed += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(sink) => sink.flush(),
            Stream::Gzip(encoder) => encoder.flush(),
            Stream::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hash.update(&data[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
