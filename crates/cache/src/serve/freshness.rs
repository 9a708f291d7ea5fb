//! How long what a tag stood for is believed, and how long it is served when the upstream cannot say. Pure.

use std::time::{Duration, SystemTime};

use orlop_types::{Glob, Reference};

/// For which tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// A pattern of `registry/repository:tag`; `*` is any text without a slash.
    pub pattern: Glob,
    /// The times.
    pub times: TagTimes,
}

/// The times of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagTimes {
    /// So long the upstream is not asked again; nothing for a tag that never moves.
    pub fresh: Option<Duration>,
    /// So long after the last answer it is served while the upstream cannot say.
    pub stale: Duration,
}

/// Rules in order; the first that fits counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPolicy {
    /// For some tags.
    pub rules: Vec<TagRule>,
    /// For all others.
    pub otherwise: TagTimes,
}

/// What is to be done with what is known of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Serve it.
    Fresh,
    /// Ask; serve it if the upstream cannot say.
    Stale,
    /// Ask; without an answer there is none.
    Gone,
}

impl Default for TagPolicy {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            otherwise: TagTimes {
                fresh: Some(Duration::from_secs(60)),
                stale: Duration::from_secs(7 * 86_400),
            },
        }
    }
}

impl TagPolicy {
    fn times(&self, reference: &Reference) -> TagTimes {
        let tag = reference.tag().unwrap_or_default();
        let name = format!("{}:{tag}", reference.locator());
        let rule = self.rules.iter().find(|rule| rule.pattern.matches(&name));
        rule.map_or(self.otherwise, |rule| rule.times)
    }

    /// How a tag stands that was checked at `checked`. A clock that went back makes nothing fresher than it was.
    pub(super) fn of(
        &self,
        reference: &Reference,
        checked: SystemTime,
        now: SystemTime,
    ) -> Freshness {
        let times = self.times(reference);
        let Some(fresh) = times.fresh else {
            return Freshness::Fresh;
        };
        match now.duration_since(checked) {
            Ok(age) if age < fresh => Freshness::Fresh,
            Ok(age) if age < times.stale => Freshness::Stale,
            Ok(_) => Freshness::Gone,
            // Checked in the future: ask, and believe it meanwhile.
            Err(_) => Freshness::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_says_how_long() {
        let policy = TagPolicy {
            rules: vec![
                TagRule {
                    pattern: "docker.io/library/*:v*".parse().unwrap(),
                    times: TagTimes {
                        fresh: None,
                        stale: Duration::ZERO,
                    },
                },
                TagRule {
                    pattern: "docker.io/*/*:nightly".parse().unwrap(),
                    times: TagTimes {
                        fresh: Some(Duration::from_secs(5)),
                        stale: Duration::from_secs(10),
                    },
                },
            ],
            otherwise: TagTimes {
                fresh: Some(Duration::from_secs(60)),
                stale: Duration::from_secs(100),
            },
        };
        let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (reference, age, expected) in [
            ("alpine:v3", 9_999_999, Freshness::Fresh),
            ("user/app:nightly", 4, Freshness::Fresh),
            ("user/app:nightly", 5, Freshness::Stale),
            ("user/app:nightly", 10, Freshness::Gone),
            ("user/app:v3", 59, Freshness::Fresh),
            ("user/app:v3", 60, Freshness::Stale),
            ("user/app:v3", 100, Freshness::Gone),
            ("user/app:v3", -5, Freshness::Stale),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1000.0 + f64::from(age));
            let found = policy.of(&reference.parse().unwrap(), checked, now);
            assert_eq!(found, expected, "{reference} at {age}");
        }
    }
}
