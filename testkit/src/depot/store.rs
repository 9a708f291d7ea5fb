//! The object store: classes, archives whose restores take their time, transfers in parts, notes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use orlop_base::clock::SharedClock;
use orlop_cache::depot::{
    Answer, Body, Depot, DepotError, DepotErrorKind, Held, Listed, Operation, Page, Readable,
    Restore, Source, Tally,
};
use orlop_cache::fleet::{Expected, FleetAnswer, Note, Notes};
use orlop_cache::tier::ClassName;
use orlop_types::Digest;

use super::{Switch, digest_of, lock};

/// Classes whose objects are restored before they are read.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Objects of a page of the list: few, so that there are several.
const PAGE: usize = 3;

/// An object store in memory. Clones are one store.
#[derive(Debug, Clone)]
pub struct MemoryDepot {
    state: Arc<Mutex<State>>,
    tally: Arc<Tally>,
    clock: SharedClock,
    switch: Switch,
    restore_takes: Duration,
    /// Larger objects are put in parts: one step before they appear.
    part_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Digest, Object>,
    /// Begun and not ended, by object and moment.
    uploads: Vec<(Digest, SystemTime)>,
    failures: VecDeque<DepotErrorKind>,
    notes: BTreeMap<String, Note>,
    versions: u64,
    /// How often bytes were written under each digest.
    writes: BTreeMap<Digest, usize>,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    class: ClassName,
    since: SystemTime,
    /// From when until when a restored copy stands.
    restored: Option<(SystemTime, SystemTime)>,
}

impl MemoryDepot {
    /// An empty store on `clock` that dies by `switch`, and restores within `restore_takes`.
    #[must_use]
    pub fn new(clock: SharedClock, switch: Switch, restore_takes: Duration) -> Self {
        Self {
            state: Arc::default(),
            tally: Arc::default(),
            clock,
            switch,
            restore_takes,
            part_bytes: 1024,
        }
    }

    /// The same store under another switch: what a restart finds.
    #[must_use]
    pub fn reborn(&self, switch: Switch) -> Self {
        Self {
            switch,
            ..self.clone()
        }
    }

    /// Lets the next calls fail, one after the other.
    pub fn fail(&self, kinds: impl IntoIterator<Item = DepotErrorKind>) {
        lock(&self.state).failures.extend(kinds);
    }

    /// Puts an object there.
    pub fn keep(&self, bytes: &[u8], class: &str) -> Digest {
        let digest = digest_of(bytes);
        let object = self.object(Bytes::copy_from_slice(bytes), &ClassName::new(class));
        lock(&self.state).objects.insert(digest, object);
        digest
    }

    /// An object's class and bytes.
    #[must_use]
    pub fn object_of(&self, digest: &Digest) -> Option<(ClassName, Bytes)> {
        let state = lock(&self.state);
        let object = state.objects.get(digest)?;
        Some((object.class.clone(), object.bytes.clone()))
    }

