//! What was asked of an object store, in the units that it is paid in.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::tier::{ClassName, Prices, gigabytes};

/// What is paid for one by one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// PUT, COPY, POST, LIST, and each part of a transfer in parts.
    Write,
    /// GET, HEAD and all else.
    Read,
    /// Bytes that are read, also by a COPY, from a class that asks for that.
    Retrieve,
    /// A restore, by the name of its price.
    Restore(String),
}

/// So many requests of a kind, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charge {
    /// Requests that the store answered.
    pub requests: u64,
    /// Bytes of the objects concerned, where they are what is paid for.
    pub bytes: u64,
}

/// Counts requests. Nothing is ever taken off: a transfer that failed is paid for as well.
#[derive(Debug, Default)]
pub struct Tally {
    charges: Mutex<BTreeMap<(ClassName, Operation), Charge>>,
}

impl Tally {
    /// One more request.
    pub fn add(&self, class: &ClassName, operation: Operation, bytes: u64) {
        // A charge is two numbers: a panic of another holder cannot have left it half written.
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let charge = charges.entry((class.clone(), operation)).or_default();
        charge.requests += 1;
        charge.bytes += bytes;
    }

    /// All of it.
    #[must_use]
    pub fn charges(&self) -> BTreeMap<(ClassName, Operation), Charge> {
        let charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        charges.clone()
    }

    /// What all of it costs, in dollars, without what is charged for being there.
    #[must_use]
    pub fn dollars(&self, prices: &Prices) -> f64 {
        let charges = self.charges();
        charges
            .iter()
            .map(|((class, operation), charge)| dollars(prices, class, operation, *charge))
            .sum()
    }
}

#[allow(clippy::cast_precision_loss, reason = "nobody sends 2^53 requests")]
fn dollars(prices: &Prices, class: &ClassName, operation: &Operation, charge: Charge) -> f64 {
    let Some(class) = prices.class.get(class) else {
        return 0.0;
    };
    let thousands = charge.requests as f64 / 1000.0;
    match operation {
        Operation::Write => thousands * class.put_per_1k,
        Operation::Read => thousands * class.get_per_1k,
        Operation::Retrieve => gigabytes(charge.bytes) * class.retrieval_per_gb,
        Operation::Restore(tier) => class.restore.get(tier).map_or(0.0, |restore| {
            gigabytes(charge.bytes) * restore.per_gb + thousands * restore.per_1k
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cost_what_the_list_says() {
        let tally = Tally::default();
        let class = ClassName::new;
        for _ in 0..1000 {
            tally.add(&class("GLACIER"), Operation::Write, 0);
            tally.add(&class("STANDARD"), Operation::Read, 0);
        }
        tally.add(&class("GLACIER_IR"), Operation::Retrieve, 2 << 30);
        tally.add(
            &class("DEEP_ARCHIVE"),
            Operation::Restore("standard".to_owned()),
            1 << 30,
        );
        let expected = 0.03 + 0.0004 + 2.0 * 0.03 + (0.02 + 0.1 / 1000.0);
        let found = tally.dollars(&Prices::default());
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
}
