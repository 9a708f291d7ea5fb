//! Election where replicas share nothing but an object store: a small object for each duty, written only by whoever read
//! its last version.
//!
//! Clocks of replicas are never compared: a holder renews by writing, and has died when the note has not changed for
//! longer than it may be silent, by the clock of whoever looks. So taking over from the dead takes one silence from the
//! first look.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orlop_base::clock::SharedClock;
use serde::{Deserialize, Serialize};

use super::{Claim, Duty, FleetAnswer, FleetError, FleetErrorKind, Lease, Leases};

/// Duties that are remembered as held by others. More than a replica ever waits for at once.
const WATCHED_MAX: usize = 10_000;

/// Small objects that are written on condition.
///
/// Implemented on S3 by the program, and in memory by `orlop-testkit`.
pub trait Notes: fmt::Debug + Send + Sync {
    /// Reads a note.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn read<'a>(&'a self, name: &'a str) -> FleetAnswer<'a, Option<Note>>;

    /// Writes a note if what is there is as expected; gives its version, or `None` if somebody was faster.
    ///
    /// # Errors
    /// The store cannot be asked; the note may have been written.
    fn write<'a>(
        &'a self,
        name: &'a str,
        text: String,
        expected: Expected<'a>,
    ) -> FleetAnswer<'a, Option<String>>;

    /// Removes a note if it is still this version.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn remove<'a>(&'a self, name: &'a str, version: &'a str) -> FleetAnswer<'a, ()>;
}

/// What must be there for a note to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// Nothing.
    Absent,
    /// This version.
    Version(&'a str),
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it says.
    pub text: String,
    /// Changes with each write.
    pub version: String,
}

/// Leases by notes.
pub struct NoteLeases {
    notes: Arc<dyn Notes>,
    clock: SharedClock,
    replica: String,
    address: Option<String>,
    silence_max: Duration,
    watched: Mutex<HashMap<Duty, Watched>>,
    /// The version of each note that is ours.
    ours: Mutex<HashMap<Duty, Holding>>,
}

/// A note of somebody else, and since when it has said the same.
struct Watched {
    version: String,
    since: Duration,
}

#[derive(Clone)]
struct Holding {
    token: String,
    version: String,
    beat: u64,
}

/// What a note says.
#[derive(Debug, Serialize, Deserialize)]
struct Words {
    /// Empty: the duty was given back.
    holder: String,
    #[serde(default)]
    address: Option<String>,
    /// So that every write changes the version.
    beat: u64,
    token: String,
}

impl NoteLeases {
    /// Leases of `replica`, which serves at `address`, and may be silent for `silence_max`.
    #[must_use]
    pub fn new(
        notes: Arc<dyn Notes>,
        clock: SharedClock,
        replica: String,
        address: Option<String>,
        silence_max: Duration,
    ) -> Self {
        Self {
            notes,
            clock,
            replica,
            address,
            silence_max,
            watched: Mutex::default(),
            ours: Mutex::default(),
        }
    }

    async fn take(&self, duty: &Duty, expected: Expected<'_>) -> Result<Option<Lease>, FleetError> {
        let token = format!("{}-{}", self.replica, self.clock.boottime().as_nanos());
        let text = self.words(&token, 0);
        let Some(version) = self.notes.write(&name(duty), text, expected).await? else {
            return Ok(None);
        };
        lock(&self.watched).remove(duty);
        let holding = Holding {
            token: token.clone(),
            version,
            beat: 0,
        };
        lock(&self.ours).insert(duty.clone(), holding);
        Ok(Some(Lease {
            duty: duty.clone(),
            token,
        }))
    }

    fn words(&self, token: &str, beat: u64) -> String {
        let words = Words {
            holder: self.replica.clone(),
            address: self.address.clone(),
            beat,
            token: token.to_owned(),
        };
        serde_json::to_string(&words).expect("words have only text keys")
    }

