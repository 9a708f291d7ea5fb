//! Keeps a warning that repeats from filling the log.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Beyond this many keys the oldest is forgotten, and its next warning written again.
const KEYS_MAX: usize = 1024;

/// Lets one warning of each key through in every window of time.
///
/// ```
/// # use std::time::Duration;
/// # use orlop_base::telemetry::Throttle;
/// # use orlop_base::clock::{Clock, SystemClock};
/// let throttle = Throttle::new(Duration::from_secs(60));
/// if let Some(suppressed) = throttle.admit("registry.example.com", SystemClock.boottime()) {
///     tracing::warn!(suppressed, "the registry answers slowly");
/// }
/// ```
#[derive(Debug)]
pub struct Throttle<K> {
    window: Duration,
    seen: Mutex<HashMap<K, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    written: Duration,
    suppressed: u64,
}

impl<K: Eq + Hash + Clone> Throttle<K> {
    /// A throttle with this window; with none everything passes.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            seen: Mutex::default(),
        }
    }

    /// Whether a warning about `key` is to be written at `now` (in time since boot), and how many were not
    /// since the last that was.
    pub fn admit(&self, key: K, now: Duration) -> Option<u64> {
        // Each entry is a plain pair, whole at any time, so a panic elsewhere spoils nothing.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = seen.get_mut(&key) {
            if now.saturating_sub(entry.written) < self.window {
                entry.suppressed += 1;
                return None;
            }
            let suppressed = entry.suppressed;
            *entry = Seen {
                written: now,
                suppressed: 0,
            };
            return Some(suppressed);
        }
        if seen.len() >= KEYS_MAX {
            forget_oldest(&mut seen);
        }
        let entry = Seen {
            written: now,
            suppressed: 0,
        };
        seen.insert(key, entry);
        Some(0)
    }
}

fn forget_oldest<K: Eq + Hash + Clone>(seen: &mut HashMap<K, Seen>) {
    let oldest = seen
        .iter()
        .min_by_key(|(_, entry)| entry.written)
        .map(|(key, _)| key.clone());
    if let Some(key) = oldest {
        seen.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_repeated_warning_is_written_once_a_window_with_the_number_left_out() {
        let throttle = Throttle::new(WINDOW);
        let at = Duration::from_secs;
        assert_eq!(throttle.admit("a", at(0)), Some(0));
        assert_eq!(throttle.admit("a", at(1)), None);
        assert_eq!(throttle.admit("a", at(59)), None);
        assert_eq!(throttle.admit("b", at(59)), Some(0));
        assert_eq!(throttle.admit("a", at(60)), Some(2));
        assert_eq!(throttle.admit("a", at(61)), None);
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let throttle = Throttle::new(WINDOW);
        for key in 0..10_000_u64 {
            throttle.admit(key, Duration::from_nanos(key));
        }
        assert_eq!(throttle.seen.lock().unwrap().len(), KEYS_MAX);
    }
}
