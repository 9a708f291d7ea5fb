//! Namespaces, images, containers, sandboxes, tasks and leases behave as clients of containerd expect.

use orlop_meta::{
    ErrorKind, LeaseResource, NamespaceRecord, NewTask, Runtime, Sandbox, TaskState, TaskUpdate,
    TypedBytes,
};
use orlop_types::{ContainerId, ImageName, LeaseId, Namespace, SandboxId, SnapshotterName};

use crate::common::{Fixture, container, digest, image, key, labels, texts};

#[test]
fn a_namespace_comes_with_its_first_record_and_goes_only_when_empty() {
    let fixture = Fixture::new();
    let name = Namespace::new("k8s.io").unwrap();
    let view = fixture.view("k8s.io");
    assert_eq!(view.images().list(&[]).unwrap(), []);
    assert_eq!(fixture.db.namespaces().list().unwrap(), []);

    view.images().create(&image("a", 1, &[])).unwrap();
    let names = fixture.db.namespaces().list().unwrap();
    assert_eq!(names.len(), 1);
    let record = NamespaceRecord {
        name: name.clone(),
        labels: labels(&[]),
    };
    let again = fixture.db.namespaces().create(&record).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let refused = fixture.db.namespaces().delete(&name).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains("1 image"), "{refused}");
    view.images()
        .delete(&ImageName::new("a").unwrap(), None)
        .unwrap();
    view.leases()
        .create(&LeaseId::new("l").unwrap(), &labels(&[]))
        .unwrap();
    fixture.db.namespaces().delete(&name).unwrap();
    let gone = fixture.db.namespaces().find(&name).unwrap_err();
    assert_eq!(
        (gone.kind(), gone.code()),
        (ErrorKind::NotFound, "ORL-E4001")
    );
    assert_eq!(fixture.number("SELECT count(*) FROM nodes"), 0);
}

#[test]
fn namespace_labels_are_set_one_by_one_or_all() {
    let fixture = Fixture::new();
    let name = Namespace::new("n").unwrap();
    let record = NamespaceRecord {
        name: name.clone(),
        labels: labels(&[("a", "1")]),
    };
    let namespaces = fixture.db.namespaces();
    namespaces.create(&record).unwrap();
    let wanted = labels(&[("a", "9"), ("b", "2")]);
    let updated = namespaces
        .update(&name, &wanted, &texts(&["labels.b"]))
        .unwrap();
    assert_eq!(updated.labels, labels(&[("a", "1"), ("b", "2")]));
    assert_eq!(
        namespaces.update(&name, &wanted, &[]).unwrap().labels,
        wanted
    );
    let refused = namespaces.update(&name, &wanted, &texts(&["name"]));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_image_is_created_once_per_namespace_and_found_as_it_was_written() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.view("one"), fixture.view("two"));
    let mut wanted = image(
        "docker.io/library/alpine:3",
        1,
        &[("l", "v"), ("empty", "")],
    );
    wanted.target.annotations.insert("a".into(), "b".into());
    let created = one.images().create(&wanted).unwrap();
    assert_eq!(created.labels, labels(&[("l", "v")]));
    assert_eq!(one.images().find(&wanted.name).unwrap(), created);
    let again = one.images().create(&wanted).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let elsewhere = two.images().find(&wanted.name).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::NotFound);
    two.images().create(&wanted).unwrap();
}

#[test]
fn an_image_without_size_or_type_is_refused() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let mut sizeless = image("a", 1, &[]);
    sizeless.target.size = 0;
    let mut typeless = image("a", 1, &[]);
    typeless.target.media_type.clear();
    let mut endless = image("a", 1, &[]);
    endless.target.size = u64::MAX;
    for bad in [sizeless, typeless, endless] {
        let error = view.images().create(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(view.images().list(&[]).unwrap(), []);
}

#[test]
fn images_are_listed_by_name_and_by_filter() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    for (name, seed, entry) in [("c", 1, "x"), ("a", 2, "y"), ("b", 1, "y")] {
        view.images()
            .create(&image(name, seed, &[("k", entry)]))
            .unwrap();
    }
    let names = |filters: &[&str]| -> Vec<String> {
        let found = view.images().list(&texts(filters)).unwrap();
        found.iter().map(|image| image.name.to_string()).collect()
    };
    assert_eq!(names(&[]), ["a", "b", "c"]);
    assert_eq!(names(&["labels.k==y"]), ["a", "b"]);
    assert_eq!(names(&["name~=/^[ac]$/"]), ["a", "c"]);
    let by_digest = format!("target.digest=={}", digest(1));
    assert_eq!(names(&[&by_digest]), ["b", "c"]);
    let bad = view.images().list(&texts(&["name=="])).unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_image_update_follows_the_field_mask() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let first = view
        .images()
        .create(&image("a", 1, &[("x", "1"), ("y", "1")]))
        .unwrap();
    fixture.clock.advance(std::time::Duration::from_secs(1));
    let wanted = image("a", 2, &[("x", "2")]);
    let one = view
        .images()
        .update(&wanted, &texts(&["labels.x"]))
        .unwrap();
    assert_eq!(one.labels, labels(&[("x", "2"), ("y", "1")]));
    assert_eq!(one.target.digest, digest(1));
    assert_eq!(one.created_at, first.created_at);
    assert!(one.updated_at > first.updated_at);
    let all = view.images().update(&wanted, &[]).unwrap();
    assert_eq!(
        (all.labels, all.target.digest),
        (wanted.labels.clone(), digest(2))
    );
    let refused = view
        .images()
        .update(&wanted, &texts(&["created_at"]))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let absent = view.images().update(&image("b", 1, &[]), &[]).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}

