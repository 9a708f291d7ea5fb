//! A daemon that follows a script: for each method the answers it gives, and a record of what it was asked.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tonic::Code;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the daemon says to one call: messages, then how it ended.
struct Answer {
    messages: Vec<Vec<u8>>,
    code: Code,
    reason: String,
    /// Never ends, as a daemon that hangs.
    hangs: bool,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) namespace: String,
    messages: Vec<Bytes>,
}

/// Something a shim would do while the daemon answers. It is told of the calls so far.
type Deed = Box<dyn FnOnce(&[Call]) + Send>;

#[derive(Default)]
struct Script {
    answers: HashMap<&'static str, VecDeque<Answer>>,
    deeds: HashMap<&'static str, Deed>,
    calls: Vec<Call>,
}

/// A daemon on a socket of its own, until it is dropped.
pub(super) struct Fake {
    folder: TempDir,
    script: Arc<Mutex<Script>>,
}

impl Call {
    /// The call's first message.
    pub(super) fn message<M: Message + Default>(&self) -> M {
        M::decode(self.messages[0].clone()).unwrap()
    }
}

impl Fake {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let script = Arc::<Mutex<Script>>::default();
        tokio::spawn(accept(listener, Arc::clone(&script)));
        Self { folder, script }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A folder that goes with the daemon.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Answers the next call of `method` (`package.Service/Method`) with one message.
    pub(super) fn answer(&self, method: &'static str, message: &impl Message) -> &Self {
        self.stream(method, vec![message.encode_to_vec()])
    }

    /// Answers the next call of `method` with these encoded messages.
    pub(super) fn stream(&self, method: &'static str, messages: Vec<Vec<u8>>) -> &Self {
        self.push(method, messages, Code::Ok, "")
    }

    /// Refuses the next call of `method`.
    pub(super) fn refuse(&self, method: &'static str, code: Code, reason: &str) -> &Self {
        self.push(method, Vec::new(), code, reason)
    }

    /// Lets the next call of `method` hang for ever.
    pub(super) fn hang(&self, method: &'static str) -> &Self {
        self.push(method, Vec::new(), Code::Ok, "hangs")
    }

    /// Does something before the next answer to `method`.
    pub(super) fn meanwhile(
        &self,
        method: &'static str,
        deed: impl FnOnce(&[Call]) + Send + 'static,
    ) -> &Self {
        self.script
            .lock()
            .unwrap()
            .deeds
            .insert(method, Box::new(deed));
        self
    }

    /// The calls so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.script.lock().unwrap().calls.clone()
    }

    /// The methods called so far, in order.
    pub(super) fn methods(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.method).collect()
    }

    /// The first message of the first call of `method`.
    pub(super) fn asked<M: Message + Default>(&self, method: &str) -> M {
        let messages = self.asked_all(method);
        messages.into_iter().next().expect("a message was sent")
    }

    /// Every message of the first call of `method`.
    pub(super) fn asked_all<M: Message + Default>(&self, method: &str) -> Vec<M> {
        let calls = self.calls();
        let call = calls.iter().find(|call| call.method == method);
        let call = call.unwrap_or_else(|| panic!("{method} was not called"));
        let decoded = call
            .messages
            .iter()
            .map(|bytes| M::decode(bytes.clone()).unwrap());
        decoded.collect()
    }

    fn push(
        &self,
        method: &'static str,
        messages: Vec<Vec<u8>>,
        code: Code,
        reason: &str,
    ) -> &Self {
        let answer = Answer {
            messages,
            code,
            reason: reason.to_owned(),
            hangs: reason == "hangs",
        };
        self.script
            .lock()
            .unwrap()
            .answers
            .entry(method)
            .or_default()
            .push_back(answer);
        self
    }
}

async fn accept(listener: UnixListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        let service = service_fn(move |request| {
            let script = Arc::clone(&script);
            async move { Ok::<_, Infallible>(serve(request, script).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
    }
}

async fn serve(request: Request<Incoming>, script: Arc<Mutex<Script>>) -> Response<Body> {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let header = request.headers().get("containerd-namespace");
    let namespace = header
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let answer = {
        let mut script = script.lock().unwrap();
        script.calls.push(Call {
            method: method.clone(),
            namespace,
            messages: unframed(bytes),
        });
        if let Some(deed) = script.deeds.remove(method.as_str()) {
            deed(&script.calls);
        }
        let queue = script.answers.get_mut(method.as_str());
        queue
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(|| Answer {
                messages: Vec::new(),
                code: Code::Unimplemented,
                reason: format!("the script has no answer to {method}"),
                hangs: false,
            })
    };
    if answer.hangs {
        std::future::pending::<()>().await;
    }
    respond(answer)
}

fn respond(answer: Answer) -> Response<Body> {
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = answer
        .messages
        .iter()
        .map(|message| Ok(Frame::data(framed(message))))
        .collect();
    let mut trailers = http::HeaderMap::new();
    trailers.insert(
        "grpc-status",
        i32::from(answer.code).to_string().parse().unwrap(),
    );
    let reason = answer.reason.replace('%', "%25").replace('\n', "%0A");
    trailers.insert("grpc-message", reason.parse().unwrap());
    frames.push(Ok(Frame::trailers(trailers)));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync())
        .unwrap()
}

/// gRPC's frame: no compression, the length, the message.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

fn unframed(mut bytes: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while bytes.len() >= 5 {
        let header = bytes.split_to(5);
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        messages.push(bytes.split_to(length as usize));
    }
    messages
}
