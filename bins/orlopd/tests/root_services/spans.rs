//! Spans, as a collector gets them.

use std::time::Duration;

use orlop_api::containerd::services::images::v1::GetImageRequest;
use orlop_api::containerd::services::images::v1::images_client::ImagesClient;
use orlop_api::containerd::services::version::v1::version_client::VersionClient;
use orlop_api::orlop::v1::PullRequest;
use orlop_api::orlop::v1::images_client::ImagesClient as TransfersClient;
use orlop_testkit::collector::{FakeCollector, SeenSpan};
use orlop_testkit::registry::{FakeRegistry, Layer};
use tonic::{Code, Request};

use crate::server::{NAMESPACE, Server};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn start(collector: &FakeCollector) -> Server {
    let endpoint = format!("telemetry.otlp.endpoint={}", collector.endpoint());
    Server::start_with(&[&endpoint])
}

fn request<T>(parent: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    if let Some(parent) = parent {
        headers.insert("traceparent", parent.parse().unwrap());
    }
    request
}

/// Pulls an image of two layers in a span of the caller's; says where from.
fn pull(server: &Server) -> FakeRegistry {
    let registry = FakeRegistry::start();
    let layers = [
        Layer::with_files(&[("a", b"one")]),
        Layer::with_files(&[("b", b"two")]),
    ];
    registry.put_image("app", "1", &layers);
    let wanted = PullRequest {
        reference: registry.reference("app", "1"),
        ..PullRequest::default()
    };
    server.block_on(async {
        let mut client = TransfersClient::new(server.channel().await);
        let parent = format!("00-{TRACE}-{CALLER}-01");
        let answer = client.pull(request(Some(&parent), wanted)).await.unwrap();
        let mut events = answer.into_inner();
        while events.message().await.unwrap().is_some() {}
    });
    registry
}

fn named(collector: &FakeCollector, name: &str) -> SeenSpan {
    collector.wait_for(name, |span| span.name == name)
}

#[test]
fn a_pull_is_followed_from_its_caller_to_each_layer() {
    let collector = FakeCollector::start();
    let server = start(&collector);
    let registry = pull(&server);
    let call = named(&collector, "orlop.v1.Images/Pull");
    assert_eq!((call.trace.as_str(), call.parent.as_str()), (TRACE, CALLER));
    assert_eq!(call.attribute("rpc.method"), "Pull");
    assert_eq!(call.attribute("rpc.grpc.status_code"), "0");
    assert!(!call.is_failed);
    let pull = named(&collector, "pull");
    assert_eq!((&pull.trace, &pull.parent), (&call.trace, &call.id));
    assert_eq!(pull.attribute("image"), registry.reference("app", "1"));
    let bytes: u64 = pull.attribute("bytes").parse().unwrap();
    assert!(bytes > 0);
    let spans = collector.spans();
    let below = |name: &str| -> Vec<&SeenSpan> {
        let spans = spans.iter().filter(|span| span.name == name);
        spans.filter(|span| span.parent == pull.id).collect()
    };
    let fetches = below("fetch");
    assert_eq!(fetches.len(), 2, "{spans:#?}");
    assert!(
        fetches
            .iter()
            .all(|it| it.attribute("host") == registry.host())
    );
    let fetched: u64 = fetches
        .iter()
        .map(|it| it.attribute("bytes").parse::<u64>().unwrap())
        .sum();
    assert_eq!(fetched, bytes);
    let unpacked = below("unpack");
    assert_eq!(unpacked.len(), 2);
    assert!(
        unpacked
            .iter()
            .all(|it| it.attribute("digest").starts_with("sha256:"))
    );
}

#[test]
fn a_call_that_fails_tells_its_code_and_id() {
    let collector = FakeCollector::start();
    let server = start(&collector);
    server.block_on(async {
        let mut client = ImagesClient::new(server.channel().await);
        let name = "missing".to_owned();
        let missing = client.get(request(None, GetImageRequest { name })).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    });
    let call = named(&collector, "containerd.services.images.v1.Images/Get");
    assert!(call.parent.is_empty());
    assert_eq!(call.attribute("rpc.grpc.status_code"), "5");
    assert_eq!(call.attribute("orlop.id"), "ORL-E4001");
    // Nothing is wrong with the server.
    assert!(!call.is_failed);
}

#[test]
fn a_call_whose_caller_is_not_followed_is_not_either() {
    let collector = FakeCollector::start();
    let server = start(&collector);
    let ask = |parent: Option<&str>| {
        server.block_on(async {
            let mut client = VersionClient::new(server.channel().await);
            client.version(request(parent, ())).await.unwrap();
        });
    };
    ask(Some(&format!("00-{TRACE}-{CALLER}-00")));
    ask(None);
    let call = named(&collector, "containerd.services.version.v1.Version/Version");
    assert_ne!(call.trace, TRACE);
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:#?}");
}

#[test]
fn a_collector_that_hangs_changes_nothing() {
    let collector = FakeCollector::start_hanging();
    let server = start(&collector);
    drop(pull(&server));
    server.block_on(async {
        let mut client = VersionClient::new(server.channel().await);
        // More than may wait: what is too much is dropped.
        for _ in 0..3000 {
            client.version(request(None, ())).await.unwrap();
        }
    });
    // It was asked, and does not answer; the daemon ends in order all the same, which the server's drop asserts.
    while collector.calls() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(server);
    assert!(collector.spans().is_empty());
}

#[test]
fn without_a_collector_calls_are_answered_and_the_end_is_in_order() {
    let address = FakeCollector::start().endpoint();
    let server = Server::start_with(&[&format!("telemetry.otlp.endpoint={address}")]);
    drop(pull(&server));
}
