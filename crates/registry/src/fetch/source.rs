//! One blob at one host: the redirect it answered with is kept, so that ranges need not ask the registry each time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{ACCEPT_ENCODING, RANGE};
use http::{Method, StatusCode};
use orlop_types::Digest;
use reqwest::{Response, Url};

use super::plan::Piece;
use crate::auth::Scope;
use crate::client::Door;
use crate::error::Failure;
use crate::hosts::Endpoint;
use crate::transport::{Ask, same_origin};

#[derive(Debug)]
pub(super) struct Source {
    digest: Digest,
    redirect: Mutex<Option<Url>>,
}

impl Source {
    pub(super) const fn new(digest: Digest) -> Self {
        Self {
            digest,
            redirect: Mutex::new(None),
        }
    }

    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }

    /// Asks for a piece. A redirect that has expired is forgotten and the registry asked for a new one, once.
    pub(super) async fn open(&self, door: &Door, piece: &Piece) -> Result<Response, Failure> {
        // Bound first: a guard in the condition would live on across the await.
        let known = self.redirect().clone();
        if let Some(url) = known {
            let response = self.ask_redirect(door, url, piece).await?;
            if !is_expired(response.status()) {
                return success_or_failure(door, response).await;
            }
            *self.redirect() = None;
        }
        let url = door.url(&format!("blobs/{}", self.digest))?;
        let ask = with_range(Ask::new(Method::GET, url), piece);
        let response = door.send(ask, &Scope::pull(door.repository())).await?;
        // Asked again, because loopback may have turned out to speak plain HTTP.
        let own = door.url(&format!("blobs/{}", self.digest))?;
        if response.status().is_success() && !same_origin(response.url(), &own) {
            *self.redirect() = Some(response.url().clone());
        }
        success_or_failure(door, response).await
    }

    /// A presigned URL carries its own permission: nothing of ours goes with it.
    async fn ask_redirect(
        &self,
        door: &Door,
        url: Url,
        piece: &Piece,
    ) -> Result<Response, Failure> {
        let stranger = Endpoint {
            headers: Vec::new(),
            ..door.endpoint.clone()
        };
        let ask = with_range(Ask::new(Method::GET, url), piece);
        door.client.shared.transport.send(&stranger, &ask).await
    }

    fn redirect(&self) -> MutexGuard<'_, Option<Url>> {
        self.redirect.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_range(ask: Ask, piece: &Piece) -> Ask {
    // Any encoding in between would change the bytes that the digest is of.
    let ask = ask.header(ACCEPT_ENCODING, "identity");
    if !piece.ranged {
        return ask;
    }
    let last = piece.range.end.saturating_sub(1);
    ask.header(RANGE, &format!("bytes={}-{last}", piece.range.start))
}

fn is_expired(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
    )
}

async fn success_or_failure(door: &Door, response: Response) -> Result<Response, Failure> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(door.failed(response).await)
}
