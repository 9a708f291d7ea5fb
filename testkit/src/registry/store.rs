//! What the registry holds, by repository.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use orlop_types::Digest;

use super::image::digest_of;
use super::uploads::Uploads;

/// A manifest and its media type.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: HashMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, Manifest>,
    tags: HashMap<String, Digest>,
}

/// All repositories, uploads under way and presigned URLs.
#[derive(Debug, Default)]
pub(crate) struct Store {
    repositories: HashMap<String, Repository>,
    signed: HashMap<u64, Signed>,
    signed_count: u64,
    pub(crate) uploads: Uploads,
}

#[derive(Debug)]
struct Signed {
    repository: String,
    digest: Digest,
    uses_left: u32,
}

impl Store {
    pub(crate) fn put_blob(&mut self, repository: &str, bytes: Bytes) -> Digest {
        let digest = digest_of(&bytes);
        self.put_blob_as(repository, digest, bytes);
        digest
    }

    pub(crate) fn put_blob_as(&mut self, repository: &str, digest: Digest, bytes: Bytes) {
        self.repository(repository).blobs.insert(digest, bytes);
    }

    pub(crate) fn put_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
    ) -> Digest {
        let digest = digest_of(&bytes);
        let manifest = Manifest {
            digest,
            media_type: media_type.to_owned(),
            bytes,
        };
        let repository = self.repository(repository);
        repository.manifests.insert(digest, manifest);
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest);
        }
        digest
    }

    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.repositories
            .get(repository)?
            .blobs
            .get(digest)
            .cloned()
    }

    pub(crate) fn manifest(&self, repository: &str, target: &str) -> Option<&Manifest> {
        let repository = self.repositories.get(repository)?;
        let digest = match target.parse() {
            Ok(digest) => digest,
            Err(_) => *repository.tags.get(target)?,
        };
        repository.manifests.get(&digest)
    }

    /// The tags of a repository, sorted.
    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        let tags = self
            .repositories
            .get(repository)
            .map(|repository| &repository.tags);
        let mut names: Vec<String> = tags.into_iter().flat_map(HashMap::keys).cloned().collect();
        names.sort();
        names
    }

    /// The manifests of a repository whose subject is `digest`.
    pub(crate) fn referrers(&self, repository: &str, digest: &Digest) -> Vec<serde_json::Value> {
        let Some(repository) = self.repositories.get(repository) else {
            return Vec::new();
        };
        let wanted = digest.to_string();
        let refers = |manifest: &&Manifest| {
            serde_json::from_slice::<serde_json::Value>(&manifest.bytes)
                .is_ok_and(|json| json["subject"]["digest"] == wanted.as_str())
        };
        repository
            .manifests
            .values()
            .filter(refers)
            .map(|manifest| {
                serde_json::json!({
                    "mediaType": manifest.media_type,
                    "digest": manifest.digest.to_string(),
                    "size": manifest.bytes.len(),
                })
            })
            .collect()
    }

    /// Makes a presigned path that answers `uses` requests.
    pub(crate) fn sign(&mut self, repository: &str, digest: Digest, uses: u32) -> String {
        self.signed_count += 1;
        self.signed.insert(
            self.signed_count,
            Signed {
                repository: repository.to_owned(),
                digest,
                uses_left: uses,
            },
        );
        format!("/signed/{}/{digest}?signature=secret", self.signed_count)
    }

    /// The blob behind a presigned path, unless its uses are spent.
    pub(crate) fn redeem(&mut self, number: u64) -> Option<Bytes> {
        let signed = self.signed.get_mut(&number)?;
        signed.uses_left = signed.uses_left.checked_sub(1)?;
        let (repository, digest) = (signed.repository.clone(), signed.digest);
        self.blob(&repository, &digest)
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}
