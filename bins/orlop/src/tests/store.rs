//! Images, blobs, snapshots, leases, collection, events, the daemon.

use orlop_api::containerd::events::TaskExit;
use orlop_api::containerd::services::content::v1::{
    Info as BlobInfo, ListContentResponse, ReadContentResponse,
};
use orlop_api::containerd::services::images::v1::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageResponse, Image,
    ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use orlop_api::containerd::services::leases::v1::{
    CreateRequest, CreateResponse, Lease, ListResponse,
};
use orlop_api::containerd::services::namespaces::v1::{ListNamespacesResponse, Namespace};
use orlop_api::containerd::services::snapshots::v1::{
    Info as SnapshotInfo, Kind, ListSnapshotsResponse, UsageResponse,
};
use orlop_api::containerd::services::version::v1::VersionResponse;
use orlop_api::containerd::types::{Envelope, Platform};
use orlop_api::orlop::v1::{
    BlobProgress, BlobState, ComponentInfo, Event, EventGap, EventsRequest, EventsResponse,
    ExportResponse, FsckEvent, FsckFinding, FsckSummary, GcRunResponse, GcStatusResponse,
    GcWhyRequest, GcWhyResponse, Holding, Hop, ImportRequest, ImportResponse, ImportedImage,
    InfoResponse, PullDone, PullEvent, PullRequest, Resource, ResourceKind, SweepItem, UnpackState,
    events_response, fsck_event, import_request, pull_event,
};
use orlop_api::{Message, any};
use tonic::Code;

use super::*;

const PULL: &str = "orlop.v1.Images/Pull";

fn blob(digit: char, done: u64, state: BlobState, unpack: UnpackState) -> Vec<u8> {
    let progress = BlobProgress {
        descriptor: Some(descriptor(digit, 4096)),
        state: state.into(),
        bytes_done: done,
        bytes_moved: done,
        unpack: unpack.into(),
        ..BlobProgress::default()
    };
    pull_event(pull_event::Event::Blob(progress))
}

fn pull_event(event: pull_event::Event) -> Vec<u8> {
    PullEvent { event: Some(event) }.encode_to_vec()
}

