//! Ingests: blobs being written, under references of the namespace.

use std::borrow::Cow;
use std::time::SystemTime;

use orlop_content::{ContentError, Expected};
use orlop_types::filter::{Fields, text_field};
use orlop_types::{Digest, IngestRef};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Blob, Content, failed, key as content_key, load, store};
use crate::db::Tx;
use crate::node::{self, EdgeKind, Kept, NodeKey, NodeKind, not_found};
use crate::records::{Columns, filters, signed};
use crate::sweep::{self, SweepKind};
use crate::time::to_nanos;
use crate::{Error, View};

/// What is known of a blob before it is written.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// Size and digest, as far as they are known.
    pub expected: Expected,
    /// What it is; kept with the blob.
    pub media_type: Option<String>,
}

/// What became of opening an ingest.
#[derive(Debug)]
pub enum Opened {
    /// The namespace sees the expected blob already. It is bound to the view's lease; there is nothing to write.
    Exists(Blob),
    /// The ingest is open. Where [`Ingest::is_shared`], no byte need be written: commit it.
    Ingest(Ingest),
}

/// Where an ingest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its reference.
    pub reference: IngestRef,
    /// Bytes from the start to the first gap.
    pub offset: u64,
    /// The expected size in bytes; 0 if unknown.
    pub total: u64,
    /// The expected digest.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When bytes were last written.
    pub updated_at: SystemTime,
}

impl Fields for IngestStatus {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path[0].as_str() {
            "ref" => text_field(self.reference.as_str()),
            _ => None,
        }
    }
}

/// A blob being written. Dropping it keeps what has been written for a later [`Content::ingest`].
#[derive(Debug)]
pub struct Ingest {
    pub(super) view: View,
    pub(super) reference: IngestRef,
    pub(super) row: IngestRow,
    /// Absent where the bytes are in the store already.
    pub(super) backend: Option<orlop_content::Ingest>,
}

/// An ingest's row.
#[derive(Debug, Clone)]
pub(super) struct IngestRow {
    pub(super) id: i64,
    pub(super) number: i64,
    pub(super) expected: Expected,
    pub(super) shared: bool,
    pub(super) media_type: Option<String>,
    started_at: SystemTime,
}

const SELECT: &str = "SELECT node.key, ingest.id, number, expected_digest, expected_size, shared, media_type, started_at
    FROM ingests AS ingest CROSS JOIN nodes AS node ON node.id = ingest.id";

impl Ingest {
    /// The reference.
    #[must_use]
    pub const fn reference(&self) -> &IngestRef {
        &self.reference
    }

    /// What the blob should be.
    #[must_use]
    pub const fn expected(&self) -> &Expected {
        &self.row.expected
    }

    /// Whether the bytes are in the store already, held by another namespace.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.row.shared
    }

    /// Where to write; nothing for a shared ingest, which is committed as it is.
    #[must_use]
    pub const fn writer(&self) -> Option<&orlop_content::Ingest> {
        self.backend.as_ref()
    }

    /// Where it stands.
    ///
    /// # Errors
    /// `Content`.
    pub fn status(&self) -> Result<IngestStatus, Error> {
        status(&self.view, self.reference.clone(), &self.row)
    }

    /// Discards it.
    ///
    /// # Errors
    /// `NotFound` if somebody else did; `Content`, `Database`.
    pub fn abort(self) -> Result<(), Error> {
        let Self {
            view,
            reference,
            backend,
            ..
        } = self;
        // The last handle must be gone before the store lets the folder be removed.
        drop(backend);
        view.content().abort(&reference)
    }
}

