//! `orlop.v1`, through the generated clients.

use orlop_api::orlop::v1::containers_client::ContainersClient;
use orlop_api::orlop::v1::events_response::Message;
use orlop_api::orlop::v1::node_client::NodeClient;
use orlop_api::orlop::v1::{
    Event, EventsRequest, InfoRequest, InspectRequest, LogsRequest, MigrateStatusRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::server::{NAMESPACE, Server};

async fn events(client: &mut NodeClient<Channel>, wanted: EventsRequest) -> Vec<Event> {
    let mut stream = client.events(wanted).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        match response.message.unwrap() {
            Message::Event(event) => events.push(event),
            Message::Gap(gap) => panic!("nothing was trimmed: {gap:?}"),
        }
    }
    events
}

fn topics(events: &[Event]) -> Vec<&str> {
    let envelopes = events.iter().map(|event| event.envelope.as_ref().unwrap());
    envelopes.map(|envelope| envelope.topic.as_str()).collect()
}

#[test]
fn events_can_be_read_again_from_any_sequence() {
    let server = Server::start();
    server.ctr(&["namespaces", "create", "mine"]);
    server.ctr(&["leases", "create", "--id", "held"]);
    server.ctr(&["snapshots", "prepare", "top"]);
    server.block_on(async {
        let mut client = NodeClient::new(server.channel().await);
        let everything = EventsRequest {
            all_namespaces: true,
            ..EventsRequest::default()
        };
        let all = events(&mut client, everything.clone()).await;
        assert_eq!(
            topics(&all),
            ["/namespaces/create", "/leases/create", "/snapshot/prepare"]
        );
        let resumed = EventsRequest {
            since_sequence: Some(all[0].sequence),
            ..everything.clone()
        };
        assert_eq!(events(&mut client, resumed).await, all[1..]);
        let filtered = EventsRequest {
            filters: vec!["event.key==top".to_owned()],
            ..everything
        };
        assert_eq!(events(&mut client, filtered).await, all[2..]);
    });
}

#[test]
fn an_event_that_is_waited_for_arrives() {
    let server = Server::start();
    server.block_on(async {
        let mut client = NodeClient::new(server.channel().await);
        let wanted = EventsRequest {
            follow: true,
            all_namespaces: true,
            ..EventsRequest::default()
        };
        let mut stream = client.events(wanted).await.unwrap().into_inner();
        server.ctr(&["namespaces", "create", "mine"]);
        let Some(Message::Event(event)) = stream.message().await.unwrap().unwrap().message else {
            panic!("no event");
        };
        assert_eq!(event.envelope.unwrap().topic, "/namespaces/create");
    });
}

#[test]
fn the_daemon_tells_what_it_is() {
    let server = Server::start();
    server.block_on(async {
        let mut client = NodeClient::new(server.channel().await);
        let info = client.info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
        assert!(!info.uuid.is_empty());
        let names: Vec<_> = info.snapshotters.iter().map(|found| &found.name).collect();
        assert_eq!(names, ["overlayfs", "native"]);
        let request = MigrateStatusRequest {};
        let schema = client.migrate_status(request).await.unwrap().into_inner();
        assert_eq!(schema.schema_version, info.schema_version);
        assert!(schema.pending.is_empty());
    });
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    request
}

#[test]
fn a_container_of_another_client_is_inspected_and_has_no_log() {
    let server = Server::start();
    let root = server.folder().join("rootfs").display().to_string();
    std::fs::create_dir(&root).unwrap();
    server.ctr(&["containers", "create", "--rootfs", &root, "web", "true"]);
    server.block_on(async {
        let mut client = ContainersClient::new(server.channel().await);
        let wanted = |id: &str| InspectRequest { id: id.to_owned() };
        let found = client.inspect(request(wanted("web"))).await.unwrap();
        let found = found.into_inner();
        assert_eq!(found.container.unwrap().id, "web");
        assert_eq!((found.task, found.log_path.as_str()), (None, ""));
        let missing = client.inspect(request(wanted("other"))).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
        let log = LogsRequest {
            id: "web".to_owned(),
            ..LogsRequest::default()
        };
        let log = client.logs(request(log)).await;
        assert_eq!(log.unwrap_err().code(), Code::FailedPrecondition);
    });
}
