//! Which blobs to move, and why.
//!
//! - An image is moved as a whole: a pull that finds nine of ten layers and waits hours for the tenth has gained nothing.
//!   A blob of several images is where the one that needs it soonest wants it.
//! - How often a blob will be read is told by two windows, and a move must pay by both: neither a quiet week nor a burst
//!   moves anything.
//! - What is pulled is not put where a pull waits for hours, whatever that would save.
//! - A move must pay for itself within the horizon, or within the class's minimum stay if that is longer, and save a share
//!   of the bill on top, so that nothing goes back and forth.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use super::cost::{Object, Place, of_move, per_month};
use super::prices::{ClassPrices, Prices};

/// Minutes until the first byte of what is fetched again from upstream: later than what is readable at once, long before
/// any archive.
const REFETCH_MINUTES: u32 = 1;

/// A blob and how it was used.
#[derive(Debug, Clone, PartialEq)]
pub struct Blob {
    /// Its size.
    pub bytes: u64,
    /// Pulls in the last seven days.
    pub pulls_7d: u64,
    /// Pulls in the last thirty days.
    pub pulls_30d: u64,
    /// Where it is.
    pub place: Place,
    /// For how long.
    pub days_there: u32,
    /// What a gigabyte costs from upstream; `None` if nobody else has it.
    pub upstream_per_gb: Option<f64>,
}

/// Blobs that are pulled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<K> {
    /// What people call it.
    pub name: String,
    /// Its layers. Manifests and configurations are too small to be moved.
    pub blobs: BTreeSet<K>,
}

/// What a plan goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What everything costs.
    pub prices: Prices,
    /// Where blobs may be.
    pub places: Vec<Place>,
    /// Days within which a move must have paid for itself.
    pub horizon_days: u32,
    /// The share of a bill that a move must save on top, from 0 to 1.
    pub saving_min: f64,
    /// The most pulls in thirty days of a blob that may go into an archive.
    pub archived_pulls_max: u64,
}

/// How much of a plan may be carried out at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Moves.
    pub moves_max: usize,
    /// Bytes.
    pub bytes_max: u64,
    /// What the moves cost, in dollars.
    pub dollars_max: f64,
}

/// One blob to bring elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Move<K> {
    /// Which.
    pub blob: K,
    /// Its size.
    pub bytes: u64,
    /// The image for whose sake.
    pub image: String,
    /// Where it is.
    pub from: Place,
    /// Where it should be.
    pub to: Place,
    /// What the move costs, in dollars.
    pub costs: f64,
    /// What every month costs less from then on, in dollars.
    pub saves_per_month: f64,
    /// Pulls a month that this goes by: of the two windows the one by which it saves less.
    pub reads_per_month: f64,
}

/// What to do, the image that saves most first.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<K> {
    /// In order; those of an image stand together.
    pub moves: Vec<Move<K>>,
    /// A month as it is, in dollars.
    pub month_now: f64,
    /// A month when all moves are done, in dollars.
    pub month_then: f64,
}

impl<K> Plan<K> {
    /// What all moves cost, in dollars.
    #[must_use]
    pub fn costs(&self) -> f64 {
        self.moves.iter().map(|one| one.costs).sum()
    }

    /// The whole images at the beginning of the plan that stay within `bounds`.
    #[must_use]
    pub fn within(&self, bounds: Bounds) -> &[Move<K>] {
        let (mut end, mut bytes, mut dollars) = (0, 0_u64, 0.0);
        for image in self.moves.chunk_by(|one, next| one.image == next.image) {
            bytes += image.iter().map(|one| one.bytes).sum::<u64>();
            dollars += image.iter().map(|one| one.costs).sum::<f64>();
            let is_within = end + image.len() <= bounds.moves_max
                && bytes <= bounds.bytes_max
                && dollars <= bounds.dollars_max;
            if !is_within {
                break;
            }
            end += image.len();
        }
        &self.moves[..end]
    }
}

