//! Reads settings one by one and remembers everything that is wrong, unknown or declared on the way.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sources;
use super::problem::{ConfigError, ConfigErrors, Origin, Warning};
use super::setting::Setting;
use crate::units::TimeSpan;

/// A declared setting, for the default file.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) section: String,
    pub(super) key: &'static str,
    pub(super) doc: &'static str,
    /// As TOML.
    pub(super) default: String,
}

/// Reads from all sources.
pub struct Reader<'a> {
    sources: &'a Sources,
    document: &'a DeTable<'a>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
    fields: Vec<Field>,
    sections: Vec<&'static str>,
}

/// One table of the document.
pub struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    keys: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        sources: &'a Sources,
        document: &'a DeTable<'a>,
        syntax_errors: &[toml::de::Error],
    ) -> Self {
        let mut reader = Self {
            sources,
            document,
            errors: Vec::new(),
            warnings: Vec::new(),
            fields: Vec::new(),
            sections: Vec::new(),
        };
        for error in syntax_errors {
            let at = error.span().map_or(0, |span| span.start);
            reader.refuse(reader.in_file(at), "", error.message().to_owned());
        }
        reader
    }

    /// Reads the table `name`, which may be absent.
    pub fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        self.sections.push(name);
        let table = self.table_at(self.document, name, name);
        self.read_table(name.to_owned(), table, read)
    }

    /// Takes the table `name` as it is, for a part of the program that reads it itself; empty if there is none.
    pub fn table(&mut self, name: &'static str) -> toml::Table {
        self.sections.push(name);
        let Some(value) = self.document.get(name) else {
            return toml::Table::new();
        };
        toml::Table::from_toml(value.get_ref()).unwrap_or_else(|reason| {
            let origin = self.in_file(value.span().start);
            self.refuse(origin, name, reason);
            toml::Table::new()
        })
    }

    /// Notes a mistake found after all settings were read, such as two that do not fit together.
    pub fn refuse_key(&mut self, key: &str, reason: String) {
        let origin = self.origin_of(key);
        self.refuse(origin, key, reason);
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The warnings, or all mistakes together.
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, ConfigErrors> {
        self.warn_of_unknown_sections();
        self.check_overrides();
        if self.errors.is_empty() {
            Ok(self.warnings)
        } else {
            Err(ConfigErrors::new(self.errors))
        }
    }

    fn read_table<T>(
        &mut self,
        path: String,
        table: Option<&'a DeTable<'a>>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section {
            reader: self,
            path,
            table,
            keys: Vec::new(),
        };
        let value = read(&mut section);
        section.warn_of_unknown_keys();
        value
    }

    fn table_at(
        &mut self,
        parent: &'a DeTable<'a>,
        name: &str,
        path: &str,
    ) -> Option<&'a DeTable<'a>> {
        let value = parent.get(name)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            let reason = format!("must be a table, not {}", value.get_ref().type_str());
            self.refuse(self.in_file(value.span().start), path, reason);
        }
        table
    }

    /// The value given last, in the order of precedence, as text or as TOML.
    fn overridden(&self, path: &str) -> Option<(Origin, &'a str)> {
        let flag = self.sources.flags.iter().rev().find(|(key, _)| key == path);
        if let Some((_, text)) = flag {
            return Some((Origin::Flag, text));
        }
        let variable = self.variable_of(path);
        self.sources
            .environment
            .iter()
            .find(|(name, _)| *name == variable)
            .map(|(_, text)| (Origin::Environment { variable }, text.as_str()))
    }

    fn origin_of(&self, path: &str) -> Origin {
        if let Some((origin, _)) = self.overridden(path) {
            return origin;
        }
        let mut table = self.document;
        let mut found = None;
        for part in path.split('.') {
            let Some(value) = table.get(part) else {
                return Origin::Default;
            };
            found = Some(value.span().start);
            if let Some(inner) = value.get_ref().as_table() {
                table = inner;
            }
        }
        found.map_or(Origin::Default, |at| self.in_file(at))
    }

    fn in_file(&self, at: usize) -> Origin {
        let (path, text) = match &self.sources.file {
            Some((path, text)) => (path.clone(), text.as_str()),
            None => (PathBuf::new(), ""),
        };
        let before = text.get(..at).unwrap_or(text);
        Origin::File {
            path,
            line: before.matches('\n').count() + 1,
        }
    }

    fn refuse(&mut self, origin: Origin, key: &str, reason: String) {
        self.errors.push(ConfigError {
            origin,
            key: key.to_owned(),
            reason,
        });
    }

    fn warn(&mut self, origin: Origin, key: String, known: &[String]) {
        let nearest = nearest(&key, known);
        self.warnings.push(Warning {
            origin,
            key,
            nearest,
        });
    }

    fn variable_of(&self, path: &str) -> String {
        let name = path.replace(['.', '-'], "_").to_ascii_uppercase();
        format!("{}{name}", self.sources.program.environment_prefix)
    }

    fn warn_of_unknown_sections(&mut self) {
        let known: Vec<String> = self.sections.iter().map(|&name| name.to_owned()).collect();
        for (name, _) in self.document {
            if !known.iter().any(|known| known == name.get_ref()) {
                let origin = self.in_file(name.span().start);
                self.warn(origin, name.get_ref().to_string(), &known);
            }
        }
    }

    /// A flag with an unknown key is a mistake of the person at the keyboard; a variable may be another program's.
    fn check_overrides(&mut self) {
        let known: Vec<String> = self
            .fields
            .iter()
            .map(|field| format!("{}.{}", field.section, field.key))
            .collect();
        let variables: Vec<String> = known.iter().map(|path| self.variable_of(path)).collect();
        for (key, _) in &self.sources.flags {
            if !known.contains(key) {
                let hint = nearest(key, &known)
                    .map(|nearest| format!("; did you mean {nearest}?"))
                    .unwrap_or_default();
                self.refuse(Origin::Flag, key, format!("there is no such setting{hint}"));
            }
        }
        let program = self.sources.program;
        for (variable, _) in &self.sources.environment {
            let is_ours = variable.starts_with(program.environment_prefix)
                && variable != program.environment_config;
            if is_ours && !variables.contains(variable) {
                let origin = Origin::Environment {
                    variable: variable.clone(),
                };
                self.warn(origin, variable.clone(), &variables);
            }
        }
    }
}

