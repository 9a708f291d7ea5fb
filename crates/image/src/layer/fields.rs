//! Fields of an entry that several headers may state.

use super::error::TarError;
use super::header::Header;

pub(super) fn set_long(slot: &mut Option<Vec<u8>>, text: Vec<u8>) -> Result<(), TarError> {
    if slot.is_some() {
        return Err(TarError::ambiguous(&text, "two long names for one entry"));
    }
    *slot = Some(text);
    Ok(())
}

/// The extended header's text before GNU's long one before the header's own; the first two must not disagree.
pub(super) fn pick(
    extended: Option<&[u8]>,
    long: Option<&[u8]>,
    own: Vec<u8>,
) -> Result<Vec<u8>, TarError> {
    match (extended, long) {
        (Some(extended), Some(long)) if extended != long => {
            let reason = "the extended header and GNU's long name differ";
            Err(TarError::ambiguous(extended, reason))
        }
        (Some(text), _) | (None, Some(text)) => Ok(text.to_vec()),
        (None, None) => Ok(own),
    }
}

/// The bytes that follow the header. An extended header's size always counts; the header's own may then only be
/// the same, zero, or the largest number it can hold, which is what writers put there for larger files.
pub(super) fn stored_size(
    header: &Header<'_>,
    extended: Option<u64>,
    path: &[u8],
) -> Result<u64, TarError> {
    let saturated = header.size_is_saturated();
    let own = match header.size() {
        Ok(own) => unsigned(own, header, "size")?,
        Err(_) if extended.is_some() && saturated => 0,
        Err(error) => return Err(error),
    };
    let size = match extended {
        Some(size) if own != 0 && own != size && !saturated => {
            let reason = format!("its header says {own} bytes, its extended header {size}");
            return Err(TarError::ambiguous(path, reason));
        }
        Some(size) => size,
        None => own,
    };
    if i64::try_from(size).is_err() {
        return Err(TarError::field(
            path,
            "size",
            format!("{size} bytes is no file"),
        ));
    }
    Ok(size)
}

pub(super) fn unsigned(
    value: i64,
    header: &Header<'_>,
    field: &'static str,
) -> Result<u64, TarError> {
    u64::try_from(value).map_err(|_| TarError::field(&header.name(), field, "is negative"))
}

/// The kernel reserves the largest id for "leave as it is".
pub(super) fn owner(
    extended: Option<u64>,
    own: i64,
    field: &'static str,
    path: &[u8],
) -> Result<u32, TarError> {
    let id = extended.map_or(i128::from(own), i128::from);
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(TarError::field(path, field, format!("{id} is no id"))),
    }
}

/// Twelve bits of major and twenty of minor number are what Linux has.
pub(super) fn device_number(header: &Header<'_>) -> Result<(u32, u32), TarError> {
    let (major, minor) = header.device_number()?;
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(TarError::field(
            &header.name(),
            "device number",
            format!("{major}:{minor} does not exist"),
        )),
    }
}
