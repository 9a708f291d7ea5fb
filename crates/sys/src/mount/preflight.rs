//! Why an overlay will not mount, or would corrupt its files: found before the kernel answers with a bare number.
//!
//! Overlay reports nearly every mistake as `EINVAL`, `ELOOP` or `ESTALE`, and lets two mounts share an upper folder
//! with no more than a line in the kernel's log. Here every mistake has its own kind and names the folder.
//!
//! The checks call `stat` on every folder: on a dead network file system that blocks, so callers set a deadline.
//! They see this mount namespace only, and nothing keeps the answer true afterwards.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use orlop_types::Mount;
use rustix::fs::{
    AtFlags, CWD, FileType, StatVfsMountFlags, Statx, StatxFlags, statfs, statvfs, statx,
};

use super::detached::unescaped;
use super::{MountTable, TableError, split_layers};

/// The kernel's limit (`OVL_MAX_STACK`).
pub const LOWERS_MAX: usize = 500;

/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// Which folder of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A lower folder, counted from 0 at the top.
    Lower(usize),
    /// The folder that takes the changes.
    Upper,
    /// The folder in which changes are prepared.
    Work,
}

impl fmt::Display for Argument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lower(index) => write!(formatter, "lowerdir[{index}]"),
            Self::Upper => formatter.write_str("upperdir"),
            Self::Work => formatter.write_str("workdir"),
        }
    }
}

/// One mistake in the arguments of an overlay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The mount is of another type, or an option it needs is not there.
    #[error("the mount has no {option}")]
    NoOption {
        /// What it lacks.
        option: &'static str,
    },
    /// A folder does not exist.
    #[error("{argument} {} does not exist", path.display())]
    Missing {
        /// Which one.
        argument: Argument,
        /// Its path.
        path: PathBuf,
    },
    /// Something is there, but no folder.
    #[error("{argument} {} is not a folder", path.display())]
    NotAFolder {
        /// Which one.
        argument: Argument,
        /// Its path.
        path: PathBuf,
    },
    /// A folder could not be looked at.
    #[error("{argument} {} cannot be examined", path.display())]
    Unreadable {
        /// Which one.
        argument: Argument,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Upper and work are reached through different mounts.
    #[error("workdir {} is on another mount than upperdir {}", work.display(), upper.display())]
    DifferentMounts {
        /// The upper folder.
        upper: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// Upper and work are the same, or one lies in the other.
    #[error("workdir {} and upperdir {} are not separate", work.display(), upper.display())]
    NotSeparate {
        /// The upper folder.
        upper: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// The upper folder is itself on an overlay, which cannot store another one's marks.
    #[error("upperdir {} is itself on an overlay", path.display())]
    UpperOnOverlay {
        /// The upper folder.
        path: PathBuf,
    },
    /// The upper folder cannot be written.
    #[error("upperdir {} is on a read-only mount", path.display())]
    ReadOnlyUpper {
        /// The upper folder.
        path: PathBuf,
    },
    /// More lower folders than the kernel stacks.
    #[error("{count} lower folders are more than the {LOWERS_MAX} the kernel stacks")]
    TooManyLowers {
        /// How many there are.
        count: usize,
    },
    /// A folder that only one overlay may write to is in use by another.
    #[error("{argument} {} is in use by the overlay at {}", path.display(), mountpoint.display())]
    Busy {
        /// Which one.
        argument: Argument,
        /// Its path.
        path: PathBuf,
        /// Where the other overlay is mounted.
        mountpoint: PathBuf,
    },
    /// One folder twice.
    #[error("{second} is the same folder as {first}: {}", path.display())]
    Duplicate {
        /// The first time.
        first: Argument,
        /// The second time.
        second: Argument,
        /// The path.
        path: PathBuf,
    },
    /// A folder that lies in another one.
    #[error("{inner} {} lies in {outer}", path.display())]
    Overlapping {
        /// The one inside.
        inner: Argument,
        /// The one around it.
        outer: Argument,
        /// The path of the one inside.
        path: PathBuf,
    },
    /// The mount table could not be read, so who else uses the folders is not known.
    #[error("cannot tell whether the folders are in use")]
    Table(#[source] TableError),
}

impl Fault {
    /// The stable id of this kind of fault; each has a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoOption { .. } => "ORL-E2121",
            Self::Missing { .. } => "ORL-E2122",
            Self::NotAFolder { .. } => "ORL-E2123",
            Self::Unreadable { .. } => "ORL-E2124",
            Self::DifferentMounts { .. } => "ORL-E2125",
            Self::NotSeparate { .. } => "ORL-E2126",
            Self::UpperOnOverlay { .. } => "ORL-E2127",
            Self::ReadOnlyUpper { .. } => "ORL-E2128",
            Self::TooManyLowers { .. } => "ORL-E2129",
            Self::Busy { .. } => "ORL-E2130",
            Self::Duplicate { .. } => "ORL-E2131",
            Self::Overlapping { .. } => "ORL-E2132",
            Self::Table(_) => "ORL-E2133",
        }
    }
}

/// Checks the folders of an overlay and returns everything that is wrong with them, nothing if they are sound.
#[must_use]
pub fn overlay(mount: &Mount) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(arguments) = arguments(mount, &mut faults) else {
        return faults;
    };
    let folders: Vec<Folder> = arguments
        .into_iter()
        .filter_map(|(argument, path)| {
            Folder::examine(argument, path)
                .map_err(|fault| faults.push(fault))
                .ok()
        })
        .collect();
    let find = |wanted| folders.iter().find(|folder| folder.argument == wanted);
    if let Some(upper) = find(Argument::Upper) {
        check_upper(upper, &mut faults);
        if let Some(work) = find(Argument::Work) {
            check_pair(upper, work, &mut faults);
        }
    }
    check_overlaps(&folders, &mut faults);
    check_busy(&folders, &mut faults);
    faults
}

