//! containerd's filter language, with which clients narrow a list (`pkg/filters` of containerd 2.3).
//!
//! ```text
//! selectors := selector ("," selector)*          all must hold
//! selector  := fieldpath (operator value)?       without an operator: is the field present?
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="                equal, not equal, regular expression found
//! value     := quoted | [^\s,]+
//! quoted    := '"' Go escapes '"'; after "~=" also between slashes or bars
//! ```
//!
//! Several filters are alternatives: one that holds is enough. No filter, and the empty filter, hold for everything.
//!
//! One deliberate difference: a regular expression that does not compile is an error here, where containerd logs it
//! and answers with an empty list.

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

mod parser;

/// The most a compiled regular expression may weigh, in bytes: filters come from the network.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A record whose fields filters can look at.
pub trait Fields {
    /// The value at `path`, or nothing where the record has no such field or leaves it empty.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {input:?} at byte {position}: {problem}")]
pub struct FilterError {
    /// The whole filter as it was given.
    pub input: String,
    /// Where the problem was noticed, in bytes from the front.
    pub position: usize,
    /// What is wrong there.
    pub problem: String,
}

/// A parsed set of alternative filters.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    // Empty means that everything matches; an empty list of selectors does as well.
    alternatives: Vec<Vec<Selector>>,
}

impl Filters {
    /// Filters that hold for every record.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            alternatives: Vec::new(),
        }
    }

    /// Parses alternatives; one that holds is enough.
    ///
    /// # Errors
    /// The first filter that does not follow the grammar or holds an unusable regular expression.
    pub fn parse<T: AsRef<str>>(filters: impl IntoIterator<Item = T>) -> Result<Self, FilterError> {
        let alternatives = filters
            .into_iter()
            .map(|filter| parser::parse(filter.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { alternatives })
    }

    /// Whether every record matches, so that a list need not look at fields at all.
    #[must_use]
    pub fn matches_everything(&self) -> bool {
        self.alternatives.is_empty() || self.alternatives.iter().any(Vec::is_empty)
    }

    /// Whether at least one alternative holds for `record`.
    pub fn matches(&self, record: &impl Fields) -> bool {
        self.matches_everything()
            || self
                .alternatives
                .iter()
                .any(|selectors| selectors.iter().all(|selector| selector.matches(record)))
    }
}

/// The value of label `path` (its parts joined by dots again), for implementors of [`Fields`].
#[must_use]
pub fn label_field<'a>(labels: &'a crate::Labels, path: &[String]) -> Option<Cow<'a, str>> {
    labels.value(&path.join(".")).map(Cow::Borrowed)
}

/// A value that counts as absent while it is empty, for implementors of [`Fields`].
#[must_use]
pub fn text_field(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Selector {
    fn matches(&self, record: &impl Fields) -> bool {
        let value = record.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == *wanted),
            // As in containerd, an absent field counts as empty text for these two.
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(pattern) => pattern.is_match(&value.unwrap_or_default()),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, regex_lite::Error> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    struct Record {
        name: &'static str,
        other: &'static str,
        labels: Labels,
    }

    impl Fields for Record {
        fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
            match path[0].as_str() {
                "name" => text_field(self.name),
                "other" => text_field(self.other),
                "labels" => label_field(&self.labels, &path[1..]),
                _ => None,
            }
        }
    }

    fn record(name: &'static str, other: &'static str, labels: &[(&str, &str)]) -> Record {
        let mut map = Labels::new();
        for (key, value) in labels {
            map.insert(*key, *value).unwrap();
        }
        Record {
            name,
            other,
            labels: map,
        }
    }

    fn corpus() -> Vec<Record> {
        vec![
            record("web", "", &[("tier", "front")]),
            record("db", "", &[]),
            record("web", "", &[("tier", "back"), ("a long label", "yes")]),
            record("db", "", &[("io.x/role", "main")]),
            record("job", "a, b", &[("odd \\ and \"", "yes")]),
            record("job", "abc", &[("odd \\ and \".post", "yes")]),
            record("tool", "x/y", &[("tier", "v1_a.b-c")]),
        ]
    }

    /// The indices of the corpus that `filters` keep.
    fn kept(filters: &[&str]) -> Vec<usize> {
        let filters = Filters::parse(filters).unwrap();
        let indexed = corpus().into_iter().enumerate();
        indexed
            .filter(|(_, record)| filters.matches(record))
            .map(|(index, _)| index)
            .collect()
    }

    #[test]
    fn filters_keep_what_containerd_keeps() {
        let all: Vec<usize> = (0..7).collect();
        for (filters, expected) in [
            (&[][..], &all[..]),
            (&[""], &all),
            (&["name"], &all),
            (&["labels.tier"], &[0, 2, 6]),
            (&["labels.tier,name"], &[0, 2, 6]),
            (&["labels.tier==front"], &[0]),
            (&["labels.tier==v1_a.b-c"], &[6]),
            (&["name==db"], &[1, 3]),
            (&["name!=db"], &[0, 2, 4, 5, 6]),
            (&["labels.tier!=front"], &[1, 2, 3, 4, 5, 6]),
            (&["name == db"], &[1, 3]),
            (&["other==\"a, b\""], &[4]),
            (&["other==\"\\x61bc\""], &[5]),
            (&["other~=[abc]+,name!=web"], &[4, 5]),
            (&["other~=/^[abc]{3,4}$/"], &[5]),
            (&["other~=|x/y|"], &[6]),
            (&["other~=/x\\/y/"], &[6]),
            (&["other~=^$,name==db"], &[1, 3]),
            (&["name==web,labels.\"a long label\""], &[2]),
            (&["labels.\"io.x/role\"==main"], &[3]),
            (&["labels.\"odd \\\\ and \\\"\"==yes"], &[4]),
            (&["labels.\"odd \\\\ and \\\"\".post==yes"], &[5]),
            (&["name==db", "name==tool"], &[1, 3, 6]),
            (&["nothing"], &[]),
            (&["nothing!=x"], &all),
        ] {
            assert_eq!(kept(filters), expected, "{filters:?}");
        }
    }

    #[test]
    fn what_is_not_a_filter_is_refused_with_its_place() {
        for (input, position) in [
            ("name==web,", 10),
            ("labels.", 7),
            ("name=", 4),
            ("name=web", 4),
            ("name===web", 4),
            ("name~=", 6),
            ("image~=,id?=?x", 7),
            ("labels.?x", 7),
            ("labels.|x|==y", 7),
            ("labels.ns/key==value", 9),
            ("labels.key==/value", 12),
            ("name==|x|", 6),
            ("name==\"a\\q\"", 6),
            ("name==\"\\xff\"", 6),
            ("name==web name", 9),
            ("name\0", 4),
            ("name~=[", 6),
            ("name~=\"(((a{999}){999}){999}){999}\"", 6),
        ] {
            let error = Filters::parse([input]).unwrap_err();
            assert_eq!(error.position, position, "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            drop(Filters::parse([text]));
        }

        #[test]
        fn any_label_can_be_asked_for_when_it_is_quoted(key in "[ -~]{1,40}") {
            let mut labels = Labels::new();
            labels.insert(key.clone(), "v").unwrap();
            let quoted = key.replace('\\', "\\\\").replace('"', "\\\"");
            let filters = Filters::parse([format!("labels.\"{quoted}\"==v")]).unwrap();
            assert!(filters.matches(&Record { name: "n", other: "", labels }));
        }
    }
}
