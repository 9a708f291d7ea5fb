//! Traces: requests for blobs as a registry sees them, made from published statistics, and what caches would have done.
//!
//! The statistics are those of IBM's registries over 75 days (Anwar and others, *Improving Docker Registry Design based on
//! Production Workload Analysis*, FAST '18): two layers in three are below 1 MB, four in five below 10 MB; the mean is
//! 14 MB; 5.9 % of requests, for 65 % of the bytes, are above 64 MiB; the most popular hundredth of the layers has 42 to
//! 59 % of the requests. The order within those is ours: blobs appear over time, and most requests come soon after.
//!
//! Pure, and the same for the same seed on every machine, up to rounding.

#![allow(
    clippy::cast_precision_loss,
    reason = "chance needs no more than the digits that a float has"
)]

mod replay;

pub use replay::{Eviction, Replay, Room, replay};

use std::io::{self, BufRead, Write};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Seconds since the trace began.
    pub at: u64,
    /// Which blob.
    pub blob: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a trace is made by.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Where chance begins.
    pub seed: u64,
    /// How many blobs there are.
    pub blobs: u64,
    /// How many requests, about.
    pub requests: u64,
    /// Over how many days.
    pub days: u64,
    /// The exponent of Zipf's law that popularity follows.
    pub skew: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            seed: 1,
            blobs: 20_000,
            requests: 200_000,
            days: 75,
            skew: 0.95,
        }
    }
}

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The reader's.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// A line that is no request.
    #[error("line {line} is not `seconds,blob,bytes`: {text:?}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What stands there.
        text: String,
    },
}

const DAY_SECONDS: f64 = 86_400.0;

/// Per mille of the blobs up to a size, and the sizes between which they lie, spread evenly by their logarithms.
const SIZES: [(u64, f64, f64); 4] = [
    (650, 200.0, 1e6),
    (150, 1e6, 1e7),
    (141, 1e7, 67_108_864.0),
    (59, 67_108_864.0, 3e8),
];

/// A third of the blobs is there when the trace begins.
const OLD: f64 = 1.0 / 3.0;

/// How long a blob is asked for, in days: half of it is over after less.
const LIFE_DAYS: (f64, f64) = (1.0, 60.0);

/// Makes a trace.
#[must_use]
pub fn generate(shape: &Shape) -> Vec<Request> {
    let mut chance = Chance::new(shape.seed);
    let end = shape.days as f64 * DAY_SECONDS;
    let weight = |rank: u64| ((rank + 1) as f64).powf(-shape.skew);
    let all: f64 = (0..shape.blobs).map(weight).sum();
    let mut requests = Vec::new();
    for rank in 0..shape.blobs {
        let bytes = size(&mut chance);
        let wanted = weight(rank) / all * shape.requests as f64;
        // What is over a whole number is left to chance, so that their sum is right.
        let count = (wanted + chance.next()).floor().max(1.0);
        let born = ((chance.next() - OLD) / (1.0 - OLD)).max(0.0) * end;
        let life = between(&mut chance, LIFE_DAYS.0, LIFE_DAYS.1) * DAY_SECONDS;
        let mut left = count;
        while left >= 1.0 {
            requests.push(Request {
                at: moment(&mut chance, born, life, end),
                blob: rank,
                bytes,
            });
            left -= 1.0;
        }
    }
    requests.sort_by_key(|request| (request.at, request.blob));
    requests
}

/// Writes a trace as lines of `seconds,blob,bytes`.
///
/// # Errors
/// The writer's.
pub fn write(requests: &[Request], mut into: impl Write) -> io::Result<()> {
    for request in requests {
        writeln!(into, "{},{},{}", request.at, request.blob, request.bytes)?;
    }
    into.flush()
}

