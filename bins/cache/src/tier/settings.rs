//! Section `tiering`: where blobs may be, and what moving them may cost.

use std::path::PathBuf;
use std::time::Duration;

use orlop_base::units::{ByteSize, TimeSpan};
use orlop_cache::tier::apply::Settings;
use orlop_cache::tier::{Bounds, ClassName, Place, Prices, Rules};
use serde::Deserialize;

use crate::error::CacheError;

/// A place of [`TieringSettings::places`] that is no class: the blob is taken from upstream again.
const DROPPED: &str = "dropped";

/// Section `tiering`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TieringSettings {
    /// Classes that blobs may be in, and `dropped`. Archives are none of the defaults: a pull waits for hours.
    pub(crate) places: Vec<String>,
    /// A price list other than the one that comes with this version (TOML).
    pub(crate) prices: Option<PathBuf>,
    /// What a gigabyte costs from upstream, in dollars. Without it nothing is dropped.
    pub(crate) upstream_per_gb: Option<f64>,
    /// Days within which a move must have paid for itself.
    pub(crate) horizon_days: u32,
    /// The share of a bill that a move must save on top, from 0 to 1.
    pub(crate) saving_min: f64,
    /// The most pulls in thirty days of a blob that may go into an archive.
    pub(crate) archived_pulls_max: u64,
    /// The most moves of a run.
    pub(crate) moves_max: usize,
    /// The most bytes of a run.
    pub(crate) bytes_max: ByteSize,
    /// What a run may cost, in dollars.
    pub(crate) dollars_per_run_max: f64,
    /// What any 24 hours may cost, in dollars.
    pub(crate) dollars_per_day_max: f64,
    /// Bytes a second that moves may take; 0 for as many as there are.
    pub(crate) bytes_per_second_max: ByteSize,
    /// For how many days a restored copy stands.
    pub(crate) restored_days: u32,
    /// How restores are paid for that a plan asks for, and those that a pull asks for.
    pub(crate) restore_planned: String,
    /// The same for restores that a pull asks for.
    pub(crate) restore_wanted: String,
    /// How often a serving cache plans and moves; 0 for never by itself.
    pub(crate) every: TimeSpan,
    /// How often to ask whether a restore is done.
    pub(crate) poll: TimeSpan,
}

impl Default for TieringSettings {
    fn default() -> Self {
        let places = ["STANDARD", "STANDARD_IA", "GLACIER_IR", DROPPED];
        Self {
            places: places.map(ToOwned::to_owned).to_vec(),
            prices: None,
            upstream_per_gb: None,
            horizon_days: 30,
            saving_min: 0.1,
            archived_pulls_max: 0,
            moves_max: 1000,
            bytes_max: ByteSize::gib(1024),
            dollars_per_run_max: 1.0,
            dollars_per_day_max: 5.0,
            bytes_per_second_max: ByteSize::mib(0),
            restored_days: 2,
            restore_planned: "bulk".to_owned(),
            restore_wanted: "standard".to_owned(),
            every: TimeSpan::default(),
            poll: TimeSpan::from(Duration::from_secs(300)),
        }
    }
}

impl TieringSettings {
    /// What is wrong, in sentences.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(0.0..=1.0).contains(&self.saving_min) {
            problems.push("tiering.saving_min must be from 0 to 1".to_owned());
        }
        let dollars = [
            ("upstream_per_gb", self.upstream_per_gb.unwrap_or_default()),
            ("dollars_per_run_max", self.dollars_per_run_max),
            ("dollars_per_day_max", self.dollars_per_day_max),
        ];
        for (key, value) in dollars {
            if !value.is_finite() || value < 0.0 {
                problems.push(format!("tiering.{key} must be dollars, 0 or more"));
            }
        }
        if self.horizon_days == 0 || self.restored_days == 0 {
            problems.push("tiering.horizon_days and tiering.restored_days begin at 1".to_owned());
        }
        if self.poll.duration() < Duration::from_secs(1) {
            problems.push("tiering.poll must be 1s or more".to_owned());
        }
        problems
    }

    /// What a plan goes by.
    pub(crate) fn rules(&self) -> Result<Rules, CacheError> {
        let prices = self.price_list()?;
        let mut places = Vec::new();
        for name in &self.places {
            let class = ClassName::new(name);
            if name == DROPPED {
                places.push(Place::Dropped);
            } else if prices.class.contains_key(&class) {
                places.push(Place::Stored(class));
            } else {
                return Err(CacheError::UnknownPlace(name.clone()));
            }
        }
        Ok(Rules {
            prices,
            places,
            horizon_days: self.horizon_days,
            saving_min: self.saving_min,
            archived_pulls_max: self.archived_pulls_max,
        })
    }

    /// How a plan is carried out, at the prices of `rules`.
    pub(crate) fn settings(&self, rules: &Rules, promoted_to: ClassName) -> Settings {
        let rate = self.bytes_per_second_max.as_u64();
        Settings {
            prices: rules.prices.clone(),
            bounds: self.bounds(),
            dollars_per_day_max: self.dollars_per_day_max,
            bytes_per_second_max: Some(rate).filter(|rate| *rate > 0),
            restored_days: self.restored_days,
            restore_planned: self.restore_planned.clone(),
            restore_wanted: self.restore_wanted.clone(),
            promoted_to,
            poll: self.poll.duration(),
            ..Settings::default()
        }
    }

    /// How much of a plan is begun in a run.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            moves_max: self.moves_max,
            bytes_max: self.bytes_max.as_u64(),
            dollars_max: self.dollars_per_run_max,
        }
    }

    fn price_list(&self) -> Result<Prices, CacheError> {
        crate::analyze::prices(self.prices.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_without_prices_is_no_place() {
        let mut settings = TieringSettings::default();
        assert_eq!(settings.rules().unwrap().places.len(), 4);
        settings.places.push("PLATINUM".to_owned());
        let error = settings.rules().unwrap_err().report();
        assert!(error.contains("PLATINUM"), "{error}");
    }
}
