//! Blobs: records against files.

use orlop_content::{BlobInfo, ContentError, Store};
use orlop_types::{Digest, Namespace};
use rusqlite::{OptionalExtension, params};

use super::{Check, Outcome, Run};
use crate::db::Tx;
use crate::gc::blob_is_named;
use crate::sweep::{self, SweepKind};
use crate::{Db, Error, Event, content};

const FAILED: &str = "compare blobs";

/// How many rows are read in one transaction.
const PAGE_ROWS: i64 = 1000;

struct Row {
    id: i64,
    namespace: String,
    key: String,
    size: u64,
}

impl Run<'_> {
    /// Every record has its file, of its size.
    pub(super) fn blob_records(&mut self) -> Result<(), Error> {
        let db = self.db;
        let Some(store) = db.backends().content.as_deref() else {
            return Ok(());
        };
        let mut after = 0;
        loop {
            let rows = page(db, after)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.id;
            for row in rows {
                self.summary.checked += 1;
                self.summary.blobs += 1;
                self.blob_record(store, &row);
            }
        }
    }

    /// Every file has a record; with `verify_content` it has the bytes of its name.
    pub(super) fn blob_files(&mut self) -> Result<(), Error> {
        let db = self.db;
        let Some(store) = db.backends().content.as_deref() else {
            return Ok(());
        };
        let files = store.walk().map_err(failed)?;
        for file in files {
            match file {
                Ok(info) => self.blob_file(store, &info)?,
                Err(ContentError::Stray { path }) => {
                    let detail = "it is no blob and was not put there by Orlop".to_owned();
                    let left = Outcome::Left("remove it by hand".to_owned());
                    self.found(Check::Stray, (path, detail), |_| Ok(left));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn blob_record(&mut self, store: &Store, row: &Row) {
        let Ok(digest) = row.key.parse::<Digest>() else {
            let detail = format!(
                "the key of a blob in namespace {} is no digest",
                row.namespace
            );
            let left = Outcome::Left("restore a backup of the database".to_owned());
            self.found(Check::HalfRecord, (row.key.clone(), detail), |_| Ok(left));
            return;
        };
        match store.stat(&digest) {
            Ok(info) if info.size_bytes == row.size => {}
            Ok(info) => {
                let detail = format!(
                    "{} bytes on disk, {} in the record",
                    info.size_bytes, row.size
                );
                self.found(Check::BlobSize, (row.key.clone(), detail), |db| {
                    mend_size(db, store, &digest)
                });
            }
            Err(ContentError::BlobNotFound { .. }) => {
                // Hidden and swept since the rows were read?
                if !self
                    .db
                    .read(FAILED, |connection| is_live(connection, row.id))
                    .unwrap_or(true)
                {
                    return;
                }
                let detail = format!(
                    "namespace {} has a record but the disk no file",
                    row.namespace
                );
                self.found(Check::BlobMissing, (row.key.clone(), detail), |db| {
                    forget_missing(db, store, &digest)
                });
            }
            Err(error) => {
                let detail = orlop_types::chain(&error);
                let left = Outcome::Left("look at the disk".to_owned());
                self.found(Check::BlobMissing, (row.key.clone(), detail), |_| Ok(left));
            }
        }
    }

    fn blob_file(&mut self, store: &Store, info: &BlobInfo) -> Result<(), Error> {
        self.summary.checked += 1;
        let key = info.digest.to_string();
        if !blob_is_named(self.db, &key)? && !is_queued(self.db, &key)? {
            // A commit makes the file before the row, and holds the claim meanwhile.
            let Some(claim) = self.db.claims().try_claim(info.digest) else {
                return Ok(());
            };
            if blob_is_named(self.db, &key)? || store.stat(&info.digest).is_err() {
                return Ok(());
            }
            drop(claim);
            let detail = format!("{} bytes that no record names", info.size_bytes);
            let bytes = info.disk_bytes;
            self.found(Check::BlobUnknown, (key, detail), |db| {
                // The sweep claims it and looks again before it removes anything.
                queue(db, &info.digest, bytes)?;
                Ok(Outcome::Repaired("queued for the sweep"))
            });
            return Ok(());
        }
        if self.options.verify_content
            && let Err(error @ ContentError::CorruptBlob { .. }) = store.verify(&info.digest)
        {
            let detail = orlop_types::chain(&error);
            self.found(Check::BlobCorrupt, (key, detail), |db| {
                remove_corrupt(db, store, &info.digest)
            });
        }
        Ok(())
    }
}

fn page(db: &Db, after: i64) -> Result<Vec<Row>, Error> {
    db.read(FAILED, |connection| {
        let failed = Error::database(FAILED);
        connection
            .prepare_cached(
                "SELECT content.id, namespaces.name, node.key, content.size FROM content
                    CROSS JOIN nodes AS node ON node.id = content.id
                    CROSS JOIN namespaces ON namespaces.id = node.namespace
                 WHERE content.id > ?1 ORDER BY content.id LIMIT ?2",
            )
            .and_then(|mut select| {
                let rows = select.query_map(params![after, PAGE_ROWS], |row| {
                    Ok(Row {
                        id: row.get(0)?,
                        namespace: row.get(1)?,
                        key: row.get(2)?,
                        size: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(u64::MAX),
                    })
                })?;
                rows.collect()
            })
            .map_err(failed)
    })
}

fn is_live(connection: &rusqlite::Connection, id: i64) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM content WHERE id = ?1")
        .and_then(|mut select| select.exists([id]))
        .map_err(Error::database(FAILED))
}

fn is_queued(db: &Db, key: &str) -> Result<bool, Error> {
    db.read(FAILED, |connection| {
        connection
            .prepare_cached("SELECT 1 FROM sweeps WHERE kind = ?1 AND scope = '' AND key = ?2")
            .and_then(|mut select| select.exists(params![SweepKind::Blob as u8, key]))
            .map_err(Error::database(FAILED))
    })
}

fn queue(db: &Db, digest: &Digest, bytes: u64) -> Result<(), Error> {
    db.write("queue a blob", |tx| {
        sweep::enqueue(tx, SweepKind::Blob, ("", &digest.to_string()), bytes)
    })
}

/// The bytes decide: if they have the digest, the record's size is wrong.
fn mend_size(db: &Db, store: &Store, digest: &Digest) -> Result<Outcome, Error> {
    let info = match store.verify(digest) {
        Err(ContentError::CorruptBlob { .. }) => return remove_corrupt(db, store, digest),
        other => other.map_err(failed)?,
    };
    let size = i64::try_from(info.size_bytes).unwrap_or(i64::MAX);
    db.write("mend a blob's size", |tx| {
        tx.prepare_cached(
            "UPDATE content SET size = ?2 WHERE id IN (SELECT id FROM nodes WHERE key = ?1 AND kind = 1)",
        )
        .and_then(|mut update| update.execute(params![digest.to_string(), size]))
        .map_err(Error::database("mend a blob's size"))
    })?;
    Ok(Outcome::Repaired(
        "the bytes are right, so their size was recorded",
    ))
}

fn forget_missing(db: &Db, store: &Store, digest: &Digest) -> Result<Outcome, Error> {
    let _claim = db.claims().claim(*digest);
    if store.stat(digest).is_ok() {
        return Ok(Outcome::Repaired("it is there by now"));
    }
    db.write("remove a blob's row", |tx| remove_rows(tx, digest))?;
    Ok(Outcome::Repaired(
        "the record was removed, so a pull fetches it again",
    ))
}

fn remove_corrupt(db: &Db, store: &Store, digest: &Digest) -> Result<Outcome, Error> {
    let _claim = db.claims().claim(*digest);
    db.write("remove a corrupt blob's rows", |tx| remove_rows(tx, digest))?;
    store.remove(digest).map_err(failed)?;
    Ok(Outcome::Repaired(
        "bytes and record were removed, so a pull fetches it again",
    ))
}

/// Removes a blob's records from all namespaces, with their events.
fn remove_rows(tx: &Tx<'_>, digest: &Digest) -> Result<(), Error> {
    let failed = Error::database("remove a blob's row");
    let mut select = tx
        .prepare(
            "SELECT node.id, node.namespace, namespaces.name, content.size FROM nodes AS node
                CROSS JOIN content ON content.id = node.id
                CROSS JOIN namespaces ON namespaces.id = node.namespace
             WHERE node.kind = 1 AND node.key = ?1",
        )
        .map_err(failed)?;
    let rows = select
        .query_map([digest.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .and_then(Iterator::collect::<Result<Vec<(i64, i64, String, i64)>, _>>)
        .map_err(failed)?;
    for (id, namespace, name, size) in rows {
        let size = u64::try_from(size).unwrap_or(0);
        content::remove_row(tx, (id, namespace), (digest, size))?;
        if let Ok(name) = Namespace::new(name) {
            tx.append(&name, &Event::ContentDelete { digest: *digest })?;
        }
    }
    Ok(())
}

fn failed(source: ContentError) -> Error {
    Error::Content {
        operation: FAILED,
        subject: "content store".to_owned(),
        source: std::sync::Arc::new(source),
    }
}

/// Whether the store has a blob.
pub(super) fn is_in_store(store: &Store, digest: &str) -> bool {
    digest
        .parse()
        .is_ok_and(|digest: Digest| store.stat(&digest).is_ok())
}

/// Whether a query finds a row.
pub(super) fn exists(db: &Db, sql: &str, values: impl rusqlite::Params) -> Result<bool, Error> {
    db.read(FAILED, |connection| {
        connection
            .prepare_cached(sql)
            .and_then(|mut select| select.query_row(values, |_| Ok(())).optional())
            .map(|found| found.is_some())
            .map_err(Error::database(FAILED))
    })
}
