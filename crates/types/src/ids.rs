//! Identifiers. Each is a newtype whose constructor refuses what would be unsafe or ambiguous later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there. An empty id joined to a path would name the parent folder.
    #[error("{kind} must not be empty")]
    Empty {
        /// Which kind of identifier.
        kind: &'static str,
    },
    /// Longer than the kind allows.
    #[error("{kind} has {length} bytes, more than the {limit} allowed")]
    TooLong {
        /// Which kind of identifier.
        kind: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A character the kind does not allow.
    #[error("{kind} {text:?} must match {pattern}")]
    BadCharacter {
        /// Which kind of identifier.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// What it has to look like.
        pattern: &'static str,
    },
}

/// containerd's rule (`pkg/identifiers`): words of letters and digits joined by single `.`, `_` or `-`.
const IDENTIFIER_PATTERN: &str = "^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$";
const IDENTIFIER_BYTES_MAX: usize = 76;

/// Keys are free text for their owners, but they reach logs and databases: bounded, without control characters.
const KEY_PATTERN: &str = "any text without control characters";
const KEY_BYTES_MAX: usize = 4096;

fn check_identifier(kind: &'static str, text: &str) -> Result<(), IdError> {
    check_length(kind, text, IDENTIFIER_BYTES_MAX)?;
    let words_are_sound = text
        .split(['.', '_', '-'])
        .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()));
    if words_are_sound {
        Ok(())
    } else {
        Err(IdError::BadCharacter {
            kind,
            text: text.to_owned(),
            pattern: IDENTIFIER_PATTERN,
        })
    }
}

fn check_key(kind: &'static str, text: &str) -> Result<(), IdError> {
    check_length(kind, text, KEY_BYTES_MAX)?;
    if text.chars().any(char::is_control) {
        return Err(IdError::BadCharacter {
            kind,
            text: text.to_owned(),
            pattern: KEY_PATTERN,
        });
    }
    Ok(())
}

fn check_length(kind: &'static str, text: &str, limit: usize) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty { kind }),
        length if length > limit => Err(IdError::TooLong {
            kind,
            length,
            limit,
        }),
        _ => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Validates `text`.
            ///
            /// # Errors
            /// Empty, too long, or with characters this kind does not allow.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                $check($kind, text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A containerd namespace: the tenant every record belongs to. Safe as one path component.
    Namespace, "namespace", check_identifier
);
id!(
    /// A container. Safe as one path component.
    ContainerId, "container id", check_identifier
);
id!(
    /// A further process of a container. Safe as one path component.
    ExecId, "exec id", check_identifier
);
id!(
    /// A sandbox (pod). Safe as one path component.
    SandboxId, "sandbox id", check_identifier
);
id!(
    /// A snapshotter backend, such as `overlayfs`. Safe as one path component.
    SnapshotterName, "snapshotter", check_identifier
);
id!(
    /// A lease. Clients choose freely, so never use it as a path.
    LeaseId, "lease id", check_key
);
id!(
    /// The name of an image record. Not always a parsable reference, so never use it as a path.
    ImageName, "image name", check_key
);
id!(
    /// The key of an active snapshot or the name of a committed one. Clients choose freely: never a path.
    SnapshotKey, "snapshot key", check_key
);
id!(
    /// What a client calls mounts that it has made ahead. Clients choose freely: never a path.
    ActivationName, "activation name", check_key
);
id!(
    /// The reference under which a blob is being written. Clients choose freely: never a path.
    IngestRef, "ingest reference", check_key
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_safe_as_a_path_component() {
        for good in ["default", "k8s.io", "a-b_c.d", "0"] {
            assert!(Namespace::new(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a\0",
            "é",
            &"x".repeat(77),
        ] {
            assert!(Namespace::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn keys_are_free_text_but_bounded_and_printable() {
        assert!(SnapshotKey::new("extract-1 sha256:00/x").is_ok());
        for bad in ["", "a\nb", "a\0b", &"x".repeat(4097)] {
            assert!(SnapshotKey::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn json_goes_through_the_same_check() {
        assert!(serde_json::from_str::<ContainerId>("\"web\"").is_ok());
        assert!(serde_json::from_str::<ContainerId>("\"../web\"").is_err());
    }
}
