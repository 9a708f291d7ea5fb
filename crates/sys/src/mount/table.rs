//! The mount table of this mount namespace (`/proc/self/mountinfo`, proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique among mounts of now; used again later.
    pub id: u64,
    /// The mount this one is mounted on, or itself at the top.
    pub parent: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The folder of the file system that is seen here: `/` unless it is a bind mount.
    pub root: PathBuf,
    /// Where it is mounted, seen from this process's root.
    pub mountpoint: PathBuf,
    /// Options of the mount, such as `rw,nosuid`.
    pub options: String,
    /// Propagation: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`; empty if private.
    pub propagation: Vec<String>,
    /// The type of the file system.
    pub fs_type: String,
    /// What was given as its source.
    pub source: PathBuf,
    /// Options of the file system, still escaped: see [`MountEntry::super_values`].
    super_options: Vec<u8>,
}

impl MountEntry {
    /// The values of all options `key=…` of the file system, in order.
    pub fn super_values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        // A comma within a value is written as an escape, so the split is exact.
        self.super_options
            .split(|&byte| byte == b',')
            .filter_map(move |option| {
                let value = option.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
                Some(to_path(unescape(value)))
            })
    }

    /// An overlay's folders as it was told them: upper, work, then the lower ones from the top.
    #[must_use]
    pub fn overlay_folders(&self) -> Vec<PathBuf> {
        if self.fs_type != "overlay" {
            return Vec::new();
        }
        let mut folders: Vec<PathBuf> = ["upperdir", "workdir", "lowerdir+"]
            .iter()
            .flat_map(|key| self.super_values(key))
            .collect();
        for joined in self.super_values("lowerdir") {
            match joined.to_str() {
                Some(text) => {
                    folders.extend(super::split_layers(text).into_iter().map(PathBuf::from))
                }
                None => folders.push(joined),
            }
        }
        folders
    }
}

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file could not be read.
    #[error("cannot read {MOUNTINFO}")]
    Read(#[source] io::Error),
    /// A line is not as the manual says.
    #[error("line {number} of the mount table has no valid {field}")]
    Malformed {
        /// The line, counted from 1.
        number: usize,
        /// The field.
        field: &'static str,
    },
}

/// All mounts of one moment, in the kernel's order: as they were made, which need not be as they were attached.
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// Reads the table of this process's mount namespace.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read() -> Result<Self, TableError> {
        let text = std::fs::read(MOUNTINFO).map_err(TableError::Read)?;
        let entries = Self::parse(&text).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// Reads a table line by line, without any input or output.
    pub fn parse(text: &[u8]) -> impl Iterator<Item = Result<MountEntry, TableError>> + '_ {
        text.split(|&byte| byte == b'\n')
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(|(index, line)| {
                parse_line(line).map_err(|field| TableError::Malformed {
                    number: index + 1,
                    field,
                })
            })
    }

    /// All mounts, in the kernel's order.
    pub fn iter(&self) -> std::slice::Iter<'_, MountEntry> {
        self.entries.iter()
    }

    /// The mounts at `path` and beneath it. The path must be absolute and free of links, as the table's are.
    pub fn beneath<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl DoubleEndedIterator<Item = &'a MountEntry> + 'a {
        self.entries
            .iter()
            .filter(move |entry| entry.mountpoint.starts_with(path))
    }

    /// The mount that `path` lies on: of the deepest mount points above it the one mounted last.
    #[must_use]
    pub fn covering(&self, path: &Path) -> Option<&MountEntry> {
        self.entries
            .iter()
            .filter(|entry| path.starts_with(&entry.mountpoint))
            .max_by_key(|entry| entry.mountpoint.as_os_str().len())
    }
}