#[test]
fn an_image_that_moved_on_is_not_removed_by_its_old_digest() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    view.images().create(&image("a", 1, &[])).unwrap();
    let name = ImageName::new("a").unwrap();
    let stale = view.images().delete(&name, Some(&digest(2))).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::NotFound);
    view.images().delete(&name, Some(&digest(1))).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM nodes"), 0);
    assert_eq!(fixture.number("SELECT count(*) FROM refs"), 0);
}

#[test]
fn a_container_survives_the_database_byte_by_byte() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let mut wanted = container("web");
    wanted.spec.value = (0..=255).collect();
    wanted.runtime.options = Some(TypedBytes {
        type_url: "o".into(),
        value: vec![1, 2, 255],
    });
    let extension = TypedBytes {
        type_url: "e".into(),
        value: vec![0, 128, 255],
    };
    wanted.extensions.insert("io.cri".into(), extension);
    (wanted.image, wanted.sandbox) = ("i".into(), "pod".into());
    (wanted.snapshotter, wanted.snapshot_key) = ("fake".into(), "root".into());
    let created = view.containers().create(&wanted).unwrap();
    assert_eq!(view.containers().find(&wanted.id).unwrap(), created);
    assert_eq!(created.extensions, wanted.extensions);
    let again = view.containers().create(&wanted).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_container_without_runtime_spec_or_snapshotter_is_refused() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let mut cases = [
        container("a"),
        container("a"),
        container("a"),
        container("a"),
    ];
    cases[0].runtime = Runtime::default();
    cases[1].spec = TypedBytes::default();
    cases[2].snapshot_key = "k".into();
    cases[3]
        .extensions
        .insert(String::new(), TypedBytes::default());
    for bad in cases {
        let error = view.containers().create(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_container_keeps_what_may_not_change() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let mut wanted = container("web");
    view.containers().create(&wanted).unwrap();
    wanted.image = "new".into();
    wanted.labels = labels(&[("a", "1")]);
    let one = view
        .containers()
        .update(&wanted, &texts(&["labels.a"]))
        .unwrap();
    assert_eq!((one.image.as_str(), one.labels.value("a")), ("", Some("1")));
    assert_eq!(view.containers().update(&wanted, &[]).unwrap().image, "new");
    wanted.runtime.name = "other".into();
    let refused = view.containers().update(&wanted, &[]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let filtered = view.containers().list(&texts(&["image==new"])).unwrap();
    assert_eq!(filtered.len(), 1);
}

#[test]
fn a_sandbox_is_created_listed_changed_and_removed() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let runtime = Runtime {
        name: "r".into(),
        options: None,
    };
    let mut pod = Sandbox::new(SandboxId::new("pod").unwrap(), runtime);
    pod.labels = labels(&[("app", "web")]);
    let created = view.sandboxes().create(&pod).unwrap();
    assert_eq!(view.sandboxes().find(&pod.id).unwrap(), created);
    let again = view.sandboxes().create(&pod).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        view.sandboxes()
            .list(&texts(&["labels.app==web"]))
            .unwrap()
            .len(),
        1
    );
    pod.spec = Some(TypedBytes {
        type_url: "t".into(),
        value: vec![1],
    });
    let updated = view.sandboxes().update(&pod, &texts(&["spec"])).unwrap();
    assert_eq!(updated.spec, pod.spec);
    view.sandboxes().delete(&pod.id).unwrap();
    let gone = view.sandboxes().delete(&pod.id).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn a_task_is_recorded_before_it_runs_and_keeps_its_container() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let task = NewTask {
        container: ContainerId::new("web").unwrap(),
        bundle: "/run/b".into(),
        record_version: 1,
        record: vec![1, 2],
    };
    let orphan = view.tasks().create(&task).unwrap_err();
    assert_eq!(orphan.kind(), ErrorKind::NotFound);
    view.containers().create(&container("web")).unwrap();
    let created = view.tasks().create(&task).unwrap();
    assert_eq!((created.state, created.pid), (TaskState::Creating, 0));
    let again = view.tasks().create(&task).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let exit = Some((137, created.created_at));
    let update = TaskUpdate {
        state: Some(TaskState::Stopped),
        pid: Some(42),
        exit,
        record: Some((2, vec![9])),
        events: vec![orlop_meta::Event::TaskOom {
            container: task.container.clone(),
        }],
        ..TaskUpdate::default()
    };
    view.tasks().update(&task.container, &update).unwrap();
    let found = view.tasks().find(&task.container).unwrap();
    assert_eq!(
        (found.state, found.pid, found.exit),
        (TaskState::Stopped, 42, exit)
    );
    assert_eq!(
        (found.record_version, found.record.as_slice()),
        (2, &[9][..])
    );
    assert_eq!(found.bundle, "/run/b");
    assert_eq!(fixture.db.tasks().unwrap(), [found]);

    let held = view.containers().delete(&task.container).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::FailedPrecondition);
    view.tasks().delete(&task.container, &[]).unwrap();
    view.containers().delete(&task.container).unwrap();
    assert_eq!(view.tasks().list().unwrap(), []);
}

