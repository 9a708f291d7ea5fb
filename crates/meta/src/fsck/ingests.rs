//! Ingests: records against folders.

use std::collections::BTreeSet;
use std::sync::Arc;

use orlop_content::{ContentError, Store};
use orlop_types::IngestRef;
use rusqlite::params;

use super::blobs::{exists, is_in_store};
use super::{Check, Outcome, Run, perhaps_under_way};
use crate::content::ingest::{backend_reference, collect_by_id};
use crate::sweep::SweepKind;
use crate::{Db, Error};

const FAILED: &str = "compare ingests";

struct Row {
    id: i64,
    namespace: i64,
    key: String,
    number: i64,
    /// The digest of a shared ingest.
    shared: Option<String>,
}

impl Run<'_> {
    /// Every folder has a record and every record its folder.
    pub(super) fn ingests(&mut self) -> Result<(), Error> {
        let db = self.db;
        let Some(store) = db.backends().content.as_deref() else {
            return Ok(());
        };
        let folders = store.statuses().map_err(failed)?;
        for folder in &folders {
            self.summary.checked += 1;
            if self.is_known(&folder.reference)? {
                continue;
            }
            let detail = format!(
                "{} bytes of an ingest without a record",
                folder.present_bytes
            );
            let is_open = folder.is_open;
            self.found(
                Check::IngestUnknown,
                (folder.reference.to_string(), detail),
                |_| {
                    if is_open {
                        return Ok(Outcome::Left("a writer has it open".to_owned()));
                    }
                    store.abort(&folder.reference).map_err(failed)?;
                    Ok(Outcome::Repaired("its folder was removed"))
                },
            );
        }
        let known: BTreeSet<IngestRef> =
            folders.into_iter().map(|folder| folder.reference).collect();
        for row in rows(db)? {
            self.ingest_record(store, &known, &row);
        }
        Ok(())
    }

    fn ingest_record(&mut self, store: &Store, known: &BTreeSet<IngestRef>, row: &Row) {
        let detail = match &row.shared {
            Some(digest) if !is_in_store(store, digest) => {
                format!("it shares blob {digest}, which the disk does not have")
            }
            None if !known.contains(&backend_reference(row.number)) => {
                "its record has no folder".to_owned()
            }
            Some(_) | None => return,
        };
        if !self.options.at_start && row.shared.is_none() {
            // The record comes first, so a folder that is about to be made is no finding.
            return;
        }
        let at_start = self.options.at_start;
        self.found(Check::IngestMissing, (row.key.clone(), detail), |db| {
            if !at_start {
                return Ok(perhaps_under_way());
            }
            db.write("remove an ingest", |tx| {
                collect_by_id(tx, row.namespace, row.id)
            })?;
            Ok(Outcome::Repaired(
                "its record was removed, so it begins anew",
            ))
        });
    }

    fn is_known(&self, reference: &IngestRef) -> Result<bool, Error> {
        let number = reference.as_str().strip_prefix("ingest-");
        let Some(number) = number.and_then(|number| number.parse::<i64>().ok()) else {
            return Ok(false);
        };
        let has_record = exists(self.db, "SELECT 1 FROM ingests WHERE number = ?1", [number])?;
        Ok(has_record
            || exists(
                self.db,
                "SELECT 1 FROM sweeps WHERE kind = ?1 AND scope = '' AND key = ?2",
                params![SweepKind::Ingest as u8, number.to_string()],
            )?)
    }
}

fn rows(db: &Db) -> Result<Vec<Row>, Error> {
    db.read(FAILED, |connection| {
        connection
            .prepare(
                "SELECT node.id, node.namespace, node.key, number, shared, expected_digest FROM ingests AS ingest
                    CROSS JOIN nodes AS node ON node.id = ingest.id ORDER BY node.id",
            )
            .and_then(|mut select| {
                let rows = select.query_map([], |row| {
                    let (shared, digest): (bool, Option<String>) = (row.get(4)?, row.get(5)?);
                    Ok(Row {
                        id: row.get(0)?,
                        namespace: row.get(1)?,
                        key: row.get(2)?,
                        number: row.get(3)?,
                        shared: shared.then_some(digest).flatten(),
                    })
                })?;
                rows.collect()
            })
            .map_err(Error::database(FAILED))
    })
}

fn failed(source: ContentError) -> Error {
    Error::Content {
        operation: FAILED,
        subject: "content store".to_owned(),
        source: Arc::new(source),
    }
}
