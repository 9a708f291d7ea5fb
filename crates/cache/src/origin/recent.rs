//! A small map whose entries end by themselves. Pure: the caller says what time it is.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Entries until a moment of boot time; the one that ends first gives way when there is no room.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (V, Duration)>,
    entries_max: usize,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            entries_max: entries_max.max(1),
        }
    }

    /// What is kept for `key`, and how much longer.
    pub(crate) fn find(&self, key: &K, now: Duration) -> Option<(&V, Duration)> {
        let (value, until) = self.entries.get(key)?;
        let left = until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some((value, left))
    }

    pub(crate) fn keep(&mut self, key: K, value: V, now: Duration, until: Duration) {
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (_, until)| *until > now);
        }
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.entries.remove(&first);
            }
        }
        self.entries.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_the_one_that_ends_first_gives_way() {
        let at = Duration::from_secs;
        let mut recent = Recent::new(2);
        recent.keep("a", 1, at(0), at(10));
        recent.keep("b", 2, at(0), at(5));
        recent.keep("c", 3, at(1), at(7));
        assert_eq!(recent.find(&"a", at(1)), Some((&1, at(9))));
        assert_eq!(recent.find(&"b", at(1)), None, "it gave way");
        assert_eq!(recent.find(&"c", at(7)), None, "it has ended");
    }
}
