//! Progress of a pull or push: a bar for each blob on a terminal, a line for each change elsewhere.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use orlop_api::orlop::v1::{BlobProgress, BlobState, UnpackState};
use orlop_base::units::format_bytes;

use orlop_base::table::{printable, shorten};

const BAR_WIDTH: usize = 20;

/// A rate is computed over at least this long, so that it does not flicker.
const RATE_WINDOW: Duration = Duration::from_millis(500);

/// More blobs than an image can sensibly have are not remembered: a daemon cannot make us grow.
const BLOBS_MAX: usize = 4096;

/// How far each blob is.
#[derive(Default)]
pub(crate) struct Progress {
    /// In the order in which they were first heard of.
    blobs: Vec<Blob>,
    by_digest: HashMap<String, usize>,
    /// Lines drawn last time, to be drawn over.
    drawn: usize,
    /// What has been told already, where nothing can be drawn over.
    told: HashSet<String>,
}

struct Blob {
    short: String,
    size: u64,
    done: u64,
    state: BlobState,
    unpack: UnpackState,
    rate: Rate,
}

#[derive(Default)]
struct Rate {
    since: Duration,
    moved: u64,
    bytes_per_second: u64,
}

impl Progress {
    /// Takes in what the daemon says, at `now` in time since boot.
    pub(crate) fn update(&mut self, event: &BlobProgress, now: Duration) {
        let descriptor = event.descriptor.clone().unwrap_or_default();
        let index = match self.by_digest.get(&descriptor.digest) {
            Some(&index) => index,
            None if self.blobs.len() >= BLOBS_MAX => return,
            None => {
                self.by_digest
                    .insert(descriptor.digest.clone(), self.blobs.len());
                self.blobs.push(Blob {
                    short: short_digest(&descriptor.digest),
                    size: u64::try_from(descriptor.size).unwrap_or(0),
                    done: 0,
                    state: BlobState::Unspecified,
                    unpack: UnpackState::Unspecified,
                    rate: Rate {
                        since: now,
                        ..Rate::default()
                    },
                });
                self.blobs.len() - 1
            }
        };
        let blob = &mut self.blobs[index];
        blob.done = event.bytes_done;
        blob.state = event.state();
        blob.unpack = event.unpack();
        blob.rate.update(event.bytes_moved, now);
    }

    /// The bars, drawn over those drawn last, on a terminal of this size.
    pub(crate) fn redraw(&mut self, columns: usize, rows: usize) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let lines = self.bars(columns, rows.saturating_sub(2).max(1));
        for line in &lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        self.drawn = lines.len();
        text
    }

    /// A line for each blob that has reached another state.
    pub(crate) fn new_lines(&mut self) -> String {
        let mut text = String::new();
        for blob in &self.blobs {
            let line = format!("{}  {}", blob.short, blob.status());
            if !blob.status().is_empty() && self.told.insert(line.clone()) {
                text.push_str(&format!("{line}  {}\n", format_bytes(blob.size)));
            }
        }
        text
    }

    /// One line a blob. Where they are too many, those at work are shown and the others counted.
    fn bars(&self, columns: usize, rows: usize) -> Vec<String> {
        if self.blobs.len() <= rows {
            return self.blobs.iter().map(|blob| blob.bar(columns)).collect();
        }
        let working: Vec<&Blob> = self.blobs.iter().filter(|blob| !blob.is_done()).collect();
        let done = self.blobs.len() - working.len();
        let shown = working.len().min(rows.saturating_sub(1));
        let mut lines: Vec<String> = working[..shown]
            .iter()
            .map(|blob| blob.bar(columns))
            .collect();
        let rest = format!("{done} done, {} waiting", working.len() - shown);
        lines.push(shorten(&rest, columns));
        lines
    }
}

impl Rate {
    fn update(&mut self, moved: u64, now: Duration) {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < RATE_WINDOW {
            return;
        }
        let bytes = u128::from(moved.saturating_sub(self.moved));
        let per_second = bytes * 1000 / elapsed.as_millis().max(1);
        *self = Self {
            since: now,
            moved,
            bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
        };
    }
}

impl Blob {
    fn is_done(&self) -> bool {
        let here = matches!(
            self.state,
            BlobState::Stored | BlobState::Present | BlobState::Remote
        );
        here && !matches!(self.unpack, UnpackState::Waiting | UnpackState::Unpacking)
    }

