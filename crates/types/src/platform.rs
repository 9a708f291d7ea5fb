//! Platforms: which operating system and processor an image is for, and which entry of an index suits a machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Descriptor;

/// What is wrong with a platform's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "platform {0:?} must be os/architecture or os/architecture/variant, such as linux/arm64/v8"
)]
pub struct PlatformError(pub String);

/// A normalised platform, `linux/amd64` or `linux/arm/v7`.
///
/// Aliases are resolved (`x86_64` is `amd64`) and the variant every processor of a kind has is left out
/// (`arm64/v8` is `arm64`), so equal platforms compare equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: Box<str>,
    architecture: Box<str>,
    variant: Option<Box<str>>,
}

impl Platform {
    /// Normalises the three parts.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".into(),
            other => other.into(),
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = normalise_processor(&architecture, &variant);
        Self {
            os,
            architecture: architecture.into(),
            variant: (!variant.is_empty()).then(|| variant.into()),
        }
    }

    /// The platform this program was built for, which is the one it runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// The operating system, as `GOOS` has it.
    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor, as `GOARCH` has it.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the processor, where it is not the usual one.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well a machine of this platform runs images for `offered`: 0 is exact, more is older, `None` is not at all.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os {
            return None;
        }
        let offered = (
            offered.architecture(),
            offered.variant().unwrap_or_default(),
        );
        compatible_processors(self)
            .iter()
            .position(|(architecture, variant)| (*architecture, variant.as_str()) == offered)
    }

    /// The entry of an index that suits this machine best: the exact platform, then older variants, then an entry
    /// that names no platform. Among equals the first wins. Attestations (`unknown/unknown`) never match.
    #[must_use]
    pub fn select<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        entries
            .iter()
            .filter_map(|entry| self.rank_of_entry(entry).map(|rank| (rank, entry)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }

    fn rank_of_entry(&self, entry: &Descriptor) -> Option<usize> {
        match &entry.platform {
            Some(model) => self.rank(&Self::from(model)),
            None => Some(usize::MAX),
        }
    }
}

/// Maps the names other tools use, after containerd's `platforms` package.
fn normalise_processor(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le", variant) => ("ppc64le", variant),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// What a processor runs, best first. 32-bit ARM goes down to v5, x86-64 to its first level, ARM64 over 32-bit ARM.
fn compatible_processors(platform: &Platform) -> Vec<(&str, String)> {
    let architecture = platform.architecture();
    let variant = platform.variant().unwrap_or_default();
    let mut list = vec![(architecture, variant.to_owned())];
    match architecture {
        "amd64" => {
            list.extend(
                (2..level(variant, 1))
                    .rev()
                    .map(|v| ("amd64", format!("v{v}"))),
            );
            push_once(&mut list, "amd64", "");
        }
        "arm64" => {
            push_once(&mut list, "arm64", "");
            list.extend((5..=8).rev().map(|v| ("arm", format!("v{v}"))));
        }
        "arm" => {
            list.extend(
                (5..level(variant, 7))
                    .rev()
                    .map(|v| ("arm", format!("v{v}"))),
            );
        }
        _ => {}
    }
    list
}

fn push_once<'a>(list: &mut Vec<(&'a str, String)>, architecture: &'a str, variant: &str) {
    let entry = (architecture, variant.to_owned());
    if !list.contains(&entry) {
        list.push(entry);
    }
}

/// The number of `v3`, bounded because the text came from outside.
fn level(variant: &str, default: u8) -> u8 {
    variant
        .strip_prefix('v')
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(default)
        .min(9)
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(model: &oci_spec::image::Platform) -> Self {
        Self::new(
            &model.os().to_string(),
            &model.architecture().to_string(),
            model.variant().as_deref(),
        )
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            (1..=64).contains(&part.len())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        };
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_word) => {
                Ok(Self::new(os, architecture, None))
            }
            [os, architecture, variant] if parts.iter().all(is_word) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// An index with one entry per platform; `-` names none. The size tells entries apart.
    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        (0u64..)
            .zip(platforms)
            .map(|(size, text)| {
                let mut entry = Descriptor::new("m", Digest::sha256([0; 32]), size);
                let parts: Vec<&str> = text.split('/').collect();
                if let [os, architecture, variant @ ..] = parts.as_slice() {
                    let mut json = serde_json::json!({"os": os, "architecture": architecture});
                    if let [variant] = variant {
                        json["variant"] = (*variant).into();
                    }
                    entry.platform = Some(serde_json::from_value(json).unwrap());
                }
                entry
            })
            .collect()
    }

    #[test]
    fn other_names_of_a_platform_are_the_same_platform() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/AArch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).to_string(), normal);
            assert_eq!(platform(normal), platform(text));
        }
    }

    #[test]
    fn text_that_is_no_platform_is_refused() {
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/am d64",
            "a/é",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_best_entry_of_an_index_is_chosen() {
        let cases: &[(&str, &[&str], Option<u64>)] = &[
            ("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v2"], None),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
                Some(1),
            ),
            ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            ("linux/arm64", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            (
                "linux/arm/v7",
                &["linux/arm/v6", "linux/arm/v5", "linux/arm/v8"],
                Some(0),
            ),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1)),
            ("linux/amd64", &["unknown/unknown"], None),
            ("linux/amd64", &["-", "linux/amd64"], Some(1)),
            ("linux/amd64", &["-", "linux/s390x"], Some(0)),
            ("linux/amd64", &["windows/amd64"], None),
            ("linux/amd64", &["linux/amd64", "linux/amd64"], Some(0)),
        ];
        for (machine, entries, expected) in cases {
            let entries = index(entries);
            let chosen = platform(machine).select(&entries).map(|entry| entry.size);
            assert_eq!(chosen, *expected, "{machine}");
        }
    }

    #[test]
    fn the_machine_this_runs_on_has_a_platform() {
        assert_eq!(Platform::host().os(), "linux");
        assert_eq!(Platform::host().rank(&Platform::host()), Some(0));
    }
}
