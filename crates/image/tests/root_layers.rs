//! Layers against the real file system, as root: made by other tools, hostile, cut off, and round trips.
#![allow(
    clippy::disallowed_methods,
    reason = "tests drive GNU tar, umoci and skopeo, and write files freely"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod layers {
    pub(crate) mod support;

    mod archives;
    mod attacks;
    mod diff;
    mod foreign;
    mod settle;
    mod whiteouts;
}
