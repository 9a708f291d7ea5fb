//! containerd's semantics of writing and reading content, through the generated client.

use orlop_api::containerd::services::content::v1::WriteAction::{self, Commit, Stat, Write};
use orlop_api::containerd::services::content::v1::content_client::ContentClient;
use orlop_api::containerd::services::content::v1::{
    InfoRequest, ReadContentRequest, StatusRequest, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::server::{NAMESPACE, Server};

/// The SHA-256 of `hello`.
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// The SHA-256 of nothing.
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn request<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("containerd-namespace", namespace.parse().unwrap());
    request
}

fn message(action: WriteAction, offset: i64, data: &'static [u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: "one".to_owned(),
        offset,
        data: data.into(),
        ..WriteContentRequest::default()
    }
}

/// One call of `Write`.
struct Writer {
    requests: Option<mpsc::Sender<WriteContentRequest>>,
    answers: Streaming<WriteContentResponse>,
}

impl Writer {
    async fn open(
        client: &mut ContentClient<Channel>,
        namespace: &str,
        first: WriteContentRequest,
    ) -> (Self, Result<WriteContentResponse, Status>) {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(first).await.unwrap();
        let stream = request(namespace, ReceiverStream::new(receiver));
        let mut writer = Self {
            requests: Some(sender),
            answers: client.write(stream).await.unwrap().into_inner(),
        };
        let answer = writer.answer().await;
        (writer, answer)
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        self.answers.message().await.map(Option::unwrap)
    }

    async fn send(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let requests = self.requests.as_ref().unwrap();
        requests.send(message).await.unwrap();
        self.answer().await
    }

    /// Ends the requests and waits until the server has let go of the reference.
    async fn close(mut self) {
        self.requests = None;
        while let Ok(Some(_)) = self.answers.message().await {}
    }
}

async fn client(server: &Server) -> ContentClient<Channel> {
    ContentClient::new(server.channel().await)
}

async fn read(
    client: &mut ContentClient<Channel>,
    digest: &str,
    (offset, size): (i64, i64),
) -> Result<Vec<u8>, Status> {
    let wanted = ReadContentRequest {
        digest: digest.to_owned(),
        offset,
        size,
    };
    let mut stream = client.read(request(NAMESPACE, wanted)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await? {
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

#[test]
fn a_write_goes_from_stat_to_commit_and_can_be_read_in_ranges() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let (mut writer, opened) =
            Writer::open(&mut client, NAMESPACE, message(Stat, 0, b"")).await;
        let opened = opened.unwrap();
        assert_eq!((opened.offset, opened.total), (0, 0));
        assert!(opened.started_at.is_some());
        assert_eq!(
            writer.send(message(Write, 0, b"hel")).await.unwrap().offset,
            3
        );
        assert_eq!(
            writer.send(message(Write, 3, b"l")).await.unwrap().offset,
            4
        );
        let committed = writer.send(message(Commit, 4, b"o")).await.unwrap();
        assert_eq!((committed.offset, committed.digest.as_str()), (5, HELLO));
        assert_eq!(read(&mut client, HELLO, (0, 0)).await.unwrap(), b"hello");
        assert_eq!(read(&mut client, HELLO, (1, 3)).await.unwrap(), b"ell");
        assert_eq!(read(&mut client, HELLO, (5, 1)).await.unwrap(), b"");
        let beyond = read(&mut client, HELLO, (6, 1)).await;
        assert_eq!(beyond.unwrap_err().code(), Code::OutOfRange);
    });
}

#[test]
fn offset_zero_starts_over_and_a_gap_is_out_of_range() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let first = message(Write, 0, b"wrong");
        let (mut writer, _) = Writer::open(&mut client, NAMESPACE, first).await;
        let restarted = writer.send(message(Write, 0, b"hello")).await.unwrap();
        assert_eq!(restarted.offset, 5);
        let gap = writer.send(message(Write, 7, b"!")).await;
        assert_eq!(gap.unwrap_err().code(), Code::OutOfRange);
        writer.close().await;
    });
}

