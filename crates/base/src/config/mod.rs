//! The daemon's configuration: one TOML file, overridden by `ORLOPD_<SECTION>_<KEY>` and `--set section.key=value`.
//!
//! Everything is read and checked before anything is done, and every mistake is reported at once. An unknown
//! key is a warning with the nearest known one, so that a file written for a newer version still starts an
//! older one. Every setting is declared once, with its default and its explanation, in `sections` and
//! `running`; the text
//! of `orlopd config default` is made from those declarations.

mod problem;
mod reader;
mod running;
mod sections;
mod setting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use self::problem::{ConfigError, ConfigErrors, Origin, Warning};
pub use self::running::{CgroupDriver, Cri, Runtime, RuntimeHandler};
pub use self::sections::{Config, Engine, Gc, LogFormat, Registry, Snapshotter, Telemetry};

use self::reader::Reader;

/// The file that is read when no other is named. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/orlop/config.toml";

/// Environment variables with this prefix are settings: `ORLOPD_GC_STARTUP_DELAY=1s`.
pub const ENVIRONMENT_PREFIX: &str = "ORLOPD_";

/// Names the configuration file, and so is no setting.
pub const ENVIRONMENT_CONFIG: &str = "ORLOPD_CONFIG";

/// Where settings come from; later ones win: the file, the environment, the flags.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file's path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment, whole: other programs' variables are ignored.
    pub environment: Vec<(String, String)>,
    /// What `--set` was given: `section.key` and the value.
    pub flags: Vec<(String, String)>,
}

/// A configuration that was read, with what is odd but no error.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Unknown keys, to be logged once logging works.
    pub warnings: Vec<Warning>,
}

impl Sources {
    /// Reads `path`, or [`DEFAULT_PATH`] if there is such a file, and takes the process's environment.
    ///
    /// # Errors
    /// A named file cannot be read; the default file exists and cannot be read.
    pub fn of_process(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let file = match std::fs::read_to_string(path) {
            Ok(text) => Some((path.to_owned(), text)),
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(ConfigErrors::unreadable(path, &error)),
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self {
            file,
            environment,
            flags: Vec::new(),
        })
    }
}

impl Config {
    /// Reads the settings and checks them.
    ///
    /// # Errors
    /// Every mistake in every source, together.
    pub fn read(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let text = sources.file.as_ref().map_or("", |(_, text)| text);
        let (document, syntax_errors) = toml::de::DeTable::parse_recoverable(text);
        let mut reader = Reader::new(sources, document.get_ref(), &syntax_errors);
        let config = Self::from_reader(&mut reader);
        reader.finish().map(|warnings| Loaded { config, warnings })
    }

    /// The default configuration as commented TOML.
    #[must_use]
    pub fn default_text() -> String {
        let sources = Sources::default();
        let (document, _) = toml::de::DeTable::parse_recoverable("");
        let mut reader = Reader::new(&sources, document.get_ref(), &[]);
        Self::from_reader(&mut reader);
        let mut text = String::from(
            "# Orlop's configuration. Every line shows its default; remove the # in front of a key to change it.\n",
        );
        let mut shown = BTreeSet::new();
        for field in reader.fields() {
            if shown.insert(field.section.clone()) {
                text.push_str(&format!("\n[{}]\n", field.section));
            }
            text.push_str(&format!(
                "# {}\n#{} = {}\n",
                field.doc, field.key, field.default
            ));
        }
        text
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::read(&Sources::default())
            .expect("the defaults are checked by a test")
            .config
    }
}

#[cfg(test)]
mod tests;
