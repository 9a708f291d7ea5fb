//! The streams of a command that somebody at the other end of a connection runs or watches.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::mux::{Link, Opened, StreamReader, StreamWriter};
use super::status::Outcome;

/// Sizes of a terminal that wait to be set; only the last one counts for long.
const SIZES_MAX: usize = 8;
/// The beginning of a size that has not come whole is no longer than this.
const SIZE_BYTES_MAX: usize = 256;

/// Which streams a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) terminal: bool,
}

/// What version of the protocol was agreed upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Whether the client opens a stream for sizes of the terminal.
    pub(super) can_resize: bool,
    /// Whether a command's end is told as JSON.
    pub(super) has_status: bool,
    /// Whether streams are opened by the client, or there from the beginning.
    pub(super) is_opened_by_client: bool,
}

/// The streams, as far as they were wanted.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) stdin: Option<StreamReader>,
    pub(super) stdout: Option<StreamWriter>,
    pub(super) stderr: Option<StreamWriter>,
    pub(super) resize: Option<Sizes>,
    error: StreamWriter,
    /// Our halves of streams that only the client sends on: client-go stops sending when the other half ends.
    _silent: Vec<StreamWriter>,
    has_status: bool,
}

/// Why there are no streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoStreams {
    /// The client did not open them.
    #[error("the client did not open its streams in time")]
    Late,
    /// The client has gone.
    #[error("the client has gone before it opened its streams")]
    Gone,
}

impl Remote {
    /// Waits for all streams that were wanted. A stream that was not is given up.
    pub(super) async fn gather(
        link: &mut Link,
        wanted: Wanted,
        version: Version,
        limit: Duration,
    ) -> Result<Self, NoStreams> {
        let deadline = Instant::now() + limit;
        let mut streams = Streams::default();
        while !streams.are_there(wanted, version) {
            let next = timeout_at(deadline, link.opened.recv()).await;
            let opened = next
                .map_err(|_elapsed| NoStreams::Late)?
                .ok_or(NoStreams::Gone)?;
            streams.take(opened, wanted);
        }
        let Streams {
            error,
            stdin,
            stdout,
            stderr,
            resize,
        } = streams;
        let error = error.ok_or(NoStreams::Gone)?;
        let mut silent = Vec::new();
        let mut listen = |opened: Opened| {
            silent.push(opened.writer);
            opened.reader
        };
        let remote = Self {
            stdin: stdin.map(&mut listen),
            stdout: stdout.map(|opened| opened.writer),
            stderr: stderr.map(|opened| opened.writer),
            resize: resize.map(&mut listen).map(Sizes::new),
            error: error.writer,
            _silent: silent,
            has_status: version.has_status,
        };
        if !version.is_opened_by_client {
            remote.greet().await;
        }
        Ok(remote)
    }

    /// An empty message tells a client that opens nothing that the server is there.
    async fn greet(&self) {
        let stream = self.stdout.as_ref().or(self.stderr.as_ref());
        let stream = stream.unwrap_or(&self.error);
        // A client that has gone is noticed by what follows.
        stream.send(bytes::Bytes::new()).await.ok();
    }

    /// Tells how it ended.
    pub(super) async fn finish(self, outcome: &Outcome) {
        if let Some(text) = outcome.text(self.has_status) {
            // A client that has gone does not want to know.
            self.error.write(text.as_bytes()).await.ok();
        }
    }
}

#[derive(Debug, Default)]
struct Streams {
    error: Option<Opened>,
    stdin: Option<Opened>,
    stdout: Option<Opened>,
    stderr: Option<Opened>,
    resize: Option<Opened>,
}

impl Streams {
    fn are_there(&self, wanted: Wanted, version: Version) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr)
            && (self.resize.is_some() || !wanted.terminal || !version.can_resize)
    }

    fn take(&mut self, opened: Opened, wanted: Wanted) {
        let place = match opened.header("streamtype") {
            "error" => &mut self.error,
            "stdin" if wanted.stdin => &mut self.stdin,
            "stdout" if wanted.stdout => &mut self.stdout,
            "stderr" if wanted.stderr => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return opened.writer.reset(),
        };
        if place.is_some() {
            return opened.writer.reset();
        }
        *place = Some(opened);
    }
}

/// Sizes of a terminal, one JSON object after the other.
#[derive(Debug)]
pub(super) struct Sizes {
    reader: StreamReader,
    rest: Vec<u8>,
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Size {
    #[serde(rename = "Width")]
    pub(super) width: u16,
    #[serde(rename = "Height")]
    pub(super) height: u16,
}

impl Sizes {
    fn new(reader: StreamReader) -> Self {
        Self {
            reader,
            rest: Vec::new(),
        }
    }

    /// Sends the sizes on until there are no more, or nobody wants them.
    async fn follow(mut self, to: mpsc::Sender<Size>) {
        while let Some(bytes) = self.reader.next().await {
            self.rest.extend_from_slice(&bytes);
            let Some(sizes) = take_sizes(&mut self.rest) else {
                return tracing::debug!("a client sends sizes of its terminal that are none");
            };
            for size in sizes {
                if to.send(size).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Calls `set` for every size, until there are no more.
pub(super) async fn resize_all<F: Future<Output = ()>>(
    sizes: Option<Sizes>,
    set: impl Fn(Size) -> F,
) {
    let Some(sizes) = sizes else { return };
    let (to, mut from) = mpsc::channel(SIZES_MAX);
    let setting = async move {
        while let Some(size) = from.recv().await {
            set(size).await;
        }
    };
    tokio::join!(sizes.follow(to), setting);
}

/// The whole sizes at the beginning of `bytes`, which are removed; none at all if something else is there.
fn take_sizes(bytes: &mut Vec<u8>) -> Option<Vec<Size>> {
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let mut sizes = Vec::new();
    let mut taken = 0;
    loop {
        match stream.next() {
            Some(Ok(size)) => {
                sizes.push(size);
                taken = stream.byte_offset();
            }
            Some(Err(error)) if error.is_eof() && bytes.len() - taken <= SIZE_BYTES_MAX => break,
            Some(Err(_)) => return None,
            None => {
                taken = bytes.len();
                break;
            }
        }
    }
    bytes.drain(..taken);
    Some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_one_after_the_other_and_in_pieces() {
        let mut bytes = br#"{"Width":80,"Height":24}{"Width":1,"Heig"#.to_vec();
        let sizes = take_sizes(&mut bytes).unwrap();
        assert_eq!(
            sizes,
            [Size {
                width: 80,
                height: 24
            }]
        );
        bytes.extend_from_slice(b"ht\":2}\n");
        let sizes = take_sizes(&mut bytes).unwrap();
        assert_eq!(
            sizes,
            [Size {
                width: 1,
                height: 2
            }]
        );
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_is_no_size_ends_it() {
        let long = format!("{{\"Width\":{}", "1".repeat(1000));
        for text in [
            "x",
            "[1]",
            r#"{"Width":-1,"Height":2}"#,
            r#"{"Width":70000,"Height":2}"#,
            long.as_str(),
        ] {
            assert_eq!(take_sizes(&mut text.as_bytes().to_vec()), None, "{text}");
        }
    }
}
