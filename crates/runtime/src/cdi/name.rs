//! Names of devices, `VENDOR/CLASS=NAME`, and the annotations that hold them.

use std::collections::BTreeMap;
use std::fmt;

use super::CdiError;

/// Annotations of a container under this prefix name devices, separated by commas (SPEC.md, "CRI annotations").
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// The name of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceName {
    /// `VENDOR/CLASS`.
    pub(super) kind: String,
    pub(super) name: String,
}

impl DeviceName {
    /// Reads `VENDOR/CLASS=NAME`.
    pub(crate) fn parse(text: &str) -> Result<Self, CdiError> {
        let bad = |fault| CdiError::BadName {
            device: text.to_owned(),
            fault,
        };
        let (kind, name) = text
            .split_once('=')
            .ok_or_else(|| bad("it has to be VENDOR/CLASS=NAME"))?;
        check_kind(kind).map_err(bad)?;
        check_device(name).map_err(bad)?;
        Ok(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The devices that a container asks for, by field and by annotation; one that is named twice is given once.
    pub(crate) fn all(
        named: &[String],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Vec<Self>, CdiError> {
        let in_annotations = annotations
            .iter()
            .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX))
            .flat_map(|(_, value)| value.split(','));
        let mut devices = Vec::new();
        for text in named.iter().map(String::as_str).chain(in_annotations) {
            let device = Self::parse(text)?;
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        Ok(devices)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.name)
    }
}

/// Whether it is `VENDOR/CLASS`.
pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind.split_once('/').ok_or("its kind has no class")?;
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic())
            && word.ends_with(|last: char| last.is_ascii_alphanumeric())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if !is_word(vendor) {
        return Err("its vendor is not a word of letters, digits, dots, hyphens and underscores");
    }
    if !is_word(class) {
        return Err("its class is not a word of letters, digits, dots, hyphens and underscores");
    }
    Ok(())
}

/// Whether it is what stands after the `=`.
pub(super) fn check_device(name: &str) -> Result<(), &'static str> {
    let is_sound = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
    if is_sound {
        Ok(())
    } else {
        Err("its name is not a word of letters, digits, dots, colons, hyphens and underscores")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_vendor_a_class_and_a_word() {
        for (text, is_sound) in [
            ("vendor.com/gpu=0", true),
            ("v/c=a:b-1.2_x", true),
            ("nvidia.com/mig.1=GPU-1:2", true),
            ("gpu=0", false),
            ("vendor.com/gpu", false),
            ("vendor.com/gpu=", false),
            ("1v/gpu=0", false),
            ("v/gpu-=0", false),
            ("v/g/h=0", false),
            ("v/c=../x", false),
            ("/dev/null", false),
            ("", false),
        ] {
            let parsed = DeviceName::parse(text);
            assert_eq!(parsed.is_ok(), is_sound, "{text}");
            if let Ok(name) = parsed {
                assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn annotations_and_fields_are_one_list_without_repetition() {
        let annotations = |value: &str| {
            BTreeMap::from([
                ("cdi.k8s.io/plugin_1".to_owned(), value.to_owned()),
                ("other/x".to_owned(), "no device".to_owned()),
            ])
        };
        let named = ["v.com/a=1".to_owned()];
        let all = DeviceName::all(&named, &annotations("v.com/a=1,v.com/b=2")).unwrap();
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["v.com/a=1", "v.com/b=2"]);
        let error = DeviceName::all(&[], &annotations("v.com/a=1, v.com/b=2")).unwrap_err();
        assert!(error.to_string().contains("\" v.com/b=2\""), "{error}");
    }
}
