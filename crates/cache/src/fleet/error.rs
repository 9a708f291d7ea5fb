//! What can go wrong, and what the caller can do about it.

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetErrorKind {
    /// The database or the object store is away: go on alone.
    Away,
    /// It refuses, or has tables of another version: a person must look. Go on alone.
    Refused,
}

/// A failed call of a fleet.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} together with the other replicas")]
pub struct FleetError {
    /// What was attempted.
    pub operation: &'static str,
    /// What the caller can do.
    pub kind: FleetErrorKind,
    /// What the database or the object store said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl FleetError {
    /// The id of the page that explains it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.kind {
            FleetErrorKind::Away => "ORL-E9321",
            FleetErrorKind::Refused => "ORL-E9322",
        }
    }
}