fn arguments(mount: &Mount, faults: &mut Vec<Fault>) -> Option<Vec<(Argument, PathBuf)>> {
    if mount.fs_type != "overlay" {
        faults.push(Fault::NoOption {
            option: "type overlay",
        });
        return None;
    }
    let lowers = mount
        .option("lowerdir")
        .map(split_layers)
        .unwrap_or_default();
    if lowers.is_empty() {
        faults.push(Fault::NoOption { option: "lowerdir" });
    }
    if lowers.len() > LOWERS_MAX {
        faults.push(Fault::TooManyLowers {
            count: lowers.len(),
        });
        return None;
    }
    let upper = mount.option("upperdir").map(unescaped);
    let work = mount.option("workdir").map(unescaped);
    match (&upper, &work) {
        (Some(_), None) => faults.push(Fault::NoOption { option: "workdir" }),
        (None, Some(_)) => faults.push(Fault::NoOption { option: "upperdir" }),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let lowers = lowers
        .into_iter()
        .enumerate()
        .map(|(index, path)| (Argument::Lower(index), path));
    let writable = [(Argument::Upper, upper), (Argument::Work, work)];
    let writable = writable
        .into_iter()
        .filter_map(|(argument, path)| Some((argument, path?)));
    Some(
        writable
            .chain(lowers)
            .map(|(argument, path)| (argument, path.into()))
            .collect(),
    )
}

/// Device and inode: the same for all paths that lead to one folder.
type Identity = (u32, u32, u64);

struct Folder {
    argument: Argument,
    /// As given.
    path: PathBuf,
    /// Without links.
    resolved: PathBuf,
    identity: Identity,
    mount: u64,
}

impl Folder {
    fn examine(argument: Argument, path: PathBuf) -> Result<Self, Fault> {
        let look = || Ok((path.canonicalize()?, look_at(&path)?));
        match look() {
            Ok((_, stat))
                if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory =>
            {
                Err(Fault::NotAFolder { argument, path })
            }
            Ok((resolved, stat)) => Ok(Self {
                argument,
                path,
                resolved,
                identity: identity(&stat),
                mount: stat.stx_mnt_id,
            }),
            Err(error) => Err(unusable(argument, path, error)),
        }
    }
}

fn unusable(argument: Argument, path: PathBuf, source: io::Error) -> Fault {
    if source.kind() == io::ErrorKind::NotFound {
        Fault::Missing { argument, path }
    } else if source.kind() == io::ErrorKind::NotADirectory {
        Fault::NotAFolder { argument, path }
    } else {
        Fault::Unreadable {
            argument,
            path,
            source,
        }
    }
}

fn look_at(path: &Path) -> io::Result<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    Ok(statx(CWD, path, AtFlags::empty(), wanted)?)
}

