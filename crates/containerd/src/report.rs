//! What an import brought, and what it left.

use std::fmt;

use orlop_types::Namespace;

/// What an import brought, or a dry run would bring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of containerd's layout.
    pub version: i64,
    /// By namespace.
    pub namespaces: Vec<NamespaceReport>,
    /// What was not brought, and why.
    pub left: Vec<Left>,
}

/// What an import brought into one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceReport {
    /// Its name.
    pub name: Namespace,
    /// Names for blobs.
    pub images: Tally,
    /// Blobs.
    pub blobs: Tally,
    /// The size of the blobs that were brought, in bytes.
    pub bytes: u64,
    /// Leases.
    pub leases: Tally,
    /// Records of pods.
    pub sandboxes: Tally,
}

impl NamespaceReport {
    pub(crate) const fn new(name: Namespace) -> Self {
        Self {
            name,
            images: Tally::NONE,
            blobs: Tally::NONE,
            bytes: 0,
            leases: Tally::NONE,
            sandboxes: Tally::NONE,
        }
    }
}

/// How many of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// They were brought.
    pub brought: u64,
    /// They were here already.
    pub present: u64,
}

impl Tally {
    const NONE: Self = Self {
        brought: 0,
        present: 0,
    };
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.present {
            0 => write!(formatter, "{}", self.brought),
            present => write!(formatter, "{} and {present} that were here", self.brought),
        }
    }
}

/// What was not brought, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// What it is, with its namespace.
    pub what: String,
    /// The reason.
    pub why: String,
}

impl Left {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Report {
    /// A line for each namespace, and one for each thing that was left.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.namespaces {
            writeln!(
                formatter,
                "{}: images {}; blobs {} ({} bytes); leases {}; sandboxes {}",
                one.name, one.images, one.blobs, one.bytes, one.leases, one.sandboxes
            )?;
        }
        for left in &self.left {
            writeln!(formatter, "left: {}: {}", left.what, left.why)?;
        }
        Ok(())
    }
}
