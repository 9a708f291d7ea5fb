//! What a caller may watch while an image moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orlop_types::{Descriptor, ImageName};

/// How often changes are told, at most.
const TICK: Duration = Duration::from_millis(100);

/// What is being done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// Nothing yet.
    Waiting,
    /// Bytes come.
    Downloading,
    /// All bytes are here and are being checked and synced.
    Verifying,
    /// It is stored.
    Stored,
    /// It, or the snapshot made of it, was there before.
    Present,
    /// Bytes go.
    Uploading,
    /// The registry has it.
    Remote,
}

/// What is being done with the snapshot of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackState {
    /// Not a layer, or not to be unpacked.
    None,
    /// Not begun.
    Waiting,
    /// Files are being made.
    Unpacking,
    /// The snapshot is committed.
    Unpacked,
    /// The snapshot was there before.
    Present,
}

/// How far one blob is. A later one for the same digest replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobProgress {
    /// The blob.
    pub descriptor: Descriptor,
    /// What is being done with it.
    pub state: BlobState,
    /// Bytes here, or there when pushing, including those kept from an earlier try.
    pub bytes_done: u64,
    /// Bytes moved now.
    pub bytes_moved: u64,
    /// The host and port they come from or go to.
    pub host: String,
    /// What is being done with its snapshot.
    pub unpack: UnpackState,
    /// Bytes of the uncompressed layer written so far.
    pub bytes_unpacked: u64,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The reference stands for this.
    Resolved {
        /// The name the image will have.
        name: ImageName,
        /// Its manifest or index.
        target: Descriptor,
    },
    /// A blob is further than before; at most ten times a second for each.
    Blob(BlobProgress),
}

/// Hears of events. Called from an async task: it must not block.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn report(&self, event: Event);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _event: Event) {}
}

impl<F: Fn(Event) + Send + Sync> Progress for F {
    fn report(&self, event: Event) {
        self(event);
    }
}

/// Counts of one transfer, written by whoever moves the bytes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    done: AtomicU64,
    moved: AtomicU64,
    host: Mutex<String>,
}

impl Meter {
    /// Bytes that are there already.
    pub(crate) fn begin(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Where bytes come from, or nothing.
    pub(crate) fn host(&self) -> String {
        let host = self.host.lock();
        host.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_host(&self, host: &str) {
        let mut current = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != host {
            host.clone_into(&mut current);
        }
    }
}

/// One line per blob, told to the listener when it changed.
pub(crate) struct Board {
    listener: Arc<dyn Progress>,
    lines: Mutex<Vec<Line>>,
}

struct Line {
    now: BlobProgress,
    told: Option<BlobProgress>,
    meter: Option<Arc<Meter>>,
    unpacked: Arc<AtomicU64>,
}

/// A line of a [`Board`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineId(usize);

impl Board {
    pub(crate) fn new(listener: Arc<dyn Progress>) -> Self {
        Self {
            listener,
            lines: Mutex::default(),
        }
    }

    pub(crate) fn resolved(&self, name: &ImageName, target: &Descriptor) {
        self.listener.report(Event::Resolved {
            name: name.clone(),
            target: target.clone(),
        });
    }

    pub(crate) fn add(&self, descriptor: &Descriptor, unpack: UnpackState) -> LineId {
        let mut lines = self.lines();
        lines.push(Line {
            now: BlobProgress {
                descriptor: descriptor.clone(),
                state: BlobState::Waiting,
                bytes_done: 0,
                bytes_moved: 0,
                host: String::new(),
                unpack,
                bytes_unpacked: 0,
            },
            told: None,
            meter: None,
            unpacked: Arc::default(),
        });
        LineId(lines.len() - 1)
    }

    pub(crate) fn set_state(&self, id: LineId, state: BlobState) {
        self.with(id, |line| line.now.state = state);
    }

    pub(crate) fn set_unpack(&self, id: LineId, unpack: UnpackState) {
        self.with(id, |line| line.now.unpack = unpack);
    }

    /// Follows a transfer from now on.
    pub(crate) fn follow(&self, id: LineId, meter: &Arc<Meter>) {
        self.with(id, |line| line.meter = Some(Arc::clone(meter)));
    }

    /// Where to count the bytes of the uncompressed layer.
    pub(crate) fn unpacked(&self, id: LineId) -> Arc<AtomicU64> {
        self.lines()
            .get(id.0)
            .map(|line| Arc::clone(&line.unpacked))
            .unwrap_or_default()
    }

    /// Bytes moved for all blobs.
    pub(crate) fn bytes_moved(&self) -> u64 {
        let lines = self.lines();
        let meters = lines.iter().filter_map(|line| line.meter.as_ref());
        meters.map(|meter| meter.moved()).sum()
    }

    /// Tells changes for as long as `work` takes, and what is left at its end.
    pub(crate) async fn while_doing<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    self.tell();
                    return result;
                }
                _ = ticks.tick() => self.tell(),
            }
        }
    }

    fn tell(&self) {
        let mut news = Vec::new();
        for line in self.lines().iter_mut() {
            line.refresh();
            if line.told.as_ref() != Some(&line.now) {
                line.told = Some(line.now.clone());
                news.push(line.now.clone());
            }
        }
        for progress in news {
            self.listener.report(Event::Blob(progress));
        }
    }

    fn with(&self, id: LineId, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines().get_mut(id.0) {
            change(line);
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn refresh(&mut self) {
        let size = self.now.descriptor.size;
        if let Some(meter) = &self.meter {
            self.now.bytes_done = meter.done.load(Ordering::Relaxed).min(size);
            self.now.bytes_moved = meter.moved();
            let host = meter.host.lock().unwrap_or_else(PoisonError::into_inner);
            if self.now.host != *host {
                self.now.host.clone_from(&host);
            }
        }
        match self.now.state {
            BlobState::Stored | BlobState::Present | BlobState::Remote => {
                self.now.bytes_done = size
            }
            BlobState::Waiting
            | BlobState::Downloading
            | BlobState::Verifying
            | BlobState::Uploading => {}
        }
        self.now.bytes_unpacked = self.unpacked.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_types::Digest;

    #[tokio::test(start_paused = true)]
    async fn changes_are_told_at_most_ten_times_a_second_and_the_last_one_always() {
        let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
        let listener = {
            let heard = Arc::clone(&heard);
            move |event| heard.lock().unwrap().push(event)
        };
        let board = Board::new(Arc::new(listener));
        let line = board.add(
            &Descriptor::new("x/y", Digest::sha256([1; 32]), 1000),
            UnpackState::None,
        );
        let meter = Arc::new(Meter::default());
        board.follow(line, &meter);
        board
            .while_doing(async {
                for _ in 0..1000 {
                    meter.add(1);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                board.set_state(line, BlobState::Stored);
            })
            .await;
        let heard = heard.lock().unwrap();
        assert!((5..=12).contains(&heard.len()), "{} events", heard.len());
        let Some(Event::Blob(last)) = heard.last() else {
            panic!("nothing heard");
        };
        assert_eq!((last.state, last.bytes_done), (BlobState::Stored, 1000));
    }
}