    fn status(&self) -> &'static str {
        match self.unpack {
            UnpackState::Unpacked => return "unpacked",
            UnpackState::Present => return "present",
            UnpackState::Unpacking if self.state == BlobState::Stored => return "unpacking",
            UnpackState::Unspecified | UnpackState::Waiting | UnpackState::Unpacking => {}
        }
        match self.state {
            BlobState::Unspecified => "",
            BlobState::Waiting => "waiting",
            BlobState::Downloading => "downloading",
            BlobState::Verifying => "verifying",
            BlobState::Stored => "stored",
            BlobState::Present => "present",
            BlobState::Uploading => "uploading",
            BlobState::Remote => "pushed",
        }
    }

    fn bar(&self, columns: usize) -> String {
        let done = self.done.min(self.size);
        let permille = match self.size {
            0 => 1000,
            size => u128::from(done) * 1000 / u128::from(size),
        };
        let permille = usize::try_from(permille).unwrap_or(1000);
        let full = permille * BAR_WIDTH / 1000;
        let rate = match self.state {
            BlobState::Downloading | BlobState::Uploading if self.rate.bytes_per_second > 0 => {
                format!("{}/s", format_bytes(self.rate.bytes_per_second))
            }
            BlobState::Unspecified
            | BlobState::Waiting
            | BlobState::Downloading
            | BlobState::Verifying
            | BlobState::Stored
            | BlobState::Present
            | BlobState::Uploading
            | BlobState::Remote => String::new(),
        };
        let line = format!(
            "{:<12} {}{} {:>3}% {:>10} {:>12} {}",
            self.short,
            "█".repeat(full),
            "░".repeat(BAR_WIDTH - full),
            permille / 10,
            format_bytes(self.size),
            rate,
            self.status(),
        );
        shorten(line.trim_end(), columns)
    }
}

/// The first twelve digits of a digest; it is the daemon's word, and shown on a terminal.
fn short_digest(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    printable(hex).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use orlop_api::containerd::types::Descriptor;

    use super::*;

    fn event(
        digit: char,
        size: i64,
        done: u64,
        state: BlobState,
        unpack: UnpackState,
    ) -> BlobProgress {
        BlobProgress {
            descriptor: Some(Descriptor {
                digest: format!("sha256:{}", digit.to_string().repeat(64)),
                size,
                ..Descriptor::default()
            }),
            state: state.into(),
            bytes_done: done,
            bytes_moved: done,
            unpack: unpack.into(),
            ..BlobProgress::default()
        }
    }

    fn progress() -> Progress {
        let mut progress = Progress::default();
        let waiting = UnpackState::Waiting;
        let downloading = BlobState::Downloading;
        progress.update(
            &event('a', 1 << 25, 0, downloading, waiting),
            Duration::ZERO,
        );
        progress.update(
            &event('a', 1 << 25, 1 << 24, downloading, waiting),
            Duration::from_secs(2),
        );
        progress.update(
            &event('b', 9000, 9000, BlobState::Stored, UnpackState::Unpacking),
            Duration::ZERO,
        );
        progress.update(
            &event('c', 512, 0, BlobState::Waiting, waiting),
            Duration::ZERO,
        );
        progress.update(
            &event('d', 512, 512, BlobState::Stored, UnpackState::Unpacked),
            Duration::ZERO,
        );
        progress
    }

    #[test]
    fn bars_show_share_size_rate_and_state_in_eighty_columns() {
        let mut progress = progress();
        let lines = progress.bars(80, 24).join("\n");
        assert!(lines.lines().all(|line| line.chars().count() <= 80));
        insta::assert_snapshot!(lines);
        assert!(!progress.redraw(80, 24).contains("\x1b[4A"));
        assert!(progress.redraw(80, 24).starts_with("\x1b[4A"));
    }

    #[test]
    fn where_bars_are_too_many_the_working_ones_are_shown() {
        let lines = progress().bars(80, 3);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "1 done, 1 waiting");
    }

    #[test]
    fn elsewhere_each_state_is_told_once() {
        let mut progress = progress();
        insta::assert_snapshot!(progress.new_lines(), @r"
        aaaaaaaaaaaa  downloading  32.0 MiB
        bbbbbbbbbbbb  unpacking  8.8 KiB
        cccccccccccc  waiting  512 B
        dddddddddddd  unpacked  512 B
        ");
        assert_eq!(progress.new_lines(), "");
    }

    #[test]
    fn a_daemon_that_never_stops_naming_blobs_does_not_make_us_grow() {
        let mut progress = Progress::default();
        for number in 0..10_000 {
            let mut event = event('a', 1, 0, BlobState::Waiting, UnpackState::Waiting);
            event.descriptor.as_mut().unwrap().digest = format!("sha256:{number}");
            progress.update(&event, Duration::ZERO);
        }
        assert_eq!(progress.blobs.len(), BLOBS_MAX);
    }
}
