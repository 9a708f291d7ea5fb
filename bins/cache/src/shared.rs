//! What of the configuration is about sharing: sections `depot`, `fleet` and `tiering` of the cache's file. The other
//! sections are the server's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orlop_base::clock::SystemClock;
use orlop_base::config::Reader;
use orlop_base::task::TaskTree;
use orlop_cache::fleet::{Fleet, Leases, NoteLeases};
use serde::Deserialize;

use crate::error::CacheError;
use crate::fleet::{FleetSettings, Postgres, life};
use crate::s3::{DepotSettings, S3};
use crate::tier::TieringSettings;

/// The file that is read when no other is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/orlop/cache.toml";

/// What replicas share, as it was set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct SharedSettings {
    /// The bucket; none if the disk is all there is.
    pub(crate) depot: Option<DepotSettings>,
    /// The other replicas; none if this is the only one.
    pub(crate) fleet: Option<FleetSettings>,
    /// How blobs are moved.
    #[serde(default)]
    pub(crate) tiering: TieringSettings,
}

/// What replicas share, ready to be used. Nothing of it need be there yet.
pub(crate) struct Shared {
    pub(crate) depot: Arc<S3>,
    pub(crate) leases: Arc<dyn Leases>,
    /// Only with a database.
    pub(crate) fleet: Option<Arc<dyn Fleet>>,
    /// This process, as nobody else.
    pub(crate) life: String,
}

impl SharedSettings {
    /// Reads the file, and tells every mistake at once.
    pub(crate) fn read(path: &Path) -> Result<Self, CacheError> {
        let text = std::fs::read_to_string(path).map_err(|source| CacheError::Configuration {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, CacheError> {
        let wrong = |problems: String| CacheError::WrongConfiguration {
            path: path.to_owned(),
            problems,
        };
        let settings: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let problems = settings.problems();
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(wrong(problems.join("; ")))
        }
    }

    /// The three sections as the server's file has them.
    pub(crate) fn from_reader(reader: &mut Reader<'_>) -> Self {
        let mut sections = toml::Table::new();
        for name in ["depot", "fleet", "tiering"] {
            let table = reader.table(name);
            if !table.is_empty() {
                sections.insert(name.to_owned(), toml::Value::Table(table));
            }
        }
        let settings: Self = sections
            .try_into()
            .unwrap_or_else(|error: toml::de::Error| {
                reader.refuse_key("depot", error.to_string().trim_end().to_owned());
                Self::default()
            });
        for problem in settings.problems() {
            let (key, reason) = problem.split_once(' ').unwrap_or(("depot", &problem));
            reader.refuse_key(key, reason.to_owned());
        }
        settings
    }

    fn problems(&self) -> Vec<String> {
        let depot = self.depot.iter().flat_map(DepotSettings::problems);
        let fleet = self.fleet.iter().flat_map(FleetSettings::problems);
        depot.chain(fleet).chain(self.tiering.problems()).collect()
    }

    /// Makes ready to speak to bucket and database, as the replica of this name or as its own.
    pub(crate) async fn open(
        &self,
        replica: Option<&str>,
        tasks: &TaskTree,
    ) -> Result<Shared, CacheError> {
        let Some(depot) = &self.depot else {
            return Err(CacheError::NoDepot);
        };
        let depot = Arc::new(S3::connect(depot).await?);
        let life = life().map_err(CacheError::NoLife)?;
        let mut settings = self.fleet.clone().unwrap_or_default();
        if let Some(replica) = replica {
            settings.replica = Some(format!("{}-{replica}-{life}", settings.replica()));
        }
        let clock = SystemClock::shared();
        let database = settings.config()?.map(|config| {
            Arc::new(Postgres::new(
                &settings,
                config,
                life.clone(),
                clock.clone(),
                tasks.clone(),
            ))
        });
        let leases: Arc<dyn Leases> = match &database {
            Some(database) => Arc::clone(database) as Arc<dyn Leases>,
            None => Arc::new(NoteLeases::new(
                Arc::clone(&depot) as _,
                clock,
                settings.replica(),
                settings.address.clone(),
                settings.silence_max.duration(),
            )),
        };
        Ok(Shared {
            depot,
            leases,
            fleet: database.map(|database| database as Arc<dyn Fleet>),
            life,
        })
    }
}

/// Where the settings come from, on every command that needs them.
#[derive(Debug, clap::Args)]
pub(crate) struct SharedArguments {
    /// The cache's configuration
    #[arg(long, value_name = "FILE", env = "ORLOP_CACHE_CONFIG", default_value = DEFAULT_PATH)]
    pub(crate) config: PathBuf,
    /// The cache's folder
    #[arg(
        long,
        value_name = "FOLDER",
        env = "ORLOP_CACHE_ROOT",
        default_value = "/var/lib/orlop-cache"
    )]
    pub(crate) root: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_others_are_passed_over_and_every_mistake_is_told() {
        let path = Path::new("/c.toml");
        let text = "[serve]\naddress = \"x\"\n[depot]\nbucket = \"b\"\n";
        let settings = SharedSettings::parse(path, text).unwrap();
        assert_eq!(settings.depot.unwrap().bucket, "b");
        assert_eq!(settings.fleet, None);

        let text =
            "[depot]\nbucket = \"\"\n[fleet]\nsilence_max = \"1s\"\n[tiering]\nsaving_min = 2.0\n";
        let error = SharedSettings::parse(path, text).unwrap_err().report();
        for expected in [
            "/c.toml",
            "depot.bucket",
            "fleet.silence_max",
            "tiering.saving_min",
            "ORL-E9335",
        ] {
            assert!(error.contains(expected), "{error}");
        }
        let error = SharedSettings::parse(path, "[depot]\nbukket = 1").unwrap_err();
        assert!(error.report().contains("bukket"));
    }
}
