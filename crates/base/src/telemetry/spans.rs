//! Spans for whoever follows a call through the daemon: exported where that is configured, never logged.
//!
//! They are made with [`traced!`](crate::traced), at a target of their own that no level of the log reaches, so that without
//! an exporter each costs a look at a cached flag. Who exports them installs itself with [`install`]; this crate knows
//! nothing of formats and wires.
//!
//! Ordering: a span ends when its last handle and its last child are gone, so nothing that lives longer than a call may hold
//! one: tasks of the tree are roots, and what a call has done elsewhere gets its span by [`carried`].

use std::error::Error;
use std::sync::OnceLock;

use tracing::Span;

/// The target of these spans.
pub const SPANS: &str = "orlop_spans";

/// Longer descriptions of errors are cut, in characters: they are sent over a network.
const DESCRIPTION_CHARS_MAX: usize = 400;

/// What a caller says of its own span (W3C Trace Context).
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// The header `traceparent`.
    pub parent: &'a str,
    /// The header `tracestate`, or nothing.
    pub state: &'a str,
}

static ADOPT: OnceLock<fn(&Span, Remote<'_>)> = OnceLock::new();

/// Says that spans are exported from here on, and how one becomes the child of a caller's.
pub fn install(adopt: fn(&Span, Remote<'_>)) {
    // A second exporter of one process would be a defect; the first goes on.
    ADOPT.set(adopt).ok();
}

/// Whether spans are exported.
#[must_use]
pub fn are_exported() -> bool {
    ADOPT.get().is_some()
}

/// Makes a new span the child of a caller's.
pub fn adopt(span: &Span, remote: Remote<'_>) {
    if let Some(adopt) = ADOPT.get() {
        adopt(span, remote);
    }
}

/// The span that the caller is in, for work that goes on in another task; none where nothing is exported.
#[must_use]
pub fn carried() -> Span {
    if are_exported() {
        Span::current()
    } else {
        Span::none()
    }
}

/// Notes that what a span stands for has failed.
pub fn failed(span: &Span, id: &str, error: &dyn Error) {
    if !span.is_disabled() {
        describe(span, id, &orlop_types::chain(error));
    }
}

/// As [`failed`], in words.
pub fn describe(span: &Span, id: &str, text: &str) {
    let text: String = text.chars().take(DESCRIPTION_CHARS_MAX).collect();
    span.record("orlop.id", id);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", text);
}

/// A span that is exported and not logged: `traced!("pull", image = %name)`, or `traced!(parent: None, "call")`.
#[macro_export]
macro_rules! traced {
    (parent: $parent:expr, $name:literal $(, $($fields:tt)*)?) => {
        ::tracing::trace_span!(
            target: "orlop_spans", parent: $parent, $name,
            otel.status_code = ::tracing::field::Empty,
            otel.status_description = ::tracing::field::Empty,
            orlop.id = ::tracing::field::Empty
            $(, $($fields)*)?
        )
    };
    ($name:literal $(, $($fields:tt)*)?) => {
        ::tracing::trace_span!(
            target: "orlop_spans", $name,
            otel.status_code = ::tracing::field::Empty,
            otel.status_description = ::tracing::field::Empty,
            orlop.id = ::tracing::field::Empty
            $(, $($fields)*)?
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_exporter_nothing_is_made_and_nothing_carried() {
        let span = traced!("pull", image = "a");
        assert!(span.is_disabled());
        assert!(!are_exported());
        assert!(carried().is_none());
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        adopt(&span, Remote { parent, state: "" });
        failed(&span, "ORL-E0000", &std::fmt::Error);
    }
}
