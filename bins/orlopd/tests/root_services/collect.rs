//! What nothing holds goes, what something holds says why, and what a killed daemon left is mended.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use orlop_api::containerd::services::content::v1::WriteAction::Commit;
use orlop_api::containerd::services::content::v1::WriteContentRequest;
use orlop_api::containerd::services::content::v1::content_client::ContentClient;
use orlop_api::containerd::services::images::v1::images_client::ImagesClient;
use orlop_api::containerd::services::images::v1::{CreateImageRequest, DeleteImageRequest, Image};
use orlop_api::containerd::services::leases::v1::DeleteRequest;
use orlop_api::containerd::services::leases::v1::leases_client::LeasesClient;
use orlop_api::containerd::types::Descriptor;
use orlop_api::orlop::v1::collection_client::CollectionClient;
use orlop_api::orlop::v1::events_response::Message;
use orlop_api::orlop::v1::fsck_event::Event;
use orlop_api::orlop::v1::node_client::NodeClient;
use orlop_api::orlop::v1::{
    EventsRequest, FsckFinding, FsckRequest, FsckSummary, GcRunRequest, GcStatusRequest,
    GcWhyRequest, Holding, ResourceKind,
};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::ctr::{archive, rows};
use crate::server::{NAMESPACE, Server};

/// The SHA-256 of `hello`, and of `layer`.
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const LAYER: &str = "sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85";

const LEASE: &str = "pull";

fn request<T>(lease: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    if let Some(lease) = lease {
        headers.insert("containerd-lease", lease.parse().unwrap());
    }
    request
}