fn identity(stat: &Statx) -> Identity {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

fn check_upper(upper: &Folder, faults: &mut Vec<Fault>) {
    let path = upper.path.clone();
    let examined = statfs(&upper.path).and_then(|stat| Ok((stat, statvfs(&upper.path)?)));
    match examined {
        Err(errno) => faults.push(unusable(Argument::Upper, path, errno.into())),
        Ok((stat, _)) if u64::try_from(stat.f_type).is_ok_and(|magic| magic == OVERLAY_MAGIC) => {
            faults.push(Fault::UpperOnOverlay { path });
        }
        Ok((_, stat)) if stat.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            faults.push(Fault::ReadOnlyUpper { path });
        }
        Ok(_) => {}
    }
}

fn check_pair(upper: &Folder, work: &Folder, faults: &mut Vec<Fault>) {
    let (upper_path, work_path) = (upper.path.clone(), work.path.clone());
    if upper.mount != work.mount {
        faults.push(Fault::DifferentMounts {
            upper: upper_path,
            work: work_path,
        });
    } else if work.resolved.starts_with(&upper.resolved)
        || upper.resolved.starts_with(&work.resolved)
    {
        faults.push(Fault::NotSeparate {
            upper: upper_path,
            work: work_path,
        });
    }
}

/// Lower folders among each other and with the writable two; those two were compared before.
fn check_overlaps(folders: &[Folder], faults: &mut Vec<Fault>) {
    let mut seen: HashMap<Identity, Argument> = HashMap::new();
    for folder in folders {
        match seen.get(&folder.identity) {
            Some(&first) if is_pair(first, folder.argument) => {}
            Some(&first) => faults.push(Fault::Duplicate {
                first,
                second: folder.argument,
                path: folder.path.clone(),
            }),
            None => {
                seen.insert(folder.identity, folder.argument);
            }
        }
    }
    // The ancestors of two hundred layers are nearly all the same, so each is looked at once.
    let mut ancestors: HashMap<PathBuf, Option<Identity>> = HashMap::new();
    for folder in folders {
        let around = folder.resolved.ancestors().skip(1).find_map(|ancestor| {
            let known = ancestors
                .entry(ancestor.to_owned())
                .or_insert_with(|| look_at(ancestor).ok().as_ref().map(identity));
            seen.get(&(*known)?).copied()
        });
        if let Some(outer) = around.filter(|&outer| !is_pair(outer, folder.argument)) {
            faults.push(Fault::Overlapping {
                inner: folder.argument,
                outer,
                path: folder.path.clone(),
            });
        }
    }
}

fn is_pair(one: Argument, other: Argument) -> bool {
    let is_writable = |argument| matches!(argument, Argument::Upper | Argument::Work);
    is_writable(one) && is_writable(other)
}

/// Upper and work folders must be nobody else's upper or work folder.
fn check_busy(folders: &[Folder], faults: &mut Vec<Fault>) {
    let writable: Vec<_> = folders
        .iter()
        .filter(|folder| is_pair(folder.argument, folder.argument))
        .collect();
    if writable.is_empty() {
        return;
    }
    let table = match MountTable::read() {
        Ok(table) => table,
        Err(error) => return faults.push(Fault::Table(error)),
    };
    let mut reported = HashSet::new();
    for entry in table.iter().filter(|entry| entry.fs_type == "overlay") {
        let used = ["upperdir", "workdir"]
            .into_iter()
            .flat_map(|key| entry.super_values(key));
        let used: Vec<_> = used
            .filter_map(|path| look_at(&path).ok())
            .map(|stat| identity(&stat))
            .collect();
        for folder in writable
            .iter()
            .filter(|folder| used.contains(&folder.identity))
        {
            if reported.insert(folder.identity) {
                faults.push(Fault::Busy {
                    argument: folder.argument,
                    path: folder.path.clone(),
                    mountpoint: entry.mountpoint.clone(),
                });
            }
        }
    }
}
