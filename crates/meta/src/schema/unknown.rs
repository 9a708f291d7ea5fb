//! What a database holds that this program does not know. It is told of, and left as it is.

use rusqlite::Connection;

use crate::Error;
use crate::fsck::session;
use crate::node::{EdgeKind, NodeKind};
use crate::sweep::SweepKind;

/// Tables of any version up to the newest.
const TABLES: &[&str] = &[
    "containers",
    "content",
    "counters",
    "images",
    "ingests",
    "leases",
    "namespaces",
    "nodes",
    "mounts",
    "outbox",
    "refs",
    "sandboxes",
    "settings",
    "snapshots",
    "sweeps",
    "tasks",
];

/// Columns that hold one of a few numbers, with the greatest that is known. All begin at 1.
const NUMBERED: [(&str, &str, u8); 4] = [
    ("nodes", "kind", NodeKind::Mount as u8),
    ("refs", "kind", EdgeKind::Lease as u8),
    ("snapshots", "kind", 3),
    ("sweeps", "kind", SweepKind::Mount as u8),
];

/// Columns that hold one of a few names.
const NAMED: [(&str, &[&str]); 2] = [
    ("counters", &["snapshot", "ingest", "mount"]),
    ("settings", &[session::SETTING]),
];

/// Unknown tables, in the words a report shows.
pub(super) fn tables(connection: &Connection) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let names = texts(connection, sql)?;
    let strangers = names
        .into_iter()
        .filter(|name| !TABLES.contains(&name.as_str()));
    Ok(strangers.map(|name| format!("table {name}")).collect())
}

/// Unknown rows of known tables, in the words a report shows. Reads all references, so it is for migrations only.
pub(super) fn rows(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (table, column, greatest) in NUMBERED {
        let sql = format!(
            "SELECT count(*) || ' rows of {table} with {column} ' || {column} FROM {table}
            WHERE {column} NOT BETWEEN 1 AND {greatest} GROUP BY {column} ORDER BY {column}"
        );
        found.extend(texts(connection, &sql)?);
    }
    for (table, known) in NAMED {
        let names = texts(
            connection,
            &format!("SELECT name FROM {table} ORDER BY name"),
        )?;
        let strangers = names
            .into_iter()
            .filter(|name| !known.contains(&name.as_str()));
        found.extend(strangers.map(|name| format!("row {name:?} of {table}")));
    }
    Ok(found)
}

fn texts(connection: &Connection, sql: &str) -> Result<Vec<String>, Error> {
    connection
        .prepare(sql)
        .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
        .map_err(Error::database("list what the database holds"))
}
