//! Labels: small annotations on records, some of which steer collection.

use std::collections::BTreeMap;
use std::collections::btree_map;

use serde::{Deserialize, Serialize};

/// containerd's bound on key plus value, in bytes (`pkg/labels`).
const ENTRY_BYTES_MAX: usize = 4096;

/// A label that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "label {key:?} has {length} bytes of key and value, more than the {ENTRY_BYTES_MAX} allowed"
)]
pub struct LabelError {
    /// The first bytes of the key.
    pub key: String,
    /// Length of key and value together, in bytes.
    pub length: usize,
}

/// A bounded map of labels, ordered by key so that its stored form is stable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// No labels.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds or replaces one label.
    ///
    /// # Errors
    /// Key and value together are longer than 4096 bytes.
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), LabelError> {
        let (key, value) = (key.into(), value.into());
        check_entry(&key, &value)?;
        self.0.insert(key, value);
        Ok(())
    }

    /// Removes one label; whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// The value of one label.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All labels, ordered by key.
    pub fn iter(&self) -> btree_map::Iter<'_, String, String> {
        self.0.iter()
    }
}

fn check_entry(key: &str, value: &str) -> Result<(), LabelError> {
    let length = key.len() + value.len();
    if length > ENTRY_BYTES_MAX {
        let shown = key.chars().take(40).collect();
        return Err(LabelError { key: shown, length });
    }
    Ok(())
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, LabelError> {
        map.iter()
            .try_for_each(|(key, value)| check_entry(key, value))?;
        Ok(Self(map))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a String, &'a String);
    type IntoIter = btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_be_as_long_as_containerd_allows_and_no_longer() {
        let mut labels = Labels::new();
        assert!(labels.insert("k", "v".repeat(4095)).is_ok());
        assert_eq!(
            labels.insert("k", "v".repeat(4096)).unwrap_err().length,
            4097
        );
    }
}
