//! What can be wrong with a layer's tar stream.

use std::io;

/// A stream that is not a layer Orlop will unpack. Retrying does not help, except for [`TarError::Read`].
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source of the stream failed.
    #[error("read layer stream at byte {position}")]
    Read {
        /// Offset in the uncompressed stream, in bytes.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream ended inside an entry.
    #[error("layer stream ends at byte {position}, in the middle of {part}")]
    Truncated {
        /// Offset in the uncompressed stream, in bytes.
        position: u64,
        /// What was being read.
        part: &'static str,
    },
    /// A header block whose checksum is wrong: the stream is corrupt or no tar.
    #[error("header at byte {position} has a wrong checksum: corrupt, or not a tar stream")]
    Checksum {
        /// Offset of the header.
        position: u64,
    },
    /// A field that does not parse, or does not fit what Linux has.
    #[error("entry {path:?} has an invalid {field}: {reason}")]
    Field {
        /// The entry as far as known.
        path: String,
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Two statements about one entry that unpackers could weigh differently.
    #[error("entry {path:?} is ambiguous: {reason}")]
    Ambiguous {
        /// The entry as far as known.
        path: String,
        /// Which statements disagree.
        reason: String,
    },
    /// An entry type that has no meaning in a layer.
    #[error("entry {path:?} has type {type_flag:?}, which layers do not contain")]
    Type {
        /// The entry.
        path: String,
        /// The type byte.
        type_flag: char,
    },
    /// More than [`super::Limits`] allow.
    #[error("entry {path:?} exceeds a limit: {what} is {value}, at most {limit} is allowed")]
    Limit {
        /// The entry as far as known.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: u64,
        /// How much may be.
        limit: u64,
    },
}

impl TarError {
    /// The stable id operators look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ORL-E5101",
            Self::Truncated { .. } => "ORL-E5102",
            Self::Checksum { .. } => "ORL-E5103",
            Self::Field { .. } => "ORL-E5104",
            Self::Ambiguous { .. } => "ORL-E5105",
            Self::Type { .. } => "ORL-E5106",
            Self::Limit { .. } => "ORL-E5107",
        }
    }

    pub(crate) fn field(path: &[u8], field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field {
            path: shown(path),
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn ambiguous(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Ambiguous {
            path: shown(path),
            reason: reason.into(),
        }
    }

    pub(crate) fn limit(path: &[u8], what: &'static str, value: u64, limit: u64) -> Self {
        Self::Limit {
            path: shown(path),
            what,
            value,
            limit,
        }
    }
}

/// A path for a message: lossy and short, since an attacker chose it.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN_BYTES: usize = 200;
    let cut = &path[..path.len().min(SHOWN_BYTES)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < path.len() {
        text.push('…');
    }
    text
}