impl Content<'_> {
    /// Begins an ingest under `reference` of this namespace, or resumes it.
    ///
    /// It is bound to the view's lease, or without one kept for a day.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Content` while another writer has it; `NoBackend`, `Database`.
    pub fn ingest(&self, reference: &IngestRef, options: &IngestOptions) -> Result<Opened, Error> {
        let store = store(self.view)?;
        if let Some(digest) = &options.expected.digest
            && let Some(blob) = self.existing(digest)?
        {
            return Ok(Opened::Exists(blob));
        }
        let row = self
            .view
            .db()
            .write("begin an ingest", |tx| self.begin(tx, reference, options))?;
        let backend = if row.shared {
            None
        } else {
            let opened = store.ingest(&backend_reference(row.number), options.expected);
            Some(opened.map_err(failed("open ingest", reference))?)
        };
        Ok(Opened::Ingest(Ingest {
            view: self.view.clone(),
            reference: reference.clone(),
            row,
            backend,
        }))
    }

    /// Where one ingest stands.
    ///
    /// # Errors
    /// `NotFound`, `Content`, `Database`.
    pub fn ingest_status(&self, reference: &IngestRef) -> Result<IngestStatus, Error> {
        let row = self.view.db().read("read an ingest", |connection| {
            load_row(connection, self.view, reference)
        })?;
        status(self.view, reference.clone(), &row)
    }

    /// Where the ingests stand that any of `filters` keeps, by reference.
    ///
    /// # Errors
    /// `Filter`, `Content`, `Database`.
    pub fn ingests(&self, filters: &[String]) -> Result<Vec<IngestStatus>, Error> {
        let filters = self::filters("ingest", filters)?;
        let mut rows = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY node.key");
        self.view.each_row("ingests", &sql, |columns| {
            rows.push((columns.parsed::<IngestRef>(0)?, row(columns)?));
            Ok(())
        })?;
        let mut statuses = Vec::with_capacity(rows.len());
        for (reference, row) in rows {
            let status = status(self.view, reference, &row)?;
            if filters.matches(&status) {
                statuses.push(status);
            }
        }
        Ok(statuses)
    }

    /// Discards an ingest, ending its writer.
    ///
    /// # Errors
    /// `NotFound`, `Content`, `Database`.
    pub fn abort(&self, reference: &IngestRef) -> Result<(), Error> {
        let row = self.view.db().write("abort an ingest", |tx| {
            let row = load_row(tx, self.view, reference)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            self.view.unbind(tx, namespace, row.id)?;
            collect(tx, namespace, &row)?;
            Ok(row)
        })?;
        if row.shared {
            return Ok(());
        }
        discard(self.view, row.number).map_err(failed("abort ingest", reference))
    }

    /// The blob, bound to the view's lease, if this namespace sees it.
    pub(super) fn existing(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let looked = match self.info(digest) {
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(other),
            Ok(blob) => blob,
        };
        if self.view.lease().is_none() {
            return Ok(Some(looked));
        }
        let bound = self.view.db().write("lease a blob", |tx| {
            let (id, blob) = load(tx, self.view, digest)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            self.view.bind(tx, namespace, id)?;
            Ok(blob)
        });
        match bound {
            // Removed between the look and the lease.
            Err(Error::NotFound {
                kind: "content", ..
            }) => Ok(None),
            other => other.map(Some),
        }
    }

    pub(super) fn begin(
        &self,
        tx: &Tx<'_>,
        reference: &IngestRef,
        options: &IngestOptions,
    ) -> Result<IngestRow, Error> {
        let namespace = node::ensure_namespace(tx, self.view.namespace())?;
        let resumed = match load_row(tx, self.view, reference) {
            Ok(row) => Some(row),
            Err(Error::NotFound { .. }) => None,
            Err(other) => return Err(other),
        };
        if let Some(row) = resumed {
            self.view.bind(tx, namespace, row.id)?;
            return Ok(row);
        }
        let shared = self.is_held_elsewhere(tx, namespace, options)?;
        let kept = Kept::until_held(self.view.lease().is_some(), tx.now);
        let id = node::enliven(tx, key(namespace, reference), kept)?.ok_or_else(|| {
            node::already_exists(NodeKind::Ingest, reference, self.view.namespace())
        })?;
        self.view.bind(tx, namespace, id)?;
        if shared && let Some(digest) = &options.expected.digest {
            let target = node::intern(tx, content_key(namespace, &digest.to_string()))?;
            node::link(tx, (id, target, id), EdgeKind::Field, None)?;
        }
        let row = IngestRow {
            id,
            number: crate::snapshots::next_number(tx, "ingest")?,
            expected: options.expected,
            shared,
            media_type: options.media_type.clone(),
            started_at: crate::time::from_nanos(tx.now),
        };
        insert(tx, reference, &row)?;
        Ok(row)
    }

    /// Whether the expected blob is in the store and another namespace keeps it there.
    fn is_held_elsewhere(
        &self,
        tx: &Tx<'_>,
        namespace: i64,
        options: &IngestOptions,
    ) -> Result<bool, Error> {
        let Some(digest) = &options.expected.digest else {
            return Ok(false);
        };
        if node::live_elsewhere(tx, content_key(namespace, &digest.to_string()))?.is_none() {
            return Ok(false);
        }
        let Ok(info) = store(self.view)?.stat(digest) else {
            return Ok(false);
        };
        let wanted = options.expected.size_bytes;
        Ok(wanted.is_none_or(|size| size == info.size_bytes))
    }
}

/// Removes an ingest by the id of its node, and queues what it leaves on disk.
pub(crate) fn collect_by_id(tx: &Tx<'_>, namespace: i64, id: i64) -> Result<(), Error> {
    match load_by_id(tx, id)? {
        Some(row) => collect(tx, namespace, &row),
        None => Ok(()),
    }
}

