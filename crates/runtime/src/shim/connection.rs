//! The task protocol over a connection to one shim, in either of its versions.
//!
//! The messages of versions 2 and 3 are the same on the wire; only the service's name differs. Every call but Wait has a
//! deadline: a shim that hangs must not hang its callers.

use std::time::{Duration, SystemTime};

use orlop_api::containerd::task::{v2, v3};
use orlop_api::{Any, Message, Timestamp};
use orlop_ttrpc::client::{Client, ClientError};
use v3::task_service::Method;

/// How long a shim may take for what involves the OCI runtime.
const RUNTIME_LIMIT: Duration = Duration::from_secs(60);

/// How long a shim may take for what it knows by itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What our shim serves beside the task protocol.
const OWN_SERVICE: &str = "orlop.shim.v1.Shim";

/// The version of the task protocol that a shim speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `containerd.task.v2`.
    V2,
    /// `containerd.task.v3`.
    V3,
}

impl Protocol {
    /// The version as a shim's bootstrap answer numbers it.
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }

    const fn service(self) -> &'static str {
        match self {
            Self::V2 => v2::task_service::SERVICE,
            Self::V3 => v3::task_service::SERVICE,
        }
    }
}

/// One shim, for one container. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    client: Client,
    protocol: Protocol,
    container: String,
}

/// How a process ended, as a shim tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    pub(crate) exit_status: u32,
    pub(crate) at: SystemTime,
}

impl Shim {
    pub(crate) fn new(client: Client, protocol: Protocol, container: &str) -> Self {
        Self {
            client,
            protocol,
            container: container.to_owned(),
        }
    }

    /// Waits until the connection has ended.
    pub(crate) async fn closed(&self) {
        self.client.closed().await;
    }

