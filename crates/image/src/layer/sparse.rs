//! Sparse files: which parts of a file's data are in the stream, and where they go.

use super::error::TarError;
use super::header::number;
use super::pax::{SparseRecords, parse_decimal};

/// One run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where it goes in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Runs of data, ascending and without overlap, all inside the file's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap(Vec<Fragment>);

impl SparseMap {
    /// The runs in order.
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        &self.0
    }

    /// Checks runs against the file's real size and the bytes the stream carries for it.
    pub(crate) fn new(
        fragments: Vec<Fragment>,
        real_size: u64,
        stored: u64,
        path: &[u8],
    ) -> Result<Self, TarError> {
        let bad = |reason: &str| TarError::field(path, "sparse map", reason);
        let (mut end, mut total) = (0_u64, 0_u64);
        for fragment in &fragments {
            if fragment.offset < end {
                return Err(bad("fragments overlap or are out of order"));
            }
            end = fragment
                .offset
                .checked_add(fragment.length)
                .ok_or_else(|| bad("a fragment's end overflows"))?;
            total += fragment.length;
        }
        if end > real_size {
            return Err(bad("a fragment lies beyond the file's size"));
        }
        if total != stored {
            return Err(bad(
                "the fragments are not as long as the data that follows",
            ));
        }
        Ok(Self(fragments))
    }
}

/// Reads slots of 12 + 12 bytes out of an old GNU header or its continuation, until an empty one.
pub(crate) fn gnu_slots(bytes: &[u8], fragments: &mut Vec<Fragment>) -> Option<()> {
    for slot in bytes.chunks_exact(24) {
        if slot[0] == 0 {
            break;
        }
        fragments.push(Fragment {
            offset: u64::try_from(number(&slot[..12])?).ok()?,
            length: u64::try_from(number(&slot[12..])?).ok()?,
        });
    }
    Some(())
}

/// The map of formats 0.0 and 0.1, which is in the extended header.
pub(crate) fn from_records(
    records: &SparseRecords,
    path: &[u8],
) -> Result<Vec<Fragment>, TarError> {
    let bad = || TarError::field(path, "sparse map", "it does not parse");
    let numbers = match &records.map {
        Some(_) if !records.pairs.is_empty() => {
            let reason = "two sparse maps in one extended header";
            return Err(TarError::ambiguous(path, reason));
        }
        Some(text) if text.is_empty() => Vec::new(),
        Some(text) => text
            .split(|byte| *byte == b',')
            .map(parse_decimal)
            .collect::<Option<Vec<u64>>>()
            .ok_or_else(bad)?,
        None => records.pairs.clone(),
    };
    pairs(&numbers).ok_or_else(bad)
}

/// Offsets and lengths in turn.
pub(crate) fn pairs(numbers: &[u64]) -> Option<Vec<Fragment>> {
    let (chunks, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| {
        chunks
            .iter()
            .map(|[offset, length]| Fragment {
                offset: *offset,
                length: *length,
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        let fragment = |offset, length| Fragment { offset, length };
        for (fragments, real, stored, good) in [
            (vec![fragment(0, 10), fragment(20, 5)], 100, 15, true),
            (vec![], 1 << 40, 0, true),
            (vec![fragment(0, 10), fragment(5, 10)], 100, 20, false),
            (vec![fragment(20, 1), fragment(0, 1)], 100, 2, false),
            (vec![fragment(u64::MAX, 2)], u64::MAX, 2, false),
            (vec![fragment(90, 20)], 100, 20, false),
            (vec![fragment(0, 10)], 100, 11, false),
        ] {
            let map = SparseMap::new(fragments.clone(), real, stored, b"f");
            assert_eq!(map.is_ok(), good, "for {fragments:?}");
        }
    }
}
