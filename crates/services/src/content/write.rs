//! Writing a blob: one call is one writer, and holds its reference until it ends.
//!
//! Crash: what was written stays with the ingest, and the next writer of the reference goes on from there.
//! Cancellation: a caller that leaves ends its writer, whose bytes are synced and kept. Ordering: messages are worked
//! off one by one, each answered before the next is read.

use std::sync::Arc;
use std::time::SystemTime;

use orlop_api::containerd::services::content::v1::WriteAction;
use orlop_api::containerd::services::content::v1::{WriteContentRequest, WriteContentResponse};
use orlop_base::blocking;
use orlop_base::task::{CancellationToken, TaskKind, TaskTree};
use orlop_meta::{Error, Ingest, IngestOptions, Opened, View};
use orlop_types::{Digest, IngestRef};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Answers;
use crate::status;
use crate::translate::{labels, length, parse, parse_optional, signed, timestamp};

const WRITER: TaskKind = TaskKind::cooperative("content writer");
const JOB: &str = "write content";

/// Starts the task of one call and gives its answers.
pub(super) fn start(
    tasks: &TaskTree,
    view: View,
    requests: Streaming<WriteContentRequest>,
) -> Answers<WriteContentResponse> {
    let (answers, receiver) = mpsc::channel(1);
    // The task owns itself: it ends with its call, or when the daemon does.
    drop(tasks.spawn(WRITER, |stop| conduct(view, requests, answers, stop)));
    Box::pin(ReceiverStream::new(receiver))
}

/// Works off requests until the commit, an error, or the end of either side.
async fn conduct(
    view: View,
    mut requests: Streaming<WriteContentRequest>,
    answers: mpsc::Sender<Result<WriteContentResponse, Status>>,
    stop: CancellationToken,
) {
    let mut writer = None;
    loop {
        let message = tokio::select! {
            message = requests.message() => message,
            () = stop.cancelled() => Err(status::shutting_down()),
        };
        let Some(request) = message.transpose() else {
            break;
        };
        let (kept, answer) = match request {
            Ok(request) => advance(&view, writer, request).await,
            Err(status) => (writer, Err(status)),
        };
        writer = kept;
        let is_last = answer.as_ref().map_or(true, |answer| {
            answer.action == i32::from(WriteAction::Commit)
        });
        if answers.send(answer).await.is_err() || is_last {
            break;
        }
    }
    // Letting go of a writer syncs its bytes.
    if let Err(error) = blocking::run(JOB, move || drop(writer)).await {
        tracing::warn!(%error, "a content writer was not closed in order");
    }
}

/// Works off one request where blocking is allowed. The first one opens the writer.
async fn advance(
    view: &View,
    writer: Option<Writer>,
    request: WriteContentRequest,
) -> (Option<Writer>, Result<WriteContentResponse, Status>) {
    let view = view.clone();
    let job = move || {
        let mut writer = match writer.map_or_else(|| Writer::open(view, &request), Ok) {
            Ok(writer) => writer,
            Err(status) => return (None, Err(status)),
        };
        let answer = writer.step(request);
        (Some(writer), answer)
    };
    match blocking::run(JOB, job).await {
        Ok(result) => result,
        Err(error) => (None, Err(status::of_blocking(&error))),
    }
}

/// An open ingest, and what the client has said of it.
#[derive(Debug)]
struct Writer {
    view: View,
    ingest: Ingest,
    /// Where the next byte goes.
    offset: u64,
    /// The size the client expects; 0 if unknown.
    total: u64,
    expected: Option<Digest>,
    /// When bytes last came here. The file's own time is coarser than what clients compare it with.
    written_at: Option<SystemTime>,
}

impl Writer {
    fn open(view: View, first: &WriteContentRequest) -> Result<Self, Status> {
        let reference: IngestRef = parse(&first.r#ref)?;
        let total = length(first.total, "total")?;
        let expected = parse_optional(&first.expected)?;
        let mut options = IngestOptions::default();
        options.expected.digest = expected;
        options.expected.size_bytes = (total > 0).then_some(total);
        let opened = view.content().ingest(&reference, &options);
        let ingest = match opened.map_err(|error| status::of_meta(&error))? {
            Opened::Ingest(ingest) => ingest,
            Opened::Exists(blob) => return Err(exists(&blob.digest)),
        };
        let offset = ingest
            .status()
            .map_err(|error| status::of_meta(&error))?
            .offset;
        Ok(Self {
            view,
            ingest,
            offset,
            total,
            expected,
            written_at: None,
        })
    }

    fn step(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let action = WriteAction::try_from(request.action)
            .map_err(|_| status::invalid_text(format!("unknown action {}", request.action)))?;
        self.expect(&request)?;
        let mut answer = match action {
            WriteAction::Stat => self.stat()?,
            WriteAction::Write => {
                self.write(&request)?;
                WriteContentResponse {
                    digest: self.digest()?,
                    ..WriteContentResponse::default()
                }
            }
            WriteAction::Commit => {
                self.write(&request)?;
                self.commit(request)?
            }
        };
        answer.action = action.into();
        answer.offset = signed(self.offset);
        Ok(answer)
    }

    /// Takes note of a digest and size that the client learned on the way. A blob that is there by now ends the writer.
    fn expect(&mut self, request: &WriteContentRequest) -> Result<(), Status> {
        if let Some(digest) = parse_optional(&request.expected)? {
            self.expected = Some(digest);
            match self.view.content().info(&digest) {
                Ok(_) => {
                    self.discard();
                    return Err(exists(&digest));
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(status::of_meta(&error)),
            }
        }
        match length(request.total, "total")? {
            0 => {}
            total => self.total = total,
        }
        Ok(())
    }

    fn discard(&self) {
        match self.view.content().abort(self.ingest.reference()) {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, reference = %self.ingest.reference(), "a needless ingest is left over");
            }
        }
    }

