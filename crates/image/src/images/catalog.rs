//! Images by what they are rather than by name: one entry per config, whose digest CRI calls the image's id.
//!
//! A name's facts (id, layers, size) are read from its documents once and kept for as long as some name has the same
//! target, so that listing again reads records only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use orlop_meta::{Image, View};
use orlop_types::{ChainId, Descriptor, Digest, ImageName, Platform, Reference};

use super::document::load_image;
use super::error::Error;
use super::{ErrorKind, Images, Scope, blocking};
use crate::model::chain_ids;

/// The label that keeps an image from being removed by the kubelet, as containerd has it.
const PINNED_LABEL: &str = "io.cri-containerd.pinned";
const PINNED: &str = "pinned";

/// Fewer digits of an id than this are no abbreviation: they are too often a name.
const ID_DIGITS_MIN: usize = 4;

/// An image with all its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The digest of its config, or of an artifact's manifest.
    pub id: Digest,
    /// The names in the database that lead to it, in order.
    pub names: Vec<ImageName>,
    /// Those of them that are a repository with a tag.
    pub tags: BTreeSet<Reference>,
    /// Its repositories, each with the digest that the registry has it under.
    pub digests: BTreeSet<Reference>,
    /// The manifest for this machine.
    pub manifest: Descriptor,
    /// Bytes of manifest, config and layers as they came over the network.
    pub size_bytes: u64,
    /// The snapshot of all its layers, if it has any.
    pub chain_id: Option<ChainId>,
    /// `user[:group]` that its config says to run as.
    pub user: String,
    /// Whether the kubelet is asked to keep it.
    pub pinned: bool,
}

/// What the documents below a target say.
#[derive(Debug)]
struct Facts {
    id: Digest,
    manifest: Descriptor,
    size_bytes: u64,
    chain_id: Option<ChainId>,
    user: String,
}

/// Facts by the digest that names have as their target.
#[derive(Debug, Default)]
pub(super) struct FactCache(Mutex<HashMap<Digest, Arc<Facts>>>);

impl FactCache {
    fn find(&self, target: &Digest) -> Option<Arc<Facts>> {
        self.locked().get(target).cloned()
    }

    fn keep(&self, target: Digest, facts: &Arc<Facts>) {
        self.locked().insert(target, Arc::clone(facts));
    }

