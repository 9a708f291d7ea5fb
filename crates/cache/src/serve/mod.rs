//! The server: the read side of the OCI distribution API over HTTP/1.1, for containerd, CRI-O, Docker and Orlop.
//!
//! Crash: nothing is kept here; what the store has is served again. Cancellation: a client that goes ends its answer and
//! nothing else. Ordering: a request is written into the ledger when its answer has gone, cut ones too.
//!
//! Bounded: connections, answers of one client, the length and the time of a head, and what a connection holds of a body
//! (one piece). A client that reads nothing for a while is cut.

mod answer;
mod blobs;
mod body;
mod buffers;
mod clients;
mod connection;
mod document;
mod figures;
mod freshness;
mod lists;
mod manifests;
mod receipt;
mod shelf;
mod status;
mod tls;
mod turns;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, Method, Request};
use orlop_base::clock::SharedClock;

pub use self::buffers::{Buffer, Buffers};
pub use self::connection::{Limits, Server};
pub use self::figures::Figures;
pub use self::freshness::{TagPolicy, TagRule, TagTimes};
pub use self::status::Status;
pub use self::tls::{Tls, TlsProblem};

use self::answer::{Answer, No, set};
use self::body::AnswerBody;
use self::clients::Clients;
use self::lists::Pages;
use self::receipt::{Desk, Receipt};
use self::shelf::Shelf;
use self::turns::Turns;
use crate::fill::Fills;
use crate::ledger::LedgerSender;
use crate::origin::Origins;
use crate::rights::{Caller, Doorkeeper};
use crate::route::{Asked, Naming, Route, Subject};
use crate::store::Store;

/// How requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long tags are believed.
    pub tags: TagPolicy,
    /// How long pages of tags and referrers are served while the upstream cannot say.
    pub lists_stale: Duration,
    /// How long a right that the upstream has shown is believed.
    pub grants_for: Duration,
    /// An answer begins within this time or is refused: containerd gives a mirror 30 s.
    pub headers_within: Duration,
    /// Answers under way for one address; 0 for any number.
    pub answers_per_client_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tags: TagPolicy::default(),
            lists_stale: Duration::from_secs(3600),
            grants_for: Duration::from_secs(3600),
            headers_within: Duration::from_secs(25),
            answers_per_client_max: 256,
        }
    }
}

/// What a server is made of.
pub struct Making {
    /// Which registries.
    pub naming: Naming,
    /// Who is let in.
    pub doorkeeper: Doorkeeper,
    /// Upstream.
    pub origins: Origins,
    /// Fills.
    pub fills: Fills,
    /// What is kept.
    pub store: Store,
    /// Where requests are written down.
    pub ledger: Option<LedgerSender>,
    /// What is counted.
    pub figures: Arc<Figures>,
    /// The time.
    pub clock: SharedClock,
    /// How requests are answered.
    pub options: Options,
}

/// What all requests share.
pub(crate) struct Parts {
    naming: Naming,
    doorkeeper: Arc<Doorkeeper>,
    origins: Origins,
    fills: Fills,
    shelf: Shelf,
    desk: Desk,
    clock: SharedClock,
    options: Options,
    clients: Clients,
    pages: Pages,
    turns: Turns,
    buffers: Buffers,
}

/// One request, after its sender was let in.
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
    caller: Caller,
}

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The name in its certificate.
    pub(crate) certificate: Option<String>,
}

impl Parts {
    pub(crate) fn new(making: Making) -> Self {
        let options = making.options;
        Self {
            naming: making.naming,
            doorkeeper: Arc::new(making.doorkeeper),
            origins: making.origins,
            fills: making.fills,
            shelf: Shelf::new(making.store, options.grants_for, Arc::clone(&making.clock)),
            desk: Desk {
                ledger: making.ledger,
                figures: making.figures,
                clock: Arc::clone(&making.clock),
            },
            clock: making.clock,
            clients: Clients::new(options.answers_per_client_max),
            pages: Pages::new(options.lists_stale),
            turns: Turns::default(),
            buffers: Buffers::default(),
            options,
        }
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.desk.figures
    }

    /// Answers one request.
    pub(crate) async fn answer<B>(&self, request: Request<B>, peer: &Peer) -> Answer {
        let is_head = request.method() == Method::HEAD;
        let answer = match self.admitted(request, peer).await {
            Ok(answer) => answer,
            Err(no) => no.into_answer(is_head),
        };
        self.desk.figures.answer(answer.status().as_u16());
        answer
    }

