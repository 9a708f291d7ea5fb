//! Whole operations against registries, real and fake, with the real stores, as root.
#![allow(
    clippy::disallowed_methods,
    reason = "tests drive skopeo, umoci and docker-registry, and write files freely"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod pulls {
    pub(crate) mod support;

    mod artifacts;
    mod collection;
    mod diffs;
    mod faults;
    mod peers;
    mod plain;
    mod resume;
    mod selected;
    mod sharing;
}
