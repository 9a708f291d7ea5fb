//! The thread that writes: batches of requests, and the sums of their days in the same transaction.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, UNIX_EPOCH};

use orlop_base::clock::SharedClock;
use rusqlite::{Connection, OptionalExtension, params};

use super::figures::Figures;
use super::query::{self, By, Window};
use super::{Message, Options, Outcome, Record, Source};
use crate::db::{Database, DatabaseError, open_or_begin_anew, seconds, to_column};

pub(super) const DAY_SECONDS: i64 = 86_400;

/// Requests written in one transaction, at most.
const BATCH_MAX: usize = 2048;

/// How often the most pulled are looked for, and what is old is deleted, at most.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Old days deleted in one transaction: the rest follows a minute later.
const DELETED_MAX: i64 = 20_000;

/// Single requests kept, whatever their age: as many as a busy node has in some days.
const REQUESTS_MAX: i64 = 5_000_000;

pub(super) struct Writer {
    root: PathBuf,
    options: Options,
    clock: SharedClock,
    figures: Arc<Figures>,
    database: Option<Database>,
    /// It was said that nothing can be written.
    is_failing: bool,
    /// Dropped since then.
    lost: u64,
    tidied: Option<Duration>,
}

/// What one day adds to a digest in a repository.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    requests: u64,
    bytes: u64,
    upstream_requests: u64,
    upstream_bytes: u64,
}

impl Writer {
    pub(super) fn new(
        root: &Path,
        options: Options,
        clock: SharedClock,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            root: root.to_owned(),
            options,
            clock,
            figures,
            database: None,
            is_failing: false,
            lost: 0,
            tidied: None,
        }
    }

    /// Writes until [`Message::End`].
    pub(super) fn run(mut self, received: &Receiver<Message>) {
        loop {
            let mut batch = Vec::new();
            let mut flushed = None;
            let is_end = self.gather(received, &mut batch, &mut flushed);
            self.write(&batch);
            if let Some(answer) = flushed {
                // Whoever asked may have gone.
                answer.send(()).ok();
            }
            if is_end {
                return;
            }
            self.tidy();
        }
    }

    /// Takes what comes until the batch is full, old enough, or somebody waits for it. Whether it was the end.
    fn gather(
        &self,
        received: &Receiver<Message>,
        batch: &mut Vec<Record>,
        flushed: &mut Option<SyncSender<()>>,
    ) -> bool {
        let mut until = Instant::now() + TIDY_EVERY;
        while batch.len() < BATCH_MAX {
            let wait = until.saturating_duration_since(Instant::now());
            match received.recv_timeout(wait) {
                Ok(Message::Record(record)) => {
                    if batch.is_empty() {
                        until = Instant::now() + self.options.batch_every;
                    }
                    batch.push(*record);
                }
                Ok(Message::Flush(answer)) => {
                    *flushed = Some(answer);
                    return false;
                }
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
        false
    }

    fn write(&mut self, batch: &[Record]) {
        if batch.is_empty() {
            return;
        }
        let written = self.database().and_then(|database| {
            database.write("write requests into", |db| write_batch(db, batch))
        });
        match written {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(batch.len(), &error),
        }
    }

    /// The database, opened anew if it was lost or replaced.
    fn database(&mut self) -> Result<&Database, DatabaseError> {
        let is_lost = self
            .database
            .as_ref()
            .is_some_and(|database| !database.is_in_place());
        if is_lost {
            self.database = None;
        }
        match &mut self.database {
            Some(database) => Ok(database),
            place => {
                // One that is damaged is replaced here only if nobody has the store open, who would do it himself.
                let (database, _) = open_or_begin_anew(&self.root, self.clock.wall())?;
                Ok(place.insert(database))
            }
        }
    }

    fn failed(&mut self, count: usize, error: &DatabaseError) {
        let count = count as u64;
        self.figures.dropped(count);
        self.lost += count;
        self.database = None;
        if !self.is_failing {
            self.is_failing = true;
            let error = orlop_types::chain(error);
            tracing::warn!(
                error,
                "the ledger cannot be written: requests are served, and counted as dropped"
            );
        }
    }

    fn recovered(&mut self) {
        if self.is_failing {
            tracing::info!(lost = self.lost, "the ledger is written again");
            self.is_failing = false;
            self.lost = 0;
        }
    }

    /// From time to time: deletes what is old, and shows the most pulled.
    fn tidy(&mut self) {
        let now = self.clock.boottime();
        let is_due = self
            .tidied
            .is_none_or(|before| now.saturating_sub(before) >= TIDY_EVERY);
        if !is_due {
            return;
        }
        self.tidied = Some(now);
        let today = seconds(self.clock.wall()).div_euclid(DAY_SECONDS);
        let (options, figures) = (self.options.clone(), Arc::clone(&self.figures));
        let tidied = self.database().and_then(|database| {
            database.write("delete old requests from", |db| forget(db, today, &options))?;
            if options.top == 0 {
                return Ok(());
            }
            let window = Window::Week.days(today);
            let top = database.read("look for the most pulled in", |db| {
                query::top(db, window, By::Requests, options.top)
            })?;
            figures.show_top(
                top.into_iter()
                    .map(|line| (line.digest, line.counts.requests))
                    .collect(),
            );
            Ok(())
        });
        if let Err(error) = tidied {
            self.failed(0, &error);
        }
    }
}

fn write_batch(db: &Connection, batch: &[Record]) -> rusqlite::Result<()> {
    let mut sums: HashMap<(i64, i64, i64), Sum> = HashMap::new();
    for record in batch {
        let repository = repository(db, &record.locator)?;
        let digest = digest(db, record)?;
        let since = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        db.prepare_cached(
            "INSERT INTO ledger_requests (at, client, repository, kind, reference, digest, bytes, source, outcome, took)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            at,
            record.client,
            repository,
            record.kind.number(),
            record.reference,
            digest,
            to_column(record.bytes),
            record.source.number(),
            record.outcome.number(),
            i64::try_from(record.took.as_micros()).unwrap_or(i64::MAX),
        ])?;
        if let Some(digest) = digest {
            let day = at.div_euclid(DAY_SECONDS * 1000);
            sums.entry((day, digest, repository))
                .or_default()
                .add(record);
        }
    }
    for ((day, digest, repository), sum) in sums {
        add(db, (day, digest, repository), sum)?;
    }
    Ok(())
}

