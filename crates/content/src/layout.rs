//! The files of one ingest.

use std::fs::File;

use orlop_sys::fs::{Dir, FsError, Mode, Name, Usage, remove_tree_beneath};
use orlop_types::{Algorithm, Digest, IngestRef};
use serde::{Deserialize, Serialize};

use crate::hash::Hasher;
use crate::{AdoptMethod, ContentError, Expected, ExtentMap};

pub(crate) static LOCK: Name = Name::from_static("lock");
pub(crate) static BLOBS: Name = Name::from_static("blobs");
pub(crate) static ASIDE: Name = Name::from_static("aside");
pub(crate) static INGEST: Name = Name::from_static("ingest");
pub(crate) static RECORD: Name = Name::from_static("ref");
pub(crate) static DATA: Name = Name::from_static("data");
pub(crate) static EXTENTS: Name = Name::from_static("extents");

const VERSION: u32 = 1;

/// A reference has at most 4096 bytes; JSON may escape each.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// As many pieces as are kept track of, at two numbers of twenty digits each.
const EXTENTS_BYTES_MAX: u64 = 256 * 1024;

pub(crate) const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Content of `ref`, version 1.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    reference: IngestRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// Content of `extents`, version 1.
#[derive(Debug, Serialize, Deserialize)]
struct Synced {
    version: u32,
    extents: ExtentMap,
}

/// The folder of a reference: a reference is free text, its hash is a name.
pub(crate) fn name_of(reference: &IngestRef) -> Name {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(reference.as_str().as_bytes());
    Name::from(&hasher.finish())
}

/// The folder of a blob's algorithm.
pub(crate) const fn algorithm_name(algorithm: Algorithm) -> Name {
    match algorithm {
        Algorithm::Sha256 => Name::from_static("sha256"),
        Algorithm::Sha512 => Name::from_static("sha512"),
    }
}

/// Reads whose ingest this folder is. None if the record is missing, damaged, of another version, or elsewhere's.
pub(crate) fn load_record(
    dir: &Dir,
    name: &Name,
) -> Result<Option<(IngestRef, Expected)>, FsError> {
    let Some(bytes) = read_optional(dir, &RECORD, RECORD_BYTES_MAX)? else {
        return Ok(None);
    };
    let record = serde_json::from_slice::<Record>(&bytes)
        .ok()
        .filter(|record| record.version == VERSION && name_of(&record.reference) == *name);
    Ok(record.map(|record| {
        let expected = Expected {
            size_bytes: record.size_bytes,
            digest: record.digest,
        };
        (record.reference, expected)
    }))
}

/// Writes the record. It becomes durable with the first checkpoint: before that there is nothing to resume.
pub(crate) fn store_record(
    dir: &Dir,
    reference: &IngestRef,
    expected: Expected,
) -> Result<(), FsError> {
    use std::io::Write;
    let record = Record {
        version: VERSION,
        reference: reference.clone(),
        size_bytes: expected.size_bytes,
        digest: expected.digest,
    };
    let json = encode(dir, &RECORD, &record)?;
    dir.remove_file(&RECORD)?;
    dir.create_file(&RECORD, PRIVATE_FILE)?
        .write_all(&json)
        .map_err(|source| FsError::io("write", &dir.path_of(&RECORD), source))
}

/// The extents known to be synced, clipped to the bytes that are there. Damaged ones are worth nothing.
pub(crate) fn load_extents(dir: &Dir) -> Result<ExtentMap, FsError> {
    let length = match dir.stat(&DATA) {
        Ok(stat) => stat.len_bytes,
        Err(error) if error.is_not_found() => return Ok(ExtentMap::new()),
        Err(error) => return Err(error),
    };
    let Some(bytes) = read_optional(dir, &EXTENTS, EXTENTS_BYTES_MAX)? else {
        return Ok(ExtentMap::new());
    };
    let mut extents = serde_json::from_slice::<Synced>(&bytes)
        .ok()
        .filter(|synced| synced.version == VERSION)
        .map(|synced| synced.extents)
        .unwrap_or_default();
    extents.truncate(length);
    Ok(extents)
}

/// Replaces the extents, durably. The bytes they name must have been synced before.
pub(crate) fn store_extents(dir: &Dir, extents: &ExtentMap) -> Result<(), FsError> {
    let synced = Synced {
        version: VERSION,
        extents: extents.clone(),
    };
    let json = encode(dir, &EXTENTS, &synced)?;
    dir.write_atomic(&EXTENTS, &json, PRIVATE_FILE)
}

