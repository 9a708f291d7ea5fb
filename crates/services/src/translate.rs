//! Values that several services translate: times, labels, descriptors, mounts, typed bytes.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::str::FromStr;
use std::time::SystemTime;

use orlop_api::containerd::types;
use orlop_api::{Any, FieldMask, Timestamp};
use orlop_meta::{Runtime, TypedBytes};
use orlop_types::{Descriptor, Labels, Mount};
use tonic::Status;

use crate::status;

/// Parses an id, digest or key of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` with what is wrong.
pub(crate) fn parse<T>(text: &str) -> Result<T, Status>
where
    T: FromStr<Err: StdError + 'static>,
{
    text.parse()
        .map_err(|error: T::Err| status::invalid(&error))
}

/// Parses an id that may be left out.
///
/// # Errors
/// `INVALID_ARGUMENT` with what is wrong.
pub(crate) fn parse_optional<T>(text: &str) -> Result<Option<T>, Status>
where
    T: FromStr<Err: StdError + 'static>,
{
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some)
}

/// Labels of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` for one that is too long.
pub(crate) fn labels(map: BTreeMap<String, String>) -> Result<Labels, Status> {
    Labels::try_from(map).map_err(|error| status::invalid(&error))
}

/// A required message of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub(crate) fn required<T>(value: Option<T>, field: &str) -> Result<T, Status> {
    value.ok_or_else(|| status::missing(field))
}

/// The paths of a mask; none means everything.
pub(crate) fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// A time of an answer.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// A length of a request, in bytes.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is negative.
pub(crate) fn length(value: i64, field: &str) -> Result<u64, Status> {
    u64::try_from(value).map_err(|_| status::invalid_text(format!("{field} {value} is negative")))
}

/// A length of an answer, in bytes. Lengths beyond eight exbibytes do not occur; the bound keeps them positive.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A descriptor of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` for its digest or size.
pub(crate) fn descriptor(message: types::Descriptor) -> Result<Descriptor, Status> {
    let size = length(message.size, "size")?;
    let mut descriptor = Descriptor::new(message.media_type, parse(&message.digest)?, size);
    descriptor.annotations = message.annotations;
    Ok(descriptor)
}

/// A descriptor of an answer.
pub(crate) fn descriptor_message(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: signed(descriptor.size),
        annotations: descriptor.annotations,
    }
}

/// A mount of a request; whoever makes it checks it.
pub(crate) fn mount(message: types::Mount) -> Mount {
    Mount {
        fs_type: message.r#type,
        source: message.source,
        target: message.target,
        options: message.options,
    }
}

/// A mount of an answer.
pub(crate) fn mount_message(mount: Mount) -> types::Mount {
    types::Mount {
        r#type: mount.fs_type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

/// Typed bytes of a request, untouched.
pub(crate) fn typed_bytes(any: Any) -> TypedBytes {
    TypedBytes {
        type_url: any.type_url,
        value: any.value,
    }
}

/// Typed bytes of an answer.
pub(crate) fn any(bytes: TypedBytes) -> Any {
    Any {
        type_url: bytes.type_url,
        value: bytes.value,
    }
}

/// Extensions of a request.
pub(crate) fn extensions(map: BTreeMap<String, Any>) -> BTreeMap<String, TypedBytes> {
    let pairs = map.into_iter();
    pairs.map(|(name, any)| (name, typed_bytes(any))).collect()
}

/// Extensions of an answer.
pub(crate) fn extension_messages(map: BTreeMap<String, TypedBytes>) -> BTreeMap<String, Any> {
    let pairs = map.into_iter();
    pairs.map(|(name, bytes)| (name, any(bytes))).collect()
}

/// A runtime of a request.
pub(crate) fn runtime(name: String, options: Option<Any>) -> Runtime {
    Runtime {
        name,
        options: options.map(typed_bytes),
    }
}
