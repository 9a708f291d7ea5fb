//! Decompression in a thread of its own, hashing and writing in the caller's.
//!
//! Four buffers go round between the two: full ones one way, empty ones back. Both channels have room for all of
//! them, so neither side can deadlock on the other; when the caller gives up, the thread ends at its next buffer.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use orlop_types::{Algorithm, Digest};
use sha2::{Digest as _, Sha256, Sha512};

use crate::compression::Decompressor;

const BUFFERS: usize = 4;
const BUFFER_BYTES: usize = 64 << 10;

/// A buffer and how much of it is filled.
struct Block {
    bytes: Box<[u8]>,
    length: usize,
}

/// The hash over the uncompressed stream.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// The algorithm of the digest that will be compared; SHA-256 if there is none.
    pub(crate) fn new(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::algorithm) {
            Some(Algorithm::Sha512) => Self::Sha512(Box::default()),
            Some(Algorithm::Sha256) | None => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::sha256(hash.finalize().into()),
            Self::Sha512(hash) => Digest::sha512(hash.finalize().into()),
        }
    }
}

/// The uncompressed stream as the caller reads it; hashed as it arrives.
pub(super) struct Blocks {
    full: Receiver<io::Result<Block>>,
    empty: SyncSender<Box<[u8]>>,
    current: Option<Block>,
    position: usize,
    hasher: Hasher,
    total: u64,
    ended: bool,
}

/// Starts the thread.
pub(super) fn start<'scope, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: Decompressor<R>,
    hasher: Hasher,
) -> io::Result<Blocks> {
    let (full_in, full) = sync_channel(BUFFERS + 1);
    let (empty, empty_out) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        empty.send(buffer).map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
    Builder::new()
        .name("orlop-inflate".to_owned())
        .spawn_scoped(scope, move || pump(source, &empty_out, &full_in))?;
    Ok(Blocks {
        full,
        empty,
        current: None,
        position: 0,
        hasher,
        total: 0,
        ended: false,
    })
}

/// Fills buffers until the end, an error, or nobody wants them.
fn pump<R: Read>(
    mut source: Decompressor<R>,
    empty: &Receiver<Box<[u8]>>,
    full: &SyncSender<io::Result<Block>>,
) {
    while let Ok(mut bytes) = empty.recv() {
        let block = fill(&mut source, &mut bytes).map(|length| Block { bytes, length });
        let last = block.as_ref().map_or(true, |block| block.length == 0);
        if full.send(block).is_err() || last {
            return;
        }
    }
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match source.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl Blocks {
    /// Reads what stands behind the last entry into the hash, and returns the digest and length of all.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok((self.hasher.finish(), self.total));
            }
            self.consume(count);
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        if let Some(used) = self.current.take() {
            // The thread may have ended already, and then needs no buffer.
            drop(self.empty.try_send(used.bytes));
        }
        let block = self
            .full
            .recv()
            .map_err(|_| io::Error::other("the decompressing thread ended early"))??;
        self.position = 0;
        self.total += block.length as u64;
        self.hasher.update(&block.bytes[..block.length]);
        self.ended = block.length == 0;
        self.current = Some(block);
        Ok(())
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let used_up = self
            .current
            .as_ref()
            .is_none_or(|block| self.position == block.length);
        if used_up && !self.ended {
            self.next_block()?;
        }
        Ok(self
            .current
            .as_ref()
            .map_or(&[], |block| &block.bytes[self.position..block.length]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}
