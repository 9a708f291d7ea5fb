//! What is told to metrics and ledger. The daemon implements it; this crate knows neither.

use std::time::Duration;

use orlop_registry::Transfer;
use orlop_types::ImageName;

use super::error::Error;

/// Receives figures. Called from async tasks and blocking jobs: it must not block.
pub trait Recorder: Send + Sync + std::fmt::Debug {
    /// One host gave something for one digest, or failed to: a line of the ledger.
    fn transferred(&self, transfer: &Transfer);

    /// A layer was unpacked into `bytes` of uncompressed stream, or was not.
    fn unpacked(&self, bytes: u64, duration: Duration, error: Option<&Error>);

    /// A pull ended.
    fn pulled(
        &self,
        image: &ImageName,
        bytes_fetched: u64,
        duration: Duration,
        error: Option<&Error>,
    );
}

/// Keeps no figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn transferred(&self, _transfer: &Transfer) {}

    fn unpacked(&self, _bytes: u64, _duration: Duration, _error: Option<&Error>) {}

    fn pulled(
        &self,
        _image: &ImageName,
        _bytes_fetched: u64,
        _duration: Duration,
        _error: Option<&Error>,
    ) {
    }
}
