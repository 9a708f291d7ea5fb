//! Copies that the shim itself makes: terminals and CRI logs. One shared buffer serves them all.
//!
//! Ordering: bytes of one copy stay in order. When the target is full, reading stops until it has room, so that a slow reader
//! slows the container down instead of filling memory. Cancellation: dropping a copy closes both ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::attach::Tap;
use super::cri::CriStream;

/// Shared by all copies.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// A copy gives others a turn after this many buffers.
const ROUNDS_MAX: usize = 8;

/// Where bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    Null,
    Fd(OwnedFd),
    Cri(CriStream),
}

/// What a copy waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    ForInput,
    ForRoom,
}

/// One direction of one process.
#[derive(Debug)]
pub(crate) struct Copy {
    from: OwnedFd,
    to: Sink,
    tap: Option<Tap>,
    pending: Vec<u8>,
    is_input: bool,
}

impl Copy {
    pub(crate) fn new(from: OwnedFd, to: Sink) -> Self {
        Self {
            from,
            to,
            tap: None,
            pending: Vec::new(),
            is_input: false,
        }
    }

    /// Tells attached clients, too.
    pub(crate) fn with_tap(mut self, tap: Option<Tap>) -> Self {
        self.tap = tap;
        self
    }

    /// Marks a copy towards the process: its end is not waited for.
    pub(crate) fn marked_as_input(mut self) -> Self {
        self.is_input = true;
        self
    }

    pub(crate) fn is_input(&self) -> bool {
        self.is_input
    }

    /// What to wait for, and where.
    pub(crate) fn waiting(&self) -> (Waiting, BorrowedFd<'_>) {
        match &self.to {
            Sink::Fd(to) if !self.pending.is_empty() => (Waiting::ForRoom, to.as_fd()),
            Sink::Fd(_) | Sink::Null | Sink::Cri(_) => (Waiting::ForInput, self.from.as_fd()),
        }
    }

    /// Both ends, to stop waiting for either.
    pub(crate) fn ends(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let to = match &self.to {
            Sink::Fd(to) => Some(to.as_fd()),
            Sink::Null | Sink::Cri(_) => None,
        };
        [Some(self.from.as_fd()), to]
    }

    /// Moves what can be moved without waiting. `false` when the copy has come to its end.
    pub(crate) fn advance(&mut self, buffer: &mut [u8]) -> bool {
        match self.try_advance(buffer) {
            Ok(goes_on) => goes_on,
            Err(_) => {
                // EIO is how a terminal says that its last user has gone; other faults leave nothing to copy either.
                self.finish();
                false
            }
        }
    }

    fn try_advance(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        for _ in 0..ROUNDS_MAX {
            if !self.flush()? {
                return Ok(true);
            }
            let count = match rustix::io::read(&self.from, &mut *buffer) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            if count == 0 {
                self.finish();
                return Ok(false);
            }
            self.take(&buffer[..count])?;
        }
        Ok(true)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.to {
            Sink::Null => {}
            Sink::Cri(stream) => stream.write(bytes),
            Sink::Fd(_) => {
                self.pending.extend_from_slice(bytes);
                self.flush()?;
            }
        }
        // What a client has heard is in the log.
        if let Some(tap) = &self.tap {
            tap.write(bytes);
        }
        Ok(())
    }

    /// Writes what is left over; `false` when the target is full.
    fn flush(&mut self) -> io::Result<bool> {
        let Sink::Fd(to) = &self.to else {
            return Ok(true);
        };
        let mut written = 0;
        while written < self.pending.len() {
            match rustix::io::write(to, &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.pending.drain(..written);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.pending = Vec::new();
        Ok(true)
    }

    fn finish(&mut self) {
        if let Sink::Cri(stream) = &mut self.to {
            stream.finish();
        }
    }
}
