//! The few forms in which cgroup files are written.

use std::collections::BTreeMap;

/// A number, or nothing for `max` and for what version 1 uses as "no limit".
pub(super) fn limit(text: &str) -> Option<u64> {
    let number = number(text)?;
    // Version 1 rounds 2^63 − 1 down to a page.
    (number < 0x7fff_ffff_ffff_0000).then_some(number)
}

/// A number on its own.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Lines of `key number`.
pub(super) fn flat(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), number(value)?))
        })
        .collect()
}

/// One key of lines of `key number`.
pub(super) fn flat_key(text: &str, wanted: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == wanted).then(|| number(value)).flatten()
    })
}

/// `8:16` as a device's major and minor number.
pub(super) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_mean_none_are_none() {
        let table = [
            ("max\n", None),
            ("9223372036854771712\n", None),
            ("4096\n", Some(4096)),
            ("", None),
            ("-1", None),
        ];
        for (text, expected) in table {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn flat_files_skip_what_they_do_not_understand() {
        let text = "oom 3\noom_kill 5\nbroken\nalso broken\n";
        assert_eq!(flat(text).len(), 2);
        assert_eq!(flat_key(text, "oom_kill"), Some(5));
        assert_eq!(flat_key(text, "oom_kil"), None);
        assert_eq!(device("8:16"), Some((8, 16)));
    }
}