/// Removes an ingest's row and node, and queues what it leaves on disk: its folder, or a shared blob that nobody sees.
fn collect(tx: &Tx<'_>, namespace: i64, row: &IngestRow) -> Result<(), Error> {
    remove_row(tx, row.id)?;
    if !row.shared {
        return sweep::enqueue(tx, SweepKind::Ingest, ("", &row.number.to_string()), 0);
    }
    let Some(digest) = &row.expected.digest else {
        return Ok(());
    };
    // The namespace whose blob was to be shared may have let go of it since.
    if node::find_live(tx, content_key(namespace, &digest.to_string()))?.is_some() {
        return Ok(());
    }
    let size = row.expected.size_bytes.unwrap_or(0);
    sweep::enqueue_blob(tx, namespace, digest, size)
}

/// Removes an ingest's row and node. Its folder is the caller's to queue.
pub(crate) fn remove_row(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM ingests WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove an ingest"))?;
    node::retire(tx, id)
}

/// The name of an ingest's folder: references of different namespaces never meet in the store.
pub(crate) fn backend_reference(number: i64) -> IngestRef {
    IngestRef::new(format!("ingest-{number}")).expect("a word and a number are a valid reference")
}

/// Removes the folder of an aborted ingest now, and then its place in the queue; the sweep tries again if this fails.
fn discard(view: &View, number: i64) -> Result<(), ContentError> {
    let Ok(store) = store(view) else {
        return Ok(());
    };
    match store.abort(&backend_reference(number)) {
        Ok(()) | Err(ContentError::IngestNotFound { .. }) => {}
        // Its writer is just letting go of it: the sweep comes back.
        Err(ContentError::IngestBusy { .. } | ContentError::IngestEnded { .. }) => return Ok(()),
        Err(other) => return Err(other),
    }
    let done = view.db().write_relaxed("finish a sweep", |tx| {
        sweep::dequeue(tx, SweepKind::Ingest, ("", &number.to_string()))
    });
    if let Err(error) = done {
        tracing::warn!(%error, number, "an aborted ingest stays in the sweep queue");
    }
    Ok(())
}

fn status(view: &View, reference: IngestRef, row: &IngestRow) -> Result<IngestStatus, Error> {
    let total = row.expected.size_bytes.unwrap_or(0);
    let mut status = IngestStatus {
        reference,
        offset: if row.shared { total } else { 0 },
        total,
        expected: row.expected.digest,
        started_at: row.started_at,
        updated_at: row.started_at,
    };
    if row.shared {
        return Ok(status);
    }
    match store(view)?.status(&backend_reference(row.number)) {
        Ok(found) => {
            status.offset = found.contiguous_bytes;
            status.updated_at = found.updated_at.max(status.started_at);
            Ok(status)
        }
        // Recorded, and then the machine stopped before its folder was made.
        Err(ContentError::IngestNotFound { .. }) => Ok(status),
        Err(other) => Err(failed("look at ingest", &status.reference)(other)),
    }
}

fn insert(tx: &Tx<'_>, reference: &IngestRef, row: &IngestRow) -> Result<(), Error> {
    let size = row.expected.size_bytes;
    let size = size
        .map(|size| signed("begin ingest", reference.as_str(), size))
        .transpose()?;
    tx.prepare_cached("INSERT INTO ingests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
        .and_then(|mut insert| {
            insert.execute(params![
                row.id,
                row.number,
                row.expected.digest.map(|digest| digest.to_string()),
                size,
                row.shared,
                row.media_type,
                to_nanos(row.started_at),
            ])
        })
        .map_err(Error::database("begin an ingest"))?;
    Ok(())
}

pub(super) fn load_row(
    connection: &Connection,
    view: &View,
    reference: &IngestRef,
) -> Result<IngestRow, Error> {
    let missing = || not_found(NodeKind::Ingest, reference, view.namespace());
    let namespace = node::namespace_id(connection, view.namespace())?.ok_or_else(missing)?;
    let id = node::find_live(connection, key(namespace, reference))?.ok_or_else(missing)?;
    load_by_id(connection, id)?.ok_or_else(missing)
}

fn load_by_id(connection: &Connection, id: i64) -> Result<Option<IngestRow>, Error> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE ingest.id = ?1"))
        .and_then(|mut select| {
            let found = select.query_row([id], |found| {
                Ok(Columns::new("ingests", found).and_then(|columns| row(&columns)))
            });
            found.optional()
        })
        .map_err(Error::database("read an ingest"))?
        .transpose()
}

fn row(columns: &Columns<'_, '_>) -> Result<IngestRow, Error> {
    let digest: Option<String> = columns.value(3)?;
    let digest = digest.map(|_| columns.parsed(3)).transpose()?;
    let size: Option<i64> = columns.value(4)?;
    Ok(IngestRow {
        id: columns.value(1)?,
        number: columns.value(2)?,
        expected: Expected {
            size_bytes: size.map(|_| columns.size(4)).transpose()?,
            digest,
        },
        shared: columns.value(5)?,
        media_type: columns.value(6)?,
        started_at: columns.time(7)?,
    })
}

fn key(namespace: i64, reference: &IngestRef) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Ingest,
        scope: "",
        key: reference.as_str(),
    }
}
