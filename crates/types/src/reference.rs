//! References: which image of which registry, as Docker normalises them (the grammar of `distribution/reference`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// Where short names live.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The old name of [`DEFAULT_REGISTRY`], still accepted.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// The folder of Docker Hub that holds names without one.
const OFFICIAL_REPOSITORY: &str = "library";
/// The tag meant when neither tag nor digest is given.
const DEFAULT_TAG: &str = "latest";

const REFERENCE_BYTES_MAX: usize = 1024;
const REGISTRY_BYTES_MAX: usize = 255;
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No text at all.
    #[error("image reference is empty")]
    Empty,
    /// A part longer than the grammar allows.
    #[error("{part} of the image reference has {length} bytes, more than the {limit} allowed")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The repository would be right in lower case.
    #[error("repository {0:?} must be lower case")]
    UpperCase(String),
    /// 64 hexadecimal characters, which could be taken for a digest.
    #[error("repository {0:?} looks like a digest: write it as name@sha256:…")]
    LooksLikeDigest(String),
    /// A host, or a port, that cannot be one.
    #[error("registry {0:?} is not a host name with an optional port")]
    BadRegistry(String),
    /// A repository outside the grammar.
    #[error("repository {0:?} must be lower-case words joined by '/', '.', '_', '__' or '-'")]
    BadRepository(String),
    /// A tag outside the grammar.
    #[error("tag {0:?} must start with a letter, digit or '_' and hold only those, '.' and '-'")]
    BadTag(String),
    /// A digest that cannot be verified.
    #[error("digest of the image reference cannot be used")]
    BadDigest(#[source] DigestError),
}

/// What to ask a registry for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target<'a> {
    /// Whatever the tag points to now.
    Tag(&'a str),
    /// Exactly these bytes.
    Digest(&'a Digest),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => formatter.write_str(tag),
            Self::Digest(digest) => fmt::Display::fmt(digest, formatter),
        }
    }
}

/// A normalised image reference: registry, repository, and a tag, a digest or both.
///
/// `alpine` is `docker.io/library/alpine:latest`. Displaying a reference and parsing it again gives the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: Box<str>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry with its port, such as `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository without its registry, such as `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, which a digest beside it overrules.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match &self.digest {
            Some(digest) => Target::Digest(digest),
            None => Target::Tag(self.tag.as_deref().unwrap_or(DEFAULT_TAG)),
        }
    }

    /// Registry and repository, such as `docker.io/library/alpine`.
    #[must_use]
    pub fn locator(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository at exactly `digest`, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    /// The tag is outside the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The short form people type: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else {
            return full;
        };
        match rest.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name.to_owned(),
            // Without its prefix, a folder with a dot would be read as a registry.
            Some(_) | None if names_a_registry(first_component(rest)) => full,
            Some(_) | None => rest.to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        check_length("the whole", text, REFERENCE_BYTES_MAX)?;
        let (named, digest) = split_digest(text)?;
        let (name, tag) = split_tag(named);
        let (registry, repository) = split_registry(name);
        check_registry(registry)?;
        let repository = normalise_repository(registry, repository);
        check_repository(&repository)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (given, _) => given,
        };
        Ok(Self {
            registry: registry.into(),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    match text.split_once('@') {
        Some((named, digest)) => {
            let digest = digest.parse().map_err(ReferenceError::BadDigest)?;
            Ok((named, Some(digest)))
        }
        None => Ok((text, None)),
    }
}

/// A colon after the last slash starts a tag; one before it belongs to a port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    let last_slash = named.rfind('/').map_or(0, |at| at + 1);
    match named[last_slash..].find(':') {
        Some(colon) => {
            let colon = last_slash + colon;
            (&named[..colon], Some(&named[colon + 1..]))
        }
        None => (named, None),
    }
}

/// The first component is a registry only if it could not be a folder of Docker Hub.
fn split_registry(name: &str) -> (&str, &str) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if names_a_registry(first) => (first, rest),
        Some(_) | None => (DEFAULT_REGISTRY, name),
    };
    if registry == LEGACY_DEFAULT_REGISTRY {
        return (DEFAULT_REGISTRY, repository);
    }
    (registry, repository)
}

fn first_component(path: &str) -> &str {
    path.split_once('/').map_or("", |(first, _)| first)
}

fn names_a_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn normalise_repository(registry: &str, repository: &str) -> String {
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return format!("{OFFICIAL_REPOSITORY}/{repository}");
    }
    repository.to_owned()
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    check_length("the registry", registry, REGISTRY_BYTES_MAX)?;
    let bad = || ReferenceError::BadRegistry(registry.to_owned());
    let (host, port) = split_port(registry).ok_or_else(bad)?;
    let port_is_sound = port.is_none_or(|port| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    });
    if port_is_sound && (is_ipv6(host) || host.split('.').all(is_host_label)) {
        Ok(())
    } else {
        Err(bad())
    }
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn split_port(registry: &str) -> Option<(&str, Option<&str>)> {
    if !registry.starts_with('[') {
        return Some(match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        });
    }
    let end = registry.find(']')? + 1;
    let (host, rest) = registry.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None => rest.is_empty().then_some((host, None)),
    }
}

