//! Hashing: whole streams, and the growing prefix of an ingest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use orlop_types::{Algorithm, Digest};
use sha2::{Digest as _, Sha256, Sha512};

/// Large enough that the cost of the calls vanishes, small enough for the second-level cache.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// A running hash of either algorithm.
#[derive(Debug, Clone)]
pub struct Hasher(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A hash of no bytes yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Inner::Sha256(Sha256::new()),
            Algorithm::Sha512 => Inner::Sha512(Box::new(Sha512::new())),
        })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Inner::Sha256(_) => Algorithm::Sha256,
            Inner::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hash) => hash.update(bytes),
            Inner::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            Inner::Sha256(hash) => Digest::sha256(hash.finalize().into()),
            Inner::Sha512(hash) => Digest::sha512(hash.finalize().into()),
        }
    }
}

/// Hashes a whole file from its start. Returns its digest and length in bytes.
pub(crate) fn hash_file(file: &File, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut hash = PrefixHash::new(algorithm);
    while hash.advance_from_file(file, u64::MAX)? > 0 {}
    let hashed_bytes = hash.hashed_bytes;
    Ok((hash.digest(), hashed_bytes))
}

/// The hash of the first bytes of a file that is being written.
#[derive(Debug)]
pub(crate) struct PrefixHash {
    hasher: Hasher,
    hashed_bytes: u64,
    /// Grown at the first read from the file: an ingest written in order never needs it.
    buffer: Vec<u8>,
}

impl PrefixHash {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self {
            hasher: Hasher::new(algorithm),
            hashed_bytes: 0,
            buffer: Vec::new(),
        }
    }

    pub(crate) const fn hashed_bytes(&self) -> u64 {
        self.hashed_bytes
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.hasher.algorithm()
    }

    /// Hashes what of `bytes`, which stand at `offset` of the file, comes next. Returns whether any did.
    pub(crate) fn advance_from_memory(&mut self, offset: u64, bytes: &[u8], limit: u64) -> bool {
        let end = limit.min(offset.saturating_add(bytes.len() as u64));
        if self.hashed_bytes < offset || self.hashed_bytes >= end {
            return false;
        }
        let from = usize::try_from(self.hashed_bytes - offset);
        let to = usize::try_from(end - offset);
        let (Ok(from), Ok(to)) = (from, to) else {
            return false;
        };
        self.hasher.update(&bytes[from..to]);
        self.hashed_bytes = end;
        true
    }

    /// Hashes up to one buffer from the file, not beyond `limit`. Returns how many bytes were hashed.
    pub(crate) fn advance_from_file(&mut self, file: &File, limit: u64) -> io::Result<u64> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let left = limit.saturating_sub(self.hashed_bytes);
        let length = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        let count = loop {
            match file.read_at(&mut self.buffer[..length], self.hashed_bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.hasher.update(&self.buffer[..count]);
        self.hashed_bytes += count as u64;
        Ok(count as u64)
    }

    /// The digest of what has been hashed; the hash can go on.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_give_the_published_digests_of_abc() {
        let table = [
            (
                Algorithm::Sha256,
                "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ];
        for (algorithm, expected) in table {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish().to_string(), expected);
        }
    }

    #[test]
    fn a_prefix_hashed_from_memory_and_file_equals_the_whole() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let mut prefix = PrefixHash::new(Algorithm::Sha256);
        assert!(!prefix.advance_from_memory(10, &bytes[10..20], 700_000));
        assert!(prefix.advance_from_memory(0, &bytes[..100], 700_000));
        assert!(prefix.advance_from_memory(50, &bytes[50..200], 150));
        assert_eq!(prefix.hashed_bytes(), 150);
        while prefix.advance_from_file(&file, 700_000).unwrap() > 0 {}
        let whole = hash_file(&file, Algorithm::Sha256).unwrap();
        assert_eq!((prefix.digest(), prefix.hashed_bytes()), whole);
    }
}