    /// How many objects there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.state).objects.len()
    }

    /// How many transfers in parts lie about.
    #[must_use]
    pub fn uploads(&self) -> usize {
        lock(&self.state).uploads.len()
    }

    /// How often bytes were written under a digest.
    #[must_use]
    pub fn writes(&self, digest: &Digest) -> usize {
        lock(&self.state).writes.get(digest).copied().unwrap_or(0)
    }

    fn object(&self, bytes: Bytes, class: &ClassName) -> Object {
        Object {
            bytes,
            class: class.clone(),
            since: self.clock.wall(),
            restored: None,
        }
    }

    /// Before and after each effect the world may end.
    async fn call<T>(
        &self,
        operation: &'static str,
        digest: Option<&Digest>,
        effect: impl FnOnce(&mut State) -> Result<T, DepotErrorKind>,
    ) -> Result<T, DepotError> {
        self.switch.reach().await;
        let done = {
            let mut state = lock(&self.state);
            match state.failures.pop_front() {
                Some(kind) => Err(kind),
                None => effect(&mut state),
            }
        };
        self.switch.reach().await;
        done.map_err(|kind| DepotError {
            operation,
            subject: digest.map_or_else(|| "the list".to_owned(), ToString::to_string),
            kind,
            source: None,
        })
    }

    fn readable(&self, object: &Object) -> Readable {
        if !ARCHIVES.contains(&object.class.as_str()) {
            return Readable::Now;
        }
        let now = self.clock.wall();
        match object.restored {
            Some((from, _)) if now < from => Readable::Restoring,
            Some((_, until)) if now < until => Readable::Until(until),
            Some(_) | None => Readable::Archived,
        }
    }

    /// The object, if it gives bytes now.
    fn open<'a>(&self, state: &'a State, digest: &Digest) -> Result<&'a Object, DepotErrorKind> {
        let object = state.objects.get(digest).ok_or(DepotErrorKind::Absent)?;
        match self.readable(object) {
            Readable::Now | Readable::Until(_) => Ok(object),
            Readable::Archived => Err(DepotErrorKind::Archived),
            Readable::Restoring => Err(DepotErrorKind::Restoring),
        }
    }

    /// What is put in parts dies between its parts as well.
    async fn in_parts(&self, digest: &Digest, bytes: u64) {
        if bytes > self.part_bytes {
            let begun = (*digest, self.clock.wall());
            lock(&self.state).uploads.push(begun);
            self.switch.reach().await;
        }
    }

    fn end_parts(state: &mut State, digest: &Digest) {
        if let Some(index) = state.uploads.iter().rposition(|(one, _)| one == digest) {
            state.uploads.remove(index);
        }
    }
}

impl Depot for MemoryDepot {
    fn head<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Held> {
        Box::pin(self.call("look at", Some(digest), move |state| {
            let object = state.objects.get(digest).ok_or(DepotErrorKind::Absent)?;
            self.tally.add(&object.class, Operation::Read, 0);
            Ok(Held {
                bytes: object.bytes.len() as u64,
                class: object.class.clone(),
                readable: self.readable(object),
                since: object.since,
            })
        }))
    }

    fn get<'a>(&'a self, digest: &'a Digest, range: Option<Range<u64>>) -> Answer<'a, Body> {
        Box::pin(self.call("read", Some(digest), move |state| {
            let object = self.open(state, digest)?;
            let total = object.bytes.len() as u64;
            let range = range.map_or(0..total, |range| range.start..range.end.min(total));
            let (begin, end) = (place(range.start), place(range.end));
            let bytes = object.bytes.slice(begin..end);
            self.tally.add(&object.class, Operation::Read, 0);
            let read = bytes.len() as u64;
            self.tally.add(&object.class, Operation::Retrieve, read);
            Ok(Body {
                bytes_total: total,
                range,
                chunks: Box::pin(stream::iter([Ok(bytes)])),
            })
        }))
    }

