//! The folders both backends share: how a snapshot comes to be, is sealed, goes aside and is deleted.
//!
//! ```text
//! <root>/
//! ├── snapshots/<number>/   whole, because it was renamed here
//! │   ├── fs/               the files of an active or committed snapshot
//! │   ├── work/             overlay's own; there exactly as long as the snapshot is active
//! │   └── view/             instead of both: a view has no files of its own
//! ├── incoming/<number>/    being built
//! └── trash/<number>.<n>/   removed, not yet deleted
//! ```
//!
//! The kind of a snapshot is read from which folders it has, so a commit is one `rmdir` and cannot be half done.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use orlop_sys::fs::{self, Dir, Entries, Mode, Name, remove_tree_beneath};
use orlop_sys::mount::MountTable;

use crate::flush::Flush;
use crate::removal::remove_all;
use crate::users::Users;
use crate::{Cleaned, Error, Found, Kind, RemoveFailure, SnapshotNumber, Usage};

static SNAPSHOTS: Name = Name::from_static("snapshots");
static INCOMING: Name = Name::from_static("incoming");
static TRASH: Name = Name::from_static("trash");
pub(crate) static FS: Name = Name::from_static("fs");
pub(crate) static WORK: Name = Name::from_static("work");
pub(crate) static VIEW: Name = Name::from_static("view");

/// Numbers are not used twice, so one name in the trash is nearly always free.
const TRASH_NAMES_MAX: u32 = 1024;

/// The folder of one backend.
#[derive(Debug)]
pub(crate) struct Store {
    /// Without symbolic links, as the mount table has it, and UTF-8, as mount options have it.
    root: String,
    snapshots: Dir,
    incoming: Dir,
    trash: Dir,
    held: Mutex<BTreeSet<SnapshotNumber>>,
    cleaning: Mutex<()>,
    flush: Flush,
}

