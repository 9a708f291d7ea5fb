//! Log files in the form the kubelet reads: `<time> <stream> <P|F> <text>`, one line each.
//!
//! A line longer than the limit is cut into partial lines (`P`), of which the last is full (`F`). Crash: what was read but
//! holds no line end yet is lost. Ordering: both streams of a process go into one file in the order they were read.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::clock;
use crate::fault::Fault;

/// Written to the file in pieces of about this size.
const PIECE_BYTES: usize = 16 << 10;

/// A log file, open for appending.
#[derive(Debug)]
pub(crate) struct CriFile {
    path: PathBuf,
    file: File,
    failing: bool,
    /// Whether to go on in a new file as soon as there is one, untold.
    is_followed: bool,
}

impl CriFile {
    /// Makes the file if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path)?,
            failing: false,
            is_followed: false,
        })
    }

    /// One that nobody can tell to go on in a new file: it looks for itself before it writes.
    pub(crate) fn open_followed(path: &Path) -> Result<Self, Fault> {
        Ok(Self {
            is_followed: true,
            ..Self::open(path)?
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on in a new file after the old one was moved away.
    pub(crate) fn reopen(&mut self) -> Result<(), Fault> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Whether another file is at its path; one that was only moved away is written on.
    fn was_replaced(&self) -> bool {
        let numbers = |metadata: io::Result<std::fs::Metadata>| {
            metadata.map(|metadata| (metadata.dev(), metadata.ino()))
        };
        let there = numbers(std::fs::metadata(&self.path));
        match (there, numbers(self.file.metadata())) {
            (Ok(there), Ok(own)) => there != own,
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    /// A disk that is full must not stop the container: what cannot be written is lost, and said once.
    fn write(&mut self, bytes: &[u8]) {
        if self.is_followed
            && self.was_replaced()
            && let Err(error) = self.reopen()
        {
            crate::log::warn(&format!("the old log goes on: {error}"));
        }
        let result = self.file.write_all(bytes);
        if let Err(error) = &result
            && !self.failing
        {
            let path = self.path.display();
            crate::log::warn(&format!(
                "output is lost: cannot write {path}: {error} [ORL-E6409]"
            ));
        }
        self.failing = result.is_err();
    }
}

fn open(path: &Path) -> Result<File, Fault> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path);
    file.map_err(|error: io::Error| Fault::io("open", path.display().to_string(), error))
}

/// One of the two streams of a process.
#[derive(Debug)]
pub(crate) struct CriStream {
    log: Rc<RefCell<CriFile>>,
    lines: Lines,
}

impl CriStream {
    pub(crate) fn new(
        log: Rc<RefCell<CriFile>>,
        name: &'static str,
        max_line_bytes: usize,
    ) -> Self {
        let lines = Lines {
            name,
            max_line_bytes,
            pending: Vec::new(),
        };
        Self { log, lines }
    }

    /// Takes bytes as the process wrote them.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut log = self.log.borrow_mut();
        self.lines
            .push(bytes, clock::wall_ns(), &mut |piece| log.write(piece));
    }

    /// Writes a last line without an end.
    pub(crate) fn finish(&mut self) {
        let mut log = self.log.borrow_mut();
        self.lines
            .finish(clock::wall_ns(), &mut |piece| log.write(piece));
    }
}

/// The pure part: bytes in, log lines out.
#[derive(Debug)]
struct Lines {
    name: &'static str,
    max_line_bytes: usize,
    pending: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], wall_ns: i64, write: &mut dyn FnMut(&[u8])) {
        let mut stamp = String::new();
        clock::write_rfc3339(&mut stamp, wall_ns);
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(bytes.len() + 64));
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (text, after, tag) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..], Some(b'F')),
                None => (rest, &rest[rest.len()..], None),
            };
            self.append(text, &stamp, &mut piece, write);
            if let Some(tag) = tag {
                self.emit(tag, &stamp, &mut piece, write);
            }
            rest = after;
        }
        if !piece.is_empty() {
            write(&piece);
        }
        if self.pending.is_empty() {
            // An idle stream holds no memory.
            self.pending = Vec::new();
        }
    }

    /// Cuts only when more follows, so that a line of exactly the limit stays whole.
    fn append(
        &mut self,
        text: &[u8],
        stamp: &str,
        piece: &mut Vec<u8>,
        write: &mut dyn FnMut(&[u8]),
    ) {
        let mut text = text;
        while self.pending.len() + text.len() > self.max_line_bytes {
            let (now, later) = text.split_at(self.max_line_bytes - self.pending.len());
            self.pending.extend_from_slice(now);
            self.emit(b'P', stamp, piece, write);
            text = later;
        }
        self.pending.extend_from_slice(text);
    }

    fn emit(&mut self, tag: u8, stamp: &str, piece: &mut Vec<u8>, write: &mut dyn FnMut(&[u8])) {
        piece.extend_from_slice(stamp.as_bytes());
        piece.push(b' ');
        piece.extend_from_slice(self.name.as_bytes());
        piece.extend_from_slice(&[b' ', tag, b' ']);
        piece.append(&mut self.pending);
        piece.push(b'\n');
        if piece.len() >= PIECE_BYTES {
            write(piece);
            piece.clear();
        }
    }

    fn finish(&mut self, wall_ns: i64, write: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            self.push(b"\n", wall_ns, write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&str], max_line_bytes: usize) -> Vec<String> {
        let mut lines = Lines {
            name: "stdout",
            max_line_bytes,
            pending: Vec::new(),
        };
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece.as_bytes(), 0, &mut |bytes| {
                out.extend_from_slice(bytes)
            });
        }
        lines.finish(0, &mut |bytes| out.extend_from_slice(bytes));
        let head = "1970-01-01T00:00:00.000000000Z stdout ";
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .map(|line| line.strip_prefix(head).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_cut_joined_and_finished() {
        let table: [(&[&str], &[&str]); 8] = [
            (&["a\nb\n"], &["F a", "F b"]),
            (&["a", "b\n"], &["F ab"]),
            (&["\n"], &["F "]),
            (&["abcd\n"], &["F abcd"]),
            (&["abcde\n"], &["P abcd", "F e"]),
            (&["abcd", "efghi"], &["P abcd", "P efgh", "F i"]),
            (&["tail"], &["F tail"]),
            (&[], &[]),
        ];
        for (pieces, expected) in table {
            assert_eq!(lines_of(pieces, 4), expected, "{pieces:?}");
        }
    }
}
