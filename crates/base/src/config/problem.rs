//! What can be wrong with a configuration, and where it stands.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line, or 0 for the whole file.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// `--set` on the command line.
    Flag,
    /// Nowhere: the default.
    Default,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{reason}", Subject(key))]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// The key, such as `gc.startup_delay`; empty if it concerns the whole file.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Every mistake of a configuration. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {}", List(.0))]
pub struct ConfigErrors(Vec<ConfigError>);

/// Something odd that does not keep the daemon from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub origin: Origin,
    /// The key nobody knows.
    pub key: String,
    /// The nearest known key.
    pub nearest: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        Self(errors)
    }

    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self(vec![ConfigError {
            origin: Origin::File {
                path: path.to_owned(),
                line: 0,
            },
            key: String::new(),
            reason: error.to_string(),
        }])
    }

    /// The mistakes, in the order in which the settings are declared.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }

    /// The stable id.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "ORL-E7101"
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(formatter, "{}", path.display()),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(formatter, "environment variable {variable}"),
            Self::Flag => formatter.write_str("--set"),
            Self::Default => formatter.write_str("default"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: unknown key {}", self.origin, self.key)?;
        match &self.nearest {
            Some(nearest) => write!(formatter, ", ignored; did you mean {nearest}?"),
            None => formatter.write_str(", ignored"),
        }
    }
}

struct Subject<'a>(&'a str);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            key => write!(formatter, "{key}: "),
        }
    }
}

struct List<'a>(&'a [ConfigError]);

impl fmt::Display for List<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => formatter.write_str("an error")?,
            count => write!(formatter, "{count} errors")?,
        }
        self.0
            .iter()
            .try_for_each(|error| write!(formatter, "\n  {error}"))
    }
}
