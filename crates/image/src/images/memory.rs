//! A small blob on its way into memory.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use orlop_registry::BlobSink;

/// Takes a blob whose size was checked against a limit.
#[derive(Debug)]
pub(crate) struct MemorySink {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: Vec<u8>,
    missing: Vec<Range<u64>>,
}

impl MemorySink {
    /// Room for `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let inner = Inner {
            bytes: vec![0; usize::try_from(size).unwrap_or(usize::MAX)],
            missing: std::iter::once(0..size)
                .filter(|gap| !gap.is_empty())
                .collect(),
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// What came.
    pub(crate) fn bytes(&self) -> Bytes {
        std::mem::take(&mut self.inner().bytes).into()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobSink for MemorySink {
    fn missing(&self) -> Vec<Range<u64>> {
        self.inner().missing.clone()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let place = start
            .checked_add(bytes.len())
            .and_then(|end| inner.bytes.get_mut(start..end))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        place.copy_from_slice(bytes);
        let written = offset..offset + bytes.len() as u64;
        inner.missing = inner
            .missing
            .iter()
            .flat_map(|gap| without(gap, &written))
            .collect();
        Ok(())
    }
}

/// What is left of a gap.
fn without(gap: &Range<u64>, written: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let before = gap.start..gap.end.min(written.start);
    let after = gap.start.max(written.end)..gap.end;
    [before, after]
        .into_iter()
        .filter(|part| part.start < part.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_any_order_and_what_is_missing_shrinks() {
        let sink = MemorySink::new(6);
        sink.write_at(2, b"cd").unwrap();
        assert_eq!(sink.missing(), [0..2, 4..6]);
        sink.write_at(0, b"abc").unwrap();
        sink.write_at(4, b"ef").unwrap();
        assert_eq!(sink.missing(), []);
        assert!(sink.write_at(6, b"g").is_err());
        assert_eq!(&sink.bytes()[..], b"abcdef");
    }
}
