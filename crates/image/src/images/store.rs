//! The blob store as archives and diffs see it. Everything in here blocks.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use orlop_meta::{ErrorKind, Expected, Ingest, IngestOptions, Opened, View};
use orlop_types::{Digest, IngestRef, Labels};

use super::error::Error;
use crate::apply::Hasher;
use crate::archive::{BlobSink, BlobSource, NewBlob};

const BUFFER_BYTES: usize = 256 << 10;

static WRITES: AtomicU64 = AtomicU64::new(0);

/// The blobs of a namespace, under the view's lease.
pub(crate) struct ContentStore {
    pub(crate) view: View,
}

impl BlobSource for ContentStore {
    fn size_of(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match self.view.content().info(digest) {
            Ok(blob) => Ok(Some(blob.size)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        let blob = self.view.content().open(digest);
        Ok(Box::new(blob.map_err(io::Error::other)?))
    }
}

impl BlobSink for ContentStore {
    fn store(&mut self, blob: NewBlob<'_>) -> io::Result<Digest> {
        let mut expected = Expected::default();
        expected.size_bytes = Some(blob.size);
        expected.digest = blob.expected;
        let opened = begin(&self.view, "import", expected, None).map_err(io::Error::other)?;
        let ingest = match opened {
            Opened::Exists(existing) => return Ok(existing.digest),
            Opened::Ingest(ingest) => ingest,
        };
        match fill(&ingest, blob) {
            Ok(digest) => finish(&ingest, &Labels::new())
                .map(|()| digest)
                .map_err(io::Error::other),
            Err(error) => {
                abandon(ingest);
                Err(error)
            }
        }
    }
}

/// Begins an ingest under a reference of its own.
pub(crate) fn begin(
    view: &View,
    purpose: &str,
    expected: Expected,
    media_type: Option<String>,
) -> Result<Opened, Error> {
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let text = format!("{purpose}-{}-{number}", std::process::id());
    let reference = IngestRef::new(&text).map_err(Error::name(&text))?;
    let options = IngestOptions {
        expected,
        media_type,
    };
    Ok(view.content().ingest(&reference, &options)?)
}

/// Commits an ingest. That the blob is there by now is as good.
pub(crate) fn finish(ingest: &Ingest, labels: &Labels) -> Result<(), Error> {
    match ingest.commit(Expected::default(), labels) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Discards an ingest that is of no use to anybody.
pub(crate) fn abandon(ingest: Ingest) {
    if let Err(error) = ingest.abort() {
        tracing::warn!(%error, "an abandoned ingest stays until its lease ends");
    }
}

fn fill(ingest: &Ingest, blob: NewBlob<'_>) -> io::Result<Digest> {
    let mut output = IngestWriter { ingest };
    let mut hasher = Hasher::new(blob.expected.as_ref());
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = blob.data.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
        output.write_all(&buffer[..count])?;
    }
}

/// Appends to an ingest. One that is shared has all its bytes and takes no more.
pub(crate) struct IngestWriter<'a> {
    pub(crate) ingest: &'a Ingest,
}

impl Write for IngestWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(writer) = self.ingest.writer() {
            writer.append(bytes).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
