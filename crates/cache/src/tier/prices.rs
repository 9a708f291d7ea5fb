//! What an object store asks for: a data file with a date, never a constant in code.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The prices that come with this version.
const DEFAULT: &str = include_str!("../../prices/us-east-1.toml");

/// A storage class as the object store names it, such as `STANDARD_IA`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct ClassName(String);

/// A region's prices, in US dollars.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Where they hold.
    pub region: String,
    /// When somebody looked, as a year and a month.
    pub checked: String,
    /// A gigabyte that leaves the region for the internet.
    pub egress_per_gb: f64,
    /// A gigabyte that comes into it.
    pub ingress_per_gb: f64,
    /// A gigabyte of the node's own disk for a month; without it the disk is no place to plan for.
    #[serde(default)]
    pub local_gb_month: Option<f64>,
    /// The class as which the copy is billed that a restore makes.
    pub restored_as: ClassName,
    /// By class.
    pub class: BTreeMap<ClassName, ClassPrices>,
}

/// What one class costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassPrices {
    /// A gigabyte for a month.
    pub gb_month: f64,
    /// A thousand PUT, COPY or POST requests.
    pub put_per_1k: f64,
    /// A thousand GET requests.
    pub get_per_1k: f64,
    /// A gigabyte that is read.
    #[serde(default)]
    pub retrieval_per_gb: f64,
    /// A thousand objects that a life-cycle rule brings here.
    #[serde(default)]
    pub transition_per_1k: f64,
    /// Days that are paid for even if the object goes earlier.
    #[serde(default)]
    pub minimum_days: u32,
    /// Bytes that are paid for even if the object is smaller.
    #[serde(default)]
    pub minimum_bytes: u64,
    /// Bytes that are paid for beside each object.
    #[serde(default)]
    pub overhead_bytes: u64,
    /// How its objects are made readable, by tier. Empty if they always are.
    #[serde(default)]
    pub restore: BTreeMap<String, RestorePrices>,
}

/// What one way of restoring costs.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePrices {
    /// A gigabyte.
    pub per_gb: f64,
    /// A thousand requests.
    pub per_1k: f64,
    /// How long it takes at most.
    pub minutes: u32,
}

/// Why a price list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// It is not such a file.
    #[error("this is not a price list")]
    Syntax(#[from] toml::de::Error),
    /// A figure that nobody can be charged.
    #[error("{field} is {value}: a price is a number of dollars, zero or more")]
    Negative {
        /// Which.
        field: String,
        /// What it says.
        value: f64,
    },
    /// A class that the list needs and does not have.
    #[error("{field} names the class {class}, which has no prices")]
    UnknownClass {
        /// Where it is named.
        field: &'static str,
        /// The class.
        class: ClassName,
    },
}

impl Prices {
    /// Reads a list and checks it.
    ///
    /// # Errors
    /// [`PricesError`].
    pub fn parse(text: &str) -> Result<Self, PricesError> {
        let prices: Self = toml::from_str(text)?;
        for (field, value) in prices.figures() {
            if !value.is_finite() || value < 0.0 {
                return Err(PricesError::Negative { field, value });
            }
        }
        if !prices.class.contains_key(&prices.restored_as) {
            return Err(PricesError::UnknownClass {
                field: "restored_as",
                class: prices.restored_as,
            });
        }
        Ok(prices)
    }

    fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = vec![
            ("egress_per_gb".to_owned(), self.egress_per_gb),
            ("ingress_per_gb".to_owned(), self.ingress_per_gb),
        ];
        figures.extend(
            self.local_gb_month
                .map(|value| ("local_gb_month".to_owned(), value)),
        );
        for (name, class) in &self.class {
            let own = [
                ("gb_month", class.gb_month),
                ("put_per_1k", class.put_per_1k),
                ("get_per_1k", class.get_per_1k),
                ("retrieval_per_gb", class.retrieval_per_gb),
                ("transition_per_1k", class.transition_per_1k),
            ];
            figures.extend(own.map(|(field, value)| (format!("class.{name}.{field}"), value)));
            for (tier, restore) in &class.restore {
                let both = [("per_gb", restore.per_gb), ("per_1k", restore.per_1k)];
                let named = both
                    .map(|(field, value)| (format!("class.{name}.restore.{tier}.{field}"), value));
                figures.extend(named);
            }
        }
        figures
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("a test reads the list that comes with this version")
    }
}

impl ClassPrices {
    /// Whether an object must be restored before it can be read.
    #[must_use]
    pub fn is_archive(&self) -> bool {
        !self.restore.is_empty()
    }

    /// The cheapest way to restore an object of so many bytes.
    #[must_use]
    pub fn cheapest_restore(&self, gigabytes: f64) -> Option<RestorePrices> {
        let all = self.restore.values().copied();
        all.min_by(|one, other| one.dollars(gigabytes).total_cmp(&other.dollars(gigabytes)))
    }
}

impl RestorePrices {
    /// What the restore of one object costs.
    #[must_use]
    pub fn dollars(&self, gigabytes: f64) -> f64 {
        self.per_gb * gigabytes + self.per_1k / 1000.0
    }
}

impl ClassName {
    /// A class by its name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClassName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_that_comes_with_this_version_is_whole() {
        let prices = Prices::default();
        assert_eq!(prices.class.len(), 6);
        let archives = prices.class.values().filter(|class| class.is_archive());
        assert_eq!(archives.count(), 2);
    }

    #[test]
    fn a_bad_list_says_where() {
        let negative = DEFAULT.replace("gb_month = 0.0125", "gb_month = -1.0");
        let table = [
            (negative, "class.STANDARD_IA.gb_month"),
            (
                DEFAULT.replace("restored_as = \"STANDARD\"", "restored_as = \"X\""),
                "class X",
            ),
        ];
        for (text, expected) in table {
            let error = Prices::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Prices::parse("region = 1").is_err());
    }
}
