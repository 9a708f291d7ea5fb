//! Taking over what is on this machine already: an image that the engine removes leaves its blobs to the cache.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use orlop_content::AdoptMethod;
use orlop_types::Digest;

use super::fill::reference_of;
use super::shelf::Reserved;
use super::{Opening, Store, StoreError};

/// Bytes read from a stream at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Where the bytes are.
pub enum Adoption<'a> {
    /// In another blob store: linked or copied.
    Store(&'a orlop_content::Store, AdoptMethod),
    /// In a stream, or an open file.
    Reader(&'a mut dyn Read),
}

impl fmt::Debug for Adoption<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Store(..) => "Store",
            Self::Reader(_) => "Reader",
        })
    }
}

impl Store {
    /// Keeps bytes that are on this machine, hashed like any others. `false` if there is no room, or it is here or coming
    /// already (then it is linked).
    ///
    /// # Errors
    /// The bytes are others, cannot be read, or the disk fails.
    pub fn adopt(
        &self,
        source: Adoption<'_>,
        digest: &Digest,
        size: u64,
        (locator, media_type): (&str, Option<&str>),
    ) -> Result<bool, StoreError> {
        match source {
            Adoption::Reader(reader) => {
                let fill = match self.fill(digest, size, locator)? {
                    Opening::Begun(fill) => fill,
                    Opening::Present => return self.link(locator, &[*digest]).map(|()| false),
                    Opening::Busy | Opening::NoRoom { .. } => return Ok(false),
                };
                copy(reader, &fill)?;
                fill.commit(media_type)?;
                Ok(true)
            }
            Adoption::Store(store, method) => {
                match self.inner.reserve(digest, size) {
                    Reserved::Room(_) => {}
                    Reserved::Present => return self.link(locator, &[*digest]).map(|()| false),
                    Reserved::Busy | Reserved::Leaving | Reserved::NoRoom { .. } => {
                        return Ok(false);
                    }
                }
                let reference = reference_of(digest);
                let adopted = self
                    .inner
                    .content
                    .adopt_blob(&reference, store, digest, method);
                match adopted {
                    Ok(committed) if committed.size_bytes == size => {
                        let media_type = media_type.map(Arc::from);
                        self.inner.finish(digest, media_type, locator);
                        Ok(true)
                    }
                    Ok(_) => {
                        self.inner.shelf().unfilled(digest, 0, 0);
                        Ok(false)
                    }
                    Err(source) => {
                        self.inner.shelf().unfilled(digest, 0, 0);
                        Err(StoreError::content("adopt", digest)(source))
                    }
                }
            }
        }
    }
}

fn copy(reader: &mut dyn Read, fill: &super::Fill) -> Result<(), StoreError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(|source| StoreError::Source {
                digest: *fill.digest(),
                source,
            })?;
        if count == 0 {
            return Ok(());
        }
        fill.write_at(offset, &buffer[..count])?;
        offset += count as u64;
    }
}