impl Store {
    /// Opens the folder, creating what is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        Dir::create_all(root, Mode::from_raw_mode(0o700))?;
        let root = root.canonicalize().map_err(|source| Error::Io {
            operation: "resolve",
            path: root.to_owned(),
            source,
        })?;
        let folder = Dir::open(&root)?;
        let ensure = |name| folder.ensure_dir(name, Mode::from_raw_mode(0o700));
        Ok(Self {
            snapshots: ensure(&SNAPSHOTS)?,
            incoming: ensure(&INCOMING)?,
            trash: ensure(&TRASH)?,
            root: root
                .into_os_string()
                .into_string()
                .map_err(|path| Error::UnmountablePath { path: path.into() })?,
            held: Mutex::default(),
            cleaning: Mutex::default(),
            flush: Flush::default(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        Path::new(&self.root)
    }

    /// Where new folders are built.
    pub(crate) fn incoming(&self) -> &Dir {
        &self.incoming
    }

    /// The path of one part of a snapshot, for mount options.
    pub(crate) fn path(&self, number: SnapshotNumber, part: &str) -> String {
        format!("{}/snapshots/{number}/{part}", self.root)
    }

    /// Marks `number` as worked on until the result is dropped.
    pub(crate) fn hold(
        &self,
        number: SnapshotNumber,
        operation: &'static str,
    ) -> Result<Held<'_>, Error> {
        if unpoisoned(&self.held).insert(number) {
            Ok(Held {
                store: self,
                number,
            })
        } else {
            Err(Error::InProgress { operation, number })
        }
    }

    /// What the disk says `number` is; nothing if it has no folder.
    pub(crate) fn kind(&self, number: SnapshotNumber) -> Result<Option<Kind>, Error> {
        let Some(folder) = self.folder(number)? else {
            return Ok(None);
        };
        if folder.contains(&WORK)? {
            return Ok(Some(Kind::Active));
        }
        if folder.contains(&FS)? {
            return Ok(Some(Kind::Committed));
        }
        Ok(folder.contains(&VIEW)?.then_some(Kind::View))
    }

    /// Makes sure that `number` is of the kind `wanted`.
    pub(crate) fn require(
        &self,
        number: SnapshotNumber,
        wanted: Kind,
        operation: &'static str,
    ) -> Result<(), Error> {
        match self.kind(number)? {
            Some(found) if found == wanted => Ok(()),
            Some(found) => Err(Error::WrongKind {
                operation,
                number,
                found,
            }),
            None => Err(self.missing(number)),
        }
    }

    /// The files of an active or committed snapshot.
    pub(crate) fn files(&self, number: SnapshotNumber) -> Result<Dir, Error> {
        let folder = self.folder(number)?.ok_or_else(|| self.missing(number))?;
        match folder.open_dir(&FS) {
            Err(error) if error.is_not_found() => Err(self.missing(number)),
            other => Ok(other?),
        }
    }

    /// Builds a snapshot aside with `fill` and renames it into place. Does nothing if it is there already.
    pub(crate) fn create(
        &self,
        number: SnapshotNumber,
        kind: Kind,
        operation: &'static str,
        fill: impl FnOnce(&Dir) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _held = self.hold(number, operation)?;
        match self.require(number, kind, operation) {
            Err(Error::Missing { .. }) => {}
            decided => return decided,
        }
        let name = name_of(number);
        remove_tree_beneath(&self.incoming, &name)?;
        let folder = self
            .incoming
            .create_dir(&name, Mode::from_raw_mode(0o700))?;
        let built = fill(&folder)
            .and_then(|()| Ok(self.incoming.rename_new(&name, &self.snapshots, &name)?));
        built.inspect_err(|_| self.discard(&name))
    }

    /// Syncs an active snapshot and seals it. A repeated call syncs again, in case the first was interrupted.
    pub(crate) fn seal(&self, number: SnapshotNumber) -> Result<Usage, Error> {
        const OPERATION: &str = "commit";
        let _held = self.hold(number, OPERATION)?;
        let found = self.kind(number)?.ok_or_else(|| self.missing(number))?;
        match found {
            Kind::View => {
                return Err(Error::WrongKind {
                    operation: OPERATION,
                    number,
                    found,
                });
            }
            Kind::Committed => {}
            Kind::Active => self.users()?.refuse(number, OPERATION)?,
        }
        // First the bytes, then the mark that says they are there, then the mark is made to last.
        self.flush.run(|| self.snapshots.sync_file_system())?;
        let folder = self.snapshots.open_dir(&name_of(number))?;
        remove_tree_beneath(&folder, &WORK)?;
        folder.sync()?;
        self.usage(number)
    }

    /// What the files of `number` take; nothing for a view.
    pub(crate) fn usage(&self, number: SnapshotNumber) -> Result<Usage, Error> {
        let folder = self.folder(number)?.ok_or_else(|| self.missing(number))?;
        let usage = fs::usage_beneath(&folder, &FS)?;
        Ok(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        })
    }

    /// Renames snapshots aside, unless they are mounted.
    pub(crate) fn remove_many(&self, numbers: &[SnapshotNumber]) -> Vec<RemoveFailure> {
        let users = match numbers {
            [] => return Vec::new(),
            _ => self.users(),
        };
        let remove = |number: SnapshotNumber| match &users {
            Ok(users) => self.put_aside(number, users),
            // Errors cannot be cloned, so each snapshot asks again and gets its own.
            Err(_) => self
                .users()
                .and_then(|users| self.put_aside(number, &users)),
        };
        let failed = |number: &SnapshotNumber| {
            let error = remove(*number).err()?;
            Some(RemoveFailure {
                number: *number,
                error,
            })
        };
        numbers.iter().filter_map(failed).collect()
    }

