//! Who may have what: what upstream showed to whom, for a while.

use std::time::SystemTime;

use orlop_types::Digest;
use rusqlite::params;

use super::{Store, StoreError, rows};
use crate::db::seconds;

/// A grant given so many seconds in the future is of a clock that was set back since, and does not count.
const CLOCK_SLACK_SECONDS: i64 = 60;

impl Store {
    /// Notes that upstream showed these digests in this repository to whoever has this credential. The credential itself
    /// is never stored, only its fingerprint.
    ///
    /// # Errors
    /// The database fails: then the next request asks upstream again.
    pub fn grant(
        &self,
        fingerprint: &[u8; 32],
        locator: &str,
        digests: &[Digest],
        until: SystemTime,
    ) -> Result<(), StoreError> {
        let given_at = self.inner.wall();
        self.inner.write("note a grant in", |db| {
            let repository = rows::repository(db, locator)?;
            let sql =
                "INSERT OR REPLACE INTO grants (credential, repository, digest, given_at, until)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            for digest in digests {
                let (digest, until) = (digest.to_string(), seconds(until));
                rows::run(
                    db,
                    sql,
                    params![fingerprint, repository, digest, given_at, until],
                )?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Whether upstream showed this digest in this repository to whoever has this credential, not too long ago.
    ///
    /// # Errors
    /// The database fails: ask upstream.
    pub fn is_granted(
        &self,
        fingerprint: &[u8; 32],
        locator: &str,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let now = self.inner.wall();
        let sql = "SELECT 1 FROM grants
                   WHERE credential = ?1 AND digest = ?3 AND until > ?4 AND given_at <= ?5
                   AND repository = (SELECT id FROM repositories WHERE locator = ?2)";
        let digest = digest.to_string();
        let found = self.inner.read("look for a grant in", |db| {
            let latest = now.saturating_add(CLOCK_SLACK_SECONDS);
            rows::exists(db, sql, params![fingerprint, locator, digest, now, latest])
        })?;
        Ok(found)
    }

    /// Forgets everything shown to a credential.
    ///
    /// # Errors
    /// The database fails: nothing has changed.
    pub fn revoke(&self, fingerprint: &[u8; 32]) -> Result<(), StoreError> {
        self.inner.write("revoke grants in", |db| {
            rows::run(
                db,
                "DELETE FROM grants WHERE credential = ?1",
                [fingerprint],
            )
        })?;
        Ok(())
    }
}
