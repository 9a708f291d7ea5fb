//! Reading a blob as a stream of pieces.

use std::sync::Arc;

use futures_util::stream;
use orlop_api::bytes::Bytes;
use orlop_api::containerd::services::content::v1 as api;
use orlop_base::blocking;
use orlop_types::Digest;
use tonic::Status;

use super::Answers;
use crate::request::Caller;
use crate::status;
use crate::store::Store;
use crate::translate::{parse, signed};

/// How much one message carries, in bytes. One piece per reader is in memory at a time.
const PIECE_BYTES: u64 = 512 << 10;

/// Opens the blob and gives what was asked of it, piece by piece as the caller takes them.
pub(super) async fn read(
    store: &Store,
    caller: Caller,
    wanted: api::ReadContentRequest,
) -> Result<Answers<api::ReadContentResponse>, Status> {
    let digest: Digest = parse(&wanted.digest)?;
    let blob = store
        .run(caller, move |view| view.content().open(&digest))
        .await?;
    let start = start(&wanted, blob.size_bytes())?;
    let end = end(&wanted, start, blob.size_bytes());
    let blob = Arc::new(blob);
    let pieces = stream::try_unfold(start, move |offset| {
        let blob = Arc::clone(&blob);
        async move {
            if offset >= end {
                return Ok(None);
            }
            let length = (end - offset).min(PIECE_BYTES);
            let read = move || read_piece(length, |buffer, at| blob.read_at(buffer, offset + at));
            let data = blocking::run("read blob", read)
                .await
                .map_err(|error| status::of_blocking(&error))??;
            let next = offset + length;
            let piece = api::ReadContentResponse {
                // As in containerd: where the piece stands in what was asked for.
                offset: signed(offset - start),
                data,
            };
            Ok(Some((piece, next)))
        }
    });
    Ok(Box::pin(pieces))
}

/// Where to begin; a negative offset counts as none, as in containerd.
fn start(wanted: &api::ReadContentRequest, size: u64) -> Result<u64, Status> {
    let start = u64::try_from(wanted.offset).unwrap_or(0);
    if start > size {
        return Err(status::out_of_range(format!(
            "offset {start} is beyond the blob's {size} bytes"
        )));
    }
    Ok(start)
}

/// Where to end; no size, and one that goes too far, mean the blob's end.
fn end(wanted: &api::ReadContentRequest, start: u64, size: u64) -> u64 {
    match u64::try_from(wanted.size) {
        Ok(length @ 1..) => size.min(start.saturating_add(length)),
        Ok(0) | Err(_) => size,
    }
}

/// Reads exactly `length` bytes: a blob that ends early has been damaged since it was verified.
fn read_piece(
    length: u64,
    read_at: impl Fn(&mut [u8], u64) -> std::io::Result<usize>,
) -> Result<Bytes, Status> {
    let capacity = usize::try_from(length).expect("a piece is small");
    let mut buffer = vec![0; capacity];
    let mut filled = 0;
    while filled < capacity {
        let at = u64::try_from(filled).expect("a piece is small");
        match read_at(&mut buffer[filled..], at) {
            Ok(0) => return Err(status::damaged("the blob is shorter than its record says")),
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(status::damaged(format!("cannot read the blob: {error}"))),
        }
    }
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: i64, size: i64) -> Option<(u64, u64)> {
        let wanted = api::ReadContentRequest {
            digest: String::new(),
            offset,
            size,
        };
        let start = start(&wanted, 10).ok()?;
        Some((start, end(&wanted, start, 10)))
    }

    #[test]
    fn a_range_is_what_containerd_makes_of_it() {
        assert_eq!(range(0, 0), Some((0, 10)));
        assert_eq!(range(-3, -3), Some((0, 10)));
        assert_eq!(range(4, 3), Some((4, 7)));
        assert_eq!(range(4, 100), Some((4, 10)));
        assert_eq!(range(4, i64::MAX), Some((4, 10)));
        assert_eq!(range(10, 1), Some((10, 10)));
        assert_eq!(range(11, 1), None);
    }

    #[test]
    fn a_blob_that_ends_early_is_an_error_and_no_short_piece() {
        let short = read_piece(8, |buffer, at| {
            let left = 5_usize.saturating_sub(usize::try_from(at).unwrap());
            Ok(buffer.len().min(left))
        });
        assert_eq!(short.unwrap_err().code(), tonic::Code::DataLoss);
    }
}