/// Makes the record, and the folder's own name in `ingests`, durable.
pub(crate) fn sync_names(ingests: &Dir, dir: &Dir) -> Result<(), FsError> {
    dir.open_file(&RECORD)?
        .sync_all()
        .map_err(|source| FsError::io("sync", &dir.path_of(&RECORD), source))?;
    ingests.sync()
}

/// Opens the folder of `reference`, creating it or emptying a damaged one.
pub(crate) fn open_folder(
    ingests: &Dir,
    reference: &IngestRef,
    asked: Expected,
) -> Result<(Dir, Expected), ContentError> {
    let name = name_of(reference);
    let dir = ingests.ensure_dir(&name, PRIVATE_DIR)?;
    let Some((_, begun)) = load_record(&dir, &name)? else {
        remove_tree_beneath(ingests, &name)?;
        let dir = ingests.create_dir(&name, PRIVATE_DIR)?;
        if let Err(error) = store_record(&dir, reference, asked) {
            // The disk may be full: leave nothing. What cannot be removed is swept at the next start.
            remove_tree_beneath(ingests, &name).ok();
            return Err(error.into());
        }
        return Ok((dir, asked));
    };
    let merged = begun.merge(asked, reference)?;
    if merged != begun {
        store_record(&dir, reference, merged)?;
    }
    Ok((dir, merged))
}

/// Opens the bytes so far, and says which of them are to be believed. All others are cut off or overwritten.
pub(crate) fn open_data(dir: &Dir) -> Result<(File, ExtentMap), FsError> {
    match dir.stat(&DATA) {
        // An adoption by hard link was interrupted: the bytes belong to somebody else, too.
        Ok(stat) if stat.links > 1 => dir.remove_file(&DATA)?,
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let extents = load_extents(dir)?;
    let file = match dir.create_file(&DATA, PRIVATE_FILE) {
        Err(error) if error.is_already_exists() => dir.open_file_rw(&DATA)?,
        other => other?,
    };
    let fail = |source| FsError::io("truncate", &dir.path_of(&DATA), source);
    // Cutting a file of the right length would only move its time, which says when bytes last came.
    if file.metadata().map_err(fail)?.len() != extents.end() {
        file.set_len(extents.end()).map_err(fail)?;
    }
    Ok((file, extents))
}

/// Fills an ingest with an existing file. All of its bytes count as present, none as verified.
pub(crate) fn adopt_data(
    dir: &Dir,
    source: &Dir,
    name: &Name,
    method: AdoptMethod,
) -> Result<(File, ExtentMap), FsError> {
    dir.remove_file(&EXTENTS)?;
    dir.remove_file(&DATA)?;
    let file = match method {
        AdoptMethod::HardLink => {
            source.hard_link(name, dir, &DATA)?;
            dir.open_file(&DATA)?
        }
        AdoptMethod::Copy => {
            let file = dir.create_file(&DATA, PRIVATE_FILE)?;
            let path = source.path_of(name);
            orlop_sys::fs::copy_contents(&source.open_file(name)?, &file, &path)?;
            file
        }
    };
    let length = dir.stat(&DATA)?.len_bytes;
    let mut extents = ExtentMap::new();
    extents.insert(0..length);
    Ok((file, extents))
}

/// Removes what a killed creation or commit left in `ingests`. Returns the names removed.
pub(crate) fn sweep(ingests: &Dir) -> Result<Vec<Name>, FsError> {
    let mut removed = Vec::new();
    for entry in ingests.entries()? {
        let name = entry?.name;
        let is_sound = match ingests.open_dir(&name) {
            Ok(dir) => {
                dir.remove_stale_temporaries()?;
                load_record(&dir, &name)?.is_some() && dir.contains(&DATA)?
            }
            // Not a folder: nothing this store writes.
            Err(_) => false,
        };
        if !is_sound {
            remove_tree_beneath(ingests, &name)?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Removes an ingest with all its bytes. Its extents go first, so that a crash midway leaves nothing to believe.
pub(crate) fn discard(ingests: &Dir, dir: &Dir, name: &Name) -> Result<Usage, FsError> {
    dir.remove_file(&EXTENTS)?;
    remove_tree_beneath(ingests, name)
}

fn read_optional(dir: &Dir, name: &Name, limit_bytes: u64) -> Result<Option<Vec<u8>>, FsError> {
    match dir.read(name, limit_bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        // Not written by this code, so as good as damaged.
        Err(FsError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(dir: &Dir, name: &Name, value: &impl Serialize) -> Result<Vec<u8>, FsError> {
    serde_json::to_vec(value)
        .map_err(|source| FsError::io("encode", &dir.path_of(name), std::io::Error::from(source)))
}
