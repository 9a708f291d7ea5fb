//! Buffers for bodies, used again and again: what a connection holds is one of them, and what all hold is counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// One piece of a body, in bytes: few system calls, and still little for hundreds of connections.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// So many are kept when they are not in use.
const KEPT_MAX: usize = 64;

/// Less than this is copied out, so that a trickle does not hold large buffers.
const COPIED_BYTES_MAX: usize = PIECE_BYTES / 8;

/// The buffers of a server. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    kept: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// A buffer to be filled.
#[derive(Debug)]
pub struct Buffer {
    bytes: Option<Box<[u8]>>,
    length: usize,
    home: Buffers,
}

impl Buffers {
    /// A buffer for at most `limit` bytes.
    #[must_use]
    pub fn take(&self, limit: u64) -> Buffer {
        let kept = self.lock().pop();
        let bytes = kept.unwrap_or_else(|| vec![0; PIECE_BYTES].into_boxed_slice());
        let length = usize::try_from(limit).map_or(bytes.len(), |limit| limit.min(bytes.len()));
        Buffer {
            bytes: Some(bytes),
            length,
            home: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Where bytes go.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let length = self.length;
        self.bytes
            .as_mut()
            .map_or(&mut [], |bytes| &mut bytes[..length])
    }

    /// The first `count` bytes; the buffer comes back when they have gone.
    #[must_use]
    pub fn filled(mut self, count: usize) -> Bytes {
        self.length = count.min(self.length);
        if self.length <= COPIED_BYTES_MAX {
            return Bytes::copy_from_slice(self.as_ref());
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes
            .as_ref()
            .map_or(&[], |bytes| &bytes[..self.length])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(bytes) = self.bytes.take() else {
            return;
        };
        let mut kept = self.home.lock();
        if kept.len() < KEPT_MAX {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_bytes_have_gone() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(u64::MAX);
        buffer.as_mut_slice().fill(7);
        let bytes = buffer.filled(PIECE_BYTES);
        assert_eq!(buffers.lock().len(), 0);
        let part = bytes.slice(3..5);
        drop(bytes);
        assert_eq!(part, &[7, 7][..]);
        assert_eq!(buffers.lock().len(), 0, "a part is still in use");
        drop(part);
        assert_eq!(buffers.lock().len(), 1);
        let small = buffers.take(3);
        assert_eq!(small.as_ref().len(), 3);
        assert_eq!(small.filled(2).len(), 2);
        assert_eq!(buffers.lock().len(), 1, "little is copied out");
    }
}
