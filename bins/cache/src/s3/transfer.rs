//! Bytes into the store, and copies within it: in one request where they are small, in parts where not.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, MetadataDirective, StorageClass,
};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use orlop_base::blocking;
use orlop_cache::depot::{DepotError, DepotErrorKind, Operation, Readable, Source};
use orlop_cache::tier::ClassName;
use orlop_types::{Algorithm, Digest};
use sha2::{Digest as _, Sha256};

use super::{PARTS_AT_ONCE, S3, failed, moment};

/// The most parts of a transfer that S3 takes.
const PARTS_MAX: u64 = 10_000;

/// How much one request copies of a large object.
const COPY_PART_BYTES: u64 = 1 << 30;

/// An object that is being made of parts.
struct Upload<'a> {
    digest: &'a Digest,
    class: &'a ClassName,
    bytes: u64,
    id: String,
}

impl S3 {
    pub(super) async fn upload(
        &self,
        digest: &Digest,
        from: Source,
        class: &ClassName,
    ) -> Result<(), DepotError> {
        let _turn = self
            .transfers
            .acquire()
            .await
            .expect("transfers are never closed");
        let file = Arc::new(from.file);
        if from.bytes <= self.part_bytes {
            let bytes = read(digest, &file, 0..from.bytes).await?;
            return self.put_whole(digest, bytes, class).await;
        }
        // A transfer in parts is refused at its end only.
        match self.head_of(digest).await {
            Ok(_) => return Err(DepotError::new("put", digest, DepotErrorKind::Exists, None)),
            Err(error) if error.kind == DepotErrorKind::Absent => {}
            Err(error) => return Err(error),
        }
        let upload = self.begin(digest, class, from.bytes).await?;
        let size = self.part_bytes.max(from.bytes.div_ceil(PARTS_MAX));
        let parts = stream::iter(split(from.bytes, size))
            .map(|(number, range)| self.put_part(&upload, number, range, Arc::clone(&file)))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await;
        self.end(upload, parts, Some("*")).await
    }

    pub(super) async fn change_class(
        &self,
        digest: &Digest,
        class: &ClassName,
    ) -> Result<(), DepotError> {
        let (held, tag) = self.head_of(digest).await?;
        match held.readable {
            Readable::Now | Readable::Until(_) => {}
            Readable::Archived => {
                return Err(DepotError::new(
                    "copy",
                    digest,
                    DepotErrorKind::Archived,
                    None,
                ));
            }
            Readable::Restoring => {
                return Err(DepotError::new(
                    "copy",
                    digest,
                    DepotErrorKind::Restoring,
                    None,
                ));
            }
        }
        if held.bytes <= self.copy_bytes_max {
            self.copy_whole(digest, class, tag).await?;
        } else {
            let upload = self.begin(digest, class, held.bytes).await?;
            let size = COPY_PART_BYTES.min(self.copy_bytes_max);
            let parts = stream::iter(split(held.bytes, size))
                .map(|(number, range)| self.copy_part(&upload, number, range, tag.as_deref()))
                .buffered(PARTS_AT_ONCE)
                .try_collect()
                .await;
            self.end(upload, parts, None).await?;
        }
        self.tally.add(&held.class, Operation::Retrieve, held.bytes);
        Ok(())
    }

    pub(super) async fn abandon_uploads(
        &self,
        digest: &Digest,
        before: SystemTime,
    ) -> Result<u32, DepotError> {
        let key = self.key(digest);
        let answer = self
            .client
            .list_multipart_uploads()
            .bucket(&self.bucket)
            .prefix(&key)
            .send()
            .await;
        self.charge_write(&ClassName::new(super::STANDARD));
        let output = answer.map_err(|error| failed("see transfers of", digest, error))?;
        let mut abandoned = 0;
        for upload in output.uploads() {
            let is_ours = upload.key() == Some(&key) && moment(upload.initiated()) < before;
            if let Some(id) = upload.upload_id().filter(|_| is_ours) {
                self.abort(digest, id).await?;
                abandoned += 1;
            }
        }
        Ok(abandoned)
    }

    async fn put_whole(
        &self,
        digest: &Digest,
        bytes: Bytes,
        class: &ClassName,
    ) -> Result<(), DepotError> {
        let checksum = match digest.algorithm() {
            Algorithm::Sha256 => base64(digest.as_bytes()),
            Algorithm::Sha512 => base64(&Sha256::digest(&bytes)),
        };
        let answer = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .if_none_match("*")
            .storage_class(StorageClass::from(class.as_str()))
            .checksum_sha256(checksum)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        self.charge_write(class);
        answer.map_err(|error| failed("put", digest, error))?;
        Ok(())
    }

    async fn copy_whole(
        &self,
        digest: &Digest,
        class: &ClassName,
        tag: Option<String>,
    ) -> Result<(), DepotError> {
        let answer = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .copy_source(self.path(digest))
            .set_copy_source_if_match(tag)
            .metadata_directive(MetadataDirective::Copy)
            .storage_class(StorageClass::from(class.as_str()))
            .send()
            .await;
        self.charge_write(class);
        answer.map_err(|error| failed("copy", digest, error))?;
        Ok(())
    }

