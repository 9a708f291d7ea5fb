//! What can go wrong, and what the caller can do about it.

use orlop_sys::fs::FsError;
use orlop_types::{Digest, IngestRef};

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such blob or ingest: fetch it.
    NotFound,
    /// Somebody else is at it: wait for them, or try later.
    Busy,
    /// The caller's own arguments do not fit: fix the input, a retry is useless.
    Invalid,
    /// Bytes are missing: fetch the gaps and commit again.
    Incomplete,
    /// The bytes are not what they were said to be and have been discarded: fetch them elsewhere.
    Corrupt,
    /// The disk or quota is full: free space, then go on; the ingest is kept where that is safe.
    OutOfSpace,
    /// The ingest was ended by somebody: begin anew if it is still wanted.
    Ended,
    /// The disk failed or something is in the way: a person must look.
    Io,
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteProblem {
    /// It ends after the expected size.
    #[error("it ends beyond the expected {expected_bytes} bytes")]
    BeyondExpected {
        /// The size expected of the whole blob.
        expected_bytes: u64,
    },
    /// Another thread is writing some of the same bytes at this moment.
    #[error("another thread is writing the same bytes")]
    Overlap,
    /// Offset plus length do not fit a file.
    #[error("it ends beyond the largest file")]
    TooFar,
    /// The bytes present would fall into too many pieces to keep track of.
    #[error("the bytes present would be in more than {pieces_max} pieces")]
    TooFragmented {
        /// The most pieces kept track of.
        pieces_max: usize,
    },
}