    fn put<'a>(&'a self, digest: &'a Digest, from: Source, class: &'a ClassName) -> Answer<'a, ()> {
        Box::pin(async move {
            self.in_parts(digest, from.bytes).await;
            self.call("put", Some(digest), move |state| {
                Self::end_parts(state, digest);
                self.tally.add(class, Operation::Write, 0);
                if state.objects.contains_key(digest) {
                    return Err(DepotErrorKind::Exists);
                }
                let mut bytes = vec![0; place(from.bytes)];
                let read = from.file.read_exact_at(&mut bytes, 0);
                read.map_err(|_| DepotErrorKind::Local)?;
                if digest_of(&bytes) != *digest {
                    return Err(DepotErrorKind::Corrupt);
                }
                let object = self.object(bytes.into(), class);
                state.objects.insert(*digest, object);
                *state.writes.entry(*digest).or_default() += 1;
                Ok(())
            })
            .await
        })
    }

    fn copy<'a>(&'a self, digest: &'a Digest, class: &'a ClassName) -> Answer<'a, ()> {
        Box::pin(async move {
            let held = self.call("copy", Some(digest), |state| {
                self.open(state, digest).map(|object| object.bytes.len())
            });
            let bytes = held.await? as u64;
            self.in_parts(digest, bytes).await;
            self.call("copy", Some(digest), move |state| {
                Self::end_parts(state, digest);
                let old = self.open(state, digest)?.clone();
                self.tally.add(class, Operation::Write, 0);
                self.tally.add(&old.class, Operation::Retrieve, bytes);
                let object = self.object(old.bytes, class);
                state.objects.insert(*digest, object);
                Ok(())
            })
            .await
        })
    }

    fn restore<'a>(&'a self, digest: &'a Digest, how: &'a Restore) -> Answer<'a, ()> {
        Box::pin(self.call("restore", Some(digest), move |state| {
            let object = state
                .objects
                .get_mut(digest)
                .ok_or(DepotErrorKind::Absent)?;
            match self.readable(object) {
                Readable::Now => Err(DepotErrorKind::Refused),
                Readable::Restoring => Ok(()),
                Readable::Until(_) | Readable::Archived => {
                    let from = self.clock.wall() + self.restore_takes;
                    let until = from + Duration::from_secs(u64::from(how.days) * 86_400);
                    object.restored = Some((from, until));
                    let bytes = object.bytes.len() as u64;
                    let operation = Operation::Restore(how.tier.clone());
                    self.tally.add(&object.class, operation, bytes);
                    Ok(())
                }
            }
        }))
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> Answer<'a, ()> {
        Box::pin(self.call("remove", Some(digest), move |state| {
            state.objects.remove(digest);
            Ok(())
        }))
    }

    fn list<'a>(&'a self, after: Option<&'a Digest>) -> Answer<'a, Page> {
        Box::pin(self.call("list", None, move |state| {
            self.tally
                .add(&ClassName::new("STANDARD"), Operation::Write, 0);
            let rest = state
                .objects
                .iter()
                .filter(|(digest, _)| after.is_none_or(|after| *digest > after));
            let objects: Vec<Listed> = rest
                .map(|(digest, object)| Listed {
                    digest: *digest,
                    bytes: object.bytes.len() as u64,
                    class: object.class.clone(),
                    since: object.since,
                })
                .take(PAGE + 1)
                .collect();
            let is_last = objects.len() <= PAGE;
            let objects: Vec<_> = objects.into_iter().take(PAGE).collect();
            let next = objects.last().filter(|_| !is_last);
            Ok(Page {
                next: next.map(|last| last.digest),
                objects,
            })
        }))
    }

    fn abandon<'a>(&'a self, digest: &'a Digest, before: SystemTime) -> Answer<'a, u32> {
        Box::pin(self.call("see transfers of", Some(digest), move |state| {
            let known = state.uploads.len();
            let is_old = |(one, begun): &(Digest, SystemTime)| one == digest && *begun <= before;
            state.uploads.retain(|upload| !is_old(upload));
            Ok(u32::try_from(known - state.uploads.len()).unwrap_or(u32::MAX))
        }))
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Notes for MemoryDepot {
    fn read<'a>(&'a self, name: &'a str) -> FleetAnswer<'a, Option<Note>> {
        Box::pin(async move { Ok(lock(&self.state).notes.get(name).cloned()) })
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        text: String,
        expected: Expected<'a>,
    ) -> FleetAnswer<'a, Option<String>> {
        Box::pin(async move {
            let mut state = lock(&self.state);
            let known = state.notes.get(name).map(|note| note.version.as_str());
            let is_expected = match expected {
                Expected::Absent => known.is_none(),
                Expected::Version(version) => known == Some(version),
            };
            if !is_expected {
                return Ok(None);
            }
            state.versions += 1;
            let version = state.versions.to_string();
            let note = Note {
                text,
                version: version.clone(),
            };
            state.notes.insert(name.to_owned(), note);
            Ok(Some(version))
        })
    }

    fn remove<'a>(&'a self, name: &'a str, version: &'a str) -> FleetAnswer<'a, ()> {
        Box::pin(async move {
            let mut state = lock(&self.state);
            if state
                .notes
                .get(name)
                .is_some_and(|note| note.version == version)
            {
                state.notes.remove(name);
            }
            Ok(())
        })
    }
}

/// Doubles hold what fits memory.
fn place(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