    pub(crate) fn walk(&self) -> Result<Walk<'_>, Error> {
        Ok(Walk {
            store: self,
            entries: self.snapshots.entries()?,
        })
    }

    pub(crate) fn cleanup(&self, folders_max: usize) -> Result<Cleaned, Error> {
        let _alone = unpoisoned(&self.cleaning);
        let mut cleaned = Cleaned::default();
        let mut aside = Vec::new();
        for entry in self.trash.entries()? {
            cleaned.more = aside.len() >= folders_max;
            if cleaned.more {
                break;
            }
            aside.push(entry?.name);
        }
        for removed in remove_all(&self.trash, &aside) {
            cleaned.note(removed);
        }
        if cleaned.more {
            return Ok(cleaned);
        }
        for entry in self.incoming.entries()? {
            if cleaned.is_at(folders_max) {
                return Ok(cleaned);
            }
            let name = entry?.name;
            // Somebody else is building there, which is no failure.
            let Ok(_held) =
                number_of(&name).map_or(Ok(None), |number| self.hold(number, "clean up").map(Some))
            else {
                continue;
            };
            cleaned.note(remove_tree_beneath(&self.incoming, &name).map_err(Error::from));
        }
        Ok(cleaned)
    }

    /// Who uses the snapshots, as of now.
    fn users(&self) -> Result<Users, Error> {
        let table = MountTable::read().map_err(Error::Table)?;
        Ok(Users::find(&table, &self.root().join("snapshots")))
    }

    fn put_aside(&self, number: SnapshotNumber, users: &Users) -> Result<(), Error> {
        let _held = self.hold(number, "remove")?;
        users.refuse(number, "remove")?;
        let name = name_of(number);
        for attempt in 0..TRASH_NAMES_MAX {
            let aside = Name::new(format!("{number}.{attempt}"))
                .expect("digits and a dot are one component");
            match self.snapshots.rename_new(&name, &self.trash, &aside) {
                Err(error) if error.is_already_exists() => {}
                Err(error) if error.is_not_found() => return Ok(()),
                other => return Ok(other?),
            }
        }
        Err(Error::InProgress {
            operation: "remove",
            number,
        })
    }

    fn folder(&self, number: SnapshotNumber) -> Result<Option<Dir>, Error> {
        match self.snapshots.open_dir(&name_of(number)) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn missing(&self, number: SnapshotNumber) -> Error {
        Error::Missing {
            number,
            root: self.root().to_owned(),
        }
    }

    fn discard(&self, name: &Name) {
        if let Err(error) = remove_tree_beneath(&self.incoming, name) {
            tracing::warn!(snapshot = ?name, %error, "an unfinished snapshot stays until the next cleanup");
        }
    }
}

/// The snapshots on disk.
pub(crate) struct Walk<'a> {
    store: &'a Store,
    entries: Entries,
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            // What is no number was not put there by this crate.
            let Some(number) = number_of(&entry.name) else {
                continue;
            };
            match self.store.kind(number) {
                Ok(Some(kind)) => return Some(Ok(Found { number, kind })),
                // Removed since the folder was listed.
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A number nobody else may work on until this is dropped.
pub(crate) struct Held<'a> {
    store: &'a Store,
    number: SnapshotNumber,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        unpoisoned(&self.store.held).remove(&self.number);
    }
}

impl Cleaned {
    /// Whether the limit is reached; if so, says that there is more.
    fn is_at(&mut self, folders_max: usize) -> bool {
        let done = usize::try_from(self.folders)
            .unwrap_or(usize::MAX)
            .saturating_add(self.failures.len());
        self.more = done >= folders_max;
        self.more
    }

    fn note<T>(&mut self, result: Result<T, Error>) {
        match result {
            Ok(_) => self.folders += 1,
            Err(error) => self.failures.push(error),
        }
    }
}

/// The sets behind these locks are whole after every statement, so a panic elsewhere does not spoil them.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(number: SnapshotNumber) -> Name {
    Name::new(number.to_string()).expect("digits are one path component")
}

fn number_of(name: &Name) -> Option<SnapshotNumber> {
    name.as_str()?.parse().ok()
}

/// The folder of `fs` with the owner and mode that the root of a layer has by default.
pub(crate) fn create_root(folder: &Dir, like: Option<&Dir>) -> Result<(), Error> {
    use orlop_sys::beneath;
    let root = folder.create_dir(&FS, Mode::from_raw_mode(0o755))?;
    let failed = |source| Error::Io {
        operation: "set owner and mode of",
        path: PathBuf::from(root.path()),
        source,
    };
    let mut mode = 0o755;
    if let Some(like) = like {
        let stat = like.stat_self()?;
        beneath::set_owner_fd(&root, stat.uid, stat.gid).map_err(failed)?;
        mode = stat.permissions;
    }
    // Set in any case, because creation goes through the umask.
    beneath::set_mode_fd(&root, mode).map_err(failed)
}
