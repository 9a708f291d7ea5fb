//! A namespace's view of the blob store: which blobs it sees, under which labels, and what is being written.
//!
//! Bytes are kept once for all namespaces; each sees only its own rows. **Crash.** An ingest's row, lease and number
//! are there before its folder; a blob is verified, named and synced before its row; a row is gone before its bytes.
//! **Ordering.** Commit and sweep of one digest exclude each other (`claims`).

use std::borrow::Cow;
use std::time::SystemTime;

use orlop_types::filter::{Fields, Filters, label_field, text_field};
use orlop_types::{Digest, Labels};
use rusqlite::{Connection, OptionalExtension, params};

use crate::ErrorKind;
use crate::db::Tx;
use crate::node::{self, NodeKey, NodeKind, not_found};
use crate::records::{Columns, filters, to_json, without_empty};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, Event, View, mask, sweep};

mod commit;
pub(crate) mod ingest;

pub use commit::AdoptedFile;
pub use ingest::{Ingest, IngestOptions, IngestStatus, Opened};

/// How many rows a walk reads in one transaction, so that a slow listener does not hold the log back.
const PAGE_ROWS: usize = 1000;

/// A blob as a namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is, where whoever wrote it said so.
    pub media_type: Option<String>,
    /// Its labels, some of which name what it refers to.
    pub labels: Labels,
    /// When it became visible in this namespace.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

