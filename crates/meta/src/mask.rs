//! Field masks: which fields of a record an update changes, by containerd's rules.
//!
//! A mask is a list of paths such as `labels`, `labels.KEY` or `target`. A path `labels.KEY` sets one label, or with an
//! empty or absent value removes it. What a mask without paths means is each record's own rule.

use std::collections::BTreeMap;

use orlop_types::Labels;

use crate::Error;

/// Applies `path` if it is `labels` or `labels.KEY`; whether it was.
pub(crate) fn labels(path: &str, current: &mut Labels, wanted: &Labels) -> Result<bool, Error> {
    if path == "labels" {
        current.clone_from(wanted);
        return Ok(true);
    }
    let Some(key) = path.strip_prefix("labels.") else {
        return Ok(false);
    };
    match wanted.value(key).filter(|value| !value.is_empty()) {
        Some(value) => current
            .insert(key, value)
            .map_err(|error| Error::invalid("update labels", key, error.to_string()))?,
        None => {
            current.remove(key);
        }
    }
    Ok(true)
}

/// Applies `path` if it is `field` or `field.KEY` of a plain map; whether it was.
pub(crate) fn map<T: Clone>(
    (path, field): (&str, &str),
    current: &mut BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
) -> bool {
    if path == field {
        current.clone_from(wanted);
        return true;
    }
    let key = path
        .strip_prefix(field)
        .and_then(|rest| rest.strip_prefix('.'));
    let Some(key) = key else { return false };
    match wanted.get(key) {
        Some(value) => {
            current.insert(key.to_owned(), value.clone());
        }
        None => {
            current.remove(key);
        }
    }
    true
}

/// The error for a path that names nothing an update may change.
pub(crate) fn refused(operation: &'static str, subject: impl ToString, path: &str) -> Error {
    Error::invalid(
        operation,
        subject.to_string(),
        format!("field {path:?} cannot be updated"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Labels {
        let map: BTreeMap<_, _> = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Labels::try_from(map).unwrap()
    }

    #[test]
    fn one_label_is_set_or_removed_and_the_others_stay() {
        let mut current = of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let wanted = of(&[("a", "9"), ("b", "")]);
        for path in ["labels.a", "labels.b", "labels.c"] {
            assert!(labels(path, &mut current, &wanted).unwrap());
        }
        assert_eq!(current, of(&[("a", "9")]));
        assert!(labels("labels", &mut current, &wanted).unwrap());
        assert_eq!(current, wanted);
        assert!(!labels("labelsx", &mut current, &wanted).unwrap());
    }
}
