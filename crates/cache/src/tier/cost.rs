//! What an object costs where it is, and what it costs to bring it elsewhere. All figures are US dollars.

use super::prices::{ClassName, ClassPrices, Prices};

/// Object stores sell gigabytes of 2^30 bytes.
const GIGABYTE: f64 = 1_073_741_824.0;

/// Days of a month, for what is charged by the month.
const MONTH_DAYS: f64 = 30.0;

/// How long a restored copy stands beside its archive.
const RESTORED_DAYS: f64 = 1.0;

/// Where an object is, or could be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the disk of the one node that has a cache. Disks of several nodes are no place: they hold copies.
    Local,
    /// In the object store.
    Stored(ClassName),
    /// Nowhere: it is fetched again from its upstream when somebody asks.
    Dropped,
}

/// What is to be known of an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Its size.
    pub bytes: u64,
    /// How often it will be read in a month.
    pub reads_per_month: f64,
    /// What a gigabyte costs from upstream; `None` if nobody else has the object.
    pub upstream_per_gb: Option<f64>,
}

/// A month's bill.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MonthlyCost {
    /// For being there.
    pub storage: f64,
    /// For requests and bytes that are read, restores included.
    pub reads: f64,
}

impl MonthlyCost {
    /// All of it.
    #[must_use]
    pub fn total(self) -> f64 {
        self.storage + self.reads
    }
}

impl std::ops::Add for MonthlyCost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            storage: self.storage + other.storage,
            reads: self.reads + other.reads,
        }
    }
}

/// A month of `object` in `place`; `None` if it cannot be there: nobody knows the class, or nobody else has the object.
#[must_use]
pub fn per_month(prices: &Prices, object: &Object, place: &Place) -> Option<MonthlyCost> {
    match place {
        Place::Local => Some(MonthlyCost {
            storage: gigabytes(object.bytes) * prices.local_gb_month?,
            reads: 0.0,
        }),
        Place::Dropped => {
            let per_gb = object.upstream_per_gb? + prices.ingress_per_gb;
            Some(MonthlyCost {
                storage: 0.0,
                reads: object.reads_per_month * gigabytes(object.bytes) * per_gb,
            })
        }
        Place::Stored(name) => {
            let class = prices.class.get(name)?;
            Some(MonthlyCost {
                storage: storage(class, object.bytes),
                reads: object.reads_per_month * one_read(prices, class, object.bytes),
            })
        }
    }
}

/// Bringing an object of `bytes` from where it has been for `days` to another place.
///
/// By COPY: life-cycle rules know ages, not frequencies. A class that was entered for fewer days than its minimum is
/// paid to the end of them.
#[must_use]
pub fn of_move(prices: &Prices, bytes: u64, from: &Place, days: u32, to: &Place) -> Option<f64> {
    if from == to {
        return Some(0.0);
    }
    let leaving = match from {
        Place::Local | Place::Dropped => 0.0,
        Place::Stored(name) => rest_of_minimum(prices.class.get(name)?, bytes, days),
    };
    let moving = match (from, to) {
        (_, Place::Dropped) | (Place::Local | Place::Dropped, Place::Local) => 0.0,
        // What was dropped comes with the next request for it, and is stored then.
        (Place::Local | Place::Dropped, Place::Stored(name)) => {
            prices.class.get(name)?.put_per_1k / 1000.0
        }
        (Place::Stored(old), Place::Stored(new)) => {
            let new = prices.class.get(new)?;
            made_readable(prices, prices.class.get(old)?, bytes) + new.put_per_1k / 1000.0
        }
        (Place::Stored(old), Place::Local) => {
            let old = prices.class.get(old)?;
            made_readable(prices, old, bytes) + old.get_per_1k / 1000.0
        }
    };
    Some(leaving + moving)
}

/// So many bytes in the unit that is paid for.
#[must_use]
pub fn gigabytes(bytes: u64) -> f64 {
    // Sizes stay below 2^53: exact.
    #[allow(clippy::cast_precision_loss, reason = "the size of a blob fits")]
    let bytes = bytes as f64;
    bytes / GIGABYTE
}

fn storage(class: &ClassPrices, bytes: u64) -> f64 {
    let paid = bytes.max(class.minimum_bytes) + class.overhead_bytes;
    gigabytes(paid) * class.gb_month
}