    /// Whether the connection has ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed()
    }

    pub(crate) async fn create(&self, request: &v3::CreateTaskRequest) -> Result<u32, ClientError> {
        let answer: v3::CreateTaskResponse =
            self.call(Method::Create, request, RUNTIME_LIMIT).await?;
        Ok(answer.pid)
    }

    /// Starts the init process, or a further one.
    pub(crate) async fn start(&self, exec: &str) -> Result<u32, ClientError> {
        let request = v3::StartRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
        };
        let answer: v3::StartResponse = self.call(Method::Start, &request, RUNTIME_LIMIT).await?;
        Ok(answer.pid)
    }

    pub(crate) async fn delete(&self, exec: &str) -> Result<Ended, ClientError> {
        let request = v3::DeleteRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
        };
        let answer: v3::DeleteResponse = self.call(Method::Delete, &request, RUNTIME_LIMIT).await?;
        Ok(Ended {
            pid: answer.pid,
            exit_status: answer.exit_status,
            at: time(answer.exited_at),
        })
    }

    /// Waits for a process to end. No deadline: ends with the process, the shim, or the caller.
    pub(crate) async fn wait(&self, exec: &str) -> Result<Ended, ClientError> {
        let request = v3::WaitRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
        };
        let payload = self.send(Method::Wait, &request, None).await?;
        let answer: v3::WaitResponse = decode(Method::Wait, &payload)?;
        Ok(Ended {
            pid: 0,
            exit_status: answer.exit_status,
            at: time(answer.exited_at),
        })
    }

    pub(crate) async fn state(&self, exec: &str) -> Result<v3::StateResponse, ClientError> {
        let request = v3::StateRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
        };
        self.call(Method::State, &request, ANSWER_LIMIT).await
    }

    pub(crate) async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<(), ClientError> {
        let request = v3::KillRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
        };
        self.done(Method::Kill, &request, RUNTIME_LIMIT).await
    }

    pub(crate) async fn exec(&self, request: &v3::ExecProcessRequest) -> Result<(), ClientError> {
        self.done(Method::Exec, request, RUNTIME_LIMIT).await
    }

    pub(crate) async fn resize(
        &self,
        exec: &str,
        width: u32,
        height: u32,
    ) -> Result<(), ClientError> {
        let request = v3::ResizePtyRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
            width,
            height,
        };
        self.done(Method::ResizePty, &request, ANSWER_LIMIT).await
    }

    pub(crate) async fn close_stdin(&self, exec: &str) -> Result<(), ClientError> {
        let request = v3::CloseIoRequest {
            id: self.container.clone(),
            exec_id: exec.to_owned(),
            stdin: true,
        };
        self.done(Method::CloseIO, &request, ANSWER_LIMIT).await
    }

    pub(crate) async fn pause(&self) -> Result<(), ClientError> {
        self.done(
            Method::Pause,
            &v3::PauseRequest {
                id: self.container.clone(),
            },
            RUNTIME_LIMIT,
        )
        .await
    }

    pub(crate) async fn resume(&self) -> Result<(), ClientError> {
        self.done(
            Method::Resume,
            &v3::ResumeRequest {
                id: self.container.clone(),
            },
            RUNTIME_LIMIT,
        )
        .await
    }

    pub(crate) async fn pids(&self) -> Result<v3::PidsResponse, ClientError> {
        self.call(
            Method::Pids,
            &v3::PidsRequest {
                id: self.container.clone(),
            },
            RUNTIME_LIMIT,
        )
        .await
    }

    pub(crate) async fn update(&self, resources: Any) -> Result<(), ClientError> {
        let request = v3::UpdateTaskRequest {
            id: self.container.clone(),
            resources: Some(resources),
            ..Default::default()
        };
        self.done(Method::Update, &request, RUNTIME_LIMIT).await
    }

    pub(crate) async fn checkpoint(
        &self,
        path: &str,
        options: Option<Any>,
    ) -> Result<(), ClientError> {
        let request = v3::CheckpointTaskRequest {
            id: self.container.clone(),
            path: path.to_owned(),
            options,
        };
        self.done(Method::Checkpoint, &request, RUNTIME_LIMIT).await
    }

    pub(crate) async fn stats(&self) -> Result<Option<Any>, ClientError> {
        let request = v3::StatsRequest {
            id: self.container.clone(),
        };
        let answer: v3::StatsResponse = self.call(Method::Stats, &request, ANSWER_LIMIT).await?;
        Ok(answer.stats)
    }

    /// Makes the init process's log go on in a new file. Of our own shim only: containerd's protocol has no word for it.
    pub(crate) async fn reopen_log(&self) -> Result<(), ClientError> {
        let request = v3::StateRequest {
            id: self.container.clone(),
            exec_id: String::new(),
        };
        self.client
            .call(
                OWN_SERVICE,
                "ReopenLog",
                request.encode_to_vec(),
                Some(ANSWER_LIMIT),
                Vec::new(),
            )
            .await
            .map(drop)
    }

    /// The shim's own process id.
    pub(crate) async fn shim_pid(&self) -> Result<u32, ClientError> {
        let request = v3::ConnectRequest {
            id: self.container.clone(),
        };
        let answer: v3::ConnectResponse =
            self.call(Method::Connect, &request, ANSWER_LIMIT).await?;
        Ok(answer.shim_pid)
    }

    /// Asks the shim to end if it has no containers left. A connection that closes instead of an answer is success.
    pub(crate) async fn shutdown(&self) -> Result<(), ClientError> {
        let request = v3::ShutdownRequest {
            id: self.container.clone(),
            now: false,
        };
        match self.done(Method::Shutdown, &request, ANSWER_LIMIT).await {
            Err(error) if error.is_connection_lost() => Ok(()),
            answer => answer,
        }
    }

    async fn done(
        &self,
        method: Method,
        request: &impl Message,
        limit: Duration,
    ) -> Result<(), ClientError> {
        self.send(method, request, Some(limit)).await.map(drop)
    }

    async fn call<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        limit: Duration,
    ) -> Result<A, ClientError> {
        decode(method, &self.send(method, request, Some(limit)).await?)
    }

    async fn send(
        &self,
        method: Method,
        request: &impl Message,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, ClientError> {
        let service = self.protocol.service();
        self.client
            .call(
                service,
                method.name(),
                request.encode_to_vec(),
                limit,
                Vec::new(),
            )
            .await
    }
}

/// An answer that does not decode is the peer's refusal in other words.
fn decode<A: Message + Default>(method: Method, payload: &[u8]) -> Result<A, ClientError> {
    A::decode(payload).map_err(|error| ClientError::Remote {
        service: "containerd.task".to_owned(),
        method: method.name().to_owned(),
        status: orlop_ttrpc::Status::new(
            orlop_ttrpc::Code::Internal,
            format!("the answer cannot be decoded: {error}"),
        ),
    })
}

fn time(stamp: Option<Timestamp>) -> SystemTime {
    stamp
        .and_then(|stamp| stamp.try_into().ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