    async fn begin<'a>(
        &self,
        digest: &'a Digest,
        class: &'a ClassName,
        bytes: u64,
    ) -> Result<Upload<'a>, DepotError> {
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .storage_class(StorageClass::from(class.as_str()))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .send()
            .await;
        self.charge_write(class);
        let output = answer.map_err(|error| failed("begin to put", digest, error))?;
        Ok(Upload {
            digest,
            class,
            bytes,
            id: output.upload_id.unwrap_or_default(),
        })
    }

    async fn put_part(
        &self,
        upload: &Upload<'_>,
        number: i32,
        range: Range<u64>,
        file: Arc<File>,
    ) -> Result<CompletedPart, DepotError> {
        let bytes = read(upload.digest, &file, range).await?;
        let checksum = base64(&Sha256::digest(&bytes));
        let answer = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(upload.digest))
            .upload_id(&upload.id)
            .part_number(number)
            .checksum_sha256(&checksum)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        self.charge_write(upload.class);
        let output = answer.map_err(|error| failed("put a part of", upload.digest, error))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(output.e_tag)
            .checksum_sha256(checksum)
            .build())
    }

    async fn copy_part(
        &self,
        upload: &Upload<'_>,
        number: i32,
        range: Range<u64>,
        tag: Option<&str>,
    ) -> Result<CompletedPart, DepotError> {
        let answer = self
            .client
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(self.key(upload.digest))
            .upload_id(&upload.id)
            .part_number(number)
            .copy_source(self.path(upload.digest))
            .copy_source_range(super::range_header(&range))
            .set_copy_source_if_match(tag.map(ToOwned::to_owned))
            .send()
            .await;
        self.charge_write(upload.class);
        let output = answer.map_err(|error| failed("copy a part of", upload.digest, error))?;
        let result = output.copy_part_result;
        let (tag, checksum) = result
            .map(|result| (result.e_tag, result.checksum_sha256))
            .unwrap_or_default();
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(tag)
            .set_checksum_sha256(checksum)
            .build())
    }

    /// Makes the object of its parts, or gives the parts up.
    async fn end(
        &self,
        upload: Upload<'_>,
        parts: Result<Vec<CompletedPart>, DepotError>,
        if_none_match: Option<&str>,
    ) -> Result<(), DepotError> {
        let completed = match parts {
            Ok(parts) => self.complete(&upload, parts, if_none_match).await,
            Err(error) => Err(error),
        };
        if completed.is_err()
            && let Err(error) = self.abort(upload.digest, &upload.id).await
        {
            tracing::warn!(digest = %upload.digest, error = orlop_types::chain(&error), "parts of a transfer are left behind");
        }
        completed
    }

    async fn complete(
        &self,
        upload: &Upload<'_>,
        parts: Vec<CompletedPart>,
        if_none_match: Option<&str>,
    ) -> Result<(), DepotError> {
        let whole = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let answer = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(upload.digest))
            .upload_id(&upload.id)
            .set_if_none_match(if_none_match.map(ToOwned::to_owned))
            .multipart_upload(whole)
            .send()
            .await;
        self.charge_write(upload.class);
        match answer.map_err(|error| failed("put", upload.digest, error)) {
            Ok(_) => Ok(()),
            // The answer was lost or not understood: the object tells whether it was made.
            Err(error) if error.kind == DepotErrorKind::Away => {
                let (held, _) = self.head_of(upload.digest).await?;
                let is_made = held.bytes == upload.bytes && held.class == *upload.class;
                is_made.then_some(()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn abort(&self, digest: &Digest, id: &str) -> Result<(), DepotError> {
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(digest))
            .upload_id(id)
            .send()
            .await;
        match answer.map_err(|error| failed("give up the transfer of", digest, error)) {
            Err(error) if error.kind != DepotErrorKind::Absent => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn charge_write(&self, class: &ClassName) {
        self.tally.add(class, Operation::Write, 0);
    }

    /// Bucket and key, as a copy's source. Keys are of characters that need no escape; prefixes were checked.
    fn path(&self, digest: &Digest) -> String {
        format!("{}/{}", self.bucket, self.key(digest))
    }
}

/// Numbers from 1 on, and what of an object each part is.
fn split(bytes: u64, part: u64) -> impl Iterator<Item = (i32, Range<u64>)> {
    (1..)
        .zip((0..bytes).step_by(usize::try_from(part).unwrap_or(usize::MAX)))
        .map(move |(number, begin)| (number, begin..bytes.min(begin + part)))
}

/// A part of the file, read where that may block.
async fn read(digest: &Digest, file: &Arc<File>, range: Range<u64>) -> Result<Bytes, DepotError> {
    let file = Arc::clone(file);
    let work = move || {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, range.start)?;
        Ok::<_, std::io::Error>(Bytes::from(buffer))
    };
    let local = |source: Box<dyn std::error::Error + Send + Sync>| {
        DepotError::new("put", digest, DepotErrorKind::Local, Some(source))
    };
    match blocking::run("read for the object store", work).await {
        Ok(bytes) => bytes.map_err(|error| local(error.into())),
        Err(error) => Err(local(error.into())),
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;

    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
