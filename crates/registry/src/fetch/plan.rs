//! The planner: which ranges to ask for and how many at once. Pure.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::FetchOptions;

/// What to ask for in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Several bounded ranges side by side.
    Ranges {
        queue: VecDeque<Piece>,
        workers: usize,
    },
    /// One request after the other, each for everything still missing from its start on.
    Stream { queue: VecDeque<Piece> },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// What to bring.
    pub(super) range: Range<u64>,
    /// Whether to ask for just that, or for the whole blob.
    pub(super) ranged: bool,
}

impl Plan {
    pub(super) fn make(
        missing: &[Range<u64>],
        size: u64,
        options: &FetchOptions,
        ranges_work: bool,
    ) -> Self {
        if !ranges_work {
            return Self::Stream {
                queue: VecDeque::from([Piece {
                    range: 0..size,
                    ranged: false,
                }]),
            };
        }
        let total: u64 = missing.iter().map(|range| range.end - range.start).sum();
        if total <= options.threshold_bytes.max(1) {
            let queue = missing.iter().map(|range| Piece {
                ranged: *range != (0..size),
                range: range.clone(),
            });
            return Self::Stream {
                queue: queue.collect(),
            };
        }
        let chunk = options.chunk_bytes.max(1);
        let mut queue = VecDeque::new();
        for range in missing {
            let mut start = range.start;
            while start < range.end {
                let end = start.saturating_add(chunk).min(range.end);
                queue.push_back(Piece {
                    range: start..end,
                    ranged: true,
                });
                start = end;
            }
        }
        let workers = options.parallel_per_blob.clamp(1, queue.len().max(1));
        Self::Ranges { queue, workers }
    }
}

/// The ranges within the blob, without empty ones.
pub(super) fn clip(missing: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    missing
        .iter()
        .map(|range| range.start.min(size)..range.end.min(size))
        .filter(|range| range.start < range.end)
        .collect()
}

/// The pieces of `range` that are in `wanted`, ascending.
pub(super) fn intersect<'a>(
    wanted: &'a [Range<u64>],
    range: Range<u64>,
) -> impl Iterator<Item = Range<u64>> + 'a {
    wanted
        .iter()
        .map(move |want| want.start.max(range.start)..want.end.min(range.end))
        .filter(|piece| piece.start < piece.end)
}

/// Pieces that workers take from. A piece whose worker failed is the next round's: the sink knows what it lacks.
#[derive(Debug)]
pub(super) struct Queue(Mutex<VecDeque<Piece>>);

impl Queue {
    pub(super) const fn new(pieces: VecDeque<Piece>) -> Self {
        Self(Mutex::new(pieces))
    }

    pub(super) fn take(&self) -> Option<Piece> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::single_range_in_vec_init,
        reason = "lists of one missing range are what is meant"
    )]

    use proptest::prelude::*;

    use super::*;

    fn options(threshold_bytes: u64, chunk_bytes: u64, parallel_per_blob: usize) -> FetchOptions {
        FetchOptions {
            threshold_bytes,
            chunk_bytes,
            parallel_per_blob,
            ..FetchOptions::default()
        }
    }

    #[test]
    fn small_blobs_come_whole_and_without_a_range() {
        let plan = Plan::make(&[0..10], 10, &options(10, 4, 4), true);
        let whole = Piece {
            range: 0..10,
            ranged: false,
        };
        assert_eq!(
            plan,
            Plan::Stream {
                queue: [whole].into()
            }
        );
    }

    #[test]
    fn what_is_left_of_a_small_blob_comes_as_a_bounded_range() {
        let plan = Plan::make(&[7..10], 10, &options(10, 4, 4), true);
        let rest = Piece {
            range: 7..10,
            ranged: true,
        };
        assert_eq!(
            plan,
            Plan::Stream {
                queue: [rest].into()
            }
        );
    }

    #[test]
    fn a_host_without_ranges_is_asked_for_everything_once() {
        let plan = Plan::make(&[7..10, 40..100], 100, &options(10, 4, 4), false);
        let whole = Piece {
            range: 0..100,
            ranged: false,
        };
        assert_eq!(
            plan,
            Plan::Stream {
                queue: [whole].into()
            }
        );
    }

    #[test]
    fn there_are_never_more_workers_than_ranges() {
        let Plan::Ranges { queue, workers } = Plan::make(&[0..11], 11, &options(10, 8, 4), true)
        else {
            panic!("above the threshold ranges are used");
        };
        assert_eq!((queue.len(), workers), (2, 2));
    }

    proptest! {
        #[test]
        fn ranges_cover_what_is_missing_exactly_once(
            gaps in proptest::collection::vec((0u64..50, 1u64..200), 1..6),
            chunk in 1u64..70,
        ) {
            let mut missing = Vec::new();
            let mut at = 0;
            for (gap, length) in gaps {
                missing.push(at + gap..at + gap + length);
                at += gap + length + 1;
            }
            if let Plan::Ranges { queue, .. } = Plan::make(&missing, at, &options(0, chunk, 4), true) {
                let mut wanted: Vec<u64> = missing.iter().cloned().flatten().collect();
                let mut asked: Vec<u64> = queue.iter().flat_map(|piece| piece.range.clone()).collect();
                prop_assert!(queue.iter().all(|piece| piece.ranged && piece.range.end - piece.range.start <= chunk));
                wanted.sort_unstable();
                asked.sort_unstable();
                prop_assert_eq!(wanted, asked);
            }
        }
    }
}