/// Decides for every image, and then for every blob. A blob of no image stays where it is.
#[must_use]
pub fn plan<K>(rules: &Rules, blobs: &BTreeMap<K, Blob>, images: &[Image<K>]) -> Plan<K>
where
    K: Clone + Ord + Hash,
{
    let mut wanted: BTreeMap<&K, Wish> = BTreeMap::new();
    for (index, image) in images.iter().enumerate() {
        let members: Vec<_> = image
            .blobs
            .iter()
            .filter_map(|id| blobs.get_key_value(id))
            .collect();
        let choice = rules.choose(&members);
        for (id, blob) in members {
            let place = choice.as_ref().unwrap_or(&blob.place);
            let wish = Wish {
                place: place.clone(),
                image: index,
            };
            wanted
                .entry(id)
                .and_modify(|earlier| {
                    if rules.warmth(&wish.place) < rules.warmth(&earlier.place) {
                        *earlier = wish.clone();
                    }
                })
                .or_insert(wish);
        }
    }
    let mut plan = Plan {
        moves: Vec::new(),
        month_now: 0.0,
        month_then: 0.0,
    };
    for (id, blob) in blobs {
        let now = rules.month(blob, &blob.place, blob.monthly_rate());
        plan.month_now += now.unwrap_or_default();
        let step = wanted
            .get(id)
            .filter(|wish| wish.place != blob.place)
            .and_then(|wish| rules.step(id, blob, wish, &images[wish.image].name));
        plan.month_then +=
            now.unwrap_or_default() - step.as_ref().map_or(0.0, |one| one.saves_per_month);
        plan.moves.extend(step);
    }
    sort(&mut plan.moves);
    plan
}

/// What an image wants for a blob.
#[derive(Debug, Clone)]
struct Wish {
    place: Place,
    image: usize,
}

impl Rules {
    /// The place that saves most for all of an image's blobs; `None` if nothing is worth a move.
    fn choose<K>(&self, members: &[(&K, &Blob)]) -> Option<Place> {
        let gains = self
            .places
            .iter()
            .filter_map(|place| Some((self.gain(members, place)?, place)));
        let (gain, place) = gains.max_by(|one, other| one.0.total_cmp(&other.0))?;
        (gain > 0.0).then(|| place.clone())
    }

    /// What a month is better for having the image there, all costs and the demanded saving taken off.
    fn gain<K>(&self, members: &[(&K, &Blob)], place: &Place) -> Option<f64> {
        let months = f64::from(self.horizon_days.max(self.minimum_days(place))) / 30.0;
        let gains = [Blob::weekly_rate, Blob::monthly_rate].map(|rate| {
            let mut gain = 0.0;
            for (_, blob) in members.iter().filter(|(_, blob)| blob.place != *place) {
                if self.is_archive(place) && blob.pulls_30d > self.archived_pulls_max {
                    return None;
                }
                let now = self.month(blob, &blob.place, rate(blob))?;
                let then = self.month(blob, place, rate(blob))?;
                let costs = self.costs(blob, place)?;
                gain += now - then - costs / months - now * self.saving_min;
            }
            Some(gain)
        });
        let [week, month] = gains;
        Some(week?.min(month?))
    }

    fn step<K: Clone>(&self, id: &K, blob: &Blob, wish: &Wish, image: &str) -> Option<Move<K>> {
        let by_window = [blob.weekly_rate(), blob.monthly_rate()].map(|rate| {
            let now = self.month(blob, &blob.place, rate)?;
            let then = self.month(blob, &wish.place, rate)?;
            Some((now - then, rate))
        });
        let [week, month] = by_window;
        let (week, month) = (week?, month?);
        let (saves_per_month, reads_per_month) = if week.0 < month.0 { week } else { month };
        Some(Move {
            blob: id.clone(),
            bytes: blob.bytes,
            image: image.to_owned(),
            from: blob.place.clone(),
            to: wish.place.clone(),
            costs: self.costs(blob, &wish.place)?,
            saves_per_month,
            reads_per_month,
        })
    }

