//! Patterns for names, as Go's `path.Match` has them: what containerd's configuration is written with.

use std::fmt;
use std::str::FromStr;

/// A pattern: `*` is any text without `/`, `?` one character that is none, `[a-z]` and `[^a-z]` one of a set or of all
/// others, and `\` takes the next character as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// This character.
    Exactly(char),
    /// Any but a slash.
    One,
    /// Any number of any but slashes.
    Any,
    /// One of the ranges, or one of none of them.
    Set {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pattern: a bracket or a backslash is open at its end, or a range has no bounds"
)]
pub struct GlobError(String);

impl Glob {
    /// Whether all of `name` is as the pattern says.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // The places in the name up to which the parts so far can have come: no pattern makes this slow.
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            reached = part.advance(&reached, &name);
        }
        reached[name.len()]
    }
}

impl Part {
    fn advance(&self, reached: &[bool], name: &[char]) -> Vec<bool> {
        let mut next = vec![false; reached.len()];
        if *self == Self::Any {
            next[0] = reached[0];
            for (at, letter) in name.iter().enumerate() {
                next[at + 1] = reached[at + 1] || next[at] && *letter != '/';
            }
            return next;
        }
        for (at, letter) in name.iter().enumerate() {
            next[at + 1] = reached[at] && self.takes(*letter);
        }
        next
    }

    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Exactly(wanted) => *wanted == letter,
            Self::One | Self::Any => letter != '/',
            Self::Set { ranges, negated } => {
                let is_in = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&letter));
                is_in != *negated
            }
        }
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let bad = || GlobError(text.to_owned());
        let mut letters = text.chars().peekable();
        let mut parts = Vec::new();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Exactly(letters.next().ok_or_else(bad)?),
                '[' => set(&mut letters).ok_or_else(bad)?,
                plain => Part::Exactly(plain),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands between brackets, up to and with the closing one.
fn set(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || letters.peek() != Some(&']') {
        let low = bound(letters)?;
        let high = match letters.next_if_eq(&'-') {
            Some(_) => bound(letters)?,
            None => low,
        };
        ranges.push((low, high));
    }
    letters.next();
    Some(Part::Set { ranges, negated })
}

fn bound(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match letters.next()? {
        '\\' => letters.next(),
        '-' | ']' => None,
        plain => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Go's own test (`path/match_test.go`), as far as it goes.
    #[test]
    fn patterns_mean_what_they_mean_to_go() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("io.katacontainers.*", "io.katacontainers.config", true),
            ("io.katacontainers.*", "io.kubernetes.x", false),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.matches(name), expected, "{pattern} {name}");
        }
        for pattern in ["[]a]", "[-]", "[x-]", "[", "[^", "[^bc", "a[", "\\"] {
            assert!(pattern.parse::<Glob>().is_err(), "{pattern}");
        }
    }
}
