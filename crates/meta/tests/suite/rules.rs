//! containerd's rules of what is kept, one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use orlop_types::Digest;

use super::collect::{DAY, World};

const REF: &str = "containerd.io/gc.ref.content";
const SNAPSHOT_REF: &str = "containerd.io/gc.ref.snapshot.fake";
const IMAGE_REF: &str = "containerd.io/gc.ref.image";
const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
/// The clock of the tests starts in 2026.
const PAST: &str = "2020-01-01T00:00:00Z";
const FUTURE: &str = "2030-01-01T00:00:00Z";

/// A rule in words, a world for it, and what is kept of that.
type Rule = (&'static str, fn(&World), &'static [&'static str]);

/// From containerd's `docs/garbage-collection.md` and `core/metadata/gc.go`.
const RULES: &[Rule] = &[
    ("content nobody names goes", |w| _ = w.blob("a", &[]), &[]),
    (
        "a root label keeps content",
        |w| _ = w.blob("a", &[(ROOT, "x")]),
        &["a"],
    ),
    (
        "any label that begins like it does",
        |w| _ = w.blob("a", &[("containerd.io/gc.root.mine", "x")]),
        &["a"],
    ),
    (
        "a root label keeps a snapshot and its parents",
        |w| {
            w.snapshot("s1", None, &[]);
            w.snapshot("s2", Some("s1"), &[(ROOT, "x")]);
            w.snapshot("s3", Some("s2"), &[]);
        },
        &["s1", "s2"],
    ),
    (
        "an image keeps its target and what labels of that name",
        |w| {
            w.blob("config", &[]);
            w.blob("layer", &[]);
            w.blob("loose", &[]);
            w.blob(
                "manifest",
                &[
                    ("containerd.io/gc.ref.content.config", "@config"),
                    ("containerd.io/gc.ref.content/l.0", "@layer"),
                ],
            );
            w.image("img", "manifest", &[]);
        },
        &["config", "img", "layer", "manifest"],
    ),
    (
        "a label that only looks like a reference holds nothing",
        |w| {
            w.blob("a", &[]);
            w.blob("b", &[("containerd.io/gc.ref.contents", "@a"), (ROOT, "x")]);
        },
        &["b"],
    ),
    (
        "content keeps snapshots and images by label",
        |w| {
            w.snapshot("s", None, &[]);
            w.blob("target", &[]);
            w.image("old", "target", &[(EXPIRE, PAST)]);
            w.blob("a", &[(SNAPSHOT_REF, "s"), (IMAGE_REF, "old"), (ROOT, "x")]);
        },
        &["a", "old", "s", "target"],
    ),
    (
        "a snapshot label may have a name behind a slash",
        |w| {
            w.snapshot("s", None, &[]);
            w.blob(
                "a",
                &[
                    ("containerd.io/gc.ref.snapshot.fake/mine", "s"),
                    (ROOT, "x"),
                ],
            );
        },
        &["a", "s"],
    ),
    (
        "an expired image goes with what it held",
        |w| {
            w.blob("a", &[]);
            w.image("img", "a", &[(EXPIRE, PAST)]);
        },
        &[],
    ),
    (
        "an image that has not expired stays",
        |w| {
            w.blob("a", &[]);
            w.image("img", "a", &[(EXPIRE, FUTURE)]);
        },
        &["a", "img"],
    ),
    (
        "an expiry nobody can read never comes",
        |w| {
            w.blob("a", &[]);
            w.image("img", "a", &[(EXPIRE, "soon")]);
            w.lease("l", &[(EXPIRE, "soon")], &["content/a"]);
        },
        &["a", "img", "l"],
    ),
    (
        "content and snapshots do not expire, nor does it keep them",
        |w| {
            w.blob("a", &[(EXPIRE, FUTURE)]);
            w.snapshot("s", None, &[(EXPIRE, FUTURE)]);
        },
        &[],
    ),
    (
        "a container keeps its snapshot, its parents, and what its labels name",
        |w| {
            w.snapshot("s1", None, &[]);
            w.snapshot("s2", Some("s1"), &[]);
            w.blob("a", &[]);
            w.container("c", "s2", &[(REF, "@a")]);
        },
        &["a", "s1", "s2"],
    ),
    (
        "a sandbox keeps what its labels name",
        |w| {
            w.blob("a", &[]);
            w.snapshot("s", None, &[]);
            w.sandbox("p", &[(REF, "@a"), (SNAPSHOT_REF, "s")]);
        },
        &["a", "s"],
    ),
    (
        "a lease keeps its resources and what they name",
        |w| {
            w.blob("b", &[]);
            w.blob("a", &[(REF, "@b")]);
            w.snapshot("s1", None, &[]);
            w.snapshot("s2", Some("s1"), &[]);
            w.lease("l", &[], &["content/a", "snapshots/fake/s2"]);
        },
        &["a", "b", "l", "s1", "s2"],
    ),
    (
        "an expired lease goes and holds nothing",
        |w| {
            w.blob("a", &[]);
            w.lease("l", &[(EXPIRE, PAST)], &["content/a"]);
        },
        &[],
    ),
    (
        "a flat lease keeps its resources, not what their labels name",
        |w| {
            w.blob("b", &[]);
            w.blob("a", &[(REF, "@b")]);
            w.lease("l", &[("containerd.io/gc.flat", "x")], &["content/a"]);
        },
        &["a", "l"],
    ),
    (
        "a flat lease keeps the parents of snapshots and the targets of images",
        |w| {
            w.snapshot("s1", None, &[]);
            w.blob("b", &[]);
            w.snapshot("s2", Some("s1"), &[(REF, "@b")]);
            w.blob("config", &[]);
            w.blob("manifest", &[(REF, "@config")]);
            w.image("img", "manifest", &[(EXPIRE, PAST)]);
            w.lease(
                "l",
                &[("containerd.io/gc.flat", "x")],
                &["snapshots/fake/s2", "images/img"],
            );
        },
        &["img", "l", "manifest", "s1", "s2"],
    ),
    (
        "a flat lease does not follow back references",
        |w| {
            w.blob("a", &[]);
            w.blob("b", &[("containerd.io/gc.bref.content", "@a")]);
            w.lease("l", &[("containerd.io/gc.flat", "x")], &["content/a"]);
        },
        &["a", "l"],
    ),
    (
        "an expired image is kept by a lease",
        |w| {
            w.blob("a", &[]);
            w.image("img", "a", &[(EXPIRE, PAST)]);
            w.lease("l", &[], &["images/img"]);
        },
        &["a", "img", "l"],
    ),
    (
        "back references tie content to a container, content, image or snapshot",
        |w| {
            w.container("c", "", &[]);
            w.blob("root", &[(ROOT, "x")]);
            w.image("img", "root", &[]);
            w.snapshot("s", None, &[(ROOT, "x")]);
            w.blob("to container", &[("containerd.io/gc.bref.container", "c")]);
            w.blob(
                "to content",
                &[("containerd.io/gc.bref.content.1", "@root")],
            );
            w.blob("to image", &[("containerd.io/gc.bref.image/x", "img")]);
            w.blob(
                "to snapshot",
                &[("containerd.io/gc.bref.snapshot.fake", "s")],
            );
            w.blob("to nothing", &[("containerd.io/gc.bref.container", "gone")]);
        },
        &[
            "img",
            "root",
            "s",
            "to container",
            "to content",
            "to image",
            "to snapshot",
        ],
    ),
    (
        "back references of snapshots and expired images work alike",
        |w| {
            w.container("c", "", &[]);
            w.blob("a", &[]);
            w.snapshot("s", None, &[("containerd.io/gc.bref.container", "c")]);
            w.image(
                "img",
                "a",
                &[(EXPIRE, PAST), ("containerd.io/gc.bref.container", "c")],
            );
        },
        &["a", "img", "s"],
    ),
    (
        "a name without a record passes back references on",
        |w| {
            let gone = Digest::sha256([7; 32]).to_string();
            w.blob("a", &[("containerd.io/gc.bref.content", &gone)]);
            w.blob("b", &[(REF, &gone), (ROOT, "x")]);
        },
        &["a", "b"],
    ),
    (
        "what is only held in a circle goes",
        |w| {
            let b = Digest::sha256([9; 32]).to_string();
            w.blob("a", &[(REF, &b)]);
            w.blob("c", &[(REF, "@a"), ("containerd.io/gc.bref.content", "@a")]);
        },
        &[],
    ),
];

#[test]
fn what_is_kept_is_what_containerd_keeps() {
    for (rule, make, expected) in RULES {
        let world = World::new();
        make(&world);
        // What is made without a lease is kept for a day.
        let report = world.collect_after(DAY + Duration::from_secs(1));
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(world.kept(), expected, "{rule}");
        assert_eq!(report.failures, [], "{rule}");
        // A second pass finds nothing more to do.
        assert_eq!(world.collect().removed.total(), 0, "{rule}");
    }
}
