//! Answers that say no, in the words of the distribution specification ("Error Codes"), with our id in the detail.

use std::time::Duration;

use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Response, StatusCode};

use super::body::AnswerBody;
use crate::ledger::Outcome;
use crate::origin::{Trouble, TroubleKind};
use crate::rights::Refusal;
use crate::route::RouteError;

pub(super) type Answer = Response<AnswerBody>;

/// What was asked for, for the words of a 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Manifest,
    Blob,
    List,
}

/// A no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct No {
    pub(super) status: u16,
    /// The specification's word.
    pub(super) code: &'static str,
    /// Ours.
    pub(super) id: &'static str,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) challenge: Option<&'static str>,
    pub(super) outcome: Outcome,
}

impl No {
    pub(super) fn new(status: u16, code: &'static str, id: &'static str, message: String) -> Self {
        let outcome = match status {
            404 => Outcome::Missing,
            401 | 403 => Outcome::Refused,
            429 => Outcome::Limited,
            _ => Outcome::Failed,
        };
        Self {
            status,
            code,
            id,
            message,
            retry_after: None,
            challenge: None,
            outcome,
        }
    }

    /// What the client did not ask for as the specification has it.
    pub(super) fn of_route(error: &RouteError) -> Self {
        let (status, code, id) = match error {
            RouteError::NoSuchPlace(_) => (404, "UNSUPPORTED", "ORL-E9201"),
            RouteError::BadName(_) => (400, "NAME_INVALID", "ORL-E9201"),
            RouteError::BadTarget(_) => (400, "MANIFEST_INVALID", "ORL-E9201"),
            RouteError::BadDigest(_) => (400, "DIGEST_INVALID", "ORL-E9201"),
            RouteError::BadQuery(_) => (400, "UNSUPPORTED", "ORL-E9201"),
            RouteError::NotServed(_) | RouteError::NoRegistry => (404, "NAME_UNKNOWN", "ORL-E9203"),
        };
        Self::new(status, code, id, error.to_string())
    }

    /// Trouble with the upstream. A client that the service speaks for can do nothing about a 401, and is told 403.
    pub(super) fn of_trouble(
        trouble: &Trouble,
        wish: Wish,
        challenge: Option<&'static str>,
    ) -> Self {
        let mut status = trouble.status();
        if status == 401 && challenge.is_none() {
            status = 403;
        }
        let code = match (trouble.kind, wish) {
            (TroubleKind::NotFound, Wish::Manifest) => "MANIFEST_UNKNOWN",
            (TroubleKind::NotFound, Wish::Blob) => "BLOB_UNKNOWN",
            (TroubleKind::NotFound, Wish::List) => "NAME_UNKNOWN",
            (TroubleKind::Unauthorized, _) if status == 401 => "UNAUTHORIZED",
            (TroubleKind::Unauthorized | TroubleKind::Forbidden, _) => "DENIED",
            (TroubleKind::Throttled, _) => "TOOMANYREQUESTS",
            (
                TroubleKind::Failing(_)
                | TroubleKind::Unreachable
                | TroubleKind::TimedOut
                | TroubleKind::Resting
                | TroubleKind::Unusable
                | TroubleKind::WrongBytes
                | TroubleKind::Room
                | TroubleKind::Ending,
                _,
            ) => "UNAVAILABLE",
        };
        let mut no = Self::new(status, code, trouble.code(), trouble.message.clone());
        no.retry_after = trouble.retry_after;
        no.challenge = challenge.filter(|_| status == 401);
        no
    }

    /// Somebody who is not let in.
    pub(super) fn of_refusal(refusal: Refusal, challenge: Option<&'static str>) -> Self {
        let status = if challenge.is_some() { 401 } else { 403 };
        let mut no = Self::new(status, "UNAUTHORIZED", "ORL-E9206", refusal.to_string());
        no.challenge = challenge;
        no
    }

    /// Our own store failed.
    pub(super) fn of_store(error: &dyn std::error::Error) -> Self {
        let message = format!(
            "the cache's own store failed: {}",
            orlop_types::chain(error)
        );
        Self::new(503, "UNAVAILABLE", "ORL-E9214", message)
    }

    /// More than this cache does at once.
    pub(super) fn busy(message: &str) -> Self {
        let mut no = Self::new(503, "UNAVAILABLE", "ORL-E9215", message.to_owned());
        no.retry_after = Some(Duration::from_secs(1));
        no
    }

    pub(super) fn wrong_method() -> Self {
        let message = "this cache only reads: push to the registry itself".to_owned();
        Self::new(405, "UNSUPPORTED", "ORL-E9202", message)
    }

    pub(super) fn into_answer(self, is_head: bool) -> Answer {
        let body = serde_json::json!({"errors": [{
            "code": self.code,
            "message": self.message,
            "detail": {"id": self.id},
        }]})
        .to_string();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let length = body.len() as u64;
        let body = if is_head {
            AnswerBody::empty()
        } else {
            AnswerBody::bytes(body)
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        set(headers, CONTENT_TYPE.as_str(), "application/json");
        set(headers, CONTENT_LENGTH.as_str(), &length.to_string());
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes a moment too early has to come twice.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            set(headers, RETRY_AFTER.as_str(), &seconds.to_string());
        }
        if let Some(challenge) = self.challenge {
            set(headers, WWW_AUTHENTICATE.as_str(), challenge);
        }
        if self.status == 405 {
            set(headers, ALLOW.as_str(), "GET, HEAD");
        }
        answer
    }
}

/// Sets a header; a value that cannot stand in one is left out.
pub(super) fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, value.parse()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: TroubleKind, challenge: Option<&'static str>) -> (u16, String, Answer) {
        let trouble = Trouble::new(kind, "told").after(Duration::from_millis(1500));
        let no = No::of_trouble(&trouble, Wish::Manifest, challenge);
        (no.status, no.code.to_owned(), no.into_answer(false))
    }

    #[test]
    fn what_the_upstream_says_is_passed_on() {
        let (status, code, answer) = answer(TroubleKind::Throttled, None);
        assert_eq!((status, code.as_str()), (429, "TOOMANYREQUESTS"));
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn a_challenge_goes_only_to_those_who_can_answer_it() {
        let (status, code, _) = answer(TroubleKind::Unauthorized, None);
        assert_eq!((status, code.as_str()), (403, "DENIED"));
        let (status, code, answer) = answer(TroubleKind::Unauthorized, Some("Basic realm=\"x\""));
        assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
        assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Basic realm=\"x\"");
    }
}
