//! Checks that a response is what was asked for, before a byte of it is kept. Pure.

use std::ops::Range;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, StatusCode};

use super::plan::Piece;

/// The value of a `Content-Range` header that names bytes (RFC 9110, section 14.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes of the body; never empty.
    pub range: Range<u64>,
    /// The length of the whole, in bytes, if the host says it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes a-b/total`, where the total may be `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last) = (decimal(start)?, decimal(last)?);
        let total = match total {
            "*" => None,
            number => Some(decimal(number)?),
        };
        let end = last.checked_add(1)?;
        let fits = start <= last && total.is_none_or(|total| end <= total);
        fits.then_some(Self {
            range: start..end,
            total,
        })
    }
}

/// Digits only: `parse` alone would take a sign too.
fn decimal(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok())?
}

/// Why a response cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    /// The host does not serve ranges properly; it may well serve the whole blob.
    #[error("asked for bytes {}-{}, {found}", asked.start, asked.end.saturating_sub(1))]
    Range {
        /// What was asked for.
        asked: Range<u64>,
        /// What came.
        found: String,
    },
    /// The blob has another length than the descriptor says.
    #[error("the descriptor says {expected} bytes, the host says {found}")]
    Size {
        /// The descriptor's size.
        expected: u64,
        /// The host's.
        found: u64,
    },
}

/// The bytes that the body of this response has to hold.
pub(super) fn check(
    piece: &Piece,
    size: u64,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Range<u64>, Misfit> {
    let length = header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
    if !piece.ranged {
        return match length {
            // A missing length is no fault: the body itself will show where it ends.
            None => Ok(0..size),
            Some(length) if length == size => Ok(0..size),
            Some(found) => Err(Misfit::Size {
                expected: size,
                found,
            }),
        };
    }
    let misfit = |found: String| Misfit::Range {
        asked: piece.range.clone(),
        found,
    };
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(misfit(format!("status {} and not 206", status.as_u16())));
    }
    let text = header(headers, CONTENT_RANGE.as_str()).unwrap_or_default();
    let ContentRange { range, total } =
        ContentRange::parse(text).ok_or_else(|| misfit(format!("Content-Range is {text:?}")))?;
    if range != piece.range {
        return Err(misfit(format!("Content-Range is {text:?}")));
    }
    if let Some(found) = total.filter(|total| *total != size) {
        return Err(Misfit::Size {
            expected: size,
            found,
        });
    }
    match length {
        Some(length) if length != range.end - range.start => {
            Err(misfit(format!("Content-Length is {length}")))
        }
        Some(_) | None => Ok(range),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        ranged: bool,
        status: u16,
        length: &str,
        content_range: &str,
    ) -> Result<Range<u64>, Misfit> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-length", length), ("content-range", content_range)] {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        let range = if ranged { 4..8 } else { 0..10 };
        let piece = Piece { range, ranged };
        check(&piece, 10, StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn a_range_that_is_not_the_one_asked_for_is_refused() {
        assert_eq!(checked(true, 206, "4", "bytes 4-7/10"), Ok(4..8));
        assert_eq!(checked(true, 206, "", "bytes 4-7/*"), Ok(4..8));
        for (status, length, content_range) in [
            (200, "10", ""),
            (206, "4", ""),
            (206, "4", "bytes 5-8/10"),
            (206, "4", "bytes 4-6/10"),
            (206, "3", "bytes 4-7/10"),
            (206, "4", "bytes 7-4/10"),
            (206, "4", "bytes 4-18446744073709551615/10"),
            (206, "4", "items 4-7/10"),
            (206, "4", "bytes +4-7/10"),
            (206, "4", "bytes 4-7/7"),
        ] {
            let found = checked(true, status, length, content_range);
            assert!(
                matches!(found, Err(Misfit::Range { .. })),
                "{content_range}"
            );
        }
    }

    #[test]
    fn a_blob_of_another_length_is_refused_whichever_way_it_is_asked_for() {
        assert_eq!(checked(false, 200, "10", ""), Ok(0..10));
        assert_eq!(checked(false, 200, "", ""), Ok(0..10));
        assert!(matches!(
            checked(false, 200, "11", ""),
            Err(Misfit::Size { .. })
        ));
        assert!(matches!(
            checked(true, 206, "4", "bytes 4-7/11"),
            Err(Misfit::Size { .. })
        ));
    }
}
