//! Images made on the spot from Debian's busybox-static, by umoci.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Scratch;
use crate::programs::run_words;

/// The tag of every image made here.
pub const TAG: &str = "latest";

/// The tag of the image that sleeps.
const PAUSE_TAG: &str = "pause";

/// Debian's static busybox.
const BUSYBOX: &str = "/bin/busybox";

/// Names under which busybox is called.
const APPLETS: [&str; 14] = [
    "sh", "true", "false", "echo", "cat", "ls", "sleep", "id", "ps", "env", "uname", "wc", "dd",
    "head",
];

/// Files of up to this size are most of a real image.
const FILE_BYTES_SMALL: u64 = 200_000;
const FILE_BYTES_LARGE: u64 = 16 << 20;

/// Makes an OCI layout with one layer: busybox and a few lines of `/etc`. Gives the layout's folder.
///
/// # Errors
/// busybox-static or umoci is missing, or fails.
pub fn small(scratch: &Scratch) -> Result<PathBuf> {
    let tree = scratch.folder("small-tree")?;
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"] {
        scratch.folder(&format!("small-tree/{folder}"))?;
    }
    std::fs::copy(BUSYBOX, tree.join("bin/busybox")).context("busybox-static is not installed")?;
    for applet in APPLETS {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    write(&tree.join("etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n")?;
    write(&tree.join("etc/group"), b"root:x:0:\n")?;
    std::fs::set_permissions(tree.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    let layout = empty(scratch, "small")?;
    insert(&layout, &tree)?;
    Ok(layout)
}

/// Adds to an OCI layout of [`small`] an image of the same files that sleeps for ever, and gives its tag: what containerd
/// keeps in every pod.
///
/// # Errors
/// umoci fails.
pub fn add_pause(layout: &Path) -> Result<&'static str> {
    let image = tagged(layout);
    let command = ["--config.cmd", "sleep", "--config.cmd", "1000000000"];
    let change = ["umoci", "config", "--image", &image, "--tag", PAUSE_TAG];
    run_words(&[&change[..], &command].concat())?;
    Ok(PAUSE_TAG)
}

/// Makes an OCI layout like a large real image: `layers` layers of `layer_bytes` each before compression, with
/// many small compressible files, some large ones and some that do not compress. The same at every call.
///
/// # Errors
/// The disk is full, or umoci fails.
pub fn large(scratch: &Scratch, layers: u64, layer_bytes: u64) -> Result<PathBuf> {
    let layout = empty(scratch, "large")?;
    for layer in 1..=layers {
        let name = format!("large-tree/{layer}");
        let tree = scratch.folder(&name)?;
        fill(
            scratch,
            &format!("{name}/opt/layer{layer}"),
            layer,
            layer_bytes,
        )?;
        insert(&layout, &tree)?;
    }
    Ok(layout)
}

fn empty(scratch: &Scratch, name: &str) -> Result<PathBuf> {
    let layout = scratch.path().join(name);
    let image = tagged(&layout);
    run_words(&["umoci", "init", "--layout", &layout.display().to_string()])?;
    run_words(&["umoci", "new", "--image", &image])?;
    let command = ["--config.cmd", "sh", "--config.env", "PATH=/bin"];
    run_words(&[&["umoci", "config", "--image", &image], &command[..]].concat())?;
    Ok(layout)
}

/// Adds a folder as one layer. GNU tar packs it, so that the same folder makes the same layer: umoci's own `insert`
/// keeps times and owners.
fn insert(layout: &Path, tree: &Path) -> Result<()> {
    let (image, archive) = (tagged(layout), tree.with_extension("tar"));
    let (folder, archive) = (tree.display().to_string(), archive.display().to_string());
    let same = [
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ];
    let pack = ["--create", "--file", &archive, "--directory", &folder, "."];
    run_words(&[&["tar"], &same[..], &pack].concat())?;
    run_words(&["umoci", "raw", "add-layer", "--image", &image, &archive])?;
    std::fs::remove_file(&archive).with_context(|| format!("cannot remove {archive}"))
}

fn tagged(layout: &Path) -> String {
    format!("{}:{TAG}", layout.display())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(content)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Fills a folder with files whose sizes are spread like a real image's: 99.5 % below 200 kB, the rest to 16 MiB.
fn fill(scratch: &Scratch, name: &str, seed: u64, mut bytes_left: u64) -> Result<()> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1));
    for index in 0.. {
        if bytes_left == 0 {
            break;
        }
        let folder = scratch.folder(&format!("{name}/d{:02}", index / 64))?;
        let size = numbers.file_size().min(bytes_left);
        let path = folder.join(format!("f{index:05}"));
        write(&path, &numbers.content(size))?;
        bytes_left -= size;
    }
    Ok(())
}

/// A xorshift generator: the same files at every call.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 32
    }

    /// Log-uniform: each doubling is as likely as the next.
    fn file_size(&mut self) -> u64 {
        let (low, high): (u64, u64) = match self.next() % 1000 {
            0..995 => (200, FILE_BYTES_SMALL),
            _ => (1 << 20, FILE_BYTES_LARGE),
        };
        let doublings = u64::from((high / low).ilog2()) + 1;
        let base = low << (self.next() % doublings);
        (base + self.next() % base).min(high)
    }

    /// One in ten files is noise; the others have matches and skewed letters, as programs and text have.
    fn content(&mut self, size: u64) -> Vec<u8> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let kind = self.next() % 100;
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let number = self.next();
            if kind < 10 {
                bytes.extend(number.to_le_bytes());
            } else if bytes.len() > 64 && number % 100 < 30 {
                self.repeat(&mut bytes);
            } else {
                bytes.push(letter(number, kind < 60));
            }
        }
        bytes.truncate(size);
        bytes
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let length = usize::try_from(4 + self.next() % 14).unwrap_or(4);
        let window = bytes.len().min(30_000);
        let back = 1 + usize::try_from(self.next()).unwrap_or(0) % window;
        for _ in 0..length {
            bytes.push(bytes[bytes.len() - back]);
        }
    }
}

fn letter(number: u64, is_program: bool) -> u8 {
    const TEXT: &[u8; 32] = b"etaoin shrdlucmfwypvbgkjqxz\n ETA";
    let byte = number.to_le_bytes()[1];
    match (is_program, number % 2) {
        (true, 0) => byte,
        (true, _) => byte % 32,
        (false, _) => TEXT[usize::from(byte & number.to_le_bytes()[0]) % TEXT.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_content_of_the_size_asked_for() {
        for size in [0, 1, 200, 10_000] {
            let content = Numbers(7).content(size);
            assert_eq!(content.len() as u64, size);
            assert_eq!(content, Numbers(7).content(size));
        }
        assert_ne!(Numbers(7).content(1000), Numbers(8).content(1000));
    }

    #[test]
    fn file_sizes_stay_in_their_range() {
        let mut numbers = Numbers(1);
        let sizes: Vec<u64> = (0..10_000).map(|_| numbers.file_size()).collect();
        assert!(
            sizes
                .iter()
                .all(|size| (200..=FILE_BYTES_LARGE).contains(size))
        );
        assert!(sizes.iter().any(|size| *size > FILE_BYTES_SMALL));
    }
}
