//! The client: what all operations share, and one authorised exchange.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use orlop_base::retry::{Jitter, RetryPolicy};
use orlop_types::Reference;
use reqwest::Response;

use crate::auth::{Authorizer, NoCredentials, Scope, SharedCredentials};
use crate::error::{Error, Failure, FailureKind, Operation};
use crate::fetch::{Distrust, FetchOptions, HostMemory, MemoryBudget};
use crate::hosts::{Capabilities, Endpoint, HostTree};
use crate::observe::{NoObserver, Observer};
use crate::proxy::Proxies;
use crate::transport::{Ask, Deadlines, Transport, failure_of_status};

/// The longest wait for a connection without `dial_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a client is made with.
#[derive(Clone)]
pub struct ClientOptions {
    /// Mirrors, certificates and capabilities.
    pub hosts: HostTree,
    /// Where credentials come from unless a pull brings its own.
    pub credentials: SharedCredentials,
    /// Bytes of blobs in memory, for the whole daemon.
    pub budget: MemoryBudget,
    /// How blobs are fetched.
    pub fetch: FetchOptions,
    /// How often and how long apart a host is asked again.
    pub retry: RetryPolicy,
    /// Watches transfers.
    pub observer: Arc<dyn Observer>,
    /// Which requests go through a proxy: what the environment says, as a rule.
    pub proxies: Proxies,
    /// Sent with every request.
    pub user_agent: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            hosts: HostTree::default(),
            credentials: Arc::new(NoCredentials),
            budget: MemoryBudget::default(),
            fetch: FetchOptions::default(),
            retry: RetryPolicy::default(),
            observer: Arc::new(NoObserver),
            proxies: Proxies::from_environment(),
            user_agent: concat!("orlop/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A registry client. Clones share connections, tokens, budget and what was learnt about hosts.
#[derive(Clone)]
pub struct Client {
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) authorizer: Authorizer,
    pub(crate) memory: HostMemory,
    pub(crate) distrust: Distrust,
}

impl Client {
    /// A client with nothing cached yet. No connection is made.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        let deadlines = Deadlines {
            connect: CONNECT_TIMEOUT.min(options.fetch.no_progress),
            no_progress: options.fetch.no_progress,
        };
        let shared = Shared {
            transport: Transport::new(
                deadlines,
                options.proxies.clone(),
                options.user_agent.clone(),
            ),
            authorizer: Authorizer::default(),
            memory: HostMemory::new(&options.fetch),
            distrust: Distrust::default(),
        };
        Self {
            options: Arc::new(options),
            shared: Arc::new(shared),
        }
    }

    /// The same client with other credentials. Tokens are kept by credential, so nobody gets another's.
    #[must_use]
    pub fn with_credentials(&self, credentials: SharedCredentials) -> Self {
        self.with_options(|options| options.credentials = credentials)
    }

    /// The same client with another observer.
    #[must_use]
    pub fn with_observer(&self, observer: Arc<dyn Observer>) -> Self {
        self.with_options(|options| options.observer = observer)
    }

    /// The same client with other host configuration, as a client gives it with a pull.
    #[must_use]
    pub fn with_hosts(&self, hosts: HostTree) -> Self {
        self.with_options(|options| options.hosts = hosts)
    }

    /// The same client, which asks a host so often and so long apart.
    #[must_use]
    pub fn with_retry_policy(&self, retry: RetryPolicy) -> Self {
        self.with_options(|options| options.retry = retry)
    }

    /// The configuration of hosts.
    #[must_use]
    pub fn hosts(&self) -> &HostTree {
        &self.options.hosts
    }

    fn with_options(&self, change: impl FnOnce(&mut ClientOptions)) -> Self {
        let mut options = ClientOptions::clone(&self.options);
        change(&mut options);
        Self {
            options: Arc::new(options),
            shared: Arc::clone(&self.shared),
        }
    }

    /// The hosts that may do what `wanted` picks, in the order they are to be asked.
    pub(crate) async fn endpoints(
        &self,
        operation: Operation,
        reference: &Reference,
        wanted: fn(Capabilities) -> bool,
    ) -> Result<Vec<Endpoint>, Error> {
        let hosts = self.options.hosts.clone();
        let registry = reference.registry().to_owned();
        let endpoints =
            orlop_base::blocking::run("registry-hosts", move || hosts.endpoints(&registry))
                .await
                .map_err(|error| {
                    let failure = Failure::new(
                        reference.registry(),
                        FailureKind::Configuration,
                        error.to_string(),
                    );
                    Error::new(operation, reference, vec![failure])
                })?
                .map_err(|error| Error::configuration(operation, reference, error))?;
        Ok(endpoints
            .into_iter()
            .filter(|endpoint| wanted(endpoint.capabilities))
            .collect())
    }

    /// One host's view of one repository.
    pub(crate) fn door(&self, endpoint: &Endpoint, reference: &Reference) -> Door {
        Door {
            client: self.clone(),
            endpoint: endpoint.clone(),
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
        }
    }
}

