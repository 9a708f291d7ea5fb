//! Peers that do not speak as our own clients do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use orlop_api::grpc::health::v1::HealthCheckRequest;
use orlop_api::grpc::health::v1::health_check_response::ServingStatus;
use orlop_api::grpc::health::v1::health_client::HealthClient;
use tonic::Code;

use crate::server::Server;

const HEADERS: u8 = 1;
const RESET: u8 = 3;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn literal(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A call of `Version` with this `:authority`.
fn call(authority: &str) -> Vec<u8> {
    let fields = [
        b"\x83\x86\x04".to_vec(),
        literal("/containerd.services.version.v1.Version/Version"),
        b"\x41".to_vec(),
        literal(authority),
        b"\0".to_vec(),
        literal("te"),
        literal("trailers"),
        b"\0".to_vec(),
        literal("content-type"),
        literal("application/grpc"),
    ];
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),
        frame(HEADERS, 4, 1, &fields.concat()),
        frame(0, 1, 1, b"\0\0\0\0\0"),
    ]
    .concat()
}

/// The kind of the first frame that the server sends on the call's stream.
fn first_answer(server: &Server, authority: &str) -> u8 {
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(&call(authority)).unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).unwrap();
        if header[8] == 1 && matches!(header[3], HEADERS | RESET) {
            return header[3];
        }
    }
}

#[test]
fn a_peer_that_sends_the_sockets_path_as_authority_is_served() {
    let server = Server::start();
    for authority in [
        "localhost",
        "/run/orlop.sock",
        "%2Frun%2Forlop.sock",
        "unix:///run/orlop.sock",
    ] {
        assert_eq!(first_answer(&server, authority), HEADERS, "{authority}");
    }
}

#[test]
fn health_is_told_for_the_daemon_and_not_for_services() {
    let server = Server::start();
    server.block_on(async {
        let mut client = HealthClient::new(server.channel().await);
        let whole = client.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(whole.get_ref().status(), ServingStatus::Serving);
        let request = HealthCheckRequest {
            service: "containerd.services.tasks.v1.Tasks".to_owned(),
        };
        let error = client.check(request).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    });
}
