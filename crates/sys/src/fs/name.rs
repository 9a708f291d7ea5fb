//! One path component.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use orlop_types::{ContainerId, Digest, ExecId, Namespace, SandboxId, SnapshotterName};
use rustix::path::Arg;

/// The longest component Linux file systems store, in bytes (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// A text that is not one path component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one path component: 1 to 255 bytes, no slash, no NUL, not \".\" or \"..\"")]
pub struct NameError(pub String);

/// One path component: 1 to 255 bytes without slash or NUL, and neither `.` nor `..`.
///
/// Removal and creation take this instead of a path, so that an empty field can never name the parent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Cow<'static, [u8]>);

impl Name {
    /// Validates `text`.
    ///
    /// # Errors
    /// `text` is empty, `.`, `..`, longer than 255 bytes, or has a slash or NUL.
    pub fn new(text: impl AsRef<OsStr>) -> Result<Self, NameError> {
        let bytes = text.as_ref().as_bytes();
        if is_component(bytes) {
            Ok(Self(Cow::Owned(bytes.to_owned())))
        } else {
            Err(NameError(String::from_utf8_lossy(bytes).into_owned()))
        }
    }

    /// Validates a text at compile time: `static BLOBS: Name = Name::from_static("blobs");`.
    ///
    /// # Panics
    /// `text` is not one path component. In a `static` or `const` that is a compile error.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        assert!(
            is_component(text.as_bytes()),
            "a static name must be one path component"
        );
        Self(Cow::Borrowed(text.as_bytes()))
    }

    /// The component as the operating system writes it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The component, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

const fn is_component(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX || matches!(bytes, b"." | b"..") {
        return false;
    }
    let mut index = 0;
    while index < bytes.len() {
        if matches!(bytes[index], b'/' | 0) {
            return false;
        }
        index += 1;
    }
    true
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_os_str(), formatter)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.as_os_str().to_string_lossy())
    }
}

impl AsRef<OsStr> for Name {
    fn as_ref(&self) -> &OsStr {
        self.as_os_str()
    }
}

impl From<u64> for Name {
    /// The decimal form, as snapshot backends name their folders.
    fn from(number: u64) -> Self {
        Self(Cow::Owned(number.to_string().into_bytes()))
    }
}

impl From<&Digest> for Name {
    /// The hexadecimal part, as blobs are named.
    fn from(digest: &Digest) -> Self {
        Self(Cow::Owned(digest.hex().into_bytes()))
    }
}

/// Identifiers whose constructor already allows only what a component allows, in at most 76 bytes.
macro_rules! from_identifier {
    ($($id:ty),+) => {$(
        impl From<&$id> for Name {
            fn from(id: &$id) -> Self {
                Self(Cow::Owned(id.as_str().as_bytes().to_owned()))
            }
        }
    )+};
}

from_identifier!(ContainerId, ExecId, Namespace, SandboxId, SnapshotterName);

impl Name {
    /// Hands the component to a system call.
    pub(super) fn as_arg(&self) -> impl Arg + Copy + '_ {
        self.as_os_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_exactly_one_path_component() {
        for good in ["a", ".a", "...", "a b", "-", &"x".repeat(255)] {
            assert!(Name::new(good).is_ok(), "{good:?} was refused");
        }
        for bad in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "a/",
            "../a",
            "a\0b",
            &"x".repeat(256),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_still_a_name() {
        let name = Name::new(OsStr::from_bytes(b"\xff")).unwrap();
        assert_eq!(name.as_str(), None);
        assert_eq!(name.as_bytes(), b"\xff");
    }
}
