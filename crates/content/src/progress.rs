//! What writers, readers and the committer of one ingest share.
//!
//! One mutex, never held across a system call. Writers *claim* the gaps they are about to fill, so that no byte is
//! written twice; commit, truncation and abort make themselves *exclusive*: they wait for claims to end and keep
//! new ones out.

use std::fs::File;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orlop_types::IngestRef;

use crate::extents::PIECES_MAX;
use crate::{ContentError, Expected, ExtentMap, WriteProblem};

/// Takes a lock whose sections never leave a half-made change, so that a panicked holder does no harm.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an ingest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Committed,
    Aborted,
    Failed,
    Closed,
}

impl How {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "it was committed",
            Self::Aborted => "it was aborted",
            Self::Failed => "its bytes were wrong or could not be synced, and were discarded",
            Self::Closed => "its writer went away; its bytes are kept",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Exclusive,
    Ended(How),
}

#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) reference: IngestRef,
    pub(crate) file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    extents: ExtentMap,
    writing: Vec<Range<u64>>,
    expected: Expected,
    phase: Phase,
    truncations: u64,
    unsynced_bytes: u64,
}

/// What a reader may do at its position.
#[derive(Debug)]
pub(crate) enum Readable {
    /// Read up to here. The number tells a truncation before from one after.
    Until { end: u64, truncations: u64 },
    /// All has been read.
    End,
    /// Nothing came within the limit.
    Stalled,
    /// The bytes read so far were taken back.
    Rewound,
    /// No more will come.
    Ended(How),
}

impl Progress {
    pub(crate) fn new(
        reference: IngestRef,
        file: File,
        extents: ExtentMap,
        expected: Expected,
    ) -> Self {
        let state = State {
            extents,
            writing: Vec::new(),
            expected,
            phase: Phase::Open,
            truncations: 0,
            unsynced_bytes: 0,
        };
        Self {
            reference,
            file,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn extents(&self) -> ExtentMap {
        lock(&self.state).extents.clone()
    }

    pub(crate) fn contiguous_bytes(&self) -> u64 {
        lock(&self.state).extents.contiguous_bytes()
    }

    pub(crate) fn expected(&self) -> Expected {
        lock(&self.state).expected
    }

    pub(crate) fn expect(&self, expected: Expected) {
        lock(&self.state).expected = expected;
        self.changed.notify_all();
    }

    /// Bytes written since the last call of [`Progress::take_unsynced`].
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        lock(&self.state).unsynced_bytes
    }

    /// What is to be believed once the file has been synced after this call.
    pub(crate) fn take_unsynced(&self) -> ExtentMap {
        let mut state = lock(&self.state);
        state.unsynced_bytes = 0;
        state.extents.clone()
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Ended(_))
    }

    /// Ends an open ingest whose last writer goes. False if it had ended before.
    pub(crate) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Ended(_)) {
            return false;
        }
        state.phase = Phase::Ended(How::Closed);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Claims the gaps in `length` bytes at `offset`, or at the end of the contiguous prefix.
    pub(crate) fn claim(
        &self,
        offset: Option<u64>,
        length: usize,
    ) -> Result<Claim<'_>, ContentError> {
        let mut state = lock(&self.state);
        while state.phase == Phase::Exclusive {
            state = self.wait(state);
        }
        if let Phase::Ended(how) = state.phase {
            return Err(self.ended(how));
        }
        let start = offset.unwrap_or_else(|| state.extents.contiguous_bytes());
        let gaps = state
            .gaps(start, length)
            .map_err(|problem| ContentError::BadWrite {
                reference: self.reference.clone(),
                offset_bytes: start,
                length_bytes: length,
                problem,
            })?;
        state.writing.extend(gaps.iter().cloned());
        Ok(Claim {
            progress: self,
            start,
            gaps,
        })
    }

    /// Waits for claims to end and keeps new ones out, until the result is dropped.
    pub(crate) fn exclusive(&self) -> Result<Exclusive<'_>, ContentError> {
        let mut state = lock(&self.state);
        while state.phase == Phase::Exclusive {
            state = self.wait(state);
        }
        if let Phase::Ended(how) = state.phase {
            return Err(self.ended(how));
        }
        state.phase = Phase::Exclusive;
        while !state.writing.is_empty() {
            state = self.wait(state);
        }
        Ok(Exclusive {
            progress: self,
            how: None,
        })
    }

    /// Waits until there is something to read at `position`, at most `limit` without one more byte.
    pub(crate) fn readable(
        &self,
        position: u64,
        truncations: u64,
        limit: Option<Duration>,
    ) -> Readable {
        let started = Instant::now();
        let mut state = lock(&self.state);
        loop {
            if let Some(readable) = state.readable(position, truncations) {
                return readable;
            }
            let left = limit.map(|limit| limit.saturating_sub(started.elapsed()));
            state = match left {
                None => self.wait(state),
                Some(Duration::ZERO) => return Readable::Stalled,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Up to where bytes are present from `offset` on, whether or not they belong to the prefix.
    pub(crate) fn present_until(&self, offset: u64, truncations: u64) -> Readable {
        let state = lock(&self.state);
        if state.truncations != truncations {
            return Readable::Rewound;
        }
        match state.phase {
            Phase::Ended(how @ (How::Aborted | How::Failed | How::Closed)) => Readable::Ended(how),
            Phase::Ended(How::Committed) | Phase::Open | Phase::Exclusive => {
                let piece = state.extents.piece_at(offset);
                piece.map_or(Readable::Stalled, |piece| Readable::Until {
                    end: piece.end,
                    truncations,
                })
            }
        }
    }

    pub(crate) fn truncations(&self) -> u64 {
        lock(&self.state).truncations
    }

    pub(crate) fn ended(&self, how: How) -> ContentError {
        ContentError::IngestEnded {
            reference: self.reference.clone(),
            how: how.as_str(),
        }
    }

    fn wait<'state>(&self, state: MutexGuard<'state, State>) -> MutexGuard<'state, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn gaps(&self, start: u64, length: usize) -> Result<Vec<Range<u64>>, WriteProblem> {
        let end = start
            .checked_add(length as u64)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or(WriteProblem::TooFar)?;
        if let Some(expected_bytes) = self.expected.size_bytes.filter(|size| end > *size) {
            return Err(WriteProblem::BeyondExpected { expected_bytes });
        }
        let gaps = self.extents.missing_in(start..end);
        let is_taken = |gap: &Range<u64>| {
            self.writing
                .iter()
                .any(|other| other.start < gap.end && gap.start < other.end)
        };
        if gaps.iter().any(is_taken) {
            return Err(WriteProblem::Overlap);
        }
        if self.extents.pieces().len() + self.writing.len() + gaps.len() > PIECES_MAX {
            return Err(WriteProblem::TooFragmented {
                pieces_max: PIECES_MAX,
            });
        }
        Ok(gaps)
    }

    /// None means: wait.
    fn readable(&self, position: u64, truncations: u64) -> Option<Readable> {
        if self.truncations != truncations && position > 0 {
            return Some(Readable::Rewound);
        }
        match self.phase {
            Phase::Ended(how @ (How::Aborted | How::Failed | How::Closed)) => {
                return Some(Readable::Ended(how));
            }
            Phase::Ended(How::Committed) | Phase::Open | Phase::Exclusive => {}
        }
        let end = self.extents.contiguous_bytes();
        if position < end {
            let truncations = self.truncations;
            return Some(Readable::Until { end, truncations });
        }
        (self.expected.size_bytes == Some(position)).then_some(Readable::End)
    }
}