#[test]
fn a_lease_holds_each_resource_once_and_lets_it_go() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let id = LeaseId::new("lease/1").unwrap();
    let fake = SnapshotterName::new("fake").unwrap();
    let resources = [
        LeaseResource::Content(digest(1)),
        LeaseResource::parse("ingests", "r").unwrap(),
        LeaseResource::parse("images", "i").unwrap(),
        LeaseResource::Snapshot(fake, key("k")),
    ];
    let absent = view.leases().add_resource(&id, &resources[0]).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    view.leases().create(&id, &labels(&[("a", "b")])).unwrap();
    let again = view.leases().create(&id, &labels(&[])).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    for resource in resources.iter().chain(&resources) {
        view.leases().add_resource(&id, resource).unwrap();
    }
    assert_eq!(view.leases().resources(&id).unwrap(), resources);
    view.leases().remove_resource(&id, &resources[0]).unwrap();
    view.leases().remove_resource(&id, &resources[0]).unwrap();
    assert_eq!(view.leases().resources(&id).unwrap(), resources[1..]);
    assert_eq!(
        view.leases().list(&texts(&["labels.a==b"])).unwrap().len(),
        1
    );
    view.leases().delete(&id).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM nodes"), 0);
    assert_eq!(
        view.leases().find(&id).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn lease_resources_are_spelled_as_in_containerd() {
    let snapshot = LeaseResource::parse("snapshots/overlayfs", "k").unwrap();
    assert_eq!(snapshot.type_name(), "snapshots/overlayfs");
    assert_eq!(snapshot.id(), "k");
    for (bad_type, id) in [
        ("content", "k"),
        ("content/x", "k"),
        ("snapshots", "k"),
        ("snapshots/..", "k"),
        ("volumes", "k"),
        ("images", ""),
    ] {
        let error = LeaseResource::parse(bad_type, id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad_type}");
    }
}

#[test]
fn an_expiring_image_is_bound_to_its_lease_and_a_lasting_one_is_not() {
    let fixture = Fixture::new();
    let view = fixture.leased("n", "l");
    let expire = ("containerd.io/gc.expire", "2026-01-02T00:00:00Z");
    view.images().create(&image("lasting", 1, &[])).unwrap();
    view.images()
        .create(&image("expiring", 1, &[expire]))
        .unwrap();
    let held = view.leases().resources(view.lease().unwrap()).unwrap();
    assert_eq!(held, [LeaseResource::parse("images", "expiring").unwrap()]);
    let missing = fixture.view("n").under(LeaseId::new("none").unwrap());
    let error = missing
        .images()
        .create(&image("x", 1, &[expire]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let rolled_back = missing.images().find(&ImageName::new("x").unwrap());
    assert_eq!(rolled_back.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn references_follow_labels_and_leave_no_dead_nodes() {
    let fixture = Fixture::new();
    let view = fixture.view("n");
    let forward = digest(9).to_string();
    let entries = [
        ("containerd.io/gc.ref.content.config", forward.as_str()),
        ("containerd.io/gc.ref.snapshot.fake/x", "chain"),
        ("containerd.io/gc.bref.container", "web"),
        ("containerd.io/gc.ref.unknown", "x"),
    ];
    view.images().create(&image("a", 1, &entries)).unwrap();
    assert_eq!(
        fixture.number("SELECT count(*) FROM refs WHERE kind = 1"),
        1
    );
    assert_eq!(
        fixture.number("SELECT count(*) FROM refs WHERE kind = 2"),
        2
    );
    assert_eq!(
        fixture.number("SELECT count(*) FROM refs WHERE kind = 3"),
        1
    );
    assert_eq!(
        fixture.number("SELECT count(*) FROM nodes WHERE live = 0"),
        4
    );
    view.images().update(&image("a", 2, &[]), &[]).unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM refs"), 1);
    assert_eq!(
        fixture.number("SELECT count(*) FROM nodes WHERE live = 0"),
        1
    );
}