    /// What a client is asked for when its own credential did not do upstream.
    fn upstream_challenge(&self) -> Option<&'static str> {
        self.doorkeeper.upstream_challenge()
    }

    async fn admitted<B>(&self, request: Request<B>, peer: &Peer) -> Result<Answer, No> {
        let (head, _body) = request.into_parts();
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(No::wrong_method());
        }
        let path = head.uri.path();
        if path == "/healthz" {
            return Ok(small("ok\n"));
        }
        let authorization = text(&head.headers, "authorization");
        let caller = self.caller(authorization, peer).await?;
        let route = self.naming.route(path, head.uri.query());
        let ask = Ask {
            method: head.method,
            path: path.to_owned(),
            headers: head.headers,
            caller,
        };
        match route.map_err(|error| No::of_route(&error))? {
            Route::Base => self.base(&ask),
            Route::Of(asked) => self.of_repository(&ask, &asked, peer).await,
        }
    }

    async fn caller(&self, authorization: Option<String>, peer: &Peer) -> Result<Caller, No> {
        let (doorkeeper, certificate) = (Arc::clone(&self.doorkeeper), peer.certificate.clone());
        let now = self.clock.boottime();
        let admit = move || doorkeeper.admit(authorization.as_deref(), certificate.as_deref(), now);
        let admitted = if self.doorkeeper.may_take_long() {
            let admitted = orlop_base::blocking::run("cache-admit", admit).await;
            admitted.map_err(|error| No::of_store(&error))?
        } else {
            admit()
        };
        let challenge = self.doorkeeper.challenge();
        let mut caller = admitted.map_err(|refusal| No::of_refusal(refusal, challenge))?;
        if caller.name.is_empty() {
            caller.name = peer.address.to_string();
        }
        Ok(caller)
    }

    /// `/v2/`: Docker learns here whether it has to send a credential.
    fn base(&self, ask: &Ask) -> Result<Answer, No> {
        if ask.header("authorization").is_none()
            && let Some(challenge) = self.doorkeeper.upstream_challenge()
        {
            let refusal = crate::rights::Refusal::Nothing;
            return Err(No::of_refusal(refusal, Some(challenge)));
        }
        let mut answer = small("{}");
        set(answer.headers_mut(), "content-type", "application/json");
        set(
            answer.headers_mut(),
            "docker-distribution-api-version",
            "registry/2.0",
        );
        if ask.is_head() {
            *answer.body_mut() = AnswerBody::empty();
        }
        Ok(answer)
    }

    async fn of_repository(&self, ask: &Ask, asked: &Asked, peer: &Peer) -> Result<Answer, No> {
        let mut receipt = self
            .desk
            .begin(asked, ask.caller.name.clone(), ask.is_head());
        let Some(place) = self.clients.place(peer.address) else {
            let no = No::busy("this client has as many answers under way as it may have");
            receipt.end(no.outcome);
            return Err(no);
        };
        receipt.hold(place);
        let answered = self.subject(ask, asked, &mut receipt).await;
        let mut answer = answered.unwrap_or_else(|no| {
            receipt.end(no.outcome);
            no.into_answer(ask.is_head())
        });
        set(
            answer.headers_mut(),
            "oci-namespace",
            asked.reference.registry(),
        );
        Ok(answer.map(|body| body.with_receipt(receipt)))
    }

    async fn subject(&self, ask: &Ask, asked: &Asked, receipt: &mut Receipt) -> Result<Answer, No> {
        let reference = &asked.reference;
        match &asked.subject {
            Subject::Tag => manifests::by_tag(self, ask, reference, receipt).await,
            Subject::Manifest(digest) => {
                manifests::by_digest(self, ask, (reference, digest), receipt).await
            }
            Subject::Blob(digest) => blobs::answer(self, ask, (reference, digest), receipt).await,
            Subject::Tags(query) => lists::tags(self, ask, (reference, query)).await,
            Subject::Referrers(digest, query) => {
                lists::referrers(self, ask, reference, (digest, query)).await
            }
        }
    }
}

impl Ask {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    // What is no text is still something that was shown.
    let value = headers.get(name)?;
    Some(value.to_str().unwrap_or("unreadable").to_owned())
}

fn small(text: &'static str) -> Answer {
    hyper::Response::new(AnswerBody::bytes(text))
}
