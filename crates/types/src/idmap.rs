//! How ids inside a user namespace map to the host's (user_namespaces(7)).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most ranges the kernel takes (Linux 4.15).
const RANGES_MAX: usize = 340;

/// The maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Why no user namespace can have a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdMapFault {
    /// The superuser inside would be nobody.
    #[error("id 0 is not mapped")]
    NoSuperuser,
    /// More ranges than the kernel takes.
    #[error("there are {0} ranges, and the kernel takes {RANGES_MAX}")]
    TooMany(usize),
    /// A range of no ids, or of ids beyond the last.
    #[error("the range \"{0}\" is empty or goes beyond the last id")]
    Range(IdRange),
    /// Two ranges have an id in common.
    #[error("the ranges \"{0}\" and \"{1}\" overlap")]
    Overlap(IdRange, IdRange),
}

impl IdMaps {
    /// Checks both maps as the kernel will, and that the superuser is mapped.
    ///
    /// # Errors
    /// [`IdMapFault`].
    pub fn check(&self) -> Result<(), IdMapFault> {
        check(&self.uids)?;
        check(&self.gids)
    }

    /// User and group of the superuser as the host sees them; `None` if it is not mapped.
    #[must_use]
    pub fn superuser(&self) -> Option<(u32, u32)> {
        Some((outside(&self.uids, 0)?, outside(&self.gids, 0)?))
    }
}

/// What the host calls an id; `None` if it is not mapped.
#[must_use]
pub fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.count).then_some(range.outside + offset)
    })
}

fn check(ranges: &[IdRange]) -> Result<(), IdMapFault> {
    if ranges.len() > RANGES_MAX {
        return Err(IdMapFault::TooMany(ranges.len()));
    }
    for (index, range) in ranges.iter().enumerate() {
        if !range.is_sound() {
            return Err(IdMapFault::Range(*range));
        }
        let mut earlier = ranges[..index].iter();
        if let Some(other) = earlier.find(|other| range.overlaps(other)) {
            return Err(IdMapFault::Overlap(*other, *range));
        }
    }
    outside(ranges, 0).map(drop).ok_or(IdMapFault::NoSuperuser)
}

impl IdRange {
    /// The last number stands for no id.
    fn is_sound(&self) -> bool {
        let ends_early = |first: u32| first.checked_add(self.count).is_some();
        self.count > 0 && ends_early(self.inside) && ends_early(self.outside)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meets = |own: u32, others: u32| {
            u64::from(own) < u64::from(others) + u64::from(other.count)
                && u64::from(others) < u64::from(own) + u64::from(self.count)
        };
        meets(self.inside, other.inside) || meets(self.outside, other.outside)
    }
}

/// A line of `/proc/PID/uid_map`.
impl fmt::Display for IdRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.inside, self.outside, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn sound_maps_are_taken_and_translate_ids() {
        let uids = vec![range(0, 100_000, 1000), range(1000, 500_000, 64_536)];
        let maps = IdMaps {
            gids: vec![range(0, 7, 1)],
            uids,
        };
        maps.check().unwrap();
        assert_eq!(maps.superuser(), Some((100_000, 7)));
        let found = [0, 999, 1000, 65_535, 65_536].map(|id| outside(&maps.uids, id));
        let expected = [
            Some(100_000),
            Some(100_999),
            Some(500_000),
            Some(564_535),
            None,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_are_named() {
        let full = range(0, 0, u32::MAX);
        assert_eq!(check(&[full]), Ok(()));
        let table = [
            (vec![], "id 0"),
            (vec![range(1, 1, 1)], "id 0"),
            (vec![range(0, 1, 0)], "empty"),
            (vec![range(0, u32::MAX, 1)], "beyond"),
            (vec![range(0, 10, 2), range(1, 50, 1)], "overlap"),
            (vec![range(0, 10, 2), range(5, 11, 1)], "overlap"),
            (vec![full, full], "overlap"),
            (vec![range(0, 1, 1); 341], "341 ranges"),
        ];
        for (ranges, word) in table {
            let fault = check(&ranges).unwrap_err().to_string();
            assert!(fault.contains(word), "{fault}");
        }
    }
}