#[test]
fn a_writer_that_leaves_keeps_its_bytes_for_the_next() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let (writer, _) = Writer::open(&mut client, NAMESPACE, message(Write, 0, b"hel")).await;
        writer.close().await;
        let wanted = StatusRequest {
            r#ref: "one".to_owned(),
        };
        let status = client.status(request(NAMESPACE, wanted)).await.unwrap();
        assert_eq!(status.get_ref().status.as_ref().unwrap().offset, 3);
        let (mut writer, opened) =
            Writer::open(&mut client, NAMESPACE, message(Stat, 0, b"")).await;
        assert_eq!(opened.unwrap().offset, 3);
        let committed = writer.send(message(Commit, 3, b"lo")).await.unwrap();
        assert_eq!(committed.digest, HELLO);
    });
}

#[test]
fn a_reference_has_one_writer_in_a_namespace() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let (first, _) = Writer::open(&mut client, NAMESPACE, message(Stat, 0, b"")).await;
        let (_, second) = Writer::open(&mut client, NAMESPACE, message(Stat, 0, b"")).await;
        assert_eq!(second.unwrap_err().code(), Code::Unavailable);
        let (elsewhere, other) = Writer::open(&mut client, "other", message(Stat, 0, b"")).await;
        assert!(other.is_ok(), "namespaces share references");
        first.close().await;
        elsewhere.close().await;
    });
}

#[test]
fn a_commit_of_other_bytes_than_expected_stores_nothing() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        for (digest, total) in [(EMPTY, 0), (HELLO, 4), (HELLO, 6)] {
            let mut commit = message(Commit, 0, b"hello");
            commit.expected = digest.to_owned();
            commit.total = total;
            let (_, refused) = Writer::open(&mut client, NAMESPACE, commit).await;
            let code = refused.unwrap_err().code();
            assert!(
                matches!(code, Code::FailedPrecondition | Code::InvalidArgument),
                "{digest} {total}: {code}"
            );
            let wanted = InfoRequest {
                digest: digest.to_owned(),
            };
            let info = client.info(request(NAMESPACE, wanted)).await;
            assert_eq!(info.unwrap_err().code(), Code::NotFound);
            server.ctr(&["content", "active"]);
        }
    });
}

#[test]
fn expecting_a_blob_that_is_there_is_already_exists() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let (_, stored) = Writer::open(&mut client, NAMESPACE, message(Commit, 0, b"hello")).await;
        assert_eq!(stored.unwrap().digest, HELLO);
        let mut at_once = message(Stat, 0, b"");
        at_once.expected = HELLO.to_owned();
        let (_, refused) = Writer::open(&mut client, NAMESPACE, at_once).await;
        assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
        let (mut writer, _) =
            Writer::open(&mut client, NAMESPACE, message(Write, 0, b"hello")).await;
        let late = writer.send(message(Commit, 5, b"")).await;
        assert_eq!(late.unwrap_err().code(), Code::AlreadyExists);
        let gone = StatusRequest {
            r#ref: "one".to_owned(),
        };
        let gone = client.status(request(NAMESPACE, gone)).await;
        assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn bad_requests_are_told_apart() {
    let server = Server::start_without_collection();
    server.block_on(async {
        let mut client = client(&server).await;
        let nameless = client.info(Request::new(InfoRequest::default())).await;
        assert_eq!(nameless.unwrap_err().code(), Code::FailedPrecondition);
        let wanted = InfoRequest {
            digest: "sha256:../../etc".to_owned(),
        };
        let bad = client.info(request(NAMESPACE, wanted)).await.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(bad.message().contains("(ORL-E"), "{}", bad.message());
        let mut unnamed = message(Stat, 0, b"");
        unnamed.r#ref.clear();
        let (_, refused) = Writer::open(&mut client, NAMESPACE, unnamed).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    });
}