fn pulled() -> Vec<u8> {
    pull_event(pull_event::Event::Done(PullDone {
        name: "docker.io/library/alpine:latest".to_owned(),
        target: Some(descriptor('a', 500)),
        chain_id: digest('c'),
        snapshotter: "overlayfs".to_owned(),
        bytes_fetched: 3 << 20,
        duration: Some(orlop_api::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
    }))
}

fn image(name: &str, digit: char) -> Image {
    Image {
        name: name.to_owned(),
        target: Some(descriptor(digit, 1234)),
        created_at: ago(200),
        ..Image::default()
    }
}

#[tokio::test]
async fn a_pull_tells_each_state_and_ends_with_name_and_digest() {
    let fake = Fake::start();
    fake.stream(
        PULL,
        vec![
            blob('a', 0, BlobState::Downloading, UnpackState::Waiting),
            blob('a', 2048, BlobState::Downloading, UnpackState::Unpacking),
            blob('a', 4096, BlobState::Stored, UnpackState::Unpacked),
            pulled(),
        ],
    );
    let outcome = orlop(
        &fake,
        &[
            "--namespace",
            "k8s.io",
            "pull",
            "alpine",
            "--platform",
            "linux/arm/v7",
        ],
    )
    .await;
    insta::assert_snapshot!(outcome.all());
    let request: PullRequest = fake.asked(PULL);
    assert_eq!(request.reference, "docker.io/library/alpine:latest");
    assert_eq!(request.platform.unwrap().variant, "v7");
    assert_eq!(fake.calls()[0].namespace, "k8s.io");
}

#[tokio::test]
async fn with_json_a_pull_says_its_result_and_nothing_else() {
    let fake = Fake::start();
    fake.stream(
        PULL,
        vec![
            blob('a', 0, BlobState::Downloading, UnpackState::Waiting),
            pulled(),
        ],
    );
    let outcome = orlop(&fake, &["-o", "json", "pull", "alpine"]).await;
    insta::assert_snapshot!(outcome.all());
}

#[tokio::test]
async fn a_failure_says_what_which_why_what_to_do_with_id_and_page() {
    let fake = Fake::start();
    let reason = "ORL-E3004: registry-1.docker.io has no manifest for tag 9";
    fake.refuse(PULL, Code::NotFound, reason)
        .refuse(PULL, Code::NotFound, reason);
    let outcome = orlop(&fake, &["pull", "alpine:9"]).await;
    insta::assert_snapshot!(outcome.all());
    let outcome = orlop(&fake, &["-o", "json", "pull", "alpine:9"]).await;
    insta::assert_snapshot!(outcome.all());
}

#[tokio::test]
async fn a_stream_that_ends_early_is_no_success() {
    let fake = Fake::start();
    fake.stream(
        PULL,
        vec![blob('a', 0, BlobState::Downloading, UnpackState::Waiting)],
    );
    let outcome = orlop(&fake, &["pull", "alpine"]).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("ORL-E8007"), "{}", outcome.stderr);
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_with_its_socket() {
    let fake = Fake::start();
    std::fs::remove_file(fake.socket()).unwrap();
    let outcome = orlop(&fake, &["images"]).await;
    assert_eq!(outcome.code, 4);
    let stderr = outcome
        .stderr
        .replace(fake.folder().to_str().unwrap(), "FOLDER");
    insta::assert_snapshot!(stderr);
}

#[tokio::test]
async fn a_daemon_that_hangs_is_given_up_after_the_timeout() {
    let fake = Fake::start();
    fake.hang("containerd.services.images.v1.Images/List");
    let outcome = orlop(&fake, &["--timeout", "50ms", "images"]).await;
    assert_eq!(outcome.code, 6);
    insta::assert_snapshot!(outcome.stderr);
}

#[tokio::test]
async fn a_reference_that_is_none_is_refused_before_the_daemon_is_asked() {
    let fake = Fake::start();
    let outcome = orlop(&fake, &["pull", "library/UPPER"]).await;
    assert_eq!(outcome.code, 2);
    assert!(fake.methods().is_empty());
}

#[tokio::test]
async fn images_fit_the_terminal_and_are_whole_in_json() {
    let fake = Fake::start();
    let long =
        "registry.example.com:5000/a-team-with-a-name/an-application-with-a-long-name:2026.11.23";
    let answer = ListImagesResponse {
        images: vec![
            image(long, 'b'),
            image("docker.io/library/alpine:latest", 'a'),
        ],
    };
    const LIST: &str = "containerd.services.images.v1.Images/List";
    fake.answer(LIST, &answer)
        .answer(LIST, &answer)
        .answer(LIST, &answer);
    insta::assert_snapshot!(orlop(&fake, &["images"]).await.table());
    insta::assert_snapshot!(orlop(&fake, &["-o", "json", "images"]).await.stdout);
    let outcome = orlop(&fake, &["images", "-q"]).await;
    assert!(
        outcome
            .stdout
            .starts_with("docker.io/library/alpine:latest\n")
    );
}

#[tokio::test]
async fn removing_several_images_goes_on_after_a_failure() {
    let fake = Fake::start();
    const DELETE: &str = "containerd.services.images.v1.Images/Delete";
    fake.answer(DELETE, &())
        .refuse(DELETE, Code::NotFound, "image not found")
        .answer(DELETE, &());
    let outcome = orlop(&fake, &["rmi", "--sync", "a", "b", "c"]).await;
    insta::assert_snapshot!(outcome.all());
    let request: DeleteImageRequest = fake.asked(DELETE);
    assert!(request.sync);
    assert_eq!(request.name, "docker.io/library/a:latest");
}

#[tokio::test]
async fn a_tag_is_taken_from_another_image_only_by_force() {
    let fake = Fake::start();
    let found = GetImageResponse {
        image: Some(image("docker.io/library/a:latest", 'a')),
    };
    const GET: &str = "containerd.services.images.v1.Images/Get";
    const CREATE: &str = "containerd.services.images.v1.Images/Create";
    const UPDATE: &str = "containerd.services.images.v1.Images/Update";
    fake.answer(GET, &found)
        .answer(GET, &found)
        .answer(GET, &found);
    fake.answer(CREATE, &CreateImageResponse::default());
    fake.refuse(CREATE, Code::AlreadyExists, "exists").refuse(
        CREATE,
        Code::AlreadyExists,
        "exists",
    );
    fake.answer(UPDATE, &UpdateImageResponse::default());
    let made = orlop(&fake, &["tag", "a", "b:1"]).await;
    assert_eq!(
        (made.code, made.stdout.as_str()),
        (0, "docker.io/library/b:1\n")
    );
    let request: CreateImageRequest = fake.asked(CREATE);
    assert_eq!(request.image.unwrap().target.unwrap().digest, digest('a'));
    assert_eq!(orlop(&fake, &["tag", "a", "b:1"]).await.code, 5);
    assert_eq!(orlop(&fake, &["tag", "-f", "a", "b:1"]).await.code, 0);
    let request: UpdateImageRequest = fake.asked(UPDATE);
    assert_eq!(request.update_mask.unwrap().paths, ["target"]);
}

#[tokio::test]
async fn an_archive_is_sent_in_pieces_after_its_options() {
    let fake = Fake::start();
    let archive = fake.folder().join("images.tar");
    std::fs::write(&archive, vec![7; 300 << 10]).unwrap();
    const IMPORT: &str = "orlop.v1.Images/Import";
    let imported = ImportedImage {
        name: "docker.io/library/a:1".to_owned(),
        target: Some(descriptor('a', 1)),
    };
    fake.answer(
        IMPORT,
        &ImportResponse {
            images: vec![imported],
        },
    );
    let outcome = orlop(
        &fake,
        &["import", archive.to_str().unwrap(), "--base-name", "x"],
    )
    .await;
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("docker.io/library/a:1"));
    let mut messages = fake
        .asked_all::<ImportRequest>(IMPORT)
        .into_iter()
        .map(|request| request.message);
    let Some(Some(import_request::Message::Options(options))) = messages.next() else {
        panic!("options come first");
    };
    assert_eq!(options.base_name, "x");
    let sent: usize = messages
        .map(|message| match message {
            Some(import_request::Message::Data(data)) => data.len(),
            other => panic!("unexpected {other:?}"),
        })
        .sum();
    assert_eq!(sent, 300 << 10);
}