/// Writes a blob under the lease.
async fn write(channel: &Channel, digest: &str, bytes: &'static [u8], labels: &[(&str, &str)]) {
    let message = WriteContentRequest {
        action: Commit.into(),
        r#ref: digest.to_owned(),
        total: i64::try_from(bytes.len()).unwrap(),
        expected: digest.to_owned(),
        data: bytes.into(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..WriteContentRequest::default()
    };
    let messages = tokio_stream::iter([message]);
    let mut client = ContentClient::new(channel.clone());
    let answers = client.write(request(Some(LEASE), messages)).await.unwrap();
    let mut answers = answers.into_inner();
    while answers.message().await.unwrap().is_some() {}
}

/// An image of two blobs, the first naming the second, made under the lease.
async fn image(channel: &Channel) {
    write(channel, LAYER, b"layer", &[]).await;
    let holds = [("containerd.io/gc.ref.content.l.0", LAYER)];
    write(channel, HELLO, b"hello", &holds).await;
    let image = Image {
        name: "mine:1".to_owned(),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: HELLO.to_owned(),
            size: 5,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let wanted = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    let mut client = ImagesClient::new(channel.clone());
    client.create(request(None, wanted)).await.unwrap();
}

async fn delete_lease(channel: &Channel, sync: bool) {
    let mut client = LeasesClient::new(channel.clone());
    let wanted = DeleteRequest {
        id: LEASE.to_owned(),
        sync,
    };
    client.delete(request(None, wanted)).await.unwrap();
}

async fn why(channel: &Channel, key: &str) -> Vec<Holding> {
    let mut client = CollectionClient::new(channel.clone());
    let wanted = GcWhyRequest {
        key: key.to_owned(),
        ..GcWhyRequest::default()
    };
    let answer = client.why(request(None, wanted)).await.unwrap();
    answer.into_inner().holdings
}

async fn fsck(channel: &Channel, wanted: FsckRequest) -> (Vec<FsckFinding>, FsckSummary) {
    let mut client = CollectionClient::new(channel.clone());
    let mut stream = client.fsck(wanted).await.unwrap().into_inner();
    let mut findings = Vec::new();
    loop {
        let message = stream.message().await.unwrap().expect("a summary");
        match message.event.unwrap() {
            Event::Finding(found) => findings.push(found),
            Event::Summary(summary) => {
                assert!(stream.message().await.unwrap().is_none());
                return (findings, summary);
            }
        }
    }
}

/// Waits for events of these topics and keys, in any order.
async fn wait_for(channel: &Channel, mut wanted: Vec<(&str, &str)>) {
    let follow = EventsRequest {
        since_sequence: Some(0),
        follow: true,
        all_namespaces: true,
        ..EventsRequest::default()
    };
    let mut client = NodeClient::new(channel.clone());
    let mut stream = client.events(follow).await.unwrap().into_inner();
    while !wanted.is_empty() {
        let Message::Event(event) = stream.message().await.unwrap().unwrap().message.unwrap()
        else {
            panic!("nothing was trimmed");
        };
        let envelope = event.envelope.unwrap();
        let payload = String::from_utf8_lossy(&envelope.event.unwrap().value).into_owned();
        wanted.retain(|(topic, key)| envelope.topic != *topic || !payload.contains(key));
    }
}

fn blobs(server: &Server) -> usize {
    rows(&server.ctr(&["content", "ls"])).len()
}

#[test]
fn what_a_removed_lease_held_is_collected_and_told() {
    let server = Server::start();
    server.ctr(&["leases", "create", "--id", LEASE]);
    server.block_on(async {
        let channel = server.channel().await;
        write(&channel, LAYER, b"layer", &[]).await;
        let holdings = why(&channel, "dac1d7cfa9").await;
        let path = &holdings[0].path;
        assert_eq!(
            path[0].resource.as_ref().unwrap().kind(),
            ResourceKind::Lease
        );
        let reason = &path[0].reason;
        assert!(reason.starts_with("a lease, until 2"), "{reason}");
        assert_eq!(path[1].reason, "a resource of the lease");
        assert_eq!(holdings[0].bytes, 5);
        snapshot(&channel).await;
        // Nobody asks for a pass: removing the lease is the reason for one.
        delete_lease(&channel, false).await;
        wait_for(
            &channel,
            vec![
                ("/content/delete", LAYER),
                ("/snapshot/remove", "base"),
                ("/collect/removed", LAYER),
            ],
        )
        .await;
        assert!(why(&channel, LAYER).await.is_empty());
    });
    assert_eq!(blobs(&server), 0);
    assert!(rows(&server.ctr(&["snapshots", "ls"])).is_empty());
}

/// A committed snapshot under the lease.
async fn snapshot(channel: &Channel) {
    use orlop_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
    use orlop_api::containerd::services::snapshots::v1::{
        CommitSnapshotRequest, PrepareSnapshotRequest,
    };
    let mut client = SnapshotsClient::new(channel.clone());
    let prepare = PrepareSnapshotRequest {
        snapshotter: "overlayfs".to_owned(),
        key: "base-active".to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    client.prepare(request(Some(LEASE), prepare)).await.unwrap();
    let commit = CommitSnapshotRequest {
        snapshotter: "overlayfs".to_owned(),
        name: "base".to_owned(),
        key: "base-active".to_owned(),
        ..CommitSnapshotRequest::default()
    };
    client.commit(request(Some(LEASE), commit)).await.unwrap();
}

#[test]
fn a_lease_that_expires_on_an_idle_node_is_noticed() {
    let server = Server::start();
    server.ctr(&["leases", "create", "--id", LEASE, "--expires", "1s"]);
    server.block_on(async {
        let channel = server.channel().await;
        write(&channel, LAYER, b"layer", &[]).await;
        // Nobody does anything from here on.
        wait_for(&channel, vec![("/collect/removed", LAYER)]).await;
    });
    assert!(rows(&server.ctr(&["leases", "ls"])).is_empty());
}

#[test]
fn an_images_layer_says_what_holds_it_and_goes_with_a_sync_deletion() {
    let server = Server::start();
    server.ctr(&["leases", "create", "--id", LEASE]);
    server.block_on(async {
        let channel = server.channel().await;
        image(&channel).await;
        delete_lease(&channel, true).await;
        let holdings = why(&channel, LAYER).await;
        let path: Vec<_> = holdings[0]
            .path
            .iter()
            .map(|hop| hop.reason.as_str())
            .collect();
        assert_eq!(
            path,
            [
                "an image's name, until it is removed",
                "its target",
                "label containerd.io/gc.ref.content.l.0"
            ]
        );
        let delete = DeleteImageRequest {
            name: "mine:1".to_owned(),
            sync: true,
            ..DeleteImageRequest::default()
        };
        let mut client = ImagesClient::new(channel.clone());
        client.delete(request(None, delete)).await.unwrap();
        // No waiting: a deletion that is sync has seen the pass.
        for digest in [HELLO, LAYER] {
            let hex = digest.strip_prefix("sha256:").unwrap();
            let path = server.folder().join("root/content/blobs/sha256").join(hex);
            assert!(!path.exists(), "{} is still there", path.display());
        }
    });
    assert_eq!(blobs(&server), 0);
}

#[test]
fn a_pass_that_is_asked_for_tells_what_it_did_and_status_remembers() {
    let server = Server::start();
    let path = server.folder().join("blob");
    std::fs::write(&path, "hello").unwrap();
    server.block_on(async {
        let mut client = CollectionClient::new(server.channel().await);
        // After the first pass of the start, nothing is due while nothing is deleted.
        client.run(GcRunRequest {}).await.unwrap();
        let input = Stdio::from(std::fs::File::open(&path).unwrap());
        assert!(
            server
                .try_ctr(&["content", "ingest", "one"], input)
                .status
                .success()
        );
        let before = client.status(GcStatusRequest::default()).await.unwrap();
        assert_eq!(before.get_ref().bytes_held, 5);
        let ran = client.run(GcRunRequest {}).await.unwrap().into_inner();
        assert_eq!(ran.content_collected, 1);
        assert!(ran.bytes_freed >= 5, "{ran:?}");
        assert!(ran.failed.is_empty(), "{ran:?}");
        let after = client.status(GcStatusRequest::default()).await.unwrap();
        let after = after.into_inner();
        assert!(after.last_started_at.is_some());
        assert_eq!((after.bytes_held, after.queue_length), (0, 0));
    });
}

#[test]
fn nothing_holds_a_namespace_and_an_unknown_key_has_no_holdings() {
    let server = Server::start();
    server.block_on(async {
        let channel = server.channel().await;
        assert!(why(&channel, "nothing").await.is_empty());
        let mut client = CollectionClient::new(channel);
        let wanted = GcWhyRequest {
            key: NAMESPACE.to_owned(),
            kind: ResourceKind::Namespace.into(),
        };
        let refused = client.why(request(None, wanted)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn a_daemon_killed_in_the_middle_is_mended_by_the_next() {
    let mut server = Server::start();
    let archive = archive(&server);
    let mut import = server.spawn_ctr(&["images", "import", "--base-name", "mine", &archive]);
    // Somewhere in the middle; where it is does not matter for what has to hold.
    std::thread::sleep(Duration::from_millis(60));
    server.kill();
    // It would wait for a daemon at this socket for ever.
    import.kill().unwrap();
    import.wait().unwrap();
    // What a commit leaves that was killed between a blob's file and its row.
    let orphan = server.folder().join("root/content/blobs/sha256");
    let orphan = orphan.join(LAYER.strip_prefix("sha256:").unwrap());
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "layer").unwrap();
    server.restart();
    server.block_on(async {
        let channel = server.channel().await;
        // What was found was queued; the pass works the queue off.
        let mut client = CollectionClient::new(channel.clone());
        client.run(GcRunRequest {}).await.unwrap();
        let wanted = FsckRequest {
            verify_content: true,
            ..FsckRequest::default()
        };
        let (findings, summary) = fsck(&channel, wanted).await;
        assert_eq!(findings, []);
        assert_eq!((summary.findings, summary.repaired), (0, 0));
    });
    assert!(!orphan.exists());
    // The image can be had all the same.
    server.ctr(&["images", "import", "--base-name", "mine", &archive]);
    server.ctr(&["images", "check"]);
}

#[test]
fn fsck_tells_what_disagrees_and_mends_it_when_asked() {
    let server = Server::start();
    server.ctr(&["leases", "create", "--id", LEASE]);
    server.block_on(async {
        let channel = server.channel().await;
        write(&channel, HELLO, b"hello", &[]).await;
        let hex = HELLO.strip_prefix("sha256:").unwrap();
        let file = server.folder().join("root/content/blobs/sha256").join(hex);
        std::fs::remove_file(&file).unwrap();
        let (findings, summary) = fsck(&channel, FsckRequest::default()).await;
        assert_eq!(findings[0].kind, "blob-missing");
        assert_eq!(findings[0].resource.as_ref().unwrap().key, HELLO);
        assert_eq!(
            (summary.blobs_checked, summary.findings, summary.repaired),
            (1, 1, 0)
        );
        let repair = FsckRequest {
            repair: true,
            ..FsckRequest::default()
        };
        let (findings, _) = fsck(&channel, repair).await;
        assert!(findings[0].repaired, "{findings:?}");
        // What was mended is queued; a pass works the queue off.
        let mut client = CollectionClient::new(channel.clone());
        client.run(GcRunRequest {}).await.unwrap();
        assert_eq!(fsck(&channel, repair).await.0, []);
    });
}

#[test]
fn metrics_are_served_to_scrapers_and_to_nothing_else() {
    // Taken and given back: nobody else on this machine takes ports in this range meanwhile.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server::start_with(&[&format!("telemetry.metrics_address={free}")]);
    server.block_on(async {
        let mut client = CollectionClient::new(server.channel().await);
        client.run(GcRunRequest {}).await.unwrap();
    });
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(free).unwrap();
        stream
            .write_all(format!("{head}\r\nHost: node\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let figures = ask("GET /metrics HTTP/1.1");
    assert!(figures.starts_with("HTTP/1.1 200"), "{figures}");
    for name in [
        "orlop_collection_seconds_count{phase=\"whole\"}",
        "orlop_sweep_queue_items{state=\"waiting\"} 0",
        "orlop_tasks_alive{kind=\"collection\"} 1",
        "orlop_blocking_job_panics_total 0",
    ] {
        assert!(figures.contains(name), "{name} is not in\n{figures}");
    }
    assert!(ask("POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405"));
    assert!(ask("GET /secret HTTP/1.1").starts_with("HTTP/1.1 404"));
}
