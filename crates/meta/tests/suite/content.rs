//! Blobs are kept once, seen per namespace, and bound to leases from their first byte.

use orlop_content::Expected;
use orlop_meta::{Content, ErrorKind, Ingest, IngestOptions, LeaseResource, Opened};
use orlop_types::{Digest, IngestRef, LeaseId};

use crate::common::{Fixture, labels, texts};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn hello() -> Digest {
    HELLO.parse().unwrap()
}

fn reference(text: &str) -> IngestRef {
    IngestRef::new(text).unwrap()
}

fn expecting_hello() -> IngestOptions {
    IngestOptions {
        expected: Expected::exactly(5, hello()),
        media_type: Some("text/plain".to_owned()),
    }
}

fn open(content: &Content<'_>, name: &str, options: &IngestOptions) -> Ingest {
    match content.ingest(&reference(name), options).unwrap() {
        Opened::Ingest(ingest) => ingest,
        Opened::Exists(blob) => panic!("{} exists", blob.digest),
    }
}

fn put(content: &Content<'_>, name: &str) {
    let ingest = open(content, name, &expecting_hello());
    if let Some(writer) = ingest.writer() {
        writer.append(b"hello").unwrap();
    }
    ingest
        .commit(Expected::default(), &labels(&[("k", "v")]))
        .unwrap();
}

#[test]
fn a_blob_is_seen_with_its_type_and_labels_once_it_is_committed() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let content = view.content();
    let ingest = open(&content, "r", &expecting_hello());
    assert_eq!(
        content.info(&hello()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    ingest.writer().unwrap().append(b"hel").unwrap();
    let status = content.ingest_status(&reference("r")).unwrap();
    assert_eq!(
        (status.offset, status.total, status.expected),
        (3, 5, Some(hello()))
    );
    ingest.writer().unwrap().append(b"lo").unwrap();
    ingest
        .commit(Expected::default(), &labels(&[("k", "v")]))
        .unwrap();
    let blob = content.info(&hello()).unwrap();
    assert_eq!(
        (blob.size, blob.media_type.as_deref()),
        (5, Some("text/plain"))
    );
    let mut bytes = [0; 9];
    assert_eq!(
        content
            .open(&hello())
            .unwrap()
            .read_at(&mut bytes, 1)
            .unwrap(),
        4
    );
    assert_eq!(&bytes[..4], b"ello");
    assert_eq!(content.ingests(&[]).unwrap(), []);
    let gone = content.ingest_status(&reference("r")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn a_blob_the_namespace_sees_is_leased_instead_of_written_again() {
    let fixture = Fixture::new();
    put(&fixture.view("n").content(), "r");
    let view = fixture.leased("n", "l");
    let again = view
        .content()
        .ingest(&reference("r2"), &expecting_hello())
        .unwrap();
    assert!(matches!(again, Opened::Exists(_)));
    let held = view.leases().resources(view.lease().unwrap()).unwrap();
    assert_eq!(held, [LeaseResource::Content(hello())]);
}

#[test]
fn two_ingests_of_one_blob_end_with_one_row_and_a_clear_answer() {
    let fixture = Fixture::new();
    let view = fixture.leased("n", "l");
    let content = view.content();
    let unknown = IngestOptions::default();
    let first = open(&content, "a", &unknown);
    let second = open(&content, "b", &unknown);
    for ingest in [&first, &second] {
        ingest.writer().unwrap().append(b"hello").unwrap();
    }
    first.commit(Expected::default(), &labels(&[])).unwrap();
    let again = second
        .commit(Expected::default(), &labels(&[]))
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(content.list(&[]).unwrap().len(), 1);
    assert_eq!(content.ingests(&[]).unwrap(), []);
    let held = view.leases().resources(view.lease().unwrap()).unwrap();
    assert_eq!(held, [LeaseResource::Content(hello())]);
}

#[test]
fn another_namespace_gets_the_blob_without_writing_it_and_keeps_it() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.view("one"), fixture.view("two"));
    put(&one.content(), "r");
    assert_eq!(
        two.content().info(&hello()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let shared = open(&two.content(), "r", &expecting_hello());
    assert!(shared.is_shared() && shared.writer().is_none());
    // The first namespace lets go while the second is at it: the bytes stay.
    one.content().delete(&hello()).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 0);
    let wrong = Expected::exactly(6, hello());
    let refused = shared.commit(wrong, &labels(&[])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    shared.commit(Expected::default(), &labels(&[])).unwrap();
    assert_eq!(two.content().info(&hello()).unwrap().size, 5);
    two.content().delete(&hello()).unwrap();
    assert_eq!(
        fixture.number("SELECT count(*) FROM sweeps WHERE kind = 1 AND bytes = 5"),
        1
    );
}

#[test]
fn a_blob_that_comes_back_leaves_the_sweep_queue() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    put(&view.content(), "r");
    view.content().delete(&hello()).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 1);
    put(&view.content(), "r");
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 0);
    assert!(fixture.store.stat(&hello()).is_ok());
}

