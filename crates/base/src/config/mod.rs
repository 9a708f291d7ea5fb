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
pub use self::reader::{Reader, Section};
pub use self::running::{CgroupDriver, Cri, Runtime, RuntimeHandler};
pub use self::sections::{Config, Engine, Gc, LogFormat, Otlp, Registry, Snapshotter, Telemetry};
pub use self::setting::{Setting, quoted};

/// A program that is configured this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The file that is read when no other is named. It need not exist.
    pub default_path: &'static str,
    /// Environment variables with this prefix are settings: `ORLOPD_GC_STARTUP_DELAY=1s`.
    pub environment_prefix: &'static str,
    /// Names the configuration file, and so is no setting.
    pub environment_config: &'static str,
    /// The first line of the default configuration.
    pub heading: &'static str,
}

impl Program {
    /// The daemon.
    pub const ORLOPD: Self = Self {
        default_path: "/etc/orlop/config.toml",
        environment_prefix: "ORLOPD_",
        environment_config: "ORLOPD_CONFIG",
        heading: "# Orlop's configuration. Every line shows its default; remove the # in front of a key to change it.",
    };

    /// Reads `path`, or [`Program::default_path`] if there is such a file, and takes the process's environment.
    ///
    /// # Errors
    /// A named file cannot be read; the default file exists and cannot be read.
    pub fn sources(self, path: Option<&Path>) -> Result<Sources, ConfigErrors> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(self.default_path));
        let file = match std::fs::read_to_string(path) {
            Ok(text) => Some((path.to_owned(), text)),
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(ConfigErrors::unreadable(path, &error)),
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Sources {
            program: self,
            file,
            environment,
            flags: Vec::new(),
        })
    }

    /// The default configuration as commented TOML. `read` declares the settings.
    #[must_use]
    pub fn default_text<T>(self, read: impl FnOnce(&mut Reader<'_>) -> T) -> String {
        let sources = Sources {
            program: self,
            ..Sources::default()
        };
        let (document, _) = toml::de::DeTable::parse_recoverable("");
        let mut reader = Reader::new(&sources, document.get_ref(), &[]);
        read(&mut reader);
        let mut text = format!("{}\n", self.heading);
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

/// Where settings come from; later ones win: the file, the environment, the flags.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Whose settings they are.
    pub program: Program,
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

impl Default for Sources {
    fn default() -> Self {
        Self {
            program: Program::ORLOPD,
            file: None,
            environment: Vec::new(),
            flags: Vec::new(),
        }
    }
}

impl Sources {
    /// The daemon's, from `path` or the default file, and the process's environment.
    ///
    /// # Errors
    /// As [`Program::sources`].
    pub fn of_process(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        Program::ORLOPD.sources(path)
    }

    /// Reads settings; `read` declares them.
    ///
    /// # Errors
    /// Every mistake in every source, together.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> Result<(T, Vec<Warning>), ConfigErrors> {
        let text = self.file.as_ref().map_or("", |(_, text)| text);
        let (document, syntax_errors) = toml::de::DeTable::parse_recoverable(text);
        let mut reader = Reader::new(self, document.get_ref(), &syntax_errors);
        let settings = read(&mut reader);
        reader.finish().map(|warnings| (settings, warnings))
    }
}

impl Config {
    /// Reads the settings and checks them.
    ///
    /// # Errors
    /// Every mistake in every source, together.
    pub fn read(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let (config, warnings) = sources.read(Self::from_reader)?;
        Ok(Loaded { config, warnings })
    }

    /// The default configuration as commented TOML.
    #[must_use]
    pub fn default_text() -> String {
        Program::ORLOPD.default_text(Self::from_reader)
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
