//! Uploads under way.

use std::collections::HashMap;

/// Bytes received so far, by upload.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: HashMap<u64, Vec<u8>>,
    count: u64,
}

impl Uploads {
    pub(crate) fn begin(&mut self) -> u64 {
        self.count += 1;
        self.open.insert(self.count, Vec::new());
        self.count
    }

    /// Adds bytes that must start where the last ended; returns the new length.
    pub(crate) fn append(&mut self, id: u64, start: Option<u64>, bytes: &[u8]) -> Option<u64> {
        let held = self.open.get_mut(&id)?;
        if start.is_some_and(|start| start != held.len() as u64) {
            return None;
        }
        held.extend_from_slice(bytes);
        Some(held.len() as u64)
    }

    pub(crate) fn finish(&mut self, id: u64) -> Option<Vec<u8>> {
        self.open.remove(&id)
    }
}