#[tokio::test]
async fn an_archive_gets_its_name_when_it_is_whole_and_only_then() {
    let fake = Fake::start();
    let archive = fake.folder().join("images.tar");
    let path = archive.to_str().unwrap();
    const EXPORT: &str = "orlop.v1.Images/Export";
    let chunk = |text: &str| {
        ExportResponse {
            data: text.as_bytes().to_vec().into(),
        }
        .encode_to_vec()
    };
    fake.refuse(EXPORT, Code::Internal, "disk trouble");
    assert_eq!(orlop(&fake, &["export", path, "a"]).await.code, 1);
    assert!(!archive.exists());
    fake.stream(EXPORT, vec![chunk("hel"), chunk("lo")]);
    assert_eq!(orlop(&fake, &["export", path, "a"]).await.code, 0);
    assert_eq!(std::fs::read(&archive).unwrap(), b"hello");
}

#[tokio::test]
async fn blobs_are_listed_over_pages_and_written_as_they_are() {
    let fake = Fake::start();
    let page = |digit| {
        let info = BlobInfo {
            digest: digest(digit),
            size: 5000,
            created_at: ago(5),
            ..BlobInfo::default()
        };
        ListContentResponse { info: vec![info] }.encode_to_vec()
    };
    fake.stream(
        "containerd.services.content.v1.Content/List",
        vec![page('b'), page('a')],
    );
    insta::assert_snapshot!(orlop(&fake, &["content", "ls"]).await.table());
    let chunk = ReadContentResponse {
        offset: 0,
        data: b"{}".to_vec().into(),
    };
    fake.answer("containerd.services.content.v1.Content/Read", &chunk);
    assert_eq!(
        orlop(&fake, &["content", "get", &digest('a')]).await.stdout,
        "{}"
    );
}

#[tokio::test]
async fn snapshots_show_kind_parent_and_usage() {
    let fake = Fake::start();
    let info = |name: &str, parent: &str, kind: Kind| SnapshotInfo {
        name: name.to_owned(),
        parent: parent.to_owned(),
        kind: kind.into(),
        created_at: ago(90_000),
        ..SnapshotInfo::default()
    };
    let page = ListSnapshotsResponse {
        info: vec![
            info("web", &digest('a'), Kind::Active),
            info(&digest('a'), "", Kind::Committed),
        ],
    };
    const LIST: &str = "containerd.services.snapshots.v1.Snapshots/List";
    const USAGE: &str = "containerd.services.snapshots.v1.Snapshots/Usage";
    fake.answer(LIST, &page).answer(LIST, &page);
    fake.answer(
        USAGE,
        &UsageResponse {
            size: 7 << 20,
            inodes: 312,
        },
    );
    fake.answer(
        USAGE,
        &UsageResponse {
            size: 4096,
            inodes: 1,
        },
    );
    insta::assert_snapshot!(orlop(&fake, &["snapshots", "ls"]).await.table());
    insta::assert_snapshot!(orlop(&fake, &["snapshots", "usage"]).await.table());
}