impl Sum {
    fn add(&mut self, record: &Record) {
        let pulls = u64::from(record.outcome == Outcome::Served);
        self.requests += pulls;
        self.bytes = self.bytes.saturating_add(record.bytes);
        if record.source == Source::Upstream {
            self.upstream_requests += pulls;
            self.upstream_bytes = self.upstream_bytes.saturating_add(record.bytes);
        }
    }
}

fn add(
    db: &Connection,
    (day, digest, repository): (i64, i64, i64),
    sum: Sum,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO ledger_days (day, digest, repository, requests, bytes, upstream_requests, upstream_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (day, digest, repository) DO UPDATE SET
             requests = requests + excluded.requests, bytes = bytes + excluded.bytes,
             upstream_requests = upstream_requests + excluded.upstream_requests,
             upstream_bytes = upstream_bytes + excluded.upstream_bytes",
    )?
    .execute(params![
        day,
        digest,
        repository,
        to_column(sum.requests),
        to_column(sum.bytes),
        to_column(sum.upstream_requests),
        to_column(sum.upstream_bytes),
    ])?;
    Ok(())
}

fn repository(db: &Connection, locator: &str) -> rusqlite::Result<i64> {
    let found = db
        .prepare_cached("SELECT id FROM ledger_repositories WHERE locator = ?1")?
        .query_row([locator], |row| row.get(0))
        .optional()?;
    if let Some(id) = found {
        return Ok(id);
    }
    db.prepare_cached("INSERT INTO ledger_repositories (locator) VALUES (?1)")?
        .insert([locator])
}

/// The number of a request's digest; None if it has none.
fn digest(db: &Connection, record: &Record) -> rusqlite::Result<Option<i64>> {
    let Some(digest) = &record.digest else {
        return Ok(None);
    };
    db.prepare_cached(
        "INSERT INTO ledger_digests (digest, kind, size) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest) DO UPDATE SET size = max(size, excluded.size) RETURNING id",
    )?
    .query_row(
        params![
            digest.to_string(),
            record.kind.number(),
            to_column(record.bytes)
        ],
        |row| row.get(0),
    )
    .map(Some)
}

/// Deletes what is older than it is kept, on days that are believed.
fn forget(db: &Connection, today: i64, options: &Options) -> rusqlite::Result<()> {
    if !is_believed(db, today)? {
        return Ok(());
    }
    let first_day = today - i64::from(options.days);
    let first_moment = (today - i64::from(options.requests_days)) * DAY_SECONDS * 1000;
    let deleted = db.execute(
        "DELETE FROM ledger_days WHERE (day, digest, repository) IN
             (SELECT day, digest, repository FROM ledger_days WHERE day <= ?1 LIMIT ?2)",
        [first_day, DELETED_MAX],
    )?;
    db.execute(
        "DELETE FROM ledger_requests WHERE id IN (SELECT id FROM ledger_requests WHERE at < ?1 LIMIT ?2)",
        [first_moment, DELETED_MAX],
    )?;
    db.execute(
        "DELETE FROM ledger_requests WHERE id IN
             (SELECT id FROM ledger_requests WHERE id <= (SELECT max(id) FROM ledger_requests) - ?1 LIMIT ?2)",
        [REQUESTS_MAX, DELETED_MAX],
    )?;
    if deleted > 0 {
        for (table, column) in [
            ("ledger_digests", "digest"),
            ("ledger_repositories", "repository"),
        ] {
            db.execute(
                &format!(
                    "DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM ledger_days)
                     AND id NOT IN (SELECT {column} FROM ledger_requests WHERE {column} IS NOT NULL)"
                ),
                [],
            )?;
        }
    }
    Ok(())
}

/// Whether today followed on yesterday while a ledger was kept. Else the clock may have jumped ahead, or nothing ran for some
/// days: then nothing is deleted before tomorrow.
fn is_believed(db: &Connection, today: i64) -> rusqlite::Result<bool> {
    let noted: Option<String> = db
        .prepare_cached("SELECT value FROM settings WHERE name = 'ledger_day'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let noted = noted.as_deref().and_then(|text| text.split_once(' '));
    let noted = noted.and_then(|(day, how)| Some((day.parse::<i64>().ok()?, how == "believed")));
    let believed = match noted {
        Some((day, believed)) if day == today => return Ok(believed),
        Some((day, _)) => day == today - 1,
        None => false,
    };
    let sql = "INSERT INTO settings (name, value) VALUES ('ledger_day', ?1)
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let how = if believed { "believed" } else { "doubted" };
    db.prepare_cached(sql)?
        .execute([format!("{today} {how}")])?;
    Ok(believed)
}