/// Reads a trace as [`write()`] writes it; lines that begin with `#` and empty ones are passed over.
///
/// # Errors
/// [`TraceError`].
pub fn read(from: impl BufRead) -> Result<Vec<Request>, TraceError> {
    let mut requests = Vec::new();
    for (index, line) in from.lines().enumerate() {
        let text = line.map_err(TraceError::Read)?;
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let mut fields = text.split(',').map(|field| field.trim().parse::<u64>());
        let request = match (fields.next(), fields.next(), fields.next(), fields.next()) {
            (Some(Ok(at)), Some(Ok(blob)), Some(Ok(bytes)), None) => Request { at, blob, bytes },
            _ => {
                let line = index as u64 + 1;
                return Err(TraceError::Line { line, text });
            }
        };
        requests.push(request);
    }
    Ok(requests)
}

fn size(chance: &mut Chance) -> u64 {
    let mut place = chance.next() * 1000.0;
    for (per_mille, from, to) in SIZES {
        place -= per_mille as f64;
        if place < 0.0 {
            return whole(between(chance, from, to));
        }
    }
    whole(SIZES[0].1)
}

/// A moment of a blob's life: many at its beginning, fewer later, none before the trace or after its end.
fn moment(chance: &mut Chance, born: f64, life: f64, end: f64) -> u64 {
    let left = end - born;
    // The part of an exponential life that lies within the trace.
    let most = 1.0 - (-left / life).exp();
    let age = -life * (1.0 - chance.next() * most).ln();
    whole(born + age.min(left))
}

/// Between the two, spread evenly by the logarithm.
fn between(chance: &mut Chance, from: f64, to: f64) -> f64 {
    from * (to / from).powf(chance.next())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and times of a trace are small and never negative"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

/// Chance that can be repeated (splitmix64).
struct Chance(u64);

impl Chance {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn share(part: u64, whole: u64) -> f64 {
        part as f64 / whole as f64
    }

    #[test]
    fn a_trace_has_the_published_statistics() {
        let trace = generate(&Shape::default());
        let mut blobs: HashMap<u64, (u64, u64)> = HashMap::new();
        for request in &trace {
            let blob = blobs.entry(request.blob).or_insert((request.bytes, 0));
            blob.1 += 1;
        }
        let count = blobs.len() as u64;
        let below = |limit: u64| blobs.values().filter(|(bytes, _)| *bytes < limit).count() as u64;
        let mean = blobs.values().map(|(bytes, _)| bytes).sum::<u64>() / count;
        let large: Vec<_> = trace.iter().filter(|one| one.bytes > 64 << 20).collect();
        let sent: u64 = trace.iter().map(|one| one.bytes).sum();
        let mut popular: Vec<u64> = blobs.values().map(|(_, requests)| *requests).collect();
        popular.sort_unstable_by(|left, right| right.cmp(left));
        let top: u64 = popular[..popular.len() / 100].iter().sum();
        let figures = [
            (
                "blobs below 1 MB",
                share(below(1_000_000), count),
                0.63..0.67,
            ),
            (
                "blobs below 10 MB",
                share(below(10_000_000), count),
                0.78..0.82,
            ),
            ("mean size in MB", mean as f64 / 1e6, 13.0..15.0),
            (
                "requests above 64 MiB",
                share(large.len() as u64, trace.len() as u64),
                0.03..0.09,
            ),
            (
                "bytes above 64 MiB",
                share(large.iter().map(|one| one.bytes).sum(), sent),
                0.55..0.75,
            ),
            (
                "requests of the top 1 %",
                share(top, trace.len() as u64),
                0.42..0.59,
            ),
        ];
        for (what, figure, range) in figures {
            assert!(range.contains(&figure), "{what}: {figure}");
        }
        assert!(trace.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!(trace.last().unwrap().at <= 75 * 86_400);
        assert_eq!(
            trace,
            generate(&Shape::default()),
            "the same for the same seed"
        );
    }

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let shape = Shape {
            blobs: 50,
            requests: 300,
            ..Shape::default()
        };
        let trace = generate(&shape);
        let mut text = b"# a comment\n\n".to_vec();
        write(&trace, &mut text).unwrap();
        assert_eq!(read(&text[..]).unwrap(), trace);
        for bad in ["1,2", "1,2,3,4", "a,b,c", "1,2,-3"] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("line 1"), "{error}");
        }
    }
}
