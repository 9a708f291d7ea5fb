//! Several replicas as one cache: who fills, and what all of them know.
//!
//! - At any moment at most one replica holds a lease. A holder that dies is followed when its time is over; a replica that
//!   was restarted under its own name takes its leases back at once, and goes on with its own half-filled blobs.
//! - What is shared is never needed to serve what is there: when the database is away each replica goes on alone, says so
//!   ([`Fleet::state`]), and tries again on its own.
//!
//! Crash: leases end by time. Cancellation: dropping a call may leave it done or undone; each may be made again.
//! Ordering: the database's.

mod election;
mod error;
mod notes;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use orlop_types::Digest;

pub use election::{Candidate, Guard, Standing, Timing};
pub use error::{FleetError, FleetErrorKind};
pub use notes::{Expected, Note, NoteLeases, Notes};

/// What a call of a fleet gives.
pub type FleetAnswer<'a, T> = BoxFuture<'a, Result<T, FleetError>>;

/// What is to be done by one replica at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Duty {
    /// Filling a blob.
    Fill(Digest),
    /// Moving blobs between tiers.
    Tiering,
}

impl fmt::Display for Duty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fill(digest) => write!(formatter, "fill/{digest}"),
            Self::Tiering => formatter.write_str("tiering"),
        }
    }
}

/// A duty that is ours for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub duty: Duty,
    /// Proves that it is still the same holding.
    pub token: String,
}

/// What became of a wish for a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is ours, until its time is over or it is given back.
    Ours(Lease),
    /// Another replica has it.
    Held {
        /// Its name.
        by: String,
        /// Where it serves, if it said so.
        address: Option<String>,
    },
}

/// Duties with a holder each.
///
/// Implemented by PostgreSQL in the program, and by [`NoteLeases`] where there is only an object store.
pub trait Leases: fmt::Debug + Send + Sync {
    /// Takes a duty that is free, ours under an earlier life, or whose holder has not been heard of for too long.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn claim<'a>(&'a self, duty: &'a Duty) -> FleetAnswer<'a, Claim>;

    /// Says that we are still at it. `false`: it is not ours any more.
    ///
    /// # Errors
    /// The fleet cannot be asked. The lease goes on until its time is over.
    fn renew<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, bool>;

    /// Gives a duty back. That it was not ours any more is no error.
    ///
    /// # Errors
    /// The fleet cannot be asked. The lease then ends by time.
    fn release<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, ()>;

    /// How long a holder may be silent.
    fn silence_max(&self) -> Duration;
}

/// What all replicas know.
///
/// Implemented by PostgreSQL in the program.
pub trait Fleet: Leases {
    /// What a tag pointed to when a replica last asked its upstream.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn tag<'a>(&'a self, locator: &'a str, tag: &'a str) -> FleetAnswer<'a, Option<SharedTag>>;

    /// Tells what a tag points to. What was checked later stays.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn set_tag<'a>(
        &'a self,
        locator: &'a str,
        tag: &'a str,
        points_to: &'a SharedTag,
    ) -> FleetAnswer<'a, ()>;

    /// Until when a credential may read a digest in a repository; `None` if nobody has proved it, or not lately.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn grant<'a>(&'a self, grant: &'a GrantKey) -> FleetAnswer<'a, Option<SystemTime>>;

    /// Tells that a credential has proved that it may.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn set_grant<'a>(&'a self, grant: &'a GrantKey, until: SystemTime) -> FleetAnswer<'a, ()>;

    /// What nobody may give up.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn pins(&self) -> FleetAnswer<'_, BTreeSet<Digest>>;

    /// Pins a blob, or takes its pin away.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn set_pin<'a>(&'a self, digest: &'a Digest, is_pinned: bool) -> FleetAnswer<'a, ()>;

    /// Tells how often each digest was pulled at this replica, in place of what it told before.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn tell_pulls<'a>(&'a self, pulls: &'a [Pulls]) -> FleetAnswer<'a, ()>;

    /// How often each digest was pulled, over all replicas that have told lately.
    ///
    /// # Errors
    /// The fleet cannot be asked.
    fn pulls(&self) -> FleetAnswer<'_, Vec<Pulls>>;

    /// How it stands with the fleet.
    fn state(&self) -> FleetState;
}

/// Where a tag points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedTag {
    /// The manifest.
    pub digest: Digest,
    /// Its media type, if known.
    pub media_type: Option<String>,
    /// When its upstream said so, to the millisecond.
    pub checked: SystemTime,
}

/// Who may read what: nothing of a credential but its fingerprint is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantKey {
    /// SHA-256 of the credential.
    pub fingerprint: [u8; 32],
    /// Registry and repository.
    pub locator: String,
    /// What was proved.
    pub digest: Digest,
}

/// How often a digest was pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulls {
    /// What was pulled.
    pub digest: Digest,
    /// In the last seven days.
    pub week: u64,
    /// In the last thirty days.
    pub month: u64,
}

/// How it stands with a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetState {
    /// The last call was answered.
    Together,
    /// The database is away: this replica goes on alone.
    Alone {
        /// Why.
        why: String,
    },
}