    /// Forgets what no name leads to any more.
    fn retain(&self, targets: &BTreeSet<Digest>) {
        self.locked().retain(|target, _| targets.contains(target));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Facts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Every image of the scope that can be run on this machine, by id. Names whose documents are not all there, or are
    /// for other machines only, lead to none.
    ///
    /// # Errors
    /// The database's.
    pub async fn catalog(&self, scope: &Scope) -> Result<Vec<CatalogEntry>, Error> {
        let (images, view) = (self.clone(), self.view(scope));
        blocking("image-catalog", move || {
            let records = view.images().list(&[])?;
            let targets = records.iter().map(|image| image.target.digest).collect();
            let entries = images.entries(&view, records)?;
            images.inner.facts.retain(&targets);
            Ok(entries)
        })
        .await
    }

    /// The image that `text` means: an id, the beginning of one, or a reference.
    ///
    /// # Errors
    /// `InvalidArgument` for what can be neither, or for the beginning of several ids; the database's.
    pub async fn find(&self, scope: &Scope, text: &str) -> Result<Option<CatalogEntry>, Error> {
        let entries = self.catalog(scope).await?;
        choose(entries, text)
    }

    /// Removes every name of the image that `text` means, and says which they were: none if there is no such image. What
    /// nothing else holds then is collected.
    ///
    /// # Errors
    /// As [`Images::find`].
    pub async fn remove_all_names(
        &self,
        scope: &Scope,
        text: &str,
    ) -> Result<Vec<ImageName>, Error> {
        let Some(entry) = self.find(scope, text).await? else {
            return Ok(Vec::new());
        };
        let view = self.view(scope);
        blocking("image-remove", move || {
            for name in &entry.names {
                match view.images().delete(name, None) {
                    // Somebody else removed it meanwhile: as good.
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(entry.names)
        })
        .await
    }

    fn entries(&self, view: &View, records: Vec<Image>) -> Result<Vec<CatalogEntry>, Error> {
        let mut entries: BTreeMap<Digest, CatalogEntry> = BTreeMap::new();
        for record in records {
            let Some(facts) = self.facts(view, &record.target)? else {
                continue;
            };
            let entry = entries.entry(facts.id).or_insert_with(|| facts.entry());
            entry.add(record);
        }
        Ok(entries.into_values().collect())
    }

    /// `None` for a target that is no image of this machine.
    fn facts(&self, view: &View, target: &Descriptor) -> Result<Option<Arc<Facts>>, Error> {
        if let Some(known) = self.inner.facts.find(&target.digest) {
            return Ok(Some(known));
        }
        let stored = match load_image(view, "list", target, &Platform::host()) {
            Ok(stored) => stored,
            Err(Error::Store(error)) => return Err(Error::Store(error)),
            Err(error) => {
                tracing::debug!(target = %target.digest, %error, "not an image of this machine");
                return Ok(None);
            }
        };
        let layers: u64 = stored.manifest.layers.iter().map(|layer| layer.size).sum();
        let facts = Arc::new(Facts {
            id: stored.id(),
            size_bytes: stored.target.size + stored.manifest.config.size + layers,
            manifest: stored.target,
            chain_id: chain_ids(&stored.config.rootfs.diff_ids).last().copied(),
            user: stored.config.config.user,
        });
        self.inner.facts.keep(target.digest, &facts);
        Ok(Some(facts))
    }
}

impl Facts {
    fn entry(&self) -> CatalogEntry {
        CatalogEntry {
            id: self.id,
            names: Vec::new(),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            manifest: self.manifest.clone(),
            size_bytes: self.size_bytes,
            chain_id: self.chain_id,
            user: self.user.clone(),
            pinned: false,
        }
    }
}

impl CatalogEntry {
    fn add(&mut self, record: Image) {
        self.pinned |= record
            .labels
            .value(PINNED_LABEL)
            .is_some_and(|value| value == PINNED);
        // Names that are no reference, such as the ids that containerd keeps as names, are names all the same.
        if let Ok(reference) = record.name.as_str().parse::<Reference>() {
            self.digests
                .insert(reference.with_digest(record.target.digest));
            if reference.digest().is_none() {
                self.tags.insert(reference);
            }
        }
        self.names.push(record.name);
    }

    fn is_called(&self, reference: &Reference) -> bool {
        match reference.digest() {
            Some(digest) => {
                let exact = reference.with_digest(*digest);
                self.digests.contains(&exact)
                    || self.manifest.digest == *digest
                        && self
                            .digests
                            .iter()
                            .any(|own| own.locator() == exact.locator())
            }
            None => self.tags.contains(reference),
        }
    }
}

/// An id goes before a name, and a name before the beginning of an id.
fn choose(entries: Vec<CatalogEntry>, text: &str) -> Result<Option<CatalogEntry>, Error> {
    if let Ok(id) = text.parse::<Digest>() {
        return Ok(entries.into_iter().find(|entry| entry.id == id));
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let parsed = text.parse::<Reference>();
    if let Ok(reference) = &parsed {
        let named = entries.iter().find(|entry| entry.is_called(reference));
        if let Some(entry) = named {
            return Ok(Some(entry.clone()));
        }
    }
    let is_abbreviation =
        digits.len() >= ID_DIGITS_MIN && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_abbreviation {
        return match parsed {
            Ok(_) => Ok(None),
            Err(source) => Err(Error::Reference {
                text: text.to_owned(),
                source,
            }),
        };
    }
    let begins = |entry: &CatalogEntry| entry.id.hex().starts_with(digits);
    let mut matching = entries.into_iter().filter(begins);
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => Err(Error::Invalid {
            operation: "find image",
            subject: text.to_owned(),
            reason: "it is the beginning of several ids: give more digits".to_owned(),
        }),
        (found, _) => Ok(found),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use orlop_types::Labels;

    use super::*;

    fn digest(first: &str) -> Digest {
        format!("sha256:{first:0<64}").parse().unwrap()
    }

    fn descriptor(first: &str) -> Descriptor {
        Descriptor::new(
            "application/vnd.oci.image.manifest.v1+json",
            digest(first),
            7,
        )
    }

    fn entry(id: &str, names: &[&str]) -> CatalogEntry {
        let facts = Facts {
            id: digest(id),
            manifest: descriptor("aa"),
            size_bytes: 9,
            chain_id: None,
            user: String::new(),
        };
        let mut entry = facts.entry();
        for name in names {
            let name = ImageName::new(*name).unwrap();
            entry.add(Image::new(name, descriptor("bb"), Labels::new()));
        }
        entry
    }

    fn chosen(text: &str) -> Option<String> {
        let entries = vec![
            entry(
                "12345",
                &["docker.io/library/busybox:1", "localhost:5000/x:y"],
            ),
            entry("12399", &["docker.io/library/cafe:latest"]),
        ];
        let found = choose(entries, text).unwrap()?;
        Some(found.id.hex()[..5].to_owned())
    }

    #[test]
    fn an_image_is_found_by_any_of_its_names() {
        assert_eq!(chosen("busybox:1").as_deref(), Some("12345"));
        assert_eq!(chosen("localhost:5000/x:y").as_deref(), Some("12345"));
        assert_eq!(chosen("busybox:2"), None);
        assert_eq!(
            chosen(&digest("12399").to_string()).as_deref(),
            Some("12399")
        );
        assert_eq!(chosen("12399").as_deref(), Some("12399"));
        assert_eq!(chosen("sha256:12345").as_deref(), Some("12345"));
        assert_eq!(
            chosen("cafe").as_deref(),
            Some("12399"),
            "a name goes before an abbreviation"
        );
    }

    #[test]
    fn a_repository_with_the_registrys_digest_is_a_name() {
        let of = |digest: Digest| chosen(&format!("busybox@{digest}"));
        assert_eq!(of(digest("bb")).as_deref(), Some("12345"), "the index");
        assert_eq!(
            of(digest("aa")).as_deref(),
            Some("12345"),
            "the manifest in it"
        );
        assert_eq!(of(digest("cc")), None);
    }

    #[test]
    fn what_can_be_no_image_and_what_can_be_several_is_refused() {
        let entries = || vec![entry("12345", &[]), entry("12399", &[])];
        assert!(choose(entries(), "1234").unwrap().is_some());
        assert!(
            choose(entries(), "123").unwrap().is_none(),
            "too short: a name"
        );
        assert!(choose(entries(), "UPPER").is_err());
        let several = choose(vec![entry("12345", &[]), entry("12344", &[])], "1234");
        assert_eq!(several.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn an_entry_has_its_repositories_digests_and_its_tags() {
        let entry = entry("12345", &["docker.io/library/a:1", "docker.io/library/a:2"]);
        assert_eq!(entry.tags.len(), 2);
        assert_eq!(entry.digests.len(), 1, "one repository");
        assert_eq!(entry.names.len(), 2);
    }
}