/// Gaps that one thread is filling. Dropped without [`Claim::complete`], they stay gaps.
#[derive(Debug)]
pub(crate) struct Claim<'progress> {
    progress: &'progress Progress,
    pub(crate) start: u64,
    pub(crate) gaps: Vec<Range<u64>>,
}

impl Claim<'_> {
    /// The gaps have been written.
    pub(crate) fn complete(self) {
        let mut state = lock(&self.progress.state);
        for gap in &self.gaps {
            state.unsynced_bytes += gap.end - gap.start;
            state.extents.insert(gap.clone());
        }
        drop(state);
        // Dropping releases the claim and wakes readers.
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.gaps.is_empty() {
            return;
        }
        lock(&self.progress.state)
            .writing
            .retain(|range| !self.gaps.contains(range));
        self.progress.changed.notify_all();
    }
}

/// The right to change everything: no writer is active. Dropped, it opens the ingest again unless it was ended.
#[derive(Debug)]
pub(crate) struct Exclusive<'progress> {
    progress: &'progress Progress,
    how: Option<How>,
}

impl Exclusive<'_> {
    pub(crate) fn end(mut self, how: How) {
        self.how = Some(how);
    }

    /// Forgets everything at and after `length`; readers that are beyond get an error.
    pub(crate) fn truncate(&self, length: u64) {
        let mut state = lock(&self.progress.state);
        state.extents.truncate(length);
        state.truncations += 1;
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        lock(&self.progress.state).phase = self.how.map_or(Phase::Open, Phase::Ended);
        self.progress.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        let file = tempfile::tempfile().unwrap();
        let reference = IngestRef::new("layer").unwrap();
        Progress::new(reference, file, ExtentMap::new(), Expected::default())
    }

    #[test]
    fn bytes_being_written_by_one_thread_are_refused_to_another_until_it_fails() {
        let progress = progress();
        let first = progress.claim(Some(0), 10).unwrap();
        let refused = progress.claim(Some(5), 10).unwrap_err();
        let overlap = WriteProblem::Overlap;
        assert!(matches!(refused, ContentError::BadWrite { problem, .. } if problem == overlap));
        progress.claim(Some(10), 5).unwrap().complete();
        assert_eq!(progress.contiguous_bytes(), 0);
        drop(first);
        let retried = progress.claim(Some(5), 10).unwrap();
        assert_eq!(
            retried.gaps.first(),
            Some(&(5..10)),
            "10..15 is there already"
        );
    }

    #[test]
    fn whoever_is_exclusive_waits_for_claims_and_keeps_new_ones_out() {
        let progress = progress();
        let claim = progress.claim(Some(0), 10).unwrap();
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| {
                let exclusive = progress.exclusive().unwrap();
                let seen = progress.contiguous_bytes();
                exclusive.end(How::Aborted);
                seen
            });
            claim.complete();
            assert_eq!(ended.join().unwrap(), 10, "it came before the claim ended");
        });
        assert!(progress.claim(Some(10), 1).is_err());
        assert!(progress.exclusive().is_err());
    }
}
