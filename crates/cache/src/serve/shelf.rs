//! The store, asked from async code: every call goes where blocking is allowed.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use orlop_base::blocking;
use orlop_base::clock::SharedClock;
use orlop_types::{Digest, Reference};

use super::answer::No;
use crate::rights::Tenant;
use crate::store::{Child, Found, Store, StoreError, TagRow};

/// The store of a server. Clones share it.
#[derive(Clone)]
pub(super) struct Shelf {
    store: Store,
    /// How long a right that the upstream has shown is believed.
    grants_for: Duration,
    clock: SharedClock,
}

/// What is known of a tag; what it stands for, if that is here and who asks may have it.
pub(super) struct KnownTag {
    pub(super) row: TagRow,
    pub(super) found: Option<Found>,
}

/// A manifest as it came, with what it names.
pub(super) struct NewManifest {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
    pub(super) children: Vec<Child>,
}

impl Shelf {
    pub(super) const fn new(store: Store, grants_for: Duration, clock: SharedClock) -> Self {
        Self {
            store,
            grants_for,
            clock,
        }
    }

    /// The blob, if it is here and `tenant` may have it through this repository.
    pub(super) async fn permitted(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<(bool, Option<Found>), No> {
        let (right, digest) = (Right::new(tenant, reference), *digest);
        self.run("cache-find", move |store| {
            let is_permitted = right.covers(store, &digest)?;
            let found = if is_permitted {
                store.find(&digest)?
            } else {
                None
            };
            Ok((is_permitted, found))
        })
        .await
    }

    /// What is known of the reference's tag.
    pub(super) async fn tag(
        &self,
        tenant: &Tenant,
        reference: &Reference,
    ) -> Result<Option<KnownTag>, No> {
        let right = Right::new(tenant, reference);
        let tag = reference.tag().unwrap_or_default().to_owned();
        self.run("cache-tag", move |store| {
            let Some(row) = store.tag(&right.locator, &tag)? else {
                return Ok(None);
            };
            let found = if right.covers(store, &row.digest)? {
                store.find(&row.digest)?
            } else {
                None
            };
            Ok(Some(KnownTag { row, found }))
        })
        .await
    }

    /// The upstream says that the tag stands for `digest`, and so that `tenant` may have it.
    pub(super) async fn set_tag(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digest: &Digest,
        media_type: &str,
    ) -> Result<Option<Found>, No> {
        let right = Right::new(tenant, reference);
        let tag = reference.tag().unwrap_or_default().to_owned();
        let (digest, media_type) = (*digest, media_type.to_owned());
        let until = self.until();
        self.run("cache-set-tag", move |store| {
            store.set_tag(&right.locator, &tag, &digest, Some(&media_type))?;
            let found = store.find(&digest)?;
            if found.is_some() {
                right.give(store, &[digest], until)?;
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn drop_tag(&self, reference: &Reference) -> Result<(), No> {
        let locator = reference.locator();
        let tag = reference.tag().unwrap_or_default().to_owned();
        self.run("cache-drop-tag", move |store| {
            store.drop_tag(&locator, &tag).map(drop)
        })
        .await
    }

    /// The upstream has given `tenant` a manifest: it is kept, with the right to what it names.
    pub(super) async fn keep_manifest(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        manifest: NewManifest,
    ) -> Result<(), No> {
        let right = Right::new(tenant, reference);
        let until = self.until();
        self.run("cache-keep-manifest", move |store| {
            let NewManifest {
                digest,
                media_type,
                bytes,
                children,
            } = manifest;
            // Without room for it the manifest is passed through, and its children are asked for one by one.
            store.put_manifest(&right.locator, &digest, &media_type, &bytes, &children)?;
            let named = children.iter().map(|child| child.digest);
            let all: Vec<Digest> = std::iter::once(digest).chain(named).collect();
            right.give(store, &all, until)
        })
        .await
    }

    /// The upstream has shown that `tenant` may have these.
    pub(super) async fn give(
        &self,
        tenant: &Tenant,
        reference: &Reference,
        digests: Vec<Digest>,
    ) -> Result<(), No> {
        let right = Right::new(tenant, reference);
        let until = self.until();
        self.run("cache-give", move |store| {
            right.give(store, &digests, until)
        })
        .await
    }

    /// A blob that was just stored.
    pub(super) async fn find(&self, digest: &Digest) -> Result<Option<Found>, No> {
        let digest = *digest;
        self.run("cache-find", move |store| store.find(&digest))
            .await
    }

    pub(super) async fn size_of(&self, digest: &Digest) -> Result<Option<u64>, No> {
        let digest = *digest;
        self.run("cache-size", move |store| store.size_of(&digest))
            .await
    }

    /// All bytes of something small.
    pub(super) async fn read(&self, found: Found) -> Result<Bytes, No> {
        let read = move |_: &Store| {
            let mut bytes = vec![0; usize::try_from(found.blob.size_bytes()).unwrap_or(0)];
            let mut at = 0;
            while at < bytes.len() {
                match found.blob.read_at(&mut bytes[at..], at as u64) {
                    Ok(0) => return Ok(Err(std::io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) => at += count,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(Bytes::from(bytes)))
        };
        let read: Result<Bytes, std::io::Error> = self.run("cache-read-manifest", read).await?;
        read.map_err(|error| No::of_store(&error))
    }

    fn until(&self) -> SystemTime {
        self.clock.wall() + self.grants_for
    }

    async fn run<T: Send + 'static>(
        &self,
        kind: &'static str,
        job: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, No> {
        let store = self.store.clone();
        blocking::run(kind, move || job(&store))
            .await
            .map_err(|error| No::of_store(&error))?
            .map_err(|error| No::of_store(&error))
    }
}

/// Whose right to what: a link of the repository for the service, a grant for everybody else.
struct Right {
    tenant: Tenant,
    locator: String,
}

impl Right {
    fn new(tenant: &Tenant, reference: &Reference) -> Self {
        Self {
            tenant: tenant.clone(),
            locator: reference.locator(),
        }
    }

    fn covers(&self, store: &Store, digest: &Digest) -> Result<bool, StoreError> {
        if self.tenant.needs_grants() {
            let who = self.tenant.fingerprint();
            return store.is_granted(who.as_bytes(), &self.locator, digest);
        }
        store.is_linked(&self.locator, digest)
    }

    fn give(&self, store: &Store, digests: &[Digest], until: SystemTime) -> Result<(), StoreError> {
        store.link(&self.locator, digests)?;
        if self.tenant.needs_grants() {
            let who = self.tenant.fingerprint();
            store.grant(who.as_bytes(), &self.locator, digests, until)?;
        }
        Ok(())
    }
}
