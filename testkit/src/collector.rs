//! A collector of spans, as OpenTelemetry's: OTLP over gRPC, on loopback. One may hang, as a collector that is overloaded.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// How long a span may take to come before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span that came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenSpan {
    /// Its name.
    pub name: String,
    /// The trace it belongs to, as 32 digits.
    pub trace: String,
    /// Its own id, as 16 digits.
    pub id: String,
    /// The id of the span above it; empty for a root.
    pub parent: String,
    /// Its attributes as text, in the order they were sent.
    pub attributes: Vec<(String, String)>,
    /// Whether it is marked as failed.
    pub is_failed: bool,
}

impl SeenSpan {
    /// The value of an attribute, or nothing.
    #[must_use]
    pub fn attribute(&self, key: &str) -> &str {
        let mut attributes = self.attributes.iter();
        attributes
            .find(|(name, _)| name == key)
            .map_or("", |(_, value)| value)
    }
}

/// The running collector. Dropping it ends it.
#[derive(Debug)]
pub struct FakeCollector {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    spans: Mutex<Vec<SeenSpan>>,
    calls: AtomicUsize,
    hangs: bool,
    end: Notify,
}

impl FakeCollector {
    /// One that takes everything.
    ///
    /// # Panics
    /// Loopback has no free port.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(Shared::default())
    }

    /// One that accepts calls and never answers.
    ///
    /// # Panics
    /// Loopback has no free port.
    #[must_use]
    pub fn start_hanging() -> Self {
        Self::start_as(Shared {
            hangs: true,
            ..Shared::default()
        })
    }

    fn start_as(shared: Shared) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(shared);
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(listener, &own));
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// What to configure: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans that came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<SeenSpan> {
        self.shared.lock().clone()
    }

    /// How often it was called.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Waits for a span of which `is_it` is true.
    ///
    /// # Panics
    /// None comes.
    #[must_use]
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&SeenSpan) -> bool) -> SeenSpan {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans();
            if let Some(found) = spans.iter().find(|span| is_it(span)) {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "no span {what} among {spans:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.shared.end.notify_one();
        if let Some(thread) = self.thread.take() {
            // A collector that panicked has told so.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<SeenSpan>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let listener =
            tokio::net::TcpListener::from_std(listener).expect("the runtime takes the listener");
        let service = TraceServiceServer::new(Collecting(Arc::clone(shared)));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::select! {
            served = serving => served.expect("loopback can be served"),
            () = shared.end.notified() => {}
        }
    });
}

struct Collecting(Arc<Shared>);

#[tonic::async_trait]
impl TraceService for Collecting {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if self.0.hangs {
            std::future::pending::<()>().await;
        }
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans).map(seen);
        self.0.lock().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(span: Span) -> SeenSpan {
    /// OTLP's `STATUS_CODE_ERROR`.
    const FAILED: i32 = 2;
    let attributes = span.attributes.into_iter().map(|attribute| {
        let value = attribute.value.and_then(|value| value.value);
        (attribute.key, value.map(text).unwrap_or_default())
    });
    SeenSpan {
        name: span.name,
        trace: digits(&span.trace_id),
        id: digits(&span.span_id),
        parent: digits(&span.parent_span_id),
        attributes: attributes.collect(),
        is_failed: span.status.is_some_and(|status| status.code == FAILED),
    }
}

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => String::new(),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