#[tokio::test]
async fn leases_show_when_they_end_and_are_made_with_an_end() {
    let fake = Fake::start();
    let lease = Lease {
        id: "pull-1".to_owned(),
        created_at: ago(60),
        labels: [(
            "containerd.io/gc.expire".to_owned(),
            "2026-11-24T12:00:00Z".to_owned(),
        )]
        .into(),
    };
    let answer = ListResponse {
        leases: vec![lease.clone()],
    };
    fake.answer("containerd.services.leases.v1.Leases/List", &answer);
    insta::assert_snapshot!(orlop(&fake, &["leases", "ls"]).await.table());
    const CREATE: &str = "containerd.services.leases.v1.Leases/Create";
    fake.answer(CREATE, &CreateResponse { lease: Some(lease) });
    assert_eq!(
        orlop(&fake, &["leases", "create", "--expires", "24h"])
            .await
            .stdout,
        "pull-1\n"
    );
    let request: CreateRequest = fake.asked(CREATE);
    assert_eq!(
        request.labels["containerd.io/gc.expire"],
        "2026-11-24T12:00:00Z"
    );
}

#[tokio::test]
async fn namespaces_are_listed_by_name() {
    let fake = Fake::start();
    let namespace = |name: &str| Namespace {
        name: name.to_owned(),
        ..Namespace::default()
    };
    let answer = ListNamespacesResponse {
        namespaces: vec![namespace("k8s.io"), namespace("default")],
    };
    fake.answer("containerd.services.namespaces.v1.Namespaces/List", &answer);
    insta::assert_snapshot!(orlop(&fake, &["namespaces", "ls"]).await.table());
}

fn resource(kind: ResourceKind, key: &str) -> Resource {
    Resource {
        kind: kind.into(),
        namespace: "default".to_owned(),
        key: key.to_owned(),
        snapshotter: String::new(),
    }
}

#[tokio::test]
async fn why_reads_from_the_thing_to_its_root() {
    let fake = Fake::start();
    let hop = |kind, key: &str, reason: &str| Hop {
        resource: Some(resource(kind, key)),
        reason: reason.to_owned(),
    };
    let held = Holding {
        resource: Some(resource(ResourceKind::Content, &digest('b'))),
        path: vec![
            hop(
                ResourceKind::Image,
                "docker.io/library/alpine:latest",
                "images are roots",
            ),
            hop(ResourceKind::Content, &digest('a'), "the image's target"),
            hop(
                ResourceKind::Content,
                &digest('b'),
                "label containerd.io/gc.ref.content.l.0",
            ),
        ],
        bytes: 3_400_000,
        sweep: None,
    };
    let loose = Holding {
        resource: Some(resource(ResourceKind::Snapshot, "old")),
        bytes: 10,
        ..Holding::default()
    };
    const WHY: &str = "orlop.v1.Collection/Why";
    let answer = GcWhyResponse {
        holdings: vec![held, loose],
    };
    fake.answer(WHY, &answer)
        .answer(WHY, &answer)
        .answer(WHY, &GcWhyResponse::default());
    // Keys are what is asked about, so they are shown whole, wider than the terminal if need be.
    insta::assert_snapshot!(orlop(&fake, &["gc", "why", "b"]).await.stdout);
    let json = orlop(
        &fake,
        &["-o", "json", "gc", "why", "--kind", "content", "b"],
    )
    .await;
    insta::assert_snapshot!(json.stdout);
    let request: GcWhyRequest = fake.asked(WHY);
    assert_eq!(request.key, "b");
    let outcome = orlop(&fake, &["gc", "why", "nothing"]).await;
    insta::assert_snapshot!(outcome.all());
}

#[tokio::test]
async fn collection_tells_what_it_freed_and_what_failed() {
    let fake = Fake::start();
    let failed = SweepItem {
        resource: Some(resource(ResourceKind::Snapshot, "stuck")),
        attempts: 3,
        next_try_at: None,
        last_error: "ORL-E2007: device busy".to_owned(),
    };
    let answer = GcRunResponse {
        duration: Some(orlop_api::Duration {
            seconds: 0,
            nanos: 40_000_000,
        }),
        pause: Some(orlop_api::Duration {
            seconds: 0,
            nanos: 300_000,
        }),
        content_collected: 7,
        snapshots_collected: 2,
        leases_expired: 1,
        bytes_freed: 33_345_536,
        failed: vec![failed.clone()],
    };
    fake.answer("orlop.v1.Collection/Run", &answer);
    insta::assert_snapshot!(orlop(&fake, &["gc", "run"]).await.table());
    let status = GcStatusResponse {
        queue_length: 1,
        queue: vec![failed],
        bytes_held: 1 << 30,
        ..Default::default()
    };
    fake.answer("orlop.v1.Collection/Status", &status);
    insta::assert_snapshot!(orlop(&fake, &["gc", "status"]).await.table());
}

