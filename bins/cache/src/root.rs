//! The folder a command works on, and what it means by a name.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use orlop_base::clock::{SharedClock, SystemClock};
use orlop_cache::store::{Inspection, Options, Store, StoreError};
use orlop_types::Digest;

use crate::error::CacheError;

#[derive(Debug, Args)]
pub(crate) struct Root {
    /// The cache's folder
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/orlop-cache",
        env = "ORLOP_CACHE_ROOT"
    )]
    pub(crate) root: PathBuf,
}

impl Root {
    pub(crate) fn look(&self) -> Result<Inspection, CacheError> {
        Inspection::open(&self.root, clock()).map_err(|source| self.failed(source))
    }

    pub(crate) fn ask(&self) -> Result<Inspection, CacheError> {
        Inspection::open_to_ask(&self.root, clock()).map_err(|source| self.failed(source))
    }

    /// The store itself, as its server keeps it; none while a server has it open.
    pub(crate) fn take(&self, inspection: &Inspection) -> Result<Option<Store>, CacheError> {
        let status = inspection.status().map_err(|source| self.failed(source))?;
        // A database without the server's settings was begun anew: nothing may go for not knowing them.
        let unknown_cap = Options::default()
            .cap_bytes
            .max(status.bytes.saturating_mul(2));
        let cap_bytes = if status.cap_bytes == 0 {
            unknown_cap
        } else {
            status.cap_bytes
        };
        let options = Options {
            cap_bytes,
            ttl: Some(status.ttl_seconds)
                .filter(|ttl| *ttl > 0)
                .map(Duration::from_secs),
            small_max_bytes: status.small_max_bytes,
            ..Options::default()
        };
        match Store::open(&self.root, options, clock()) {
            Ok(store) => Ok(Some(store)),
            Err(error) if error.is_in_use() => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The one digest that a text means.
    pub(crate) fn digest(&self, inspection: &Inspection, text: &str) -> Result<Digest, CacheError> {
        let meant = inspection
            .meant(text)
            .map_err(|source| self.failed(source))?;
        match &meant[..] {
            [digest] => Ok(*digest),
            [] => Err(CacheError::Unknown(text.to_owned())),
            several => Err(CacheError::Ambiguous {
                text: text.to_owned(),
                digests: several
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    pub(crate) fn failed(&self, source: StoreError) -> CacheError {
        CacheError::Folder {
            root: self.root.clone(),
            source: Box::new(source),
        }
    }
}

pub(crate) fn clock() -> SharedClock {
    SystemClock::shared()
}
