//! Telling a daemon of an event from a process of its own: what shims without ttrpc start (`containerd publish`).

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use orlop_api::containerd::services::events::ttrpc::v1::{ForwardRequest, events_service};
use orlop_api::containerd::types::Envelope;
use orlop_api::{Any, Message};
use orlop_ttrpc::client::{Client, ClientError};
use orlop_types::Namespace;

/// How long the daemon may take: a shim waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An event as a shim tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Whose event it is.
    pub namespace: Namespace,
    /// Such as `/tasks/oom`.
    pub topic: String,
    /// The event.
    pub event: Any,
    /// When it happened.
    pub at: SystemTime,
}

/// The daemon did not hear of an event.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish an event")]
pub struct PublishError(#[source] ClientError);

impl PublishError {
    /// The stable id of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code()
    }
}

/// Sends an event to the daemon whose socket for shims' events is `socket`.
///
/// # Errors
/// Nobody listens, or the daemon refuses the event.
pub async fn publish(socket: &Path, publication: Publication) -> Result<(), PublishError> {
    let request = ForwardRequest {
        envelope: Some(Envelope {
            timestamp: Some(publication.at.into()),
            namespace: publication.namespace.to_string(),
            topic: publication.topic,
            event: Some(publication.event),
        }),
    };
    let (client, driver) = Client::connect(socket).await.map_err(PublishError)?;
    let mut call = pin!(client.call(
        events_service::SERVICE,
        events_service::Method::Forward.name(),
        request.encode_to_vec(),
        Some(ANSWER_LIMIT),
        Vec::new(),
    ));
    let answer = tokio::select! {
        biased;
        answer = &mut call => answer,
        // The connection is over, and the call knows it.
        _ended = driver.run() => call.await,
    };
    answer.map(drop).map_err(PublishError)
}
