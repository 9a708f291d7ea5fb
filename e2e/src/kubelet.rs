//! What the kubelet asks of a container runtime, in its own words (CRI), and what is left of its pods.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use orlop_api::runtime::v1::image_service_client::ImageServiceClient;
use orlop_api::runtime::v1::runtime_service_client::RuntimeServiceClient;
use orlop_api::runtime::v1::{
    Container, ContainerConfig, ContainerEventResponse, ContainerFilter, ContainerMetadata,
    ContainerStatus, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest,
    ExecSyncResponse, GetEventsRequest, ImageSpec, LinuxContainerConfig, LinuxPodSandboxConfig,
    ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, PodSandboxStatus, PodSandboxStatusRequest, PullImageRequest,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use tonic::{Response, Status, Streaming};

use crate::client::Service;
use crate::{Client, Scratch};

/// Where pods' network namespaces are pinned, so that `ip netns` finds them.
const NETWORK_NAMESPACES: &str = "/run/netns";

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long any call may take, on a machine that is busy with builds.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A client that keeps the pods it made in mind. Connects for each call: the daemon may have been killed in between.
#[derive(Debug)]
pub struct Kubelet {
    runtime: tokio::runtime::Runtime,
    socket: PathBuf,
    /// The cgroup above its pods: the scratch folder's, whose end takes it away.
    cgroup: String,
    logs: PathBuf,
    pods: RefCell<Vec<Pod>>,
}

/// A pod that was made here.
#[derive(Debug)]
struct Pod {
    id: String,
    is_removed: bool,
}

impl Kubelet {
    /// A client of the daemon that listens at `socket`, also after it was started anew.
    ///
    /// # Errors
    /// The folder for logs cannot be made.
    pub fn new(scratch: &Scratch, socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        Ok(Self {
            runtime,
            socket: socket.to_owned(),
            cgroup: format!("/{}", scratch.name()),
            logs: scratch.folder("pod-logs")?,
            pods: RefCell::default(),
        })
    }

    /// Where logs of a pod's containers lie.
    #[must_use]
    pub fn log_folder(&self, pod: &str) -> PathBuf {
        self.logs.join(pod)
    }

    /// A pod of this name in the namespace "e2e", to be changed and run.
    #[must_use]
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.log_folder(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// Makes a pod and gives its id.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let made = self.call(async |mut client| client.run_pod_sandbox(request).await)?;
        self.pods.borrow_mut().push(Pod {
            id: made.pod_sandbox_id.clone(),
            is_removed: false,
        });
        Ok(made.pod_sandbox_id)
    }

    /// What is known of a pod.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn pod(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.call(async |mut client| client.pod_sandbox_status(request).await)?;
        answer.status.ok_or_else(|| Status::internal("no status"))
    }

    /// Stops a pod with its containers, as the kubelet does before it removes it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        let request = StopPodSandboxRequest { pod_sandbox_id };
        self.call(async |mut client| client.stop_pod_sandbox(request).await)?;
        Ok(())
    }

    /// Removes a pod with its containers.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        self.call(async |mut client| client.remove_pod_sandbox(request).await)?;
        let mut pods = self.pods.borrow_mut();
        for pod in pods.iter_mut().filter(|pod| pod.id == id) {
            pod.is_removed = true;
        }
        Ok(())
    }

    /// Stops and removes a pod, as the kubelet takes one away.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn take_away(&self, id: &str) -> Result<(), Status> {
        self.stop_pod(id)?;
        self.remove_pod(id)
    }

    /// The pods that a filter keeps.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest { filter };
        let listed = self.call(async |mut client| client.list_pod_sandbox(request).await)?;
        Ok(listed.items)
    }

    /// The containers that a filter keeps.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
        let request = ListContainersRequest { filter };
        let listed = self.call(async |mut client| client.list_containers(request).await)?;
        Ok(listed.containers)
    }

    /// All that a stream of the runtime service sends.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn collect<T>(
        &self,
        work: impl AsyncFnOnce(RuntimeServiceClient<Service>) -> Result<Response<Streaming<T>>, Status>,
    ) -> Result<Vec<T>, Status> {
        self.runtime.block_on(async {
            let client = self.client().await?;
            drain(work(client.cri_runtime()).await?.into_inner()).await
        })
    }

    /// All that a stream of the image service sends.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn collect_images<T>(
        &self,
        work: impl AsyncFnOnce(ImageServiceClient<Service>) -> Result<Response<Streaming<T>>, Status>,
    ) -> Result<Vec<T>, Status> {
        self.runtime.block_on(async {
            let client = self.client().await?;
            drain(work(client.cri_images()).await?.into_inner()).await
        })
    }

    /// Follows events of containers while `work` is done, and some time longer until `is_last` came.
    ///
    /// # Errors
    /// What the daemon answers, or the last one does not come.
    pub fn follow(
        &self,
        work: impl AsyncFnOnce(),
        is_last: impl Fn(&ContainerEventResponse) -> bool,
    ) -> Result<Vec<ContainerEventResponse>, Status> {
        self.runtime.block_on(async {
            let mut client = self.client().await?.cri_runtime();
            let mut stream = client
                .get_container_events(GetEventsRequest {})
                .await?
                .into_inner();
            work().await;
            let mut all = Vec::new();
            let late = || Status::deadline_exceeded("the last event does not come");
            while !all.last().is_some_and(&is_last) {
                let next = tokio::time::timeout(PATIENCE, stream.message()).await;
                all.extend(next.map_err(|_elapsed| late())??);
            }
            Ok(all)
        })
    }

    /// Makes a container and gives its id.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn create(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let made = self.call(async |mut client| client.create_container(request).await)?;
        Ok(made.container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn start(&self, container: &str) -> Result<(), Status> {
        let container_id = container.to_owned();
        let request = StartContainerRequest { container_id };
        self.call(async |mut client| client.start_container(request).await)?;
        Ok(())
    }

    /// Makes and starts a container; its id.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod, config, pod_config)?;
        self.start(&id)?;
        Ok(id)
    }

    /// What is known of a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.call(async |mut client| client.container_status(request).await)?;
        answer.status.ok_or_else(|| Status::internal("no status"))
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: words(command),
            timeout: 20,
        };
        self.call(async |mut client| client.exec_sync(request).await)
    }

    /// Stops a container, with so many seconds to end by itself.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn stop(&self, container: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout,
        };
        self.call(async |mut client| client.stop_container(request).await)?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn remove(&self, container: &str) -> Result<(), Status> {
        let container_id = container.to_owned();
        let request = RemoveContainerRequest { container_id };
        self.call(async |mut client| client.remove_container(request).await)?;
        Ok(())
    }

    /// Pulls an image and gives its id.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn pull(&self, image: &str) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            ..PullImageRequest::default()
        };
        let pulled = self.call_images(async |mut client| client.pull_image(request).await)?;
        Ok(pulled.image_ref)
    }

    /// Any call of the runtime service.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn call<T>(
        &self,
        work: impl AsyncFnOnce(RuntimeServiceClient<Service>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.in_time(async {
            let client = self.client().await?;
            work(client.cri_runtime()).await.map(Response::into_inner)
        })
    }

    /// Any call of the image service.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn call_images<T>(
        &self,
        work: impl AsyncFnOnce(ImageServiceClient<Service>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.in_time(async {
            let client = self.client().await?;
            work(client.cri_images()).await.map(Response::into_inner)
        })
    }

    /// A call that has no answer by then never gets one.
    fn in_time<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = || Status::internal(format!("no answer within {CALL_TIMEOUT:?}"));
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
            answer.unwrap_or_else(|_elapsed| Err(late()))
        })
    }

    async fn client(&self) -> Result<Client, Status> {
        let connected = Client::connect(&self.socket, "k8s.io").await;
        connected.map_err(|error| Status::unavailable(format!("{error:#}")))
    }

    /// Network namespaces of this kubelet's pods, and cgroups below its own.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let namespaces = Path::new(NETWORK_NAMESPACES);
        let pods = self.pods.borrow();
        let pins = pods
            .iter()
            .map(|pod| namespaces.join(format!("orlop-{}", pod.id)));
        let hierarchies = folders_in(Path::new("/sys/fs/cgroup")).into_iter();
        let groups = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        let own = groups.map(|hierarchy| hierarchy.join(self.cgroup.trim_start_matches('/')));
        pins.filter(|pin| pin.exists())
            .chain(own.flat_map(|group| folders_in(&group)))
            .map(|path| path.display().to_string())
            .collect()
    }
}

/// What holds a pod's namespaces outlives the daemon: a test that fails leaves it to the one that still runs.
impl Drop for Kubelet {
    fn drop(&mut self) {
        let pods = self.pods.get_mut();
        let left = pods.drain(..).filter(|pod| !pod.is_removed);
        let left: Vec<String> = left.map(|pod| pod.id).collect();
        for pod in left {
            if let Err(error) = self.take_away(&pod) {
                crate::daemon::complain(&format!("pod {pod} stays: {error}"));
            }
        }
    }
}

/// A container of an image whose command is this script, to be changed and made.
#[must_use]
pub fn container_config(name: &str, image: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(image)),
        command: words(&["sh", "-c", script]),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig::default()),
        ..ContainerConfig::default()
    }
}

/// An image by its name.
#[must_use]
pub fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}

async fn drain<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    while let Some(one) = stream.message().await? {
        all.push(one);
    }
    Ok(all)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
