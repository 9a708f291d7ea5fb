//! The rows of what is kept: statements, and nothing that decides.

use std::collections::HashSet;
use std::sync::Arc;

use orlop_types::Digest;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::{Child, TagRow};
use crate::db::{from_column, moment, to_column};

type Result<T> = rusqlite::Result<T>;

/// A row of `blobs`.
#[derive(Debug, Clone)]
pub(super) struct BlobRow {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: Option<Arc<str>>,
    pub(super) added_at: i64,
    pub(super) used_at: i64,
    pub(super) uses: u64,
}

/// Runs a statement that is asked often.
pub(super) fn run(db: &Connection, sql: &str, values: impl Params) -> Result<usize> {
    db.prepare_cached(sql)?.execute(values)
}

/// Writes a blob's row; what a new one does not know of an old one stays.
pub(super) fn put_blob(db: &Connection, row: &BlobRow, checked_at: Option<i64>) -> Result<()> {
    run(
        db,
        "INSERT INTO blobs (digest, size, media_type, added_at, used_at, uses, checked_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (digest) DO UPDATE SET
             size = excluded.size, media_type = coalesce(excluded.media_type, media_type),
             used_at = excluded.used_at, uses = excluded.uses, checked_at = coalesce(excluded.checked_at, checked_at)",
        params![
            row.digest.to_string(),
            to_column(row.size),
            row.media_type.as_deref(),
            row.added_at,
            row.used_at,
            to_column(row.uses),
            checked_at,
        ],
    )?;
    Ok(())
}

/// Deletes a blob's row and what goes with it. Tags stay: they say what upstream said.
pub(super) fn delete_blob(db: &Connection, digest: &str) -> Result<()> {
    run(db, "DELETE FROM blobs WHERE digest = ?1", [digest])?;
    run(db, "DELETE FROM links WHERE digest = ?1", [digest])?;
    run(db, "DELETE FROM children WHERE parent = ?1", [digest])?;
    Ok(())
}

/// All blobs, the least recently used first. Rows whose digest does not parse are left out.
pub(super) fn blobs(db: &Connection) -> Result<Vec<BlobRow>> {
    let mut statement = db.prepare(
        "SELECT digest, size, media_type, added_at, used_at, uses FROM blobs ORDER BY used_at, digest",
    )?;
    let rows = statement.query_map([], blob_row)?;
    rows.filter_map(std::result::Result::transpose).collect()
}

pub(super) fn blob(db: &Connection, digest: &Digest) -> Result<Option<BlobRow>> {
    let row = db
        .prepare_cached(
            "SELECT digest, size, media_type, added_at, used_at, uses FROM blobs WHERE digest = ?1",
        )?
        .query_row([digest.to_string()], blob_row)
        .optional()?;
    Ok(row.flatten())
}

fn blob_row(row: &Row<'_>) -> Result<Option<BlobRow>> {
    Ok(digest_of(row, 0)?.map(|digest| BlobRow {
        digest,
        size: row.get(1).map_or(0, from_column),
        media_type: row
            .get::<_, Option<String>>(2)
            .ok()
            .flatten()
            .map(Arc::from),
        added_at: row.get(3).unwrap_or(0),
        used_at: row.get(4).unwrap_or(0),
        uses: row.get(5).map_or(0, from_column),
    }))
}

/// A digest in a column; None if it is none.
pub(super) fn digest_of(row: &Row<'_>, column: usize) -> Result<Option<Digest>> {
    Ok(row
        .get_ref(column)?
        .as_str()
        .ok()
        .and_then(|text| text.parse().ok()))
}

/// One column of digests.
pub(super) fn digests(db: &Connection, sql: &str, values: impl Params) -> Result<Vec<Digest>> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(values, |row| digest_of(row, 0))?;
    rows.filter_map(std::result::Result::transpose).collect()
}

/// Everything that pins keep.
pub(super) fn pinned(db: &Connection) -> Result<HashSet<Digest>> {
    Ok(digests(db, "SELECT digest FROM pinned", [])?
        .into_iter()
        .collect())
}

/// The number of a repository, given one if it has none.
pub(super) fn repository(db: &Connection, locator: &str) -> Result<i64> {
    if let Some(id) = find_repository(db, locator)? {
        return Ok(id);
    }
    run(
        db,
        "INSERT INTO repositories (locator) VALUES (?1)",
        [locator],
    )?;
    Ok(db.last_insert_rowid())
}

pub(super) fn find_repository(db: &Connection, locator: &str) -> Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM repositories WHERE locator = ?1")?
        .query_row([locator], |row| row.get(0))
        .optional()
}

pub(super) fn put_link(db: &Connection, repository: i64, digest: &Digest) -> Result<()> {
    run(
        db,
        "INSERT OR IGNORE INTO links (digest, repository) VALUES (?1, ?2)",
        params![digest.to_string(), repository],
    )?;
    Ok(())
}

/// Replaces what a manifest names.
pub(super) fn put_children(db: &Connection, parent: &Digest, children: &[Child]) -> Result<()> {
    let parent = parent.to_string();
    run(db, "DELETE FROM children WHERE parent = ?1", [&parent])?;
    for (position, child) in children.iter().enumerate() {
        run(
            db,
            "INSERT INTO children (parent, position, digest, size, media_type) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                parent,
                i64::try_from(position).unwrap_or(i64::MAX),
                child.digest.to_string(),
                to_column(child.size),
                child.media_type,
            ],
        )?;
    }
    Ok(())
}

pub(super) fn children(db: &Connection, parent: &Digest) -> Result<Vec<Child>> {
    let mut statement = db.prepare_cached(
        "SELECT digest, size, media_type FROM children WHERE parent = ?1 ORDER BY position",
    )?;
    let rows = statement.query_map([parent.to_string()], |row| {
        let child = digest_of(row, 0)?.map(|digest| Child {
            digest,
            size: row.get(1).map_or(0, from_column),
            media_type: row.get(2).unwrap_or_default(),
        });
        Ok(child)
    })?;
    rows.filter_map(std::result::Result::transpose).collect()
}

pub(super) fn tag(db: &Connection, locator: &str, tag: &str) -> Result<Option<TagRow>> {
    let row = db
        .prepare_cached(
            "SELECT digest, media_type, checked_at FROM tags
             WHERE repository = (SELECT id FROM repositories WHERE locator = ?1) AND tag = ?2",
        )?
        .query_row([locator, tag], |row| {
            Ok(digest_of(row, 0)?.map(|digest| TagRow {
                digest,
                media_type: row.get(1).ok(),
                checked: moment(row.get(2).unwrap_or(0)),
            }))
        })
        .optional()?;
    Ok(row.flatten())
}

/// Whether there is a row.
pub(super) fn exists(db: &Connection, sql: &str, values: impl Params) -> Result<bool> {
    db.prepare_cached(sql)?.exists(values)
}

pub(super) fn set(db: &Connection, name: &str, value: &str) -> Result<()> {
    run(
        db,
        "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [name, value],
    )?;
    Ok(())
}

pub(super) fn setting(db: &Connection, name: &str) -> Result<Option<String>> {
    db.prepare_cached("SELECT value FROM settings WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}
