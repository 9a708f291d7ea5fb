//! Reading a container's log as the shim writes it: Kubernetes' CRI format, one entry a line.
//!
//! ```text
//! 2026-11-23T13:05:00.123456789Z stdout F a whole line
//! 2026-11-23T13:05:00.123456790Z stderr P the beginning of a long line
//! ```
//!
//! Everything blocks. Crash: a line cut short by a power cut is skipped. Rotation: a reader goes on with the new file once
//! it has read the old one to its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_base::units::parse_moment;

/// Bytes read at a time; a line longer than this is given out in parts.
const CHUNK_BYTES: usize = 64 << 10;

/// Where an entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was written.
    pub time: SystemTime,
    /// Where it was written.
    pub stream: LogStream,
    /// Whether the line goes on in the next entry of this stream.
    pub partial: bool,
    /// What was written, with its line end if it is the end of a line.
    pub data: Vec<u8>,
}

impl LogEntry {
    /// Reads one line without its line end.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let time = parse_moment(std::str::from_utf8(words.next()?).ok()?).ok()?;
        let stream = match words.next()? {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        // Tags after the first, separated by colons, are for later versions of the format.
        let partial = match words.next()?.split(|byte| *byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        let mut data = words.next().unwrap_or_default().to_vec();
        if !partial {
            data.push(b'\n');
        }
        Some(Self {
            time,
            stream,
            partial,
            data,
        })
    }
}

/// Reads a log from a place on, and what is added to it later.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end has not been written yet.
    rest: Vec<u8>,
}

impl LogReader {
    /// Reads `path` from its beginning, or its last `tail` entries. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = open_if_there(path)?;
        if let (Some(file), Some(entries)) = (&mut file, tail) {
            seek_to_last(file, entries)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            rest: Vec::new(),
        })
    }

    /// The entries that are there now, as many as one bounded read brings; empty when there is nothing new.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        if self.file.is_none() {
            self.file = open_if_there(&self.path)?;
        }
        let Some(file) = &mut self.file else {
            return Ok(Vec::new());
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = file.read(&mut chunk)?;
        if count == 0 {
            if is_replaced(file, &self.path) {
                self.file = None;
            }
            return Ok(Vec::new());
        }
        self.rest.extend_from_slice(&chunk[..count]);
        Ok(self.take_lines())
    }

    fn take_lines(&mut self) -> Vec<LogEntry> {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        lines
            .split(|byte| *byte == b'\n')
            .filter_map(LogEntry::parse)
            .collect()
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the path names another file by now.
fn is_replaced(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) != (named.dev(), named.ino())
}

/// Goes backwards, chunk by chunk, until `entries` line ends have been passed.
fn seek_to_last(file: &mut File, entries: u64) -> io::Result<()> {
    let mut position = file.seek(SeekFrom::End(0))?;
    if entries == 0 {
        return Ok(());
    }
    let mut seen = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    while position > 0 {
        let count = position.min(CHUNK_BYTES as u64);
        position -= count;
        file.seek(SeekFrom::Start(position))?;
        let part = &mut chunk[..usize::try_from(count).unwrap_or(CHUNK_BYTES)];
        file.read_exact(part)?;
        for (index, _) in part
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            seen += 1;
            // The line end of the last line is the first one seen; the one before the wanted line ends the search.
            if seen > entries {
                file.seek(SeekFrom::Start(position + index as u64 + 1))?;
                return Ok(());
            }
        }
    }
    file.seek(SeekFrom::Start(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(number: usize) -> String {
        format!("2026-11-23T13:05:00.{number:09}Z stdout F line {number}\n")
    }

    fn texts(entries: &[LogEntry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.data).into_owned())
            .collect()
    }

    #[test]
    fn entries_keep_stream_and_partial_mark() {
        let entry = LogEntry::parse(b"2026-11-23T13:05:00Z stderr P half a  line").unwrap();
        assert_eq!(
            (entry.stream, entry.partial, entry.data.as_slice()),
            (LogStream::Stderr, true, &b"half a  line"[..])
        );
        let empty = LogEntry::parse(b"2026-11-23T13:05:00Z stdout F ").unwrap();
        assert_eq!(empty.data, b"\n");
        for bad in [
            "",
            "x stdout F a",
            "2026-11-23T13:05:00Z stdin F a",
            "2026-11-23T13:05:00Z stdout X a",
        ] {
            assert_eq!(LogEntry::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_last_entries_are_found_however_long_the_log_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = File::create(&path).unwrap();
        for number in 0..5000 {
            file.write_all(line(number).as_bytes()).unwrap();
        }
        for (tail, first) in [(1, 4999), (3, 4997), (4000, 1000), (5000, 0), (9000, 0)] {
            let entries = LogReader::open(&path, Some(tail)).unwrap().read().unwrap();
            assert_eq!(texts(&entries)[0], format!("line {first}\n"), "tail {tail}");
        }
        assert!(
            LogReader::open(&path, Some(0))
                .unwrap()
                .read()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_line_comes_out_once_it_is_whole_and_rotation_loses_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = LogReader::open(&path, None).unwrap();
        assert!(reader.read().unwrap().is_empty());
        let mut file = File::create(&path).unwrap();
        let whole = line(7);
        let (begin, end) = whole.split_at(40);
        file.write_all(begin.as_bytes()).unwrap();
        assert!(reader.read().unwrap().is_empty());
        file.write_all(end.as_bytes()).unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        File::create(&path)
            .unwrap()
            .write_all(line(8).as_bytes())
            .unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.extend(texts(&reader.read().unwrap()));
        }
        assert_eq!(seen, ["line 7\n", "line 8\n"]);
    }
}
