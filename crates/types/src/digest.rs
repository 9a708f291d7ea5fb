//! Content digests (OCI image-spec, descriptor.md "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hash algorithm registered by the OCI image-spec and accepted by Orlop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256: 32 bytes.
    Sha256,
    /// SHA-512: 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The registered name, as it stands before the colon and as a folder of the blob store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest in bytes; its hexadecimal form is twice as long.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// What is wrong with a digest's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:` in front.
    #[error("digest {0:?} has no \"algorithm:\" prefix")]
    NoAlgorithm(String),
    /// An algorithm that Orlop does not verify.
    #[error("digest algorithm {0:?} is not supported (sha256 and sha512 are)")]
    UnknownAlgorithm(String),
    /// Wrong length, upper case, or a character that is not hexadecimal.
    #[error("digest {text:?} needs {expected} lower-case hexadecimal characters after the colon")]
    BadHex {
        /// The whole text.
        text: String,
        /// How many characters the algorithm asks for.
        expected: usize,
    },
}

/// A verified-form content digest, `sha256:…` or `sha512:…`.
///
/// Always lower-case and of the right length, so its [`Digest::hex`] is safe as one path component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // SHA-256 uses the first half; the rest stays zero so that derived comparisons hold.
    bytes: [u8; 64],
}

impl Digest {
    /// Wraps the output of SHA-256.
    #[must_use]
    pub fn sha256(bytes: [u8; 32]) -> Self {
        let mut wide = [0; 64];
        wide[..32].copy_from_slice(&bytes);
        Self {
            algorithm: Algorithm::Sha256,
            bytes: wide,
        }
    }

    /// Wraps the output of SHA-512.
    #[must_use]
    pub const fn sha512(bytes: [u8; 64]) -> Self {
        Self {
            algorithm: Algorithm::Sha512,
            bytes,
        }
    }

    /// The algorithm in front of the colon.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len_bytes()]
    }

    /// The hexadecimal part after the colon: one safe path component.
    #[must_use]
    pub fn hex(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.algorithm.len_bytes() * 2);
        for byte in self.as_bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// The first twelve hexadecimal characters, for a person's eye only.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::UnknownAlgorithm(other.to_owned())),
        };
        let bytes = parse_hex(hex, algorithm.len_bytes()).ok_or_else(|| DigestError::BadHex {
            text: text.to_owned(),
            expected: algorithm.len_bytes() * 2,
        })?;
        Ok(Self { algorithm, bytes })
    }
}

/// Decodes exactly `length` bytes of lower-case hexadecimal into the front of a wide buffer.
fn parse_hex(hex: &str, length: usize) -> Option<[u8; 64]> {
    if hex.len() != length * 2 {
        return None;
    }
    let mut bytes = [0; 64];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

const fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The identity of a stack of layers (OCI image-spec, config.md "Layer ChainID").
///
/// A committed snapshot of an image layer is named by it, so equal stacks are kept once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain of a single bottom layer: its diff id itself.
    #[must_use]
    pub const fn bottom(diff_id: Digest) -> Self {
        Self(diff_id)
    }

    /// The text whose SHA-256 is the chain id of `self` with `diff_id` on top.
    ///
    /// Hashing stays with the caller: this crate brings no hash implementation.
    #[must_use]
    pub fn next_preimage(&self, diff_id: &Digest) -> String {
        format!("{} {diff_id}", self.0)
    }

    /// Wraps a digest that is known to be a chain id, such as a hashed [`Self::next_preimage`].
    #[must_use]
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest underneath.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_prints_as_it_was_read() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.algorithm(), Algorithm::Sha256);
        assert_eq!(digest.as_bytes().len(), 32);
        let wide = format!("sha512:{}", "ab".repeat(64));
        assert_eq!(wide.parse::<Digest>().unwrap().to_string(), wide);
    }

    #[test]
    fn a_digest_that_could_be_a_path_or_another_spelling_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &upper,
            &EMPTY[..70],
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn json_refuses_what_the_parser_refuses() {
        let digest: Digest = serde_json::from_str(&format!("{EMPTY:?}")).unwrap();
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("{EMPTY:?}")
        );
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }

    #[test]
    fn a_chain_grows_by_hashing_the_specified_text() {
        let bottom: Digest = EMPTY.parse().unwrap();
        assert_eq!(
            ChainId::bottom(bottom).next_preimage(&bottom),
            format!("{EMPTY} {EMPTY}")
        );
    }
}