    fn costs(&self, blob: &Blob, to: &Place) -> Option<f64> {
        of_move(&self.prices, blob.bytes, &blob.place, blob.days_there, to)
    }

    fn is_archive(&self, place: &Place) -> bool {
        match place {
            Place::Stored(name) => self
                .prices
                .class
                .get(name)
                .is_some_and(ClassPrices::is_archive),
            Place::Local | Place::Dropped => false,
        }
    }

    fn month(&self, blob: &Blob, place: &Place, reads_per_month: f64) -> Option<f64> {
        let object = Object {
            bytes: blob.bytes,
            reads_per_month,
            upstream_per_gb: blob.upstream_per_gb,
        };
        per_month(&self.prices, &object, place).map(super::MonthlyCost::total)
    }

    fn minimum_days(&self, place: &Place) -> u32 {
        match place {
            Place::Stored(name) => self
                .prices
                .class
                .get(name)
                .map_or(0, |class| class.minimum_days),
            Place::Local | Place::Dropped => 0,
        }
    }

    /// The smaller, the sooner and the cheaper the first byte comes.
    fn warmth(&self, place: &Place) -> (u32, u64) {
        let name = match place {
            Place::Local => return (0, 0),
            Place::Dropped => return (REFETCH_MINUTES, 0),
            Place::Stored(name) => name,
        };
        let Some(class) = self.prices.class.get(name) else {
            return (u32::MAX, 0);
        };
        let minutes = class.restore.values().map(|restore| restore.minutes).min();
        // Prices are not negative, and the bits of such numbers are in their order.
        (minutes.unwrap_or(0), class.retrieval_per_gb.to_bits())
    }
}

impl Blob {
    /// Reads a month, by the last week.
    #[allow(clippy::cast_precision_loss, reason = "nobody pulls 2^53 times")]
    fn weekly_rate(&self) -> f64 {
        self.pulls_7d as f64 * 30.0 / 7.0
    }

    /// Reads a month, by the last month.
    #[allow(clippy::cast_precision_loss, reason = "nobody pulls 2^53 times")]
    fn monthly_rate(&self) -> f64 {
        self.pulls_30d as f64
    }
}

