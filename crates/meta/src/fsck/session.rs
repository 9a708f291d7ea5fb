//! Whether the daemon before ended by itself.

use rusqlite::OptionalExtension;

use crate::{Db, Error};

/// The name of the row of `settings`.
pub(crate) const SETTING: &str = "session";
const RUNNING: &str = "running";
const ENDED: &str = "ended";

impl Db {
    /// Notes that a daemon begins its work, and says whether the one before ended it: if not, run [`Db::fsck`] with
    /// `repair` and `at_start` before anybody else uses the database. True for a new database.
    ///
    /// # Errors
    /// `ReadOnly`, `Database`.
    pub fn begin_session(&self) -> Result<bool, Error> {
        let failed = Error::database("begin a session");
        self.write("begin a session", |tx| {
            let before: Option<String> = tx
                .query_row(
                    "SELECT value FROM settings WHERE name = ?1",
                    [SETTING],
                    |row| row.get(0),
                )
                .optional()
                .map_err(failed)?;
            let was_clean = match before.as_deref() {
                Some(state) => state == ENDED,
                // Never used by a daemon; but if there are records, somebody was here.
                None => !tx
                    .prepare("SELECT 1 FROM nodes")
                    .and_then(|mut select| select.exists([]))
                    .map_err(failed)?,
            };
            note(tx, RUNNING).map_err(failed)?;
            Ok(was_clean)
        })
    }

    /// Notes that the daemon ends its work in order: after this it writes no more.
    ///
    /// # Errors
    /// `ReadOnly`, `Database`.
    pub fn end_session(&self) -> Result<(), Error> {
        self.write("end a session", |tx| {
            note(tx, ENDED).map_err(Error::database("end a session"))
        })
    }
}

fn note(connection: &rusqlite::Connection, state: &str) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)",
            [SETTING, state],
        )
        .map(drop)
}
