//! Which bytes of a file are there: pure arithmetic.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// More pieces than any sane set of parallel ranges makes; a writer of every other byte is stopped here.
pub(crate) const PIECES_MAX: usize = 4096;

/// A set of byte positions, kept as sorted, non-empty ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct ExtentMap(Vec<Range<u64>>);

/// Stored ranges that are empty, out of order or touch each other: not written by this code.
#[derive(Debug, thiserror::Error)]
#[error("extents are not sorted, separate and non-empty, or too many")]
pub struct ExtentsError;

impl ExtentMap {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // All pieces that overlap or touch the new one melt into it.
        let first = self.0.partition_point(|piece| piece.end < range.start);
        let after = self.0.partition_point(|piece| piece.start <= range.end);
        let merged = self.0[first..after].iter().fold(range, |sum, piece| {
            sum.start.min(piece.start)..sum.end.max(piece.end)
        });
        self.0.splice(first..after, [merged]);
    }

    /// Removes everything at and after `length`.
    pub fn truncate(&mut self, length: u64) {
        self.0.retain(|piece| piece.start < length);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(length);
        }
    }

    /// How many bytes are there from the start without a gap.
    #[must_use]
    pub fn contiguous_bytes(&self) -> u64 {
        match self.0.first() {
            Some(piece) if piece.start == 0 => piece.end,
            Some(_) | None => 0,
        }
    }

    /// How many bytes are there in all.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.end - piece.start).sum()
    }

    /// The position after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |piece| piece.end)
    }

    /// The parts of `range` that are not there, in order.
    #[must_use]
    pub fn missing_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut position = range.start;
        let first = self.0.partition_point(|piece| piece.end <= range.start);
        for piece in self.0[first..]
            .iter()
            .take_while(|piece| piece.start < range.end)
        {
            if piece.start > position {
                gaps.push(position..piece.start);
            }
            position = piece.end;
        }
        if position < range.end {
            gaps.push(position..range.end);
        }
        gaps
    }

    /// The piece that holds the byte at `offset`.
    #[must_use]
    pub fn piece_at(&self, offset: u64) -> Option<Range<u64>> {
        let first = self.0.partition_point(|piece| piece.end <= offset);
        let piece = self.0.get(first)?;
        (piece.start <= offset).then(|| piece.clone())
    }

    /// The pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Range<u64>] {
        &self.0
    }
}

impl From<ExtentMap> for Vec<(u64, u64)> {
    fn from(map: ExtentMap) -> Self {
        map.0
            .into_iter()
            .map(|piece| (piece.start, piece.end))
            .collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for ExtentMap {
    type Error = ExtentsError;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, ExtentsError> {
        let is_sound = pairs.len() <= PIECES_MAX
            && pairs.iter().all(|(start, end)| start < end)
            && pairs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !is_sound {
            return Err(ExtentsError);
        }
        Ok(Self(
            pairs.into_iter().map(|(start, end)| start..end).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Range<u64>),
        Truncate(u64),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0_u64..60, 0_u64..20).prop_map(|(start, length)| start..start + length)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => range().prop_map(Step::Insert),
            1 => (0_u64..80).prop_map(Step::Truncate),
        ]
    }

    fn apply(map: &mut ExtentMap, model: &mut BTreeSet<u64>, step: Step) {
        match step {
            Step::Insert(range) => {
                map.insert(range.clone());
                model.extend(range);
            }
            Step::Truncate(length) => {
                map.truncate(length);
                model.retain(|position| *position < length);
            }
        }
    }

    proptest! {
        #[test]
        fn a_map_agrees_with_a_set_of_positions(
            steps in prop::collection::vec(step(), 0..40),
            asked in range(),
        ) {
            let (mut map, mut model) = (ExtentMap::new(), BTreeSet::new());
            for step in steps {
                apply(&mut map, &mut model, step);
            }
            let count = |set: &BTreeSet<u64>| u64::try_from(set.len()).unwrap();
            prop_assert_eq!(map.present_bytes(), count(&model));
            prop_assert_eq!(map.end(), model.last().map_or(0, |last| last + 1));
            let prefix = (0..).take_while(|position| model.contains(position)).last();
            prop_assert_eq!(map.contiguous_bytes(), prefix.map_or(0, |last| last + 1));
            let missing: Vec<u64> = map.missing_in(asked.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = asked.filter(|position| !model.contains(position)).collect();
            prop_assert_eq!(missing, expected);
            let json = serde_json::to_string(&map).unwrap();
            prop_assert_eq!(serde_json::from_str::<ExtentMap>(&json).unwrap(), map);
        }
    }

    #[test]
    fn a_stored_map_that_this_code_would_not_write_is_refused() {
        for bad in [
            "[[5,5]]",
            "[[6,5]]",
            "[[0,5],[5,6]]",
            "[[4,5],[0,1]]",
            "[[0,9],[3,4]]",
        ] {
            assert!(
                serde_json::from_str::<ExtentMap>(bad).is_err(),
                "{bad} was accepted"
            );
        }
    }
}