/// By image, the one that saves most first; larger blobs first within one.
fn sort<K: Ord>(moves: &mut [Move<K>]) {
    let mut saved: BTreeMap<String, f64> = BTreeMap::new();
    for one in moves.iter() {
        *saved.entry(one.image.clone()).or_default() += one.saves_per_month;
    }
    moves.sort_by(|one, other| {
        saved[&other.image]
            .total_cmp(&saved[&one.image])
            .then_with(|| one.image.cmp(&other.image))
            .then_with(|| other.bytes.cmp(&one.bytes))
            .then_with(|| one.blob.cmp(&other.blob))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::ClassName;

    const LAYER: u64 = 1 << 30;

    fn stored(name: &str) -> Place {
        Place::Stored(ClassName::new(name))
    }

    fn rules() -> Rules {
        let prices = Prices::default();
        let places = prices.class.keys().cloned().map(Place::Stored);
        Rules {
            places: places.chain([Place::Dropped]).collect(),
            prices,
            horizon_days: 30,
            saving_min: 0.1,
            archived_pulls_max: 0,
        }
    }

    fn blob(place: &str, pulls_7d: u64, pulls_30d: u64) -> Blob {
        Blob {
            bytes: LAYER,
            pulls_7d,
            pulls_30d,
            place: stored(place),
            days_there: 400,
            upstream_per_gb: None,
        }
    }

    fn image(name: &str, blobs: &[u8]) -> Image<u8> {
        Image {
            name: name.to_owned(),
            blobs: blobs.iter().copied().collect(),
        }
    }

    /// Where each blob ends up.
    fn settled(blobs: &[(u8, Blob)], images: &[Image<u8>]) -> BTreeMap<u8, Place> {
        let mut blobs: BTreeMap<u8, Blob> = blobs.iter().cloned().collect();
        let plan = plan(&rules(), &blobs, images);
        for one in plan.moves {
            blobs.get_mut(&one.blob).unwrap().place = one.to;
        }
        blobs
            .into_iter()
            .map(|(id, blob)| (id, blob.place))
            .collect()
    }

    #[test]
    fn the_cold_goes_down_and_the_busy_comes_up() {
        let table = [
            ("STANDARD", 0, 0, stored("DEEP_ARCHIVE")),
            ("STANDARD", 0, 1, stored("ONEZONE_IA")),
            ("STANDARD", 1000, 4000, stored("STANDARD")),
            ("DEEP_ARCHIVE", 1000, 4000, stored("STANDARD")),
            ("GLACIER_IR", 500, 2000, stored("STANDARD")),
        ];
        for (place, week, month, expected) in table {
            let found = settled(&[(1, blob(place, week, month))], &[image("a", &[1])]);
            assert_eq!(found[&1], expected, "{place} {week} {month}");
        }
    }

    #[test]
    fn neither_a_quiet_week_nor_a_burst_moves_anything() {
        let quiet = settled(&[(1, blob("STANDARD", 0, 4000))], &[image("a", &[1])]);
        assert_eq!(quiet[&1], stored("STANDARD"));
        let burst = settled(&[(1, blob("GLACIER_IR", 0, 0))], &[image("a", &[1])]);
        assert_ne!(burst[&1], stored("STANDARD"));
    }

    #[test]
    fn what_upstream_has_is_dropped_rather_than_archived() {
        let mut cold = blob("STANDARD", 0, 0);
        cold.upstream_per_gb = Some(0.0);
        let found = settled(&[(1, cold)], &[image("a", &[1])]);
        assert_eq!(found[&1], Place::Dropped);
    }

    #[test]
    fn an_image_moves_as_a_whole_and_a_shared_layer_stays_with_the_busy_one() {
        let blobs = [
            (1, blob("STANDARD", 1000, 4000)),
            (2, blob("STANDARD", 0, 0)),
            (3, blob("STANDARD", 0, 0)),
        ];
        // 1 is shared: what is left of the cold image may go, the shared layer may not.
        let found = settled(&blobs, &[image("busy", &[1, 2]), image("cold", &[3])]);
        assert_eq!(found[&1], stored("STANDARD"));
        assert_eq!(found[&2], stored("STANDARD"), "a layer of a busy image");
        assert_eq!(found[&3], stored("DEEP_ARCHIVE"));
    }

    #[test]
    fn a_plan_that_was_carried_out_is_followed_by_none() {
        let mut blobs = BTreeMap::new();
        for (id, (week, month)) in [(0, 0), (0, 1), (1, 2), (2, 9), (40, 90)]
            .iter()
            .enumerate()
        {
            blobs.insert(id, blob("STANDARD", *week, *month));
        }
        let images: Vec<_> = blobs
            .keys()
            .map(|id| Image {
                name: id.to_string(),
                blobs: [*id].into(),
            })
            .collect();
        let first = plan(&rules(), &blobs, &images);
        assert!(first.month_then < first.month_now);
        for one in first.moves {
            let blob = blobs.get_mut(&one.blob).unwrap();
            (blob.place, blob.days_there) = (one.to, 0);
        }
        let second = plan(&rules(), &blobs, &images);
        assert!(second.moves.is_empty(), "{:?}", second.moves);
    }

    #[test]
    fn bounds_take_whole_images() {
        let blobs: BTreeMap<u8, Blob> = (0..6).map(|id| (id, blob("STANDARD", 0, 0))).collect();
        let images = [image("a", &[0, 1, 2, 3]), image("b", &[4, 5])];
        let plan = plan(&rules(), &blobs, &images);
        let bounds = |moves_max| Bounds {
            moves_max,
            bytes_max: u64::MAX,
            dollars_max: f64::MAX,
        };
        assert_eq!(plan.within(bounds(5)).len(), 4);
        assert_eq!(plan.within(bounds(3)).len(), 0);
        assert_eq!(plan.within(bounds(6)).len(), 6);
    }
}
