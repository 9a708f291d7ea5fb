//! Several measurements of one thing.

use std::fmt;
use std::time::Duration;

/// Values in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn add_millis(&mut self, span: Duration) {
        self.add(span.as_secs_f64() * 1000.0);
    }

    pub(crate) fn add_seconds(&mut self, span: Duration) {
        self.add(span.as_secs_f64());
    }

    /// Bytes, kept as MiB.
    pub(crate) fn add_bytes(&mut self, bytes: u64) {
        // No process has so much memory that a float would lose a page of it.
        let pages = u32::try_from(bytes / 4096).unwrap_or(u32::MAX);
        self.add(f64::from(pages) / 256.0);
    }

    /// The middle value; of an even number, the mean of the two in the middle. None: not a number.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (length, middle) if length % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }
}

/// `median (least–most)`.
impl fmt::Display for Samples {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (self.min(), self.max());
        write!(formatter, "{:.2} ({low:.2}–{high:.2})", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_however_many_there_are() {
        for (values, median) in [
            (&[3.0][..], 3.0),
            (&[9.0, 1.0], 5.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 9.0], 3.0),
        ] {
            assert_eq!(Samples(values.to_vec()).median(), median);
        }
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn samples_show_median_least_and_most() {
        assert_eq!(Samples(vec![2.0, 1.0, 4.0]).to_string(), "2.00 (1.00–4.00)");
    }
}
