//! `orlop.v1.Containers`: containers made from images, and what containerd's services do not tell of them.

mod create;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use orlop_api::orlop::v1 as api;
use orlop_api::orlop::v1::containers_server::Containers;
use orlop_base::blocking;
use orlop_base::clock::SharedClock;
use orlop_image::images::Images;
use orlop_meta::Container;
use orlop_runtime::logs::{LogEntry, LogReader, LogStream};
use orlop_runtime::{NETWORK_LABEL, Runtime};
use orlop_types::exit::ExitRecord;
use orlop_types::{ContainerId, Namespace};
use tonic::{Request, Response, Status};

use crate::containers;
use crate::ending;
use crate::figures::{self, Sampler};
use crate::request::{self, Caller};
use crate::status;
use crate::store::Store;
use crate::tasks;
use crate::translate::{parse, timestamp};

/// How often a followed log is looked at.
const LOG_PAUSE: Duration = Duration::from_millis(100);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Observes containers of the caller's namespace.
pub(crate) struct WorkloadsService {
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    pub(crate) images: Images,
    pub(crate) clock: SharedClock,
}

#[tonic::async_trait]
impl Containers for WorkloadsService {
    async fn create(
        &self,
        request: Request<api::CreateRequest>,
    ) -> Result<Response<api::CreateResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let created = create::create(&self.images, &self.runtime, caller, wanted).await?;
        Ok(Response::new(created))
    }

    type LogsStream = Answers<api::LogEntry>;

    async fn logs(
        &self,
        request: Request<api::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let since = wanted.since.map(SystemTime::try_from).transpose();
        let since = since.map_err(|error| status::invalid(&error))?;
        let (id, namespace) = (parse(&wanted.id)?, caller.namespace.clone());
        let container = self.record(caller, &id).await?;
        let path = Runtime::log_path(&container).ok_or_else(|| {
            status::failed_precondition(format!(
                "container {id} keeps no log: its streams are its client's"
            ))
        })?;
        let reader = open_log(path.to_owned(), wanted.tail).await?;
        let log = Log {
            reader: Some(reader),
            entries: VecDeque::new(),
            since,
            follow: wanted.follow,
            runtime: self.runtime.clone(),
            clock: self.clock.clone(),
            of: (namespace, id),
        };
        let entries = stream::try_unfold(log, |mut log| async move {
            let next = log.next().await?;
            Ok(next.map(|entry| (entry_message(entry), log)))
        });
        Ok(Response::new(Box::pin(entries)))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectRequest>,
    ) -> Result<Response<api::InspectResponse>, Status> {
        let (caller, wanted) = request::open(request)?;
        let namespace = caller.namespace.clone();
        let id: ContainerId = parse(&wanted.id)?;
        let container = self.record(caller, &id).await?;
        let log_path = Runtime::log_path(&container)
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let last = Runtime::last_task(&container);
        let network = network(&container);
        let mut answer = api::InspectResponse {
            container: Some(containers::message(container)),
            log_path,
            network,
            ..api::InspectResponse::default()
        };
        // A container without a task, and a shim that does not answer, leave their fields empty.
        if let Ok(state) = self.runtime.state(&namespace, &id, None).await {
            answer.exit = state
                .exit
                .clone()
                .map(|exit| ending::exit(state.pid, &exit));
            if state.exit.is_none() {
                let path = self.runtime.cgroup_path(state.pid).await;
                answer.cgroup_path = path.unwrap_or_default();
            }
            answer.task = Some(tasks::message(state));
            let transitions = self
                .runtime
                .transitions(&namespace, &id)
                .unwrap_or_default();
            answer.transitions = transitions.iter().map(ending::transition).collect();
            answer.shim_pid = self.runtime.shim_pid(&namespace, &id).await.unwrap_or(0);
            self.add_addresses(&namespace, &id, &mut answer.network);
        } else if let Some(last) = last {
            let pid = |record: &ExitRecord| u32::try_from(record.pid).unwrap_or(0);
            answer.exit = last
                .exit
                .map(|exit| ending::exit(exit.record.as_ref().map_or(0, pid), &exit));
            answer.transitions = last.transitions.iter().map(ending::transition).collect();
        }
        Ok(Response::new(answer))
    }

    type StatsStream = Answers<api::StatsResponse>;

    async fn stats(
        &self,
        request: Request<api::StatsRequest>,
    ) -> Result<Response<Self::StatsStream>, Status> {
        let (caller, wanted) = request::open(request)?;
        let sampler = Sampler {
            runtime: self.runtime.clone(),
            clock: self.clock.clone(),
            namespace: caller.namespace,
        };
        let samples = figures::samples(sampler, wanted)?;
        Ok(Response::new(Box::pin(samples)))
    }
}