impl Fields for Blob {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "digest" => Some(self.digest.to_string().into()),
            // Beyond containerd, which keeps no media type.
            "mediatype" => text_field(self.media_type.as_deref().unwrap_or_default()),
            "labels" => label_field(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// The blobs and ingests of a namespace.
#[derive(Debug)]
pub struct Content<'a> {
    view: &'a View,
}

const SELECT: &str =
    "SELECT node.key, content.size, media_type, labels, created_at, updated_at, content.id
    FROM content CROSS JOIN nodes AS node ON node.id = content.id";

impl<'a> Content<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// `NotFound`, also for a blob that only other namespaces see; `Database`, `Corrupt`.
    pub fn info(&self, digest: &Digest) -> Result<Blob, Error> {
        self.view.db().read("read a blob's row", |connection| {
            Ok(load(connection, self.view, digest)?.1)
        })
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound`, `NoBackend`, `Content`.
    pub fn open(&self, digest: &Digest) -> Result<orlop_content::Blob, Error> {
        self.info(digest)?;
        let opened = store(self.view)?.blob(digest);
        opened.map_err(failed("open blob", digest))
    }

    /// Calls `listener` for every blob that any of `filters` keeps, oldest first, until it fails.
    ///
    /// Rows are read in pages: blobs that come or go meanwhile may be seen or not.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`, and those of `listener`.
    pub fn walk(
        &self,
        filters: &[String],
        mut listener: impl FnMut(Blob) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let filters = self::filters("blob", filters)?;
        let mut after = 0;
        loop {
            let (page, last) = self.page(&filters, after)?;
            for blob in page {
                listener(blob)?;
            }
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// All blobs that any of `filters` keeps, oldest first.
    ///
    /// # Errors
    /// As [`Content::walk`].
    pub fn list(&self, filters: &[String]) -> Result<Vec<Blob>, Error> {
        let mut blobs = Vec::new();
        self.walk(filters, |blob| {
            blobs.push(blob);
            Ok(())
        })?;
        Ok(blobs)
    }

    /// Changes labels: those that `fields` names (`labels`, `labels.KEY`), or without any all of them.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field, `Database`.
    pub fn update(
        &self,
        digest: &Digest,
        labels: &Labels,
        fields: &[String],
    ) -> Result<Blob, Error> {
        self.view.db().write("update a blob's row", |tx| {
            let (id, mut blob) = load(tx, self.view, digest)?;
            if fields.is_empty() {
                blob.labels.clone_from(labels);
            }
            for path in fields {
                if !mask::labels(path, &mut blob.labels, labels)? {
                    return Err(mask::refused("update blob", digest, path));
                }
            }
            blob.labels = without_empty(&blob.labels);
            blob.updated_at = from_nanos(tx.now);
            tx.prepare_cached("UPDATE content SET labels = ?2, updated_at = ?3 WHERE id = ?1")
                .and_then(|mut update| {
                    update.execute(params![
                        id,
                        to_json(&blob.labels),
                        to_nanos(blob.updated_at)
                    ])
                })
                .map_err(Error::database("update a blob's row"))?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let kept = node::expiry(NodeKind::Content, "", &blob.labels);
            node::relabel(tx, (id, namespace), &blob.labels, Some(kept))?;
            let event = Event::ContentUpdate {
                digest: *digest,
                labels: blob.labels.clone(),
            };
            tx.append(self.view.namespace(), &event)?;
            Ok(blob)
        })
    }

    /// Hides a blob from this namespace. Its bytes go with its last row, by the sweep.
    ///
    /// # Errors
    /// `NotFound`, `Database`.
    pub fn delete(&self, digest: &Digest) -> Result<(), Error> {
        self.view.db().write("remove a blob's row", |tx| {
            let (id, blob) = load(tx, self.view, digest)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            self.view.unbind(tx, namespace, id)?;
            remove_row(tx, (id, namespace), (digest, blob.size))?;
            let digest = *digest;
            tx.append(self.view.namespace(), &Event::ContentDelete { digest })
                .map(drop)
        })
    }

    /// One page of rows, and where the next begins.
    fn page(&self, filters: &Filters, after: i64) -> Result<(Vec<Blob>, Option<i64>), Error> {
        let failed = Error::database("list blobs");
        self.view.db().read("list blobs", |connection| {
            let Some(namespace) = node::namespace_id(connection, self.view.namespace())? else {
                return Ok((Vec::new(), None));
            };
            let sql = format!(
                "{SELECT} WHERE content.id > ?1 AND node.namespace = ?2 ORDER BY content.id LIMIT {PAGE_ROWS}"
            );
            let mut select = connection.prepare_cached(&sql).map_err(failed)?;
            let mut rows = select.query([after, namespace]).map_err(failed)?;
            let (mut page, mut seen, mut last) = (Vec::new(), 0, after);
            while let Some(row) = rows.next().map_err(failed)? {
                let columns = Columns::new("content", row)?;
                (seen, last) = (seen + 1, columns.value(6)?);
                let blob = blob(&columns)?;
                if filters.matches(&blob) {
                    page.push(blob);
                }
            }
            Ok((page, (seen == PAGE_ROWS).then_some(last)))
        })
    }
}

/// Removes a blob's row and node, and queues its bytes if no namespace sees them any more.
pub(crate) fn remove_row(
    tx: &Tx<'_>,
    (id, namespace): (i64, i64),
    (digest, size): (&Digest, u64),
) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM content WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove a blob's row"))?;
    node::retire(tx, id)?;
    sweep::enqueue_blob(tx, namespace, digest, size)
}

/// What a façade does about an error of the blob store.
pub(crate) fn kind_of(error: &orlop_content::ContentError) -> ErrorKind {
    use orlop_content::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => ErrorKind::NotFound,
        Kind::Busy => ErrorKind::Unavailable,
        Kind::Invalid => ErrorKind::InvalidArgument,
        Kind::Incomplete | Kind::Corrupt | Kind::Ended => ErrorKind::FailedPrecondition,
        Kind::OutOfSpace => ErrorKind::OutOfSpace,
        Kind::Io => ErrorKind::Internal,
    }
}

fn load(connection: &Connection, view: &View, digest: &Digest) -> Result<(i64, Blob), Error> {
    let missing = || not_found(NodeKind::Content, digest, view.namespace());
    let namespace = node::namespace_id(connection, view.namespace())?.ok_or_else(missing)?;
    let text = digest.to_string();
    let id = node::find_live(connection, key(namespace, &text))?.ok_or_else(missing)?;
    let found = connection
        .prepare_cached(&format!("{SELECT} WHERE content.id = ?1"))
        .and_then(|mut select| {
            let found = select.query_row([id], |row| {
                Ok(Columns::new("content", row).and_then(|columns| blob(&columns)))
            });
            found.optional()
        })
        .map_err(Error::database("read a blob's row"))?;
    Ok((id, found.unwrap_or_else(|| Err(missing()))?))
}

fn blob(columns: &Columns<'_, '_>) -> Result<Blob, Error> {
    Ok(Blob {
        digest: columns.parsed(0)?,
        size: columns.size(1)?,
        media_type: columns.value(2)?,
        labels: columns.json(3)?,
        created_at: columns.time(4)?,
        updated_at: columns.time(5)?,
    })
}

fn key(namespace: i64, digest: &str) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Content,
        scope: "",
        key: digest,
    }
}

fn store(view: &View) -> Result<&orlop_content::Store, Error> {
    view.db()
        .backends()
        .content
        .as_deref()
        .ok_or_else(|| Error::NoBackend {
            kind: "content store",
            name: "content".to_owned(),
        })
}

fn failed<S: ToString>(
    operation: &'static str,
    subject: S,
) -> impl FnOnce(orlop_content::ContentError) -> Error {
    move |source| Error::Content {
        operation,
        subject: subject.to_string(),
        source: std::sync::Arc::new(source),
    }
}
