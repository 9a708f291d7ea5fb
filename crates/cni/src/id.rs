//! What an attachment is called.

use std::fmt;

/// The name of a container as plugins get it in `CNI_CONTAINERID`: unique on the node, and safe in file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttachmentId(String);

/// A text that is no attachment's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a network attachment: a letter or digit, then letters, digits, \".\", \"_\" or \"-\", at most 200"
)]
pub struct AttachmentIdError(String);

/// With the network's and the interface's name it has to fit into a file name.
const LENGTH_BYTES_MAX: usize = 200;

impl AttachmentId {
    /// Checks `text` against the specification's rule (CNI 1.1, "Parameters") and its length.
    ///
    /// # Errors
    /// Another character, or too long.
    pub fn new(text: impl Into<String>) -> Result<Self, AttachmentIdError> {
        let text = text.into();
        let sound = text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.len() <= LENGTH_BYTES_MAX
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if sound {
            Ok(Self(text))
        } else {
            Err(AttachmentIdError(text))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_file_name() {
        assert!(AttachmentId::new("k8s.io--web").is_ok());
        for bad in ["", "-a", "../a", "a/b", "a b", &"x".repeat(201)] {
            assert!(AttachmentId::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