/// A failed operation of the blob store.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Another daemon writes to this root.
    #[error("content store {root} is in use by another process")]
    StoreBusy {
        /// The root.
        root: String,
        /// The lock, with its holder if known.
        #[source]
        source: FsError,
    },
    /// The store was opened for inspection.
    #[error("cannot {operation}: the content store is open for reading only")]
    ReadOnly {
        /// What was attempted.
        operation: &'static str,
    },
    /// Somebody is writing under this reference.
    #[error("ingest {reference} is being written by another caller")]
    IngestBusy {
        /// The reference.
        reference: IngestRef,
    },
    /// Every open ingest holds two descriptors; there are enough.
    #[error("{limit} ingests are open already")]
    TooManyIngests {
        /// The most allowed at a time.
        limit: usize,
    },
    /// The reference was begun for other content.
    #[error("ingest {reference} was begun for {begun}, not for {asked}: abort it first")]
    ExpectationChanged {
        /// The reference.
        reference: IngestRef,
        /// What it was begun for.
        begun: String,
        /// What is asked of it now.
        asked: String,
    },
    /// A write that cannot be right.
    #[error("cannot write {length_bytes} bytes at {offset_bytes} of ingest {reference}")]
    BadWrite {
        /// The reference.
        reference: IngestRef,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: usize,
        /// Why not.
        #[source]
        problem: WriteProblem,
    },
    /// The ingest was committed, aborted or failed before.
    #[error("ingest {reference} has ended: {how}")]
    IngestEnded {
        /// The reference.
        reference: IngestRef,
        /// How it ended.
        how: &'static str,
    },
    /// A commit came before all bytes did. The ingest goes on.
    #[error(
        "ingest {reference} has {contiguous_bytes} of {expected_bytes} bytes without a gap and {present_bytes} in all"
    )]
    Incomplete {
        /// The reference.
        reference: IngestRef,
        /// Bytes from the start to the first gap.
        contiguous_bytes: u64,
        /// All bytes present.
        present_bytes: u64,
        /// The size asked for.
        expected_bytes: u64,
    },
    /// More bytes than the blob should have. They were discarded.
    #[error("ingest {reference} has {actual_bytes} bytes instead of {expected_bytes}: discarded")]
    SizeMismatch {
        /// The reference.
        reference: IngestRef,
        /// The size asked for.
        expected_bytes: u64,
        /// The size written.
        actual_bytes: u64,
    },
    /// Other bytes than the blob should have. They were discarded.
    #[error("ingest {reference} has digest {actual} instead of {expected}: discarded")]
    DigestMismatch {
        /// The reference.
        reference: IngestRef,
        /// The digest asked for.
        expected: Box<Digest>,
        /// The digest of what was written.
        actual: Box<Digest>,
    },
    /// A stored blob no longer has its digest: the disk or somebody changed it.
    #[error("blob {expected} is damaged: its bytes have digest {actual}")]
    CorruptBlob {
        /// Its name.
        expected: Box<Digest>,
        /// The digest of its bytes.
        actual: Box<Digest>,
    },
    /// No such blob.
    #[error("blob {digest} is not in the store")]
    BlobNotFound {
        /// The digest.
        digest: Digest,
    },
    /// No such ingest.
    #[error("there is no ingest {reference}")]
    IngestNotFound {
        /// The reference.
        reference: IngestRef,
    },
    /// Something in `blobs` that is no blob.
    #[error("{path} is not a blob and was not put there by Orlop")]
    Stray {
        /// Where it is.
        path: String,
    },
    /// No progress within the reader's limit.
    #[error("ingest {reference} gave no byte after {position_bytes} within {limit_seconds} s")]
    Stalled {
        /// The reference.
        reference: IngestRef,
        /// Where the reader stands.
        position_bytes: u64,
        /// How long it waited.
        limit_seconds: u64,
    },
    /// The disk or quota is full.
    #[error("no space left for content")]
    OutOfSpace(#[source] FsError),
    /// The disk failed, or the file system is read-only.
    #[error("content store failed")]
    Io(#[source] FsError),
}

impl From<FsError> for ContentError {
    fn from(error: FsError) -> Self {
        if error.is_out_of_space() {
            Self::OutOfSpace(error)
        } else {
            Self::Io(error)
        }
    }
}

impl ContentError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::BlobNotFound { .. } | Self::IngestNotFound { .. } => ErrorKind::NotFound,
            Self::StoreBusy { .. }
            | Self::IngestBusy { .. }
            | Self::TooManyIngests { .. }
            | Self::Stalled { .. } => ErrorKind::Busy,
            Self::ReadOnly { .. } | Self::ExpectationChanged { .. } | Self::BadWrite { .. } => {
                ErrorKind::Invalid
            }
            Self::Incomplete { .. } => ErrorKind::Incomplete,
            Self::SizeMismatch { .. }
            | Self::DigestMismatch { .. }
            | Self::CorruptBlob { .. }
            | Self::Stray { .. } => ErrorKind::Corrupt,
            Self::OutOfSpace(_) => ErrorKind::OutOfSpace,
            Self::IngestEnded { .. } => ErrorKind::Ended,
            Self::Io(_) => ErrorKind::Io,
        }
    }

    /// The stable id an operator looks up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::StoreBusy { .. } => "ORL-E1001",
            Self::ReadOnly { .. } => "ORL-E1002",
            Self::IngestBusy { .. } => "ORL-E1003",
            Self::TooManyIngests { .. } => "ORL-E1004",
            Self::ExpectationChanged { .. } => "ORL-E1005",
            Self::BadWrite { .. } => "ORL-E1006",
            Self::IngestEnded { .. } => "ORL-E1007",
            Self::Incomplete { .. } => "ORL-E1008",
            Self::SizeMismatch { .. } => "ORL-E1009",
            Self::DigestMismatch { .. } => "ORL-E1010",
            Self::CorruptBlob { .. } => "ORL-E1011",
            Self::BlobNotFound { .. } => "ORL-E1012",
            Self::IngestNotFound { .. } => "ORL-E1013",
            Self::Stray { .. } => "ORL-E1014",
            Self::Stalled { .. } => "ORL-E1015",
            Self::OutOfSpace(_) => "ORL-E1016",
            Self::Io(_) => "ORL-E1017",
        }
    }
}
