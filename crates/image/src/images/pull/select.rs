//! Which entries of an index are fetched, and how much of each.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use orlop_types::{Descriptor, Platform};

use super::check::is_image_entry;

/// What is fetched of an image beside what is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: the image for one platform is enough.
    #[default]
    Nothing,
    /// The images for every platform. Attestations are not images.
    Images,
    /// What a client of containerd's transfer service selects.
    Selected(Selection),
}

/// A selection as containerd's transfer service has it (`containerd.types.transfer.ImageStore`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The platforms whose images are fetched; none means all that there is, attestations too.
    pub platforms: Vec<Platform>,
    /// Of the images for other platforms, manifests and configs.
    pub metadata: bool,
    /// At most so many entries of each index, those that suit best; without it there is no limit.
    pub manifests_max: Option<NonZeroUsize>,
}

/// How much of an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Manifest and config.
    Metadata,
}

/// How well an entry suits: how far down the list its platform is, and how well it fits that.
type Place = (usize, usize);

impl Beside {
    /// The entries of one index that are fetched, in this order.
    pub(super) fn entries(&self, index: &[Descriptor]) -> Vec<(Descriptor, Part)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Images => {
                let images = index.iter().filter(|entry| is_image_entry(entry));
                images.map(|entry| (entry.clone(), Part::Whole)).collect()
            }
            Self::Selected(selection) => selection.entries(index),
        }
    }

    /// The platforms without an image for which the pull is in vain.
    pub(super) fn demanded(&self) -> Vec<String> {
        match self {
            Self::Nothing | Self::Images => Vec::new(),
            // Whoever wants metadata of all may have named platforms that are not among them.
            Self::Selected(selection) if selection.metadata => Vec::new(),
            Self::Selected(selection) => {
                let platforms = selection.platforms.iter();
                platforms.map(Platform::to_string).collect()
            }
        }
    }
}

impl Selection {
    fn entries(&self, index: &[Descriptor]) -> Vec<(Descriptor, Part)> {
        let places = index.iter().map(|entry| (self.place(entry), entry));
        let mut wanted: Vec<(Option<Place>, &Descriptor)> = places
            .filter(|(place, _)| self.metadata || place.is_some())
            .collect();
        if let Some(limit) = self.manifests_max {
            // Those that suit come first, and of those the ones that name a platform.
            wanted.sort_by_key(|(place, entry)| {
                let is_named = entry.platform.is_some();
                (Reverse(is_named), place.is_none(), *place)
            });
            wanted.truncate(limit.get());
        }
        let part = |place: Option<Place>| match place {
            Some(_) => Part::Whole,
            None => Part::Metadata,
        };
        let wanted = wanted.into_iter();
        wanted
            .map(|(place, entry)| (entry.clone(), part(place)))
            .collect()
    }

    /// Nothing if the entry is for none of the platforms.
    fn place(&self, entry: &Descriptor) -> Option<Place> {
        let Some(platform) = entry.platform.as_ref().map(Platform::from) else {
            return Some((0, 0));
        };
        if self.platforms.is_empty() {
            return Some((0, 0));
        }
        let places = self.platforms.iter().enumerate();
        places
            .filter_map(|(index, wanted)| Some((index, wanted.rank(&platform)?)))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use orlop_types::Digest;

    use super::*;

    /// Entries for `platforms`; an empty one names none.
    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |(number, platform): (usize, &&str)| {
            let digest = Digest::sha256([u8::try_from(number).unwrap(); 32]);
            let mut entry = Descriptor::new("x/y", digest, 1);
            let mut parts = platform.split('/');
            if let (Some(os), Some(architecture)) = (parts.next(), parts.next()) {
                let mut model = serde_json::json!({"os": os, "architecture": architecture});
                if let Some(variant) = parts.next() {
                    model["variant"] = variant.into();
                }
                entry.platform = Some(serde_json::from_value(model).unwrap());
            }
            entry
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    /// The places in the index that are fetched; those of which only metadata is are marked.
    fn chosen(wanted: &[&str], metadata: bool, limit: usize) -> Vec<String> {
        let entries = index(&[
            "linux/s390x",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/amd64",
            "unknown/unknown",
            "",
        ]);
        let beside = Beside::Selected(Selection {
            platforms: wanted.iter().map(|text| text.parse().unwrap()).collect(),
            metadata,
            manifests_max: NonZeroUsize::new(limit),
        });
        let fetched = beside.entries(&entries).into_iter();
        let name = |(entry, part): (Descriptor, Part)| {
            let place = entries.iter().position(|it| it.digest == entry.digest);
            match part {
                Part::Whole => place.unwrap().to_string(),
                Part::Metadata => format!("{}m", place.unwrap()),
            }
        };
        fetched.map(name).collect()
    }

    #[test]
    fn platforms_choose_whole_images_and_what_names_none() {
        assert_eq!(chosen(&["linux/amd64"], false, 0), ["3", "5"]);
        assert_eq!(chosen(&["linux/arm/v7"], false, 0), ["1", "2", "5"]);
        assert_eq!(chosen(&[], false, 0), ["0", "1", "2", "3", "4", "5"]);
    }

    #[test]
    fn metadata_is_that_of_all_others_attestations_included() {
        let of_all = ["0m", "1m", "2m", "3", "4m", "5"];
        assert_eq!(chosen(&["linux/amd64"], true, 0), of_all);
        assert_eq!(chosen(&["linux/ppc64le"], true, 0)[..2], ["0m", "1m"]);
    }

    #[test]
    fn a_limit_keeps_those_that_suit_best() {
        let both = ["linux/amd64", "linux/arm/v7"];
        assert_eq!(chosen(&both, false, 1), ["3"]);
        assert_eq!(chosen(&both, false, 2), ["3", "2"]);
        assert_eq!(chosen(&both, true, 3), ["3", "2", "1"]);
        assert_eq!(chosen(&["linux/amd64"], true, 2), ["3", "0m"]);
        assert_eq!(chosen(&[], false, 2), ["0", "1"]);
    }
}
