//! Compression of layers: found by magic, bounded in what it may produce.
//!
//! Purpose: a [`Decompressor`] that reads gzip (any number of members), zstd (any number of frames) or plain bytes,
//! and an [`Encoder`] that writes them with both digests a descriptor and a config need.
//!
//! The bytes decide, not the media type: registries hold gzip under plain types and the reverse, and containerd
//! and Docker accept both. A wrong guess cannot do harm, since the diff id is checked over what comes out.
//!
//! Invariants: memory is one window of the algorithm plus the caller's buffer; what comes out is bounded by
//! [`Bounds`], in bytes and in ratio.

mod decoder;
mod encoder;

pub use decoder::{Bounds, Decompressor};
pub use encoder::{Encoder, LayerBlob};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// How many bytes [`Compression::detect`] wants to see.
pub const MAGIC_BYTES: usize = 4;

impl Compression {
    /// Recognises a stream by its first bytes, fewer than four if the stream is shorter.
    #[must_use]
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // A frame, or a skippable frame, which seekable writers put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Decompression that went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// More bytes than any layer may have.
    #[error("layer decompresses to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A decompression bomb.
    #[error(
        "layer expands {compressed} bytes to more than {produced}, over {ratio_max} times: a decompression bomb"
    )]
    Bomb {
        /// Compressed bytes read.
        compressed: u64,
        /// Bytes produced from them.
        produced: u64,
        /// The ratio allowed.
        ratio_max: u64,
    },
}

impl CompressionError {
    /// The stable id operators look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "ORL-E5001",
            Self::Bomb { .. } => "ORL-E5002",
        }
    }
}
