//! What a request asks for, of which registry and repository (OCI distribution-spec 1.1, "Endpoints"). Pure.
//!
//! The registry is what `?ns=` says (containerd, and Orlop's own client), else the first component of the path where
//! that is a registry that is served, else the one configured for clients that say neither (Docker).

mod query;

use std::collections::BTreeSet;

use orlop_types::{Digest, Reference};

pub use self::query::Query;

/// Docker Hub has three names; one is kept.
const HUB: &str = "docker.io";
const HUB_ALIASES: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

/// Longer paths are nobody's repository.
const PATH_BYTES_MAX: usize = 2048;

/// Which registries are served, and which is meant when a request names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The registries that are served.
    pub registries: BTreeSet<String>,
    /// Whether every other registry is served too. A client can then make this host speak to any other.
    pub any: bool,
    /// The registry of requests that name none; nothing refuses them.
    pub default: Option<String>,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Whether there is a registry at all: `/v2/`.
    Base,
    /// Something of a repository.
    Of(Box<Asked>),
}

/// Something of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Registry and repository; its tag means nothing unless the subject is a manifest by tag.
    pub reference: Reference,
    /// What of it.
    pub subject: Subject,
}

/// What of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A manifest by tag: the reference's.
    Tag,
    /// A manifest by digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
    /// A page of the tags.
    Tags(Query),
    /// What refers to a manifest.
    Referrers(Digest, Query),
}

/// Why a request names nothing that could be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such endpoint.
    #[error("there is nothing at {0:?}")]
    NoSuchPlace(String),
    /// A repository outside the grammar.
    #[error("{0:?} is no name of a repository")]
    BadName(String),
    /// A tag outside the grammar.
    #[error("{0:?} is neither a tag nor a digest")]
    BadTarget(String),
    /// A digest outside the grammar.
    #[error("{0:?} is no digest that can be verified")]
    BadDigest(String),
    /// A query that cannot be understood.
    #[error("the query {0:?} cannot be understood")]
    BadQuery(String),
    /// A registry that this cache does not serve.
    #[error("the registry {0:?} is not served here")]
    NotServed(String),
    /// No registry is named, and none is configured for that.
    #[error("no registry is named, and none is configured for requests without")]
    NoRegistry,
}

impl Naming {
    /// Reads path and query of a request.
    ///
    /// # Errors
    /// The request names nothing that could be served. Messages hold at most 128 characters of it.
    pub fn route(&self, path: &str, query: Option<&str>) -> Result<Route, RouteError> {
        let no_place = || RouteError::NoSuchPlace(shortened(path));
        if path.len() > PATH_BYTES_MAX {
            return Err(no_place());
        }
        let path = query::unescaped(path).ok_or_else(no_place)?;
        let query = Query::parse(query.unwrap_or_default())
            .map_err(|text| RouteError::BadQuery(shortened(&text)))?;
        if path == "/v2" || path == "/v2/" {
            return Ok(Route::Base);
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(no_place)?;
        let place = Place::parse(rest).ok_or_else(no_place)?;
        let (registry, repository) = self.named(place.name, query.namespace())?;
        let reference = reference(registry, repository)?;
        let asked = asked(reference, &place, query)?;
        Ok(Route::Of(Box::new(asked)))
    }

    /// Splits a name into the registry that is meant and the repository in it.
    fn named<'a>(
        &'a self,
        name: &'a str,
        namespace: Option<&'a str>,
    ) -> Result<(&'a str, &'a str), RouteError> {
        if let Some(namespace) = namespace {
            return Ok((self.served(namespace)?, name));
        }
        if let Some((first, rest)) = name.split_once('/')
            && (self.serves(first) || first.contains(['.', ':']))
        {
            return Ok((self.served(first)?, rest));
        }
        match &self.default {
            Some(registry) => Ok((registry, name)),
            None => Err(RouteError::NoRegistry),
        }
    }

    fn served<'a>(&self, registry: &'a str) -> Result<&'a str, RouteError> {
        let registry = canonical(registry);
        if self.any || self.serves(registry) {
            return Ok(registry);
        }
        Err(RouteError::NotServed(shortened(registry)))
    }

    fn serves(&self, registry: &str) -> bool {
        self.registries.contains(canonical(registry))
    }
}

/// A path below `/v2/`, taken apart.
struct Place<'a> {
    name: &'a str,
    kind: &'a str,
    target: &'a str,
}

impl<'a> Place<'a> {
    /// Takes the last two components off: a repository may have a folder called `manifests`.
    fn parse(rest: &'a str) -> Option<Self> {
        let (above, target) = rest.rsplit_once('/')?;
        let (name, kind) = above.rsplit_once('/')?;
        let is_known = matches!(
            (kind, target),
            ("manifests" | "blobs" | "referrers", _) | ("tags", "list")
        );
        is_known.then_some(Self { name, kind, target })
    }
}

fn asked(reference: Reference, place: &Place<'_>, query: Query) -> Result<Asked, RouteError> {
    let target = place.target;
    let digest = || {
        target
            .parse::<Digest>()
            .map_err(|_| RouteError::BadDigest(shortened(target)))
    };
    let (reference, subject) = match place.kind {
        "blobs" => (reference, Subject::Blob(digest()?)),
        "referrers" => (reference, Subject::Referrers(digest()?, query)),
        "tags" => (reference, Subject::Tags(query)),
        // A tag has no colon, so whatever has one was meant as a digest.
        _ if target.contains(':') => (reference, Subject::Manifest(digest()?)),
        _ => {
            let tagged = reference
                .with_tag(target)
                .map_err(|_| RouteError::BadTarget(shortened(target)))?;
            (tagged, Subject::Tag)
        }
    };
    Ok(Asked { reference, subject })
}

/// Registry and repository by the grammar; `library/` is added where Docker adds it.
fn reference(registry: &str, repository: &str) -> Result<Reference, RouteError> {
    let bad = || RouteError::BadName(shortened(repository));
    if repository.contains([':', '@']) {
        return Err(bad());
    }
    let reference: Reference = format!("{registry}/{repository}")
        .parse()
        .map_err(|_| bad())?;
    // Without a dot or a port a registry would have been read as a folder of Docker Hub.
    if reference.registry() != registry {
        return Err(RouteError::NotServed(shortened(registry)));
    }
    Ok(reference)
}

fn canonical(registry: &str) -> &str {
    if HUB_ALIASES.contains(&registry) {
        HUB
    } else {
        registry
    }
}

fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 128;
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests;