impl WorkloadsService {
    /// What a running task with a network of its own has been given.
    fn add_addresses(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        network: &mut Option<api::ContainerNetwork>,
    ) {
        let (Ok(Some((path, addresses))), Some(network)) =
            (self.runtime.network(namespace, id), network)
        else {
            return;
        };
        network.namespace_path = path.to_string_lossy().into_owned();
        network.addresses = addresses;
    }

    async fn record(&self, caller: Caller, id: &ContainerId) -> Result<Container, Status> {
        let id = id.clone();
        self.store
            .run(caller, move |view| view.containers().find(&id))
            .await
    }
}

/// Where a container's network comes from; `None` for containers of other clients.
fn network(container: &Container) -> Option<api::ContainerNetwork> {
    let mode = match container.labels.value(NETWORK_LABEL)? {
        "host" => api::Network::Host,
        "none" => api::Network::None,
        "cni" => api::Network::Cni,
        _ => api::Network::Unspecified,
    };
    Some(api::ContainerNetwork {
        mode: mode.into(),
        ..api::ContainerNetwork::default()
    })
}

/// A log being read.
struct Log {
    /// Absent while a job has it.
    reader: Option<LogReader>,
    entries: VecDeque<LogEntry>,
    since: Option<SystemTime>,
    follow: bool,
    runtime: Runtime,
    clock: SharedClock,
    of: (Namespace, ContainerId),
}

impl Log {
    async fn next(&mut self) -> Result<Option<LogEntry>, Status> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Some(entry));
            }
            // Asked before reading: what is written before the end is read before the stream ends.
            let goes_on = self.follow && self.is_running().await;
            if self.read().await? {
                continue;
            }
            if !goes_on {
                return Ok(None);
            }
            self.clock.sleep(LOG_PAUSE).await;
        }
    }

    /// Reads what is there; whether there was anything.
    async fn read(&mut self) -> Result<bool, Status> {
        let Some(mut reader) = self.reader.take() else {
            return Ok(false);
        };
        let job = move || {
            let read = reader.read();
            (reader, read)
        };
        let (reader, read) = blocking::run("read log", job)
            .await
            .map_err(|error| status::of_blocking(&error))?;
        self.reader = Some(reader);
        let read = read.map_err(|error| status::unreadable("the log", &error))?;
        let found = !read.is_empty();
        let since = self.since;
        let kept = read.into_iter();
        self.entries
            .extend(kept.filter(|entry| since.is_none_or(|since| entry.time >= since)));
        Ok(found)
    }

    async fn is_running(&self) -> bool {
        let (namespace, container) = &self.of;
        let state = self.runtime.state(namespace, container, None).await;
        state.is_ok_and(|state| state.exit.is_none())
    }
}

async fn open_log(path: PathBuf, tail: Option<u64>) -> Result<LogReader, Status> {
    blocking::run("open log", move || LogReader::open(&path, tail))
        .await
        .map_err(|error| status::of_blocking(&error))?
        .map_err(|error| status::unreadable("the log", &error))
}

fn entry_message(entry: LogEntry) -> api::LogEntry {
    let stream = match entry.stream {
        LogStream::Stdout => api::LogStream::Stdout,
        LogStream::Stderr => api::LogStream::Stderr,
    };
    api::LogEntry {
        time: Some(timestamp(entry.time)),
        stream: stream.into(),
        data: entry.data.into(),
        partial: entry.partial,
    }
}