    /// Whether the note has said the same for longer than its holder may be silent.
    fn is_silent(&self, duty: &Duty, version: &str) -> bool {
        let now = self.clock.boottime();
        let mut watched = lock(&self.watched);
        if watched.len() >= WATCHED_MAX {
            watched.clear();
        }
        let seen = watched.entry(duty.clone()).or_insert_with(|| Watched {
            version: version.to_owned(),
            since: now,
        });
        if seen.version != version {
            version.clone_into(&mut seen.version);
            seen.since = now;
        }
        now - seen.since >= self.silence_max
    }

    async fn claim_note(&self, duty: &Duty) -> Result<Claim, FleetError> {
        let Some(note) = self.notes.read(&name(duty)).await? else {
            let taken = self.take(duty, Expected::Absent).await?;
            return Ok(taken.map_or_else(unknown_holder, Claim::Ours));
        };
        let words: Words = serde_json::from_str(&note.text).map_err(|error| FleetError {
            operation: "read a lease",
            kind: FleetErrorKind::Refused,
            source: error.into(),
        })?;
        let is_ours = words.holder == self.replica && !lock(&self.ours).contains_key(duty);
        let is_free = words.holder.is_empty() || is_ours || self.is_silent(duty, &note.version);
        if is_free {
            let expected = Expected::Version(&note.version);
            let taken = self.take(duty, expected).await?;
            return Ok(taken.map_or_else(unknown_holder, Claim::Ours));
        }
        Ok(Claim::Held {
            by: words.holder,
            address: words.address,
        })
    }

    async fn renew_note(&self, lease: &Lease) -> Result<bool, FleetError> {
        let held = lock(&self.ours).get(&lease.duty).cloned();
        let Some(mut holding) = held.filter(|held| held.token == lease.token) else {
            return Ok(false);
        };
        holding.beat += 1;
        let text = self.words(&holding.token, holding.beat);
        let expected = Expected::Version(&holding.version);
        let written = self.notes.write(&name(&lease.duty), text, expected).await?;
        let Some(version) = written else {
            lock(&self.ours).remove(&lease.duty);
            return Ok(false);
        };
        holding.version = version;
        lock(&self.ours).insert(lease.duty.clone(), holding);
        Ok(true)
    }

    async fn release_note(&self, lease: &Lease) -> Result<(), FleetError> {
        let held = lock(&self.ours).remove(&lease.duty);
        let Some(holding) = held.filter(|held| held.token == lease.token) else {
            return Ok(());
        };
        let free = Words {
            holder: String::new(),
            address: None,
            beat: holding.beat + 1,
            token: holding.token,
        };
        let text = serde_json::to_string(&free).expect("words have only text keys");
        let expected = Expected::Version(&holding.version);
        let name = name(&lease.duty);
        // First free, then gone: a store that removes without looking at the version takes a free note away at worst.
        let Some(version) = self.notes.write(&name, text, expected).await? else {
            return Ok(());
        };
        self.notes.remove(&name, &version).await
    }
}

impl Leases for NoteLeases {
    fn claim<'a>(&'a self, duty: &'a Duty) -> FleetAnswer<'a, Claim> {
        Box::pin(self.claim_note(duty))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, bool> {
        Box::pin(self.renew_note(lease))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, ()> {
        Box::pin(self.release_note(lease))
    }

    fn silence_max(&self) -> Duration {
        self.silence_max
    }
}

impl fmt::Debug for NoteLeases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NoteLeases")
            .field("replica", &self.replica)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// Somebody was faster: who, the next look tells.
fn unknown_holder() -> Claim {
    Claim::Held {
        by: "another replica".to_owned(),
        address: None,
    }
}

fn name(duty: &Duty) -> String {
    match duty {
        Duty::Fill(digest) => format!("fill-{}-{}", digest.algorithm().as_str(), digest.hex()),
        Duty::Tiering => "tiering".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Maps of plain values: a panic of another holder cannot have left them half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
