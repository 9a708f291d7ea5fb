//! Options that are meant for the preparations and not for the kernel (`X-containerd.…`). Pure.

const MKDIR: &str = "X-containerd.mkdir.";
const MKFS: &str = "X-containerd.mkfs.";

/// A folder to be made: `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mkdir {
    pub(crate) path: String,
    pub(crate) mode: u32,
    /// The daemon's own without.
    pub(crate) owner: Option<(u32, u32)>,
}

/// A file system to be made: `X-containerd.mkfs.size=…`, `.fs=…`, `.uuid=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mkfs {
    pub(crate) size_bytes: u64,
    /// `ext2`, `ext3`, `ext4` or `xfs`.
    pub(crate) kind: String,
    pub(crate) uuid: Option<String>,
}

/// Takes the folders to be made out of `options`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn take_mkdirs(options: &mut Vec<String>) -> Result<Vec<Mkdir>, String> {
    take(options, MKDIR)
        .iter()
        .map(|option| mkdir(option).ok_or_else(|| format!("option {MKDIR}{option} is malformed")))
        .collect()
}

/// Takes what describes a file system out of `options`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn take_mkfs(options: &mut Vec<String>) -> Result<Mkfs, String> {
    let mut wanted = Mkfs {
        size_bytes: 0,
        kind: "ext4".to_owned(),
        uuid: None,
    };
    for option in take(options, MKFS) {
        let malformed = || format!("option {MKFS}{option} is malformed");
        let (key, value) = option.split_once('=').ok_or_else(malformed)?;
        match key {
            "size" => wanted.size_bytes = size(value).ok_or_else(malformed)?,
            "fs" if is_known(value) => value.clone_into(&mut wanted.kind),
            "uuid" if is_uuid(value) => wanted.uuid = Some(value.to_owned()),
            _ => return Err(malformed()),
        }
    }
    if wanted.size_bytes == 0 {
        return Err(format!("option {MKFS}size is required"));
    }
    Ok(wanted)
}

/// Takes the options with a prefix out, without it.
fn take(options: &mut Vec<String>, prefix: &str) -> Vec<String> {
    let taken = options.extract_if(.., |option| option.starts_with(prefix));
    taken
        .map(|option| option[prefix.len()..].to_owned())
        .collect()
}

fn mkdir(option: &str) -> Option<Mkdir> {
    let value = option.strip_prefix("path=")?;
    let parts: Vec<&str> = value.split(':').collect();
    let (path, mode, owner) = match parts.as_slice() {
        [path] => (path, 0o700, None),
        [path, mode] => (path, permissions(mode)?, None),
        [path, mode, uid, gid] => {
            let owner = (uid.parse().ok()?, gid.parse().ok()?);
            (path, permissions(mode)?, Some(owner))
        }
        _ => return None,
    };
    Some(Mkdir {
        path: (*path).to_owned(),
        mode,
        owner,
    })
}

fn permissions(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
}

fn is_known(kind: &str) -> bool {
    ["ext2", "ext3", "ext4", "xfs"].contains(&kind)
}

/// It becomes an argument of a program.
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|it| it.is_ascii_hexdigit() || it == b'-')
}

/// A size in binary units, such as `64MiB`, `64m` or `67108864`.
fn size(text: &str) -> Option<u64> {
    let end = text.find(|it: char| !it.is_ascii_digit());
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn sizes_are_in_binary_units() {
        let table = [
            ("1024", Some(1024)),
            ("64MiB", Some(64 << 20)),
            ("64m", Some(64 << 20)),
            ("2 GB", Some(2 << 30)),
            ("1k", Some(1024)),
            ("", None),
            ("m", None),
            ("5x", None),
            ("99999999999t", None),
        ];
        for (text, expected) in table {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_system_is_described_by_options_that_the_kernel_does_not_see() {
        let mut list = options(&[
            "noatime",
            "X-containerd.mkfs.size=64m",
            "X-containerd.mkfs.fs=xfs",
            "X-containerd.mkfs.uuid=0b1b5a8e-8a3d-4b60-9a3c-1f0d6c2a7e55",
        ]);
        let wanted = take_mkfs(&mut list).unwrap();
        assert_eq!((wanted.size_bytes, wanted.kind.as_str()), (64 << 20, "xfs"));
        assert!(wanted.uuid.is_some());
        assert_eq!(list, ["noatime"]);
        for bad in [
            "fs=ext4",
            "size=0",
            "fs=ntfs",
            "uuid=--help",
            "size",
            "label=a",
        ] {
            let mut list = options(&[&format!("X-containerd.mkfs.{bad}")]);
            assert!(take_mkfs(&mut list).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_have_a_path_and_perhaps_mode_and_owner() {
        let mut list = options(&[
            "X-containerd.mkdir.path=/a/b",
            "ro",
            "X-containerd.mkdir.path=/a/c:0755:1:2",
        ]);
        let folders = take_mkdirs(&mut list).unwrap();
        let first = Mkdir {
            path: "/a/b".to_owned(),
            mode: 0o700,
            owner: None,
        };
        assert_eq!(folders[0], first);
        assert_eq!((folders[1].mode, folders[1].owner), (0o755, Some((1, 2))));
        assert_eq!(list, ["ro"]);
        for bad in ["path", "path=/a:9", "path=/a:7777", "path=/a:755:1", "x=/a"] {
            let mut list = options(&[&format!("X-containerd.mkdir.{bad}")]);
            assert!(take_mkdirs(&mut list).is_err(), "{bad}");
        }
    }
}