    fn stat(&self) -> Result<WriteContentResponse, Status> {
        let found = self
            .ingest
            .status()
            .map_err(|error| status::of_meta(&error))?;
        Ok(WriteContentResponse {
            started_at: Some(timestamp(found.started_at)),
            updated_at: Some(timestamp(self.written_at.unwrap_or(found.updated_at))),
            total: signed(self.total),
            digest: self.digest()?,
            ..WriteContentResponse::default()
        })
    }

    /// The digest of what has been written; of a shared ingest the one it will have.
    fn digest(&self) -> Result<String, Status> {
        let digest = match self.ingest.writer() {
            Some(bytes) => Some(bytes.digest_so_far().map_err(|e| self.failed("read", e))?),
            None => self.expected,
        };
        Ok(digest.map(|digest| digest.to_string()).unwrap_or_default())
    }

    fn failed(&self, operation: &'static str, error: orlop_meta::ContentError) -> Status {
        status::of_meta(&Error::Content {
            operation,
            subject: self.ingest.reference().to_string(),
            source: Arc::new(error),
        })
    }

    /// Appends the request's bytes. Offset 0 starts over, another one has to be where the bytes end.
    fn write(&mut self, request: &WriteContentRequest) -> Result<(), Status> {
        let offset = length(request.offset, "offset")?;
        if offset > 0 && offset != self.offset {
            return Err(status::out_of_range(format!(
                "cannot write at {offset}: the ingest is at {}",
                self.offset
            )));
        }
        if offset == 0 && self.offset > 0 {
            self.start_over()?;
        }
        if request.data.is_empty() {
            return Ok(());
        }
        // Another namespace has brought the bytes of a shared ingest: what the client sends is counted, not kept.
        if let Some(bytes) = self.ingest.writer() {
            let written = bytes.append(&request.data);
            written.map_err(|error| self.failed("write ingest", error))?;
        }
        self.written_at = Some(self.view.db().clock().wall());
        self.offset += u64::try_from(request.data.len()).expect("a message is small");
        Ok(())
    }

    fn start_over(&mut self) -> Result<(), Status> {
        if let Some(bytes) = self.ingest.writer() {
            let emptied = bytes.truncate(0);
            emptied.map_err(|error| self.failed("restart ingest", error))?;
        }
        self.offset = 0;
        Ok(())
    }

    /// Refuses a digest and size that the client named after it had begun, if the bytes do not have them: such bytes
    /// stay, for a commit that knows better. Those that are not what they were begun for go, in the commit.
    fn check_late(&self) -> Result<(), Status> {
        let (Some(bytes), begun) = (self.ingest.writer(), self.ingest.expected()) else {
            return Ok(());
        };
        if self.total > 0 && begun.size_bytes != Some(self.total) && self.offset != self.total {
            return Err(status::failed_precondition(format!(
                "the ingest has {} bytes instead of {}",
                self.offset, self.total
            )));
        }
        let Some(wanted) = self.expected.filter(|_| begun.digest != self.expected) else {
            return Ok(());
        };
        let actual = bytes.digest_so_far().map_err(|e| self.failed("read", e))?;
        if actual.algorithm() == wanted.algorithm() && actual != wanted {
            return Err(status::failed_precondition(format!(
                "the ingest has digest {actual} instead of {wanted}"
            )));
        }
        Ok(())
    }

    fn commit(&self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let mut expected = *self.ingest.expected();
        expected.digest = self.expected;
        expected.size_bytes = (self.total > 0).then_some(self.total);
        let labels = labels(request.labels)?;
        self.check_late()?;
        let blob = self
            .ingest
            .commit(expected, &labels)
            .map_err(|error| status::of_meta(&error))?;
        Ok(WriteContentResponse {
            digest: blob.digest.to_string(),
            total: signed(blob.size),
            ..WriteContentResponse::default()
        })
    }
}

fn exists(digest: &Digest) -> Status {
    status::already_exists(format!("content {digest}"))
}