#[test]
fn wrong_bytes_never_become_visible_and_leave_no_row() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let content = view.content();
    let ingest = open(&content, "r", &expecting_hello());
    ingest.writer().unwrap().append(b"jello").unwrap();
    let error = ingest
        .commit(Expected::default(), &labels(&[]))
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::FailedPrecondition, "ORL-E1010")
    );
    assert_eq!(content.list(&[]).unwrap(), []);
    assert_eq!(content.ingests(&[]).unwrap(), []);
}

#[test]
fn a_short_ingest_is_refused_and_can_go_on() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let content = view.content();
    let ingest = open(&content, "r", &expecting_hello());
    ingest.writer().unwrap().append(b"hel").unwrap();
    let error = ingest
        .commit(Expected::default(), &labels(&[]))
        .unwrap_err();
    assert_eq!(error.code(), "ORL-E1008");
    drop(ingest);
    let resumed = open(&content, "r", &expecting_hello());
    assert_eq!(resumed.status().unwrap().offset, 3);
    resumed.writer().unwrap().append(b"lo").unwrap();
    resumed.commit(Expected::default(), &labels(&[])).unwrap();
}

#[test]
fn one_reference_has_one_writer_and_namespaces_do_not_meet() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.view("one"), fixture.view("two"));
    let first = open(&one.content(), "r", &IngestOptions::default());
    let busy = one
        .content()
        .ingest(&reference("r"), &IngestOptions::default());
    assert_eq!(busy.unwrap_err().kind(), ErrorKind::Unavailable);
    let other = open(&two.content(), "r", &IngestOptions::default());
    other.writer().unwrap().append(b"xyz").unwrap();
    assert_eq!(first.status().unwrap().offset, 0);
}

#[test]
fn an_aborted_ingest_leaves_neither_row_nor_folder() {
    let fixture = Fixture::new();
    let view = fixture.leased("n", "l");
    let content = view.content();
    let ingest = open(&content, "r", &IngestOptions::default());
    ingest.writer().unwrap().append(b"x").unwrap();
    let held = view.leases().resources(view.lease().unwrap()).unwrap();
    assert_eq!(held, [LeaseResource::Ingest(reference("r"))]);
    ingest.abort().unwrap();
    assert_eq!(
        content.abort(&reference("r")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(fixture.store.statuses().unwrap().len(), 0);
    assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 0);
    assert_eq!(view.leases().resources(view.lease().unwrap()).unwrap(), []);
}

#[test]
fn an_ingest_without_lease_is_kept_for_a_day_and_with_one_by_it() {
    let fixture = Fixture::new();
    let unleased = fixture.view("n");
    let leased = fixture.leased("n", "l");
    let _a = open(&unleased.content(), "a", &IngestOptions::default());
    let _b = open(&leased.content(), "b", &IngestOptions::default());
    let kept = |name: &str| {
        fixture.number(&format!(
            "SELECT root FROM nodes WHERE kind = 6 AND key = '{name}'"
        ))
    };
    assert_eq!((kept("a"), kept("b")), (1, 0));
    assert_eq!(
        fixture.number("SELECT count(*) FROM nodes WHERE expires_at IS NOT NULL"),
        1
    );
    let missing = fixture.view("n").under(LeaseId::new("none").unwrap());
    let refused = missing
        .content()
        .ingest(&reference("c"), &IngestOptions::default());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fixture.number("SELECT count(*) FROM ingests"), 2);
}

#[test]
fn labels_of_a_blob_change_by_mask_and_bring_references() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let content = view.content();
    put(&content, "r");
    let root = labels(&[("containerd.io/gc.root", "yes"), ("k", "2")]);
    let updated = content
        .update(&hello(), &root, &texts(&["labels.containerd.io/gc.root"]))
        .unwrap();
    assert_eq!(updated.labels.value("k"), Some("v"));
    assert_eq!(fixture.number("SELECT root FROM nodes WHERE kind = 1"), 1);
    content.update(&hello(), &labels(&[]), &[]).unwrap();
    assert_eq!(fixture.number("SELECT root FROM nodes WHERE kind = 1"), 0);
    let refused = content
        .update(&hello(), &root, &texts(&["size"]))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert_eq!(content.list(&texts(&["labels.k==v"])).unwrap(), []);
    assert_eq!(
        content
            .list(&texts(&[&format!("digest=={HELLO}")]))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_shared_ingest_that_is_given_up_lets_the_last_bytes_go() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.view("one"), fixture.view("two"));
    for give_up in ["abort", "namespace"] {
        put(&one.content(), "r");
        let shared = open(&two.content(), "r", &expecting_hello());
        one.content().delete(&hello()).unwrap();
        assert_eq!(fixture.number("SELECT count(*) FROM sweeps"), 0);
        if give_up == "abort" {
            shared.abort().unwrap();
        } else {
            fixture.db.namespaces().delete(two.namespace()).unwrap();
        }
        let queued = "SELECT count(*) FROM sweeps WHERE kind = 1";
        assert_eq!(fixture.number(queued), 1, "{give_up}");
    }
}
