//! Typed messages inside [`Any`], named as containerd names them.
//!
//! containerd writes the bare full name (`containerd.events.TaskExit`) where protobuf's own libraries put a domain in
//! front (`type.googleapis.com/containerd.events.TaskExit`). Both are read; the bare form is written. OCI documents
//! travel as JSON in an `Any` of their own type names, which are the constants below.

use prost::{Message, Name};
use prost_types::Any;

/// The type of an OCI runtime configuration as JSON (OCI runtime-spec, config.md).
pub const OCI_SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The type of an OCI process as JSON, as in an exec.
pub const OCI_PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The type of Linux resource limits as JSON, as in an update.
pub const OCI_LINUX_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Why an [`Any`] is not the message that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AnyError {
    /// Another type is inside.
    #[error("expected a message of type {expected}, found {found:?}")]
    OtherType {
        /// The full name that was asked for.
        expected: String,
        /// The type that was found, as it was written.
        found: String,
    },
    /// The type is right, the bytes are not.
    #[error("cannot decode a message of type {expected}")]
    Decode {
        /// The full name that was asked for.
        expected: String,
        /// What prost says.
        #[source]
        source: prost::DecodeError,
    },
}

/// Wraps a message under its bare full name.
#[must_use]
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::full_name(),
        value: message.encode_to_vec(),
    }
}

/// Whether a message of type `M` is inside.
#[must_use]
pub fn is<M: Name>(any: &Any) -> bool {
    bare_name(&any.type_url) == M::full_name()
}

/// Unwraps a message.
///
/// # Errors
/// Another type is inside, or its bytes do not decode.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    if !is::<M>(any) {
        return Err(AnyError::OtherType {
            expected: M::full_name(),
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|source| AnyError::Decode {
        expected: M::full_name(),
        source,
    })
}

/// The full name of a type without the domain that some libraries put in front.
#[must_use]
pub fn bare_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::events::{TaskExit, TaskStart};

    fn exit() -> TaskExit {
        TaskExit {
            container_id: "web".to_owned(),
            exit_status: 137,
            ..TaskExit::default()
        }
    }

    #[test]
    fn a_packed_message_has_the_bare_name_and_comes_back() {
        let any = pack(&exit());
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(unpack::<TaskExit>(&any).unwrap(), exit());
    }

    #[test]
    fn a_domain_in_front_of_the_name_is_read_too() {
        for domain in ["type.googleapis.com/", "/"] {
            let mut any = pack(&exit());
            any.type_url.insert_str(0, domain);
            assert_eq!(unpack::<TaskExit>(&any).unwrap(), exit(), "{domain}");
        }
    }

    #[test]
    fn another_type_and_broken_bytes_are_told_apart() {
        let mut any = pack(&exit());
        assert!(matches!(
            unpack::<TaskStart>(&any),
            Err(AnyError::OtherType { .. })
        ));
        any.value = vec![0xff; 3];
        assert!(matches!(
            unpack::<TaskExit>(&any),
            Err(AnyError::Decode { .. })
        ));
    }
}
