//! Backups before migrations, and the way back to one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_base::clock::SharedClock;
use rusqlite::Connection;

use super::{lock, open_for_writing, open_to_read, suffixed, version};
use crate::Error;

/// Ends the name of a backup that is being written; SQLite's journal of it is beside it.
const PARTIAL: &str = ".partial";

/// Writes a consistent copy of the open database beside it.
pub(super) fn create(
    connection: &Connection,
    path: &Path,
    version: i64,
    clock: &SharedClock,
) -> Result<PathBuf, Error> {
    let backup = unused(path, &format!(".v{version}-{}", stamp(clock.wall())));
    let partial = suffixed(&backup, PARTIAL);
    remove_partial(path);
    connection
        .execute("VACUUM INTO ?1", [partial.to_string_lossy()])
        .map_err(Error::database("back the database up"))?;
    sync(&partial)?;
    rename(&partial, &backup)?;
    Ok(backup)
}

/// Removes the beginnings of backups, and their journals, that a killed migration left beside the database. Those that
/// stay cost only space.
fn remove_partial(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let begin = format!("{}.v", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&begin) && name.contains(PARTIAL) {
            let removed = remove_if_there(&entry.path());
            tracing::info!(%name, removed = removed.is_ok(), "a killed migration left half a backup");
        }
    }
}

/// Puts `backup` in the database's place. Nothing is deleted: what was there is renamed, and its new name returned.
///
/// The daemon must be stopped. Records made since the backup are only in the renamed file, so run `fsck` afterwards.
///
/// # Errors
/// `InUse`, `Foreign` or `NewerSchema` for an unusable backup, `Database`, `Io`.
pub fn rollback(path: &Path, backup: &Path, clock: &SharedClock) -> Result<PathBuf, Error> {
    let _lock = lock(path)?;
    check(backup)?;
    let undone = unused(path, &format!(".undone-{}", stamp(clock.wall())));
    let restored = suffixed(path, ".restored");
    fs::copy(backup, &restored).map_err(Error::io("copy to", &restored))?;
    sync(&restored)?;
    if path.exists() {
        fold_log_in(path)?;
        rename(path, &undone)?;
    }
    // A crash here leaves no database under its name, but both files; the same call again completes it.
    rename(&restored, path)?;
    Ok(undone)
}

/// Refuses a backup that this program could not open, or that is damaged.
fn check(backup: &Path) -> Result<(), Error> {
    let connection = open_to_read(backup)?;
    if version(&connection, backup)? == 0 {
        let path = backup.to_owned();
        return Err(Error::Foreign { path });
    }
    let verdict: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(Error::database("check the backup"))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::Corrupt {
        table: "backup",
        subject: backup.display().to_string(),
        reason: verdict,
    })
}

/// Empties the write-ahead log into the database and removes it, so that it is not applied to the restored file.
fn fold_log_in(path: &Path) -> Result<(), Error> {
    match open_for_writing(path) {
        Ok(connection) => connection
            .close()
            .map_err(|(_, error)| Error::database("close the database")(error))?,
        Err(error) => {
            tracing::warn!(%error, "the replaced database could not be opened; its log is moved aside")
        }
    }
    for suffix in ["-wal", "-shm"] {
        let beside = suffixed(path, suffix);
        if beside.exists() {
            rename(&beside, &unused(&beside, ".undone"))?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("rename to", to))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("sync", path))
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A name that nothing has yet: a second backup within one second gets a number.
fn unused(path: &Path, suffix: &str) -> PathBuf {
    let first = suffixed(path, suffix);
    let numbered = (2..).map(|number: u64| suffixed(&first, &format!("-{number}")));
    std::iter::once(first.clone())
        .chain(numbered)
        .find(|candidate| !candidate.exists())
        .unwrap_or(first)
}

/// `20261123T125639Z`.
fn stamp(time: SystemTime) -> String {
    let seconds = crate::time::to_nanos(time).div_euclid(1_000_000_000);
    let (year, month, day) = crate::time::date_of(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}