/// A repository at one endpoint.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) client: Client,
    pub(crate) endpoint: Endpoint,
    registry: String,
    repository: String,
}

impl Door {
    pub(crate) fn host(&self) -> &str {
        &self.endpoint.authority
    }

    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    pub(crate) fn failure(&self, kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure::new(self.host(), kind, detail)
    }

    /// The URL of `rest` in this repository. A mirror is told which registry is meant, as containerd does.
    pub(crate) fn url(&self, rest: &str) -> Result<reqwest::Url, Failure> {
        let transport = &self.client.shared.transport;
        let mut url = transport.url(&self.endpoint, &format!("{}/{rest}", self.repository))?;
        if !self.endpoint.is_upstream {
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        Ok(url)
    }

    /// Sends a request with whatever authorisation the host wants. Any status but an answerable 401 is an answer.
    pub(crate) async fn send(&self, ask: Ask, scope: &Scope) -> Result<Response, Failure> {
        let shared = &self.client.shared;
        let source = self.client.options.credentials.as_ref();
        // A host may change its challenge, or refuse a token it gave: twice is enough to follow it.
        for may_ask_again in [true, true, false] {
            let authorization = shared
                .authorizer
                .authorization(&shared.transport, &self.endpoint, source, scope)
                .await?;
            let mut authorised = ask.clone();
            if let Some(mut value) = authorization
                .as_deref()
                .and_then(|text| HeaderValue::from_str(text).ok())
            {
                value.set_sensitive(true);
                authorised.headers.insert(AUTHORIZATION, value);
            }
            let response = shared.transport.send(&self.endpoint, &authorised).await?;
            let is_refused = response.status() == StatusCode::UNAUTHORIZED;
            if is_refused && may_ask_again {
                let headers = response.headers();
                if shared
                    .authorizer
                    .refused(&self.endpoint, headers, authorization.as_deref())
                {
                    continue;
                }
            }
            return Ok(response);
        }
        Err(self.failure(
            FailureKind::Unauthorized,
            "the host's challenge changes with every request",
        ))
    }

    /// Like [`Self::send`], but any status other than success is a failure.
    pub(crate) async fn send_ok(&self, ask: Ask, scope: &Scope) -> Result<Response, Failure> {
        let response = self.send(ask, scope).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.failed(response).await)
    }

    pub(crate) async fn failed(&self, response: Response) -> Failure {
        failure_of_status(
            self.host(),
            response,
            self.client.shared.transport.no_progress(),
        )
        .await
    }

    /// Runs `attempt` until it succeeds, cannot be helped by waiting, or the policy is spent.
    pub(crate) async fn with_retry<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut jitter = Jitter::from_entropy();
        let mut failures = 0;
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            failures += 1;
            let wait = failure
                .kind
                .is_retryable()
                .then(|| {
                    self.client.options.retry.delay(
                        failures,
                        failure.kind.retry_after(),
                        &mut jitter,
                    )
                })
                .flatten();
            let Some(wait) = wait else {
                return Err(failure);
            };
            tracing::debug!(host = self.host(), error = %failure, ?wait, "asking again");
            tokio::time::sleep(wait).await;
        }
    }
}