fn one_read(prices: &Prices, class: &ClassPrices, bytes: u64) -> f64 {
    made_readable(prices, class, bytes) + class.get_per_1k / 1000.0
}

/// What it costs that an object of a class gives its bytes once, without the request for them.
fn made_readable(prices: &Prices, class: &ClassPrices, bytes: u64) -> f64 {
    let size = gigabytes(bytes);
    let restored = class.cheapest_restore(size).map_or(0.0, |restore| {
        restore.dollars(size) + copy_of_restore(prices, bytes)
    });
    restored + class.retrieval_per_gb * size
}

/// A restored copy is paid for beside its archive.
fn copy_of_restore(prices: &Prices, bytes: u64) -> f64 {
    let class = prices.class.get(&prices.restored_as);
    class.map_or(0.0, |class| {
        storage(class, bytes) * RESTORED_DAYS / MONTH_DAYS
    })
}

fn rest_of_minimum(class: &ClassPrices, bytes: u64, days: u32) -> f64 {
    let left = f64::from(class.minimum_days.saturating_sub(days));
    storage(class, bytes) * left / MONTH_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: u64 = 14 << 20;

    fn class(name: &str) -> Place {
        Place::Stored(ClassName::new(name))
    }

    fn monthly(place: &Place, reads_per_month: f64) -> f64 {
        let object = Object {
            bytes: BLOB,
            reads_per_month,
            upstream_per_gb: Some(0.0),
        };
        let cost = per_month(&Prices::default(), &object, place);
        cost.unwrap().total()
    }

    /// Reads a month at which two classes cost the same.
    fn break_even(one: &str, other: &str) -> f64 {
        let (one, other) = (class(one), class(other));
        let difference = |reads: f64| monthly(&one, reads) - monthly(&other, reads);
        let (at_none, at_one) = (difference(0.0), difference(1.0));
        at_none / (at_none - at_one)
    }

    #[test]
    fn classes_break_even_where_the_price_list_says() {
        // Computed by hand from the list for the mean blob of the published traces.
        let table = [
            ("STANDARD", "STANDARD_IA", 1.0),
            ("STANDARD_IA", "GLACIER_IR", 0.42),
            ("STANDARD", "GLACIER_IR", 0.62),
        ];
        for (one, other, expected) in table {
            let found = break_even(one, other);
            assert!((found - expected).abs() < 0.05, "{one} {other}: {found}");
        }
    }

    #[test]
    fn what_upstream_has_for_nothing_is_cheapest_dropped() {
        for name in Prices::default().class.keys() {
            let stored = monthly(&Place::Stored(name.clone()), 2.0);
            assert!(monthly(&Place::Dropped, 2.0) < stored, "{name}");
        }
    }

    #[test]
    fn what_nobody_else_has_cannot_be_dropped() {
        let object = Object {
            bytes: BLOB,
            reads_per_month: 0.0,
            upstream_per_gb: None,
        };
        assert_eq!(
            per_month(&Prices::default(), &object, &Place::Dropped),
            None
        );
    }

    #[test]
    fn leaving_early_is_paid_to_the_end_of_the_minimum() {
        let prices = Prices::default();
        let (archive, standard) = (class("DEEP_ARCHIVE"), class("STANDARD"));
        let cost = |days| of_move(&prices, 1 << 30, &archive, days, &standard).unwrap();
        let six_months = 0.00099 * 6.0;
        assert!((cost(0) - cost(180) - six_months).abs() < 1e-6);
        assert!((cost(180) - cost(400)).abs() < 1e-12);
    }

    #[test]
    fn an_archive_costs_a_restore_and_a_copy_before_it_costs_a_read() {
        let prices = Prices::default();
        let object = Object {
            bytes: 1 << 30,
            reads_per_month: 1.0,
            upstream_per_gb: None,
        };
        let cost = per_month(&prices, &object, &class("GLACIER")).unwrap();
        // Bulk restore for nothing, a day of STANDARD, one GET.
        let expected = 0.023 / 30.0 + 0.000_000_4;
        assert!((cost.reads - expected).abs() < 1e-9, "{}", cost.reads);
    }
}
