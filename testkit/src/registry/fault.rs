//! Faults: which request is answered wrongly, how often and how.

use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer with this status and headers and a short body.
    Status(u16, Vec<(&'static str, String)>),
    /// Wait first, then answer as ever (or with the next fault that matches).
    Delay(Duration),
    /// Send this many bytes of the body, then close the connection.
    Truncate(u64),
    /// Send this many bytes of the body, then nothing, with the connection open.
    Stall(u64),
    /// Send no answer at all, with the connection open.
    Hang,
    /// Close the connection without an answer.
    Reset,
    /// Answer 200 with everything although a range was asked for.
    IgnoreRange,
    /// Answer 206 with a `Content-Range` that starts this many bytes too late.
    ShiftContentRange(u64),
    /// Answer 206 with this many bytes too few, as if that were all.
    ShortRange(u64),
    /// Flip the byte at this offset of the body.
    Corrupt(u64),
    /// Send the body chunked, without its length.
    NoContentLength,
    /// Leave out `Docker-Content-Digest`.
    NoDigestHeader,
    /// Announce a body of this many bytes and send zeros for as long as the client reads.
    Endless(u64),
    /// Send the body at this many bytes a second.
    Rate(u64),
}

impl Action {
    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::Status(429, vec![("retry-after", retry_after_seconds.to_string())])
    }

    /// A bare status.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }
}

/// A rule: which requests, how many of them, and what happens to them.
#[derive(Debug, Clone)]
pub struct Fault {
    method: Option<&'static str>,
    path_part: String,
    skip: u32,
    left: Option<u32>,
    action: Action,
}

impl Fault {
    /// Every request, to registry or object store, whose path contains `path_part`.
    #[must_use]
    pub fn on(path_part: impl Into<String>, action: Action) -> Self {
        Self {
            method: None,
            path_part: path_part.into(),
            skip: 0,
            left: None,
            action,
        }
    }

    /// Only requests with this method.
    #[must_use]
    pub const fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only this many requests.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// Only after this many matching requests were answered well.
    #[must_use]
    pub const fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// The action for this request, if the rule applies; uses the rule up.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Action> {
        let matches =
            self.method.is_none_or(|wanted| wanted == method) && path.contains(&self.path_part);
        if !matches || self.left == Some(0) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        Some(self.action.clone())
    }
}