#[tokio::test]
async fn fsck_fails_when_something_is_left_unrepaired() {
    let fake = Fake::start();
    let finding = FsckEvent {
        event: Some(fsck_event::Event::Finding(FsckFinding {
            kind: "blob-missing".to_owned(),
            resource: Some(resource(ResourceKind::Content, "sha256:aa")),
            detail: "recorded, but no such file".to_owned(),
            ..FsckFinding::default()
        })),
    };
    let summary = |findings| {
        let summary = FsckSummary {
            blobs_checked: 3,
            findings,
            ..FsckSummary::default()
        };
        FsckEvent {
            event: Some(fsck_event::Event::Summary(summary)),
        }
        .encode_to_vec()
    };
    const FSCK: &str = "orlop.v1.Collection/Fsck";
    fake.stream(FSCK, vec![finding.encode_to_vec(), summary(1)])
        .stream(FSCK, vec![summary(0)]);
    insta::assert_snapshot!(orlop(&fake, &["fsck"]).await.all());
    assert_eq!(orlop(&fake, &["fsck"]).await.code, 0);
}

#[tokio::test]
async fn events_carry_their_sequence_and_gaps_are_told() {
    let fake = Fake::start();
    let exit = TaskExit {
        container_id: "web".to_owned(),
        id: "web".to_owned(),
        pid: 7,
        exit_status: 137,
        exited_at: None,
    };
    let envelope = Envelope {
        timestamp: ago(0),
        namespace: "default".to_owned(),
        topic: "/tasks/exit".to_owned(),
        event: Some(any::pack(&exit)),
    };
    let message = |message| {
        EventsResponse {
            message: Some(message),
        }
        .encode_to_vec()
    };
    let messages = vec![
        message(events_response::Message::Gap(EventGap {
            after_sequence: 3,
            next_sequence: 41,
        })),
        message(events_response::Message::Event(Event {
            sequence: 41,
            envelope: Some(envelope),
            cause: orlop_api::orlop::v1::ExitCause::Unspecified.into(),
        })),
    ];
    const EVENTS: &str = "orlop.v1.Node/Events";
    fake.stream(EVENTS, messages.clone())
        .stream(EVENTS, messages);
    let outcome = orlop(&fake, &["-o", "json", "events", "--since", "3"]).await;
    insta::assert_snapshot!(outcome.stdout);
    let request: EventsRequest = fake.asked(EVENTS);
    assert_eq!((request.since_sequence, request.follow), (Some(3), false));
    insta::assert_snapshot!(orlop(&fake, &["events"]).await.stdout);
}

#[tokio::test]
async fn version_shows_our_own_even_without_a_daemon() {
    let fake = Fake::start();
    let answer = VersionResponse {
        version: "0.1.0".to_owned(),
        revision: "abc".to_owned(),
    };
    fake.answer("containerd.services.version.v1.Version/Version", &answer);
    insta::assert_snapshot!(orlop(&fake, &["version"]).await.table(), @r"
    client:    0.1.0
    server:    0.1.0
    revision:  abc
    ");
    std::fs::remove_file(fake.socket()).unwrap();
    let outcome = orlop(&fake, &["version"]).await;
    assert_eq!(outcome.code, 4);
    assert!(
        outcome.stdout.contains("server:    not reached"),
        "{}",
        outcome.stdout
    );
}

#[tokio::test]
async fn info_shows_what_works_and_what_does_not() {
    let fake = Fake::start();
    let component = |name: &str, error: &str| ComponentInfo {
        name: name.to_owned(),
        version: "1.1.5".to_owned(),
        path: format!("/usr/bin/{name}"),
        error: error.to_owned(),
    };
    let answer = InfoResponse {
        version: "0.1.0".to_owned(),
        pid: 7,
        started_at: ago(60),
        default_snapshotter: "overlayfs".to_owned(),
        default_runtime: "runc".to_owned(),
        runtimes: vec![component("runc", ""), component("crun", "needs cgroup v2")],
        cgroup_version: 1,
        memory_bytes: 9 << 20,
        platform: Some(Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..Platform::default()
        }),
        warnings: vec!["oom_score_adj was clamped to 0".to_owned()],
        ..InfoResponse::default()
    };
    fake.answer("orlop.v1.Node/Info", &answer);
    insta::assert_snapshot!(orlop(&fake, &["info"]).await.table());
}
