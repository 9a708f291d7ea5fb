//! Notes: small objects that are written on condition, for elections where there is no database.

use aws_sdk_s3::primitives::ByteStream;
use orlop_cache::depot::{DepotErrorKind, Operation};
use orlop_cache::fleet::{Expected, FleetAnswer, FleetError, FleetErrorKind, Note, Notes};
use orlop_cache::tier::ClassName;

use super::fault::{Said, said};
use super::{S3, STANDARD};

/// A note is read up to here: what is longer is none of ours.
const NOTE_BYTES_MAX: usize = 4096;

impl S3 {
    fn note_key(&self, name: &str) -> String {
        format!("{}notes/{name}", self.prefix)
    }

    async fn read_note(&self, name: &str) -> Result<Option<Note>, FleetError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.note_key(name))
            .send()
            .await;
        self.charge(Operation::Read);
        let output = match answer {
            Ok(output) => output,
            Err(error) if said(&error) == DepotErrorKind::Absent => return Ok(None),
            Err(error) => return Err(failed("read a note", error)),
        };
        let version = output.e_tag.unwrap_or_default();
        let mut body = output.body;
        let mut text = Vec::new();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| FleetError {
                operation: "read a note",
                kind: FleetErrorKind::Away,
                source: error.into(),
            })?;
            text.extend_from_slice(&bytes);
            if text.len() > NOTE_BYTES_MAX {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Some(Note { text, version }))
    }

    async fn write_note(
        &self,
        name: &str,
        text: String,
        expected: Expected<'_>,
    ) -> Result<Option<String>, FleetError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.note_key(name))
            .body(ByteStream::from(text.into_bytes()));
        let request = match expected {
            Expected::Absent => request.if_none_match("*"),
            Expected::Version(version) => request.if_match(version),
        };
        let answer = request.send().await;
        self.charge(Operation::Write);
        match answer {
            Ok(output) => Ok(Some(output.e_tag.unwrap_or_default())),
            Err(error) => match (said(&error), error.status()) {
                // Another version, gone, or being written at this moment: somebody was faster.
                (DepotErrorKind::Exists | DepotErrorKind::Absent, _) | (_, Some(409)) => Ok(None),
                (
                    DepotErrorKind::Archived
                    | DepotErrorKind::Restoring
                    | DepotErrorKind::Throttled(_)
                    | DepotErrorKind::Refused
                    | DepotErrorKind::Corrupt
                    | DepotErrorKind::Away
                    | DepotErrorKind::Local,
                    _,
                ) => Err(failed("write a note", error)),
            },
        }
    }

    async fn remove_note(&self, name: &str, version: &str) -> Result<(), FleetError> {
        let answer = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.note_key(name))
            .if_match(version)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            // Somebody has it again, or the store does not remove on condition: the note stays, and is free.
            Err(error) if matches!(error.status(), Some(404 | 409 | 412 | 501)) => Ok(()),
            Err(error) => Err(failed("remove a note", error)),
        }
    }

    fn charge(&self, operation: Operation) {
        self.tally.add(&ClassName::new(STANDARD), operation, 0);
    }
}

impl Notes for S3 {
    fn read<'a>(&'a self, name: &'a str) -> FleetAnswer<'a, Option<Note>> {
        Box::pin(self.read_note(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        text: String,
        expected: Expected<'a>,
    ) -> FleetAnswer<'a, Option<String>> {
        Box::pin(self.write_note(name, text, expected))
    }

    fn remove<'a>(&'a self, name: &'a str, version: &'a str) -> FleetAnswer<'a, ()> {
        Box::pin(self.remove_note(name, version))
    }
}

fn failed<E: Said>(operation: &'static str, error: E) -> FleetError {
    let kind = match said(&error) {
        DepotErrorKind::Refused => FleetErrorKind::Refused,
        DepotErrorKind::Absent
        | DepotErrorKind::Archived
        | DepotErrorKind::Restoring
        | DepotErrorKind::Exists
        | DepotErrorKind::Throttled(_)
        | DepotErrorKind::Corrupt
        | DepotErrorKind::Away
        | DepotErrorKind::Local => FleetErrorKind::Away,
    };
    let source = error.boxed().unwrap_or_else(|| "no cause".into());
    FleetError {
        operation,
        kind,
        source,
    }
}