impl<'a> IntoIterator for &'a MountTable {
    type Item = &'a MountEntry;
    type IntoIter = std::slice::Iter<'a, MountEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<MountEntry> for MountTable {
    fn from_iter<T: IntoIterator<Item = MountEntry>>(entries: T) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

/// The error is the name of the field at fault.
fn parse_line(line: &[u8]) -> Result<MountEntry, &'static str> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut next = |name| fields.next().filter(|field| !field.is_empty()).ok_or(name);
    let id = number(next("mount id")?).ok_or("mount id")?;
    let parent = number(next("parent id")?).ok_or("parent id")?;
    let device = device(next("device")?).ok_or("device")?;
    let root = path(next("root")?);
    let mountpoint = path(next("mount point")?);
    let options = text(next("mount options")?);
    let mut propagation = Vec::new();
    loop {
        match next("separator")? {
            b"-" => break,
            field => propagation.push(text(field)),
        }
    }
    let fs_type = text(next("file system type")?);
    // Source and options may be empty: the kernel shows what it was given.
    let source = path(fields.next().ok_or("source")?);
    let super_options = fields.next().unwrap_or_default().to_vec();
    Ok(MountEntry {
        id,
        parent,
        device,
        root,
        mountpoint,
        options,
        propagation,
        fs_type,
        source,
        super_options,
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

fn path(field: &[u8]) -> PathBuf {
    to_path(unescape(field))
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Takes back the kernel's escapes: a backslash and three octal digits. Anything else stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| tail.first_chunk().and_then(octal))
            .flatten();
        plain.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    plain
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

/// Whether two paths name the same place byte by byte.
#[must_use]
pub(super) fn is_same(left: &Path, right: &Path) -> bool {
    left.as_os_str().as_bytes() == right.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /run/with\040space rw - tmpfs tmpfs rw,size=1024k
41 40 0:36 / /run/with\040space/rootfs rw,relatime master:3 propagate_from:2 - overlay overlay rw,lowerdir+=/s/2/fs,lowerdir+=/s/1\054x/fs,upperdir=/s/3/fs,workdir=/s/3/work
42 22 8:1 /s/9/fs /mnt/bound ro - ext4 /dev/sda1 rw
43 22 0:40 / /mnt/empty rw - tmpfs  rw
";

    fn table() -> MountTable {
        MountTable::parse(TABLE).map(Result::unwrap).collect()
    }

    #[test]
    fn fields_are_read_with_their_escapes_taken_back() {
        let table = table();
        let overlay = table.iter().find(|entry| entry.id == 41).unwrap();
        assert_eq!(overlay.parent, 40);
        assert_eq!(overlay.device, (0, 36));
        assert_eq!(overlay.mountpoint, Path::new("/run/with space/rootfs"));
        assert_eq!(overlay.propagation, ["master:3", "propagate_from:2"]);
        let folders: Vec<_> = overlay.overlay_folders();
        let expected = ["/s/3/fs", "/s/3/work", "/s/2/fs", "/s/1,x/fs"].map(PathBuf::from);
        assert_eq!(folders, expected);
    }

    #[test]
    fn a_joined_lowerdir_is_split_at_colons_that_are_not_escaped() {
        let line = br"1 1 0:1 / /m rw - overlay o rw,lowerdir=/a\134:b:/c";
        let entry = MountTable::parse(line).next().unwrap().unwrap();
        assert_eq!(entry.overlay_folders(), ["/a:b", "/c"].map(PathBuf::from));
    }

    #[test]
    fn mounts_are_found_beneath_and_above_a_path() {
        let table = table();
        let beneath: Vec<_> = table
            .beneath(Path::new("/run"))
            .map(|entry| entry.id)
            .collect();
        assert_eq!(beneath, [40, 41]);
        assert_eq!(table.beneath(Path::new("/run/with")).count(), 0);
        assert_eq!(table.covering(Path::new("/mnt/bound/x")).unwrap().id, 42);
        assert_eq!(table.covering(Path::new("/mnt/boundless")).unwrap().id, 22);
    }

    #[test]
    fn a_broken_line_is_an_error_that_names_line_and_field() {
        for (line, field) in [
            ("x 1 8:1 / / rw - ext4 a rw", "mount id"),
            ("1 1 8 / / rw - ext4 a rw", "device"),
            ("1 1 8:1 / / rw shared:1", "separator"),
            ("1 1 8:1 / / rw -", "file system type"),
            ("1", "parent id"),
        ] {
            let error = MountTable::parse(line.as_bytes())
                .next()
                .unwrap()
                .unwrap_err();
            assert!(error.to_string().contains(field), "{line}: {error}");
        }
    }

    #[test]
    fn the_real_table_can_be_read_and_starts_at_the_root() {
        let table = MountTable::read().unwrap();
        assert!(table.covering(Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(MountTable::parse(&bytes).count() <= bytes.len());
        }
    }
}
