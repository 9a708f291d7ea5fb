//! Copying a file's content as cheaply as the file systems allow.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::io::Errno;

use super::FsError;

/// One copy_file_range call moves at most this much, so that a signal or a deadline of the thread is noticed.
const RANGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const BUFFER_BYTES: usize = 128 * 1024;

/// How a file was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// Both share their blocks until one is written (`FICLONE`).
    Reflink,
    /// The bytes were copied, inside the kernel where possible; holes stay holes.
    Copied,
}

/// Makes the empty file `target` hold what `source` holds: by reflink, else copy_file_range, else read and write.
/// `path` names the pair in errors. Positions of both files are undefined afterwards. Not durable before a sync.
///
/// # Errors
/// [`FsError::Io`]; [`FsError::is_out_of_space`] tells a full disk.
pub fn copy_contents(source: &File, target: &File, path: &Path) -> Result<CopyMethod, FsError> {
    // Whatever keeps a clone from working (another disk, no support, a swap file) leaves a plain copy to try.
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(CopyMethod::Reflink);
    }
    copy_data(source, target)
        .map(|()| CopyMethod::Copied)
        .map_err(|source| FsError::io("copy", path, source))
}

/// Copies data extents one by one, so that holes cost neither time nor space.
fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    let mut offset = 0;
    while let Some((start, end)) = next_data(source, offset, length)? {
        copy_range(source, target, start, end)?;
        offset = end;
    }
    target.set_len(length)
}

/// The next extent with data at or after `offset`; without support for holes, all of the rest.
fn next_data(source: &File, offset: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= length {
        return Ok(None);
    }
    let start = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, length))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(length))))
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from((end - from).min(RANGE_BYTES_MAX)).unwrap_or(BUFFER_BYTES);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            // The source became shorter meanwhile: what there is has been copied.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_buffer(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_buffer(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    source.seek(SeekFrom::Start(start))?;
    target.seek(SeekFrom::Start(start))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut rest = source.take(end.saturating_sub(start));
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(()),
            count => target.write_all(&buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let source = tempfile::tempfile().unwrap();
        let target = tempfile::tempfile().unwrap();
        source.write_all_at(b"head", 0).unwrap();
        source.write_all_at(b"tail", 40 << 20).unwrap();
        source.set_len((40 << 20) + 100_000).unwrap();
        source.sync_all().unwrap();
        copy_contents(&source, &target, Path::new("pair")).unwrap();
        target.sync_all().unwrap();
        let (mut left, mut right) = (vec![0; 8], vec![0; 8]);
        source.read_exact_at(&mut left, 40 << 20).unwrap();
        target.read_exact_at(&mut right, 40 << 20).unwrap();
        assert_eq!(left, right);
        assert_eq!(target.metadata().unwrap().len(), (40 << 20) + 100_000);
        assert!(target.metadata().unwrap().blocks() <= source.metadata().unwrap().blocks() + 16);
    }

    #[test]
    fn the_last_resort_copies_the_same_range() {
        let source = tempfile::tempfile().unwrap();
        let target = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        source.write_all_at(&bytes, 0).unwrap();
        copy_by_buffer(&source, &target, 1000, 299_000).unwrap();
        let mut copied = vec![0; 298_000];
        target.read_exact_at(&mut copied, 1000).unwrap();
        assert_eq!(copied, bytes[1000..299_000]);
    }
}
