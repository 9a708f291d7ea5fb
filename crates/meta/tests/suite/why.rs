//! Why something is kept, asked by any of its names.

use std::time::Duration;

use orlop_meta::gc::{Held, Resource, ResourceKind, RootReason, Verdict, Via, Why};

use super::collect::World;
use super::common::key;

const ROOT: &str = "containerd.io/gc.root";

/// A path as one line: the root's reason, then each hop.
fn line(why: &Why) -> String {
    let name = |resource: &Resource| format!("{} {}", resource.kind, resource.key);
    match &why.verdict {
        Verdict::Held(Held { root, path }) => {
            let reason = match root {
                RootReason::Lease { flat, .. } => format!("lease(flat: {flat})"),
                RootReason::Image { .. } => "image".to_owned(),
                RootReason::Container => "container".to_owned(),
                RootReason::Sandbox => "sandbox".to_owned(),
                RootReason::RootLabel => "label".to_owned(),
                RootReason::MadeWithoutLease { .. } => "no lease".to_owned(),
            };
            let hops = path.iter().map(|hop| match &hop.via {
                None => name(&hop.resource),
                Some(Via::Field(field)) => format!(" -{field}-> {}", name(&hop.resource)),
                Some(Via::Label(label)) => format!(" -{label}-> {}", name(&hop.resource)),
                Some(Via::BackLabel(label)) => format!(" <-{label}- {}", name(&hop.resource)),
                Some(Via::LeaseResource) => format!(" holds {}", name(&hop.resource)),
            });
            format!("[{reason}] {}", hops.collect::<String>())
        }
        Verdict::Unheld => "nothing holds it".to_owned(),
        Verdict::Queued(item) => format!("queued after {} attempts", item.attempts),
        Verdict::Missing => "missing".to_owned(),
    }
}

fn ask(world: &World, text: &str) -> Vec<String> {
    let answers = world
        .fixture
        .db
        .why(world.view.namespace(), text, None)
        .unwrap();
    answers.iter().map(line).collect()
}

#[test]
fn a_path_names_every_hop_and_the_label_through_which_it_holds() {
    let world = World::new();
    let config = world.blob("config", &[]);
    let manifest = world.blob(
        "manifest",
        &[("containerd.io/gc.ref.content.config", "@config")],
    );
    world.image("img", "manifest", &[]);
    let expected = format!(
        "[image] image img -target-> content {manifest} -containerd.io/gc.ref.content.config-> content {config}"
    );
    let expected = [expected];
    assert_eq!(ask(&world, &config.to_string()), expected);
    let hex = config.to_string();
    assert_eq!(ask(&world, &hex["sha256:".len()..][..12]), expected);
    assert_eq!(ask(&world, &hex[..20]), expected);
    assert_eq!(ask(&world, "img"), ["[image] image img"]);
}

#[test]
fn every_kind_of_root_says_why_it_is_one() {
    let world = World::new();
    world.snapshot("s1", None, &[]);
    world.snapshot("s2", Some("s1"), &[]);
    world.container("c", "s2", &[]);
    let kept = world.blob("kept", &[(ROOT, "x")]);
    let tied = world.blob("tied", &[("containerd.io/gc.bref.container", "c")]);
    let leased = world.blob("leased", &[]);
    world.lease("l", &[("containerd.io/gc.flat", "x")], &["content/leased"]);
    world.snapshot("fresh", None, &[]);
    let container = "[container] container c -snapshot-> snapshot s2 -parent-> snapshot s1";
    assert_eq!(ask(&world, "fresh"), ["[no lease] snapshot fresh"]);
    world
        .fixture
        .clock
        .advance(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(ask(&world, "s1"), [container]);
    assert_eq!(
        ask(&world, &kept.to_string()),
        [format!("[label] content {kept}")]
    );
    let back = format!("[container] container c <-containerd.io/gc.bref.container- content {tied}");
    assert_eq!(ask(&world, &tied.to_string()), [back]);
    let lease = format!("[lease(flat: true)] lease l holds content {leased}");
    assert_eq!(ask(&world, &leased.to_string()), [lease]);
    assert_eq!(ask(&world, "fresh"), ["nothing holds it"]);
}

#[test]
fn a_key_of_several_kinds_and_namespaces_has_several_answers() {
    let world = World::new();
    world.snapshot("x", None, &[(ROOT, "1")]);
    world.container("x", "", &[]);
    let other = world.fixture.view("other");
    let digest = world.blob_in(&other, "elsewhere", &[(ROOT, "1")]);
    assert_eq!(
        ask(&world, "x"),
        ["[label] snapshot x", "[container] container x"]
    );
    let only = world
        .fixture
        .db
        .why(world.view.namespace(), "x", Some(ResourceKind::Container));
    assert_eq!(only.unwrap().len(), 1);
    let answers = world
        .fixture
        .db
        .why(world.view.namespace(), &digest.to_string(), None)
        .unwrap();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].is_elsewhere);
    assert_eq!(answers[0].resource.namespace, "other");
}

#[test]
fn what_waits_for_the_sweep_says_how_often_it_failed() {
    let world = World::new();
    world.snapshot("s", None, &[]);
    let number = world
        .view
        .snapshots(&world.fixture.fake.name)
        .stat(&key("s"))
        .unwrap()
        .number;
    world.fixture.fake.stuck.lock().unwrap().insert(number);
    world.collect_after(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(
        ask(&world, &format!("fake/{number}")),
        ["queued after 1 attempts"]
    );
    assert_eq!(ask(&world, "s"), Vec::<String>::new());
}

#[test]
fn a_beginning_that_fits_several_digests_is_refused() {
    let world = World::new();
    let connection = rusqlite::Connection::open(world.fixture.path()).unwrap();
    world.blob("a", &[]);
    for last in ["1", "2"] {
        let key = format!("sha256:{}{last}", "ab".repeat(31) + "a");
        connection
            .execute(
                "INSERT INTO nodes (namespace, kind, scope, key) VALUES (1, 1, '', ?1)",
                [key],
            )
            .unwrap();
    }
    let error = world
        .fixture
        .db
        .why(world.view.namespace(), "abababab", None)
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E4003");
    assert_eq!(ask(&world, "never heard of"), Vec::<String>::new());
}

#[test]
fn kinds_are_read_as_they_are_written() {
    for kind in [
        "content",
        "snapshot",
        "container",
        "image",
        "lease",
        "ingest",
        "sandbox",
    ] {
        assert_eq!(kind.parse::<ResourceKind>().unwrap().to_string(), kind);
    }
    assert!("blob".parse::<ResourceKind>().is_err());
}