fn is_ipv6(host: &str) -> bool {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    check_length("the repository", repository, REPOSITORY_BYTES_MAX)?;
    let name = repository.strip_prefix("library/").unwrap_or(repository);
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ReferenceError::LooksLikeDigest(name.to_owned()));
    }
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    let lower = repository.to_ascii_lowercase();
    if lower != repository && lower.split('/').all(is_path_component) {
        return Err(ReferenceError::UpperCase(repository.to_owned()));
    }
    Err(ReferenceError::BadRepository(repository.to_owned()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`: alphanumeric words, each joined by exactly one separator.
fn is_path_component(component: &str) -> bool {
    let is_word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    let edges_are_words = component.starts_with(is_word) && component.ends_with(is_word);
    edges_are_words && component.split(is_word).all(is_separator)
}

fn is_separator(text: &str) -> bool {
    matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    check_length("the tag", tag, TAG_BYTES_MAX)?;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_sound = tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
    if is_sound {
        Ok(())
    } else {
        Err(ReferenceError::BadTag(tag.to_owned()))
    }
}

fn check_length(part: &'static str, text: &str, limit: usize) -> Result<(), ReferenceError> {
    if text.len() > limit {
        return Err(ReferenceError::TooLong {
            part,
            length: text.len(),
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn normalised(text: &str) -> String {
        text.parse::<Reference>()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .to_string()
    }

    #[test]
    fn short_names_mean_what_docker_means_by_them() {
        for (short, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest"),
            ("Host/app", "Host/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("a--b/c__d/e.f", "docker.io/a--b/c__d/e.f:latest"),
            ("library/alpine", "docker.io/library/alpine:latest"),
        ] {
            assert_eq!(normalised(short), full);
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag_and_stands_beside_a_given_one() {
        assert_eq!(
            normalised(&format!("alpine@{DIGEST}")),
            format!("docker.io/library/alpine@{DIGEST}")
        );
        let both: Reference = format!("alpine:3@{DIGEST}").parse().unwrap();
        assert_eq!(both.tag(), Some("3"));
        assert_eq!(both.target(), Target::Digest(&DIGEST.parse().unwrap()));
        assert_eq!(both.familiar(), format!("alpine:3@{DIGEST}"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<Reference>().unwrap_err();
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(error(""), ReferenceError::Empty);
        assert_eq!(
            error("user/App"),
            ReferenceError::UpperCase("user/App".into())
        );
        assert_eq!(error(&hex), ReferenceError::LooksLikeDigest(hex.clone()));
        for bad in [
            "a:b:c/d",
            "host:/a",
            "host:99999/a",
            "-a.io/b",
            "[::1/a",
            "a..b/c",
        ] {
            assert!(
                matches!(error(bad), ReferenceError::BadRegistry(_)),
                "{bad}"
            );
        }
        for bad in [
            "a/",
            "/a",
            "a//b",
            "a_-b",
            "a___b",
            "a..b",
            "..",
            "a/../b",
            "é",
            "a b",
            "https://a",
        ] {
            assert!(
                matches!(
                    error(bad),
                    ReferenceError::BadRepository(_) | ReferenceError::BadRegistry(_)
                ),
                "{bad}"
            );
        }
        for bad in ["a:", "a:-b", "a:é", "a:b c"] {
            assert!(matches!(error(bad), ReferenceError::BadTag(_)), "{bad}");
        }
        assert!(matches!(error("a@sha256:00"), ReferenceError::BadDigest(_)));
        assert!(matches!(error("a@"), ReferenceError::BadDigest(_)));
    }

    #[test]
    fn each_part_has_a_longest_length() {
        assert!("a".repeat(247).parse::<Reference>().is_ok());
        for (text, named) in [
            ("a".repeat(248), "the repository"),
            (format!("a:{}", "b".repeat(129)), "the tag"),
            (format!("{}.io/a", "b".repeat(253)), "the registry"),
            ("a".repeat(1025), "the whole"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(
                matches!(error, ReferenceError::TooLong { part, .. } if part == named),
                "{error}"
            );
        }
        assert!(
            format!("a:{}", "b".repeat(128))
                .parse::<Reference>()
                .is_ok()
        );
    }

    #[test]
    fn the_short_form_keeps_a_prefix_that_is_needed_to_tell_folder_from_host() {
        let dotted: Reference = "docker.io/x.y/z:1".parse().unwrap();
        assert_eq!(dotted.familiar(), "docker.io/x.y/z:1");
        let plain: Reference = "docker.io/x/z:1".parse().unwrap();
        assert_eq!(plain.familiar(), "x/z:1");
    }

    proptest! {
        #[test]
        fn displaying_and_parsing_again_gives_the_same_reference(
            registry in "([a-z0-9]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/)?",
            repository in "[a-z0-9]{1,9}((_|__|-|---)[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,3}\\.[a-z0-9]{1,3})?(/[a-z0-9]{1,9}){0,3}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
            digest in "(@sha256:[0-9a-f]{64})?",
        ) {
            let text = format!("{registry}{repository}{tag}{digest}");
            let parsed: Reference = text.parse().unwrap();
            prop_assert_eq!(&parsed.to_string().parse::<Reference>().unwrap(), &parsed);
            prop_assert_eq!(&parsed.familiar().parse::<Reference>().unwrap(), &parsed);
        }

        #[test]
        fn no_text_panics_and_what_is_accepted_is_stable(text in "\\PC{0,60}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert_eq!(parsed.to_string().parse::<Reference>().unwrap(), parsed);
            }
        }
    }
}
