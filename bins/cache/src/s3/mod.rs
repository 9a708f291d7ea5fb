//! The shared tier on S3 and what speaks its language.
//!
//! An object's key is `<prefix>blobs/<algorithm>/<hex>`, a note's `<prefix>notes/<name>`. Objects are written with
//! `If-None-Match: *` and their SHA-256, so that they appear once and whole.
//!
//! Memory: a transfer holds [`PARTS_AT_ONCE`] parts; [`TRANSFERS_AT_ONCE`] transfers go at a time, others wait.

mod connect;
mod fault;
mod notes;
mod rest;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{GlacierJobParameters, OptionalObjectAttributes, RestoreRequest, Tier};
use futures_util::stream;
use orlop_cache::depot::{
    Answer, Body, Chunks, Depot, DepotError, DepotErrorKind, Held, Listed, Operation, Page,
    Readable, Restore, Source, Tally,
};
use orlop_cache::tier::ClassName;
use orlop_types::Digest;
use tokio::sync::Semaphore;

use fault::{Said, said};
use rest::Rest;
pub(crate) use settings::DepotSettings;

/// Transfers into the store at a time.
const TRANSFERS_AT_ONCE: usize = 2;

/// Parts of a transfer at a time.
const PARTS_AT_ONCE: usize = 2;

/// The class of an object of which the store names none.
const STANDARD: &str = "STANDARD";

/// Classes whose objects are restored before they are read, by the names S3 gave them.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// A bucket as a depot.
pub(crate) struct S3 {
    client: Client,
    bucket: String,
    prefix: String,
    part_bytes: u64,
    copy_bytes_max: u64,
    transfers: Semaphore,
    tally: Tally,
    rest: Rest,
}

impl S3 {
    fn key(&self, digest: &Digest) -> String {
        let algorithm = digest.algorithm().as_str();
        format!("{}blobs/{algorithm}/{}", self.prefix, digest.hex())
    }

