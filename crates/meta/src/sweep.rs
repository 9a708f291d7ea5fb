//! The sweep queue: what no row names any more and the disk still has.
//!
//! An entry is written in the transaction that removes the last row, so a crash at any point leaves either the row
//! or the entry. Sweeping is idempotent; an entry goes when the bytes are gone. `gc/` works the queue off.

use orlop_types::Digest;
use rusqlite::params;

use crate::Error;
use crate::db::Tx;
use crate::node::{NodeKey, NodeKind, live_elsewhere};

/// What is to be removed. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum SweepKind {
    /// A committed blob; the key is its digest.
    Blob = 1,
    /// An unfinished ingest; the key is its number.
    Ingest = 2,
    /// A snapshot's folder; the scope is its snapshotter, the key its number.
    Snapshot = 3,
    /// What a snapshotter put aside and has not deleted yet; the scope is its name, the key empty.
    Leftovers = 4,
    /// Mounts made ahead; the key is their number.
    Mount = 5,
}

impl SweepKind {
    /// The word used in events, logs and by `gc status`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "content",
            Self::Ingest => "ingest",
            Self::Snapshot => "snapshot",
            Self::Leftovers => "leftovers",
            Self::Mount => "mount",
        }
    }
}

const FAILED: &str = "queue for the sweep";

/// Queues something whose last row went in this transaction.
pub(crate) fn enqueue(
    tx: &Tx<'_>,
    kind: SweepKind,
    (scope, key): (&str, &str),
    bytes: u64,
) -> Result<(), Error> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "INSERT INTO sweeps (kind, scope, key, bytes, queued_at, next_try_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT (kind, scope, key) DO NOTHING",
    )
    .and_then(|mut insert| insert.execute(params![kind as u8, scope, key, bytes, tx.now]))
    .map_err(Error::database(FAILED))?;
    tx.note_sweep();
    Ok(())
}

/// Takes something off the queue because a row names it again.
pub(crate) fn dequeue(
    tx: &Tx<'_>,
    kind: SweepKind,
    (scope, key): (&str, &str),
) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM sweeps WHERE kind = ?1 AND scope = ?2 AND key = ?3")
        .and_then(|mut delete| delete.execute(params![kind as u8, scope, key]))
        .map_err(Error::database(FAILED))?;
    Ok(())
}

/// Queues a blob unless another namespace has it, or a shared ingest still counts on it.
pub(crate) fn enqueue_blob(
    tx: &Tx<'_>,
    namespace: i64,
    digest: &Digest,
    bytes: u64,
) -> Result<(), Error> {
    let key = digest.to_string();
    let node = NodeKey {
        namespace,
        kind: NodeKind::Content,
        scope: "",
        key: &key,
    };
    let expected = tx
        .prepare_cached("SELECT 1 FROM ingests WHERE shared = 1 AND expected_digest = ?1")
        .and_then(|mut select| select.exists([&key]))
        .map_err(Error::database(FAILED))?;
    if expected || live_elsewhere(tx, node)?.is_some() {
        return Ok(());
    }
    enqueue(tx, SweepKind::Blob, ("", &key), bytes)
}

/// Queues a snapshot's folder unless another row shares its number.
pub(crate) fn enqueue_snapshot(
    tx: &Tx<'_>,
    snapshotter: &str,
    number: i64,
    bytes: u64,
) -> Result<(), Error> {
    let shared = tx
        .prepare_cached("SELECT 1 FROM snapshots WHERE number = ?1")
        .and_then(|mut select| select.exists([number]))
        .map_err(Error::database(FAILED))?;
    if shared {
        return Ok(());
    }
    enqueue(
        tx,
        SweepKind::Snapshot,
        (snapshotter, &number.to_string()),
        bytes,
    )
}
