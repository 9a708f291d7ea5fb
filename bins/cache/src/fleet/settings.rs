//! Section `fleet`: what replicas share, and who this one is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use orlop_base::units::TimeSpan;
use serde::Deserialize;
use tokio_postgres::Config;

use crate::error::CacheError;

/// Section `fleet`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FleetSettings {
    /// The database, such as `postgresql://cache@db/orlop` or `host=/run/postgresql user=cache`. Without one the
    /// bucket elects, and tags, grants and counts are not shared.
    pub(crate) database: Option<String>,
    /// A file with the database's password, and nothing else.
    pub(crate) password_file: Option<PathBuf>,
    /// This replica's name, as no other's; the host's name if there is none. It must stay the same over restarts
    /// with the same disk.
    pub(crate) replica: Option<String>,
    /// Where other replicas reach this one, such as `http://10.0.0.7:5000`.
    pub(crate) address: Option<String>,
    /// How long a replica that fills may be silent before another takes over.
    pub(crate) silence_max: TimeSpan,
}

impl FleetSettings {
    /// This replica's name.
    pub(crate) fn replica(&self) -> String {
        self.replica.clone().unwrap_or_else(|| {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        })
    }

    /// How to reach the database; `None` if there is none.
    pub(crate) fn config(&self) -> Result<Option<Config>, CacheError> {
        let Some(text) = &self.database else {
            return Ok(None);
        };
        // The error names the part that is wrong, never the password.
        let mut config: Config = text.parse().map_err(CacheError::Database)?;
        if let Some(path) = &self.password_file {
            let password =
                std::fs::read_to_string(path).map_err(|source| CacheError::Password {
                    path: path.clone(),
                    source,
                })?;
            config.password(password.trim_end_matches(['\n', '\r']));
        }
        Ok(Some(config))
    }

    /// What is wrong, in sentences.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let silence = self.silence_max.duration();
        if silence < Duration::from_secs(3) || silence > Duration::from_secs(600) {
            problems.push("fleet.silence_max must be from 3s to 10m".to_owned());
        }
        problems
    }
}

/// A random id of this process, from the kernel.
pub(crate) fn life() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim_end().to_owned())
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            database: None,
            password_file: None,
            replica: None,
            address: None,
            silence_max: TimeSpan::from(Duration::from_secs(10)),
        }
    }
}