    /// The digest that a key is of.
    fn digest(&self, key: &str) -> Option<Digest> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix("blobs/")?;
        rest.replacen('/', ":", 1).parse().ok()
    }

    async fn head_of(&self, digest: &Digest) -> Result<(Held, Option<String>), DepotError> {
        let answer = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .send()
            .await;
        let output = answer.map_err(|error| {
            self.tally
                .add(&ClassName::new(STANDARD), Operation::Read, 0);
            failed("look at", digest, error)
        })?;
        let held = held(&output);
        self.tally.add(&held.class, Operation::Read, 0);
        Ok((held, output.e_tag))
    }

    async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Body, DepotError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .set_range(range.as_ref().map(range_header))
            .send()
            .await;
        match answer {
            Ok(output) => Ok(self.body(*digest, range, output)),
            Err(error) => {
                let error = failed("read", digest, error);
                if error.kind == DepotErrorKind::Archived {
                    // Whether somebody has asked for it only a HEAD tells.
                    return Err(self.archived(digest, error).await);
                }
                Err(error)
            }
        }
    }

    async fn archived(&self, digest: &Digest, error: DepotError) -> DepotError {
        match self.head_of(digest).await {
            Ok((held, _)) if held.readable == Readable::Restoring => DepotError {
                kind: DepotErrorKind::Restoring,
                ..error
            },
            Ok(_) | Err(_) => error,
        }
    }

    fn body(&self, digest: Digest, asked: Option<Range<u64>>, output: GetObjectOutput) -> Body {
        let class = class(output.storage_class().map(|class| class.as_str()));
        let length = unsigned(output.content_length);
        let begin = asked.map_or(0, |range| range.start);
        let total = output.content_range().and_then(total_of_range);
        self.tally.add(&class, Operation::Read, 0);
        self.tally.add(&class, Operation::Retrieve, length);
        Body {
            bytes_total: total.unwrap_or(length),
            range: begin..begin + length,
            chunks: chunks(digest, output.body),
        }
    }

    async fn ask_back(&self, digest: &Digest, how: &Restore) -> Result<(), DepotError> {
        let (held, _) = self.head_of(digest).await?;
        let parameters = GlacierJobParameters::builder()
            .tier(Tier::from(capitalized(&how.tier).as_str()))
            .build();
        let request = RestoreRequest::builder()
            .days(i32::try_from(how.days).unwrap_or(i32::MAX))
            .glacier_job_parameters(parameters.expect("a tier is all it needs"))
            .build();
        let answer = self
            .client
            .restore_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .restore_request(request)
            .send()
            .await;
        let operation = Operation::Restore(how.tier.clone());
        match answer {
            Ok(_) => {
                self.tally.add(&held.class, operation, held.bytes);
                Ok(())
            }
            Err(error) => {
                let mut error = failed("restore", digest, error);
                match error.kind {
                    DepotErrorKind::Restoring => return Ok(()),
                    // A class that is no archive has nothing to restore.
                    DepotErrorKind::Archived => error.kind = DepotErrorKind::Refused,
                    DepotErrorKind::Absent
                    | DepotErrorKind::Exists
                    | DepotErrorKind::Throttled(_)
                    | DepotErrorKind::Refused
                    | DepotErrorKind::Corrupt
                    | DepotErrorKind::Away
                    | DepotErrorKind::Local => {}
                }
                Err(error)
            }
        }
    }

    async fn remove(&self, digest: &Digest) -> Result<(), DepotError> {
        let answer = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .send()
            .await;
        match answer.map_err(|error| failed("remove", digest, error)) {
            Err(error) if error.kind != DepotErrorKind::Absent => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn page(&self, after: Option<&Digest>) -> Result<Page, DepotError> {
        let folder = format!("{}blobs/", self.prefix);
        let mut start = after.map(|digest| self.key(digest));
        loop {
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(&folder)
                .set_start_after(start.take())
                .optional_object_attributes(OptionalObjectAttributes::RestoreStatus)
                .send()
                .await;
            self.tally
                .add(&ClassName::new(STANDARD), Operation::Write, 0);
            let output = answer.map_err(|error| list_failed(&folder, error))?;
            let objects: Vec<Listed> = output
                .contents()
                .iter()
                .filter_map(|object| {
                    Some(Listed {
                        digest: self.digest(object.key()?)?,
                        bytes: unsigned(object.size),
                        class: class(object.storage_class().map(|class| class.as_str())),
                        since: moment(object.last_modified()),
                    })
                })
                .collect();
            let last_key = output.contents().last().and_then(|object| object.key());
            let is_last = !output.is_truncated().unwrap_or(false) || last_key.is_none();
            if is_last {
                return Ok(Page {
                    objects,
                    next: None,
                });
            }
            if let Some(last) = objects.last() {
                let next = Some(last.digest);
                return Ok(Page { objects, next });
            }
            // A page of foreign objects: behind it.
            start = last_key.map(ToOwned::to_owned);
        }
    }
}

impl Depot for S3 {
    fn head<'a>(&'a self, digest: &'a Digest) -> Answer<'a, Held> {
        Box::pin(async move {
            self.rest.over("look at", digest)?;
            let (held, _) = self.rest.heard(self.head_of(digest).await)?;
            Ok(held)
        })
    }

    fn get<'a>(&'a self, digest: &'a Digest, range: Option<Range<u64>>) -> Answer<'a, Body> {
        Box::pin(async move {
            self.rest.over("read", digest)?;
            self.rest.heard(self.read(digest, range).await)
        })
    }

    fn put<'a>(&'a self, digest: &'a Digest, from: Source, class: &'a ClassName) -> Answer<'a, ()> {
        Box::pin(async move {
            self.rest.over("put", digest)?;
            self.rest.heard(self.upload(digest, from, class).await)
        })
    }

    fn copy<'a>(&'a self, digest: &'a Digest, class: &'a ClassName) -> Answer<'a, ()> {
        Box::pin(self.change_class(digest, class))
    }

    fn restore<'a>(&'a self, digest: &'a Digest, how: &'a Restore) -> Answer<'a, ()> {
        Box::pin(self.ask_back(digest, how))
    }

    fn delete<'a>(&'a self, digest: &'a Digest) -> Answer<'a, ()> {
        Box::pin(self.remove(digest))
    }

    fn list<'a>(&'a self, after: Option<&'a Digest>) -> Answer<'a, Page> {
        Box::pin(self.page(after))
    }

    fn abandon<'a>(&'a self, digest: &'a Digest, before: SystemTime) -> Answer<'a, u32> {
        Box::pin(self.abandon_uploads(digest, before))
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

fn failed<E: Said>(operation: &'static str, digest: &Digest, error: E) -> DepotError {
    let kind = said(&error);
    DepotError::new(operation, digest, kind, error.boxed())
}

fn list_failed<E: Said>(folder: &str, error: E) -> DepotError {
    DepotError {
        operation: "list",
        subject: folder.to_owned(),
        kind: said(&error),
        source: error.boxed(),
    }
}

fn held(output: &HeadObjectOutput) -> Held {
    let class = class(output.storage_class().map(|class| class.as_str()));
    Held {
        bytes: unsigned(output.content_length),
        readable: readable(&class, output.restore()),
        since: moment(output.last_modified()),
        class,
    }
}

/// What `x-amz-restore` says, such as `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn readable(class: &ClassName, restore: Option<&str>) -> Readable {
    if !ARCHIVES.contains(&class.as_str()) {
        return Readable::Now;
    }
    let Some(restore) = restore else {
        return Readable::Archived;
    };
    if restore.contains("ongoing-request=\"true\"") {
        return Readable::Restoring;
    }
    let expiry = restore.split_once("expiry-date=\"").and_then(|(_, rest)| {
        let text = rest.split('"').next()?;
        httpdate::parse_http_date(text).ok()
    });
    expiry.map_or(Readable::Now, Readable::Until)
}

fn class(name: Option<&str>) -> ClassName {
    ClassName::new(name.unwrap_or(STANDARD))
}

fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// The part of `bytes 0-9/100` behind the slash.
fn total_of_range(text: &str) -> Option<u64> {
    text.rsplit_once('/')?.1.parse().ok()
}

fn unsigned(length: Option<i64>) -> u64 {
    length.unwrap_or_default().unsigned_abs()
}

fn moment(at: Option<&DateTime>) -> SystemTime {
    at.and_then(|at| SystemTime::try_from(*at).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// S3 writes `Standard` what prices call `standard`.
fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn chunks(digest: Digest, body: ByteStream) -> Chunks {
    Box::pin(stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(bytes) => Some((Ok(bytes), Some(body))),
            Err(error) => {
                let source: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
                let error = DepotError::new("read", &digest, DepotErrorKind::Away, Some(source));
                Some((Err(error), None))
            }
        }
    }))
}
