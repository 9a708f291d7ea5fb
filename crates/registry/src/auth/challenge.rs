//! `WWW-Authenticate` (RFC 9110, section 11.6.1): pure.

/// What a host asks for with a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user name and a password with every request.
    Basic,
    /// A token from the service at `realm`. The scope is ours to say, so it is not kept.
    Bearer {
        /// The URL of the token service.
        realm: String,
        /// The name the service knows the registry by; may be empty.
        service: String,
    },
}

impl Challenge {
    /// The best challenge of one header line that Orlop can answer: bearer before basic.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut found = None;
        for (scheme, parameters) in split(line) {
            if scheme.eq_ignore_ascii_case("bearer") {
                let value = |name: &str| {
                    parameters
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.clone())
                };
                if let Some(realm) = value("realm").filter(|realm| !realm.is_empty()) {
                    let service = value("service").unwrap_or_default();
                    return Some(Self::Bearer { realm, service });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Self::Basic);
            }
        }
        found
    }
}

type Parameters = Vec<(String, String)>;

/// Splits a line into schemes with their parameters. Never fails: what it cannot read it leaves out.
fn split(line: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = line.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = match after.trim_start().strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = take_value(value.trim_start());
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                after
            }
            Some(stray) => stray,
            None => {
                challenges.push((word.to_owned(), Vec::new()));
                after
            }
        };
        rest = rest.trim_start_matches([' ', ',']);
    }
    challenges
}

/// Takes a token or a quoted string off the front.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, character) in quoted.char_indices() {
        match character {
            '"' if !escaped => return (value, &quoted[at + 1..]),
            '\\' if !escaped => escaped = true,
            other => {
                value.push(other);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.to_owned(),
        })
    }

    #[test]
    fn challenges_are_read_in_all_their_forms() {
        for (line, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                bearer("https://a/t", "s"),
            ),
            (
                "bearer realm=https://a/t , service=s",
                bearer("https://a/t", "s"),
            ),
            (
                "Basic realm=\"a, b\", Bearer realm=\"https://a/t\"",
                bearer("https://a/t", ""),
            ),
            (
                "Bearer realm=\"r\",service=\"a \\\"b\\\"\"",
                bearer("r", "a \"b\""),
            ),
            ("Bearer service=\"s\"", None),
            ("Negotiate", None),
            ("", None),
            ("=,=", None),
        ] {
            assert_eq!(Challenge::parse(line), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_or_hangs(line in "[Bb=\", \\\\a-z]{0,60}") {
            let _parsed = Challenge::parse(&line);
        }
    }
}