impl<'a> Section<'_, 'a> {
    /// Declares a span of time with its default in milliseconds, and reads it.
    pub fn span(&mut self, key: &'static str, default_ms: u64, doc: &'static str) -> Duration {
        let default = TimeSpan::from(Duration::from_millis(default_ms));
        self.setting(key, default, doc).duration()
    }

    /// Declares a setting and reads it; with a mistake in it, notes that and goes on with the default.
    pub fn setting<S: Setting>(&mut self, key: &'static str, default: S, doc: &'static str) -> S {
        let path = format!("{}.{key}", self.path);
        self.keys.push(key);
        self.reader.fields.push(Field {
            section: self.path.clone(),
            key,
            doc,
            default: default.to_toml(),
        });
        let (origin, read) = if let Some((origin, text)) = self.reader.overridden(&path) {
            (origin, S::from_text(text))
        } else if let Some(value) = self.value(key) {
            let origin = self.reader.in_file(value.span().start);
            (origin, S::from_toml(value.get_ref()))
        } else {
            return default;
        };
        read.unwrap_or_else(|reason| {
            self.reader.refuse(origin, &path, reason);
            default
        })
    }

    /// Reads every table in the table `key`: entries whose names the operator chooses.
    pub fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'a>) -> T,
    ) -> Vec<(String, T)> {
        self.keys.push(key);
        let path = format!("{}.{key}", self.path);
        let entries = self
            .table
            .and_then(|table| self.reader.table_at(table, key, &path));
        let Some(entries) = entries else {
            return Vec::new();
        };
        let mut values = Vec::new();
        for (name, _) in entries {
            let name = name.get_ref().to_string();
            let path = format!("{path}.{name}");
            let table = self.reader.table_at(entries, &name, &path);
            values.push((name, self.reader.read_table(path, table, &mut read)));
        }
        values
    }

    /// Reads the table `key`, which may be absent. Settings of this one come before it, in the default text too.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        self.keys.push(key);
        let path = format!("{}.{key}", self.path);
        let table = self
            .table
            .and_then(|table| self.reader.table_at(table, key, &path));
        self.reader.read_table(path, table, read)
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn warn_of_unknown_keys(&mut self) {
        let Some(table) = self.table else { return };
        let known: Vec<String> = self
            .keys
            .iter()
            .map(|key| format!("{}.{key}", self.path))
            .collect();
        for (name, _) in table {
            if !self.keys.iter().any(|key| key == name.get_ref()) {
                let origin = self.reader.in_file(name.span().start);
                let key = format!("{}.{}", self.path, name.get_ref());
                self.reader.warn(origin, key, &known);
            }
        }
    }
}

/// The known key that differs least, if that is little enough to be a slip.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (distance(key, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 6)
        .map(|(_, candidate)| candidate.clone())
}

/// Levenshtein's: how many characters must be added, dropped or changed. Keys are short; longer ones are cut.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(128).collect();
    let right: Vec<char> = right.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
