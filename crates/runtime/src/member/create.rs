//! Making a member: its root file system, its spec, its record. Starts nothing.
//!
//! Crash: as of any container (`container.rs`): a lease holds what is made until the record does. Cancellation: the jobs
//! run to their end; a caller that leaves finds the member, or the name free again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use orlop_base::blocking;
use orlop_meta::{Container, View};
use orlop_sys::fs::{Dir, Mode};
use orlop_types::{ContainerId, Labels, Mount, Namespace};

use super::calls::{CreateStep, MemberName};
use super::paths::{self, Found};
use super::record::{Facts, Standing};
use super::{MemberError, MemberProcesses, MemberState, NewMember, options, signal, volumes};
use crate::core::Core;
use crate::pod::HeldPod;
use crate::runtime::Runtime;
use crate::{Error, container, spec};

/// The label that says what of a pod a row is, as containerd has it.
const KIND_LABEL: &str = "io.cri-containerd.kind";
const KIND: &str = "container";

/// Labels that steer the engine are not for pods to set.
const RESERVED_LABELS: [&str; 3] = ["containerd.io/", "orlop.dev/", "io.cri-containerd"];

/// Random bytes in an id; Kubernetes' tools expect 64 hexadecimal digits.
const ID_BYTES: usize = 32;

impl Runtime {
    /// Makes a container in a pod and starts nothing. On failure nothing is left.
    ///
    /// # Errors
    /// The pod is not ready, the name is taken (then the error names the container and what is being done with it), or
    /// image and configuration make no container.
    pub async fn create_member(
        &self,
        namespace: &Namespace,
        new: NewMember,
    ) -> Result<ContainerId, Error> {
        let mut new = new;
        let pod = self.hold_pod(namespace, &new.pod).await?;
        let of_pod = Some(&pod.config.selinux_label).filter(|label| !label.is_empty());
        let label = new.config.security.selinux_label.take();
        new.config.security.selinux_label = label.or(of_pod.cloned());
        options::check(&new.config, &pod)?;
        if self.core.is_foreign(&pod.config.handler)? && new.config.stdin {
            return Err(MemberError::Unsupported {
                name: new.config.name,
                feature: "standard input",
                evidence: "the shim of its runtime handler logs through a program, which has no way for input".to_owned(),
            }
            .into());
        }
        let id = random_id()?;
        let name = MemberName {
            pod: new.pod.clone(),
            name: new.config.name.clone(),
            attempt: new.config.attempt,
        };
        let reserved = self.core.calls.reserve(name, &id)?;
        self.refuse_taken(namespace, &new).await?;
        let target_pid = self.target_pid(namespace, &new).await?;
        let found = self.look_up(&new).await?;
        reserved.at(CreateStep::Record);
        let making = Making {
            core: Arc::clone(&self.core),
            id: id.clone(),
            pod,
            new,
            target_pid,
        };
        making.make(namespace, found).await?;
        Ok(id)
    }

    /// A name is taken as long as its container's record is there.
    async fn refuse_taken(&self, namespace: &Namespace, new: &NewMember) -> Result<(), Error> {
        let members = self.members(namespace, Some(&new.pod)).await?;
        let holder = members.into_iter().find(|member| {
            member.config.name == new.config.name && member.config.attempt == new.config.attempt
        });
        holder.map_or(Ok(()), |member| {
            let error = MemberError::NameTaken {
                name: member.config.name.clone(),
                attempt: member.config.attempt,
                container: member.id.to_string(),
                step: member.standing().to_owned(),
            };
            Err(error.into())
        })
    }

    /// The first process of the container of the same pod whose processes the new one is to see.
    async fn target_pid(
        &self,
        namespace: &Namespace,
        new: &NewMember,
    ) -> Result<Option<u32>, Error> {
        let MemberProcesses::Of(target) = &new.config.security.processes else {
            return Ok(None);
        };
        let bad = |fault| MemberError::BadConfig {
            name: new.config.name.clone(),
            field: "target container",
            value: target.to_string(),
            fault,
        };
        let member = self.member(namespace, target).await?;
        match (member.pod == new.pod, member.state, member.pid) {
            (true, MemberState::Running, Some(pid)) => Ok(Some(pid)),
            (true, _, _) => Err(bad("it does not run").into()),
            (false, _, _) => Err(bad("it is in another pod").into()),
        }
    }

    /// Looks up what of the host it sees. A dead file system gives no answer: then the call fails, and the thread that
    /// hangs in the kernel is one of the long jobs'.
    async fn look_up(&self, new: &NewMember) -> Result<Found, Error> {
        let config = new.config.clone();
        let limit = self.core.settings.step_limit;
        let folders = self.core.settings.cdi_folders.clone();
        let job = blocking::run_long("look up host paths", move || paths::find(&config, &folders));
        let Ok(found) = tokio::time::timeout(limit, job).await else {
            let mounts = new.config.mounts.iter();
            let paths: Vec<_> = mounts.map(|mount| mount.host_path.as_str()).collect();
            return Err(MemberError::HostPathsHang {
                name: new.config.name.clone(),
                limit,
                paths: paths.join(", "),
            }
            .into());
        };
        Ok(found.map_err(Error::Daemon)??)
    }
}

/// A member being made.
struct Making {
    core: Arc<Core>,
    id: ContainerId,
    /// Held to the end, also if the caller leaves: what is mounted meanwhile is released by whoever stops the pod then.
    pod: HeldPod,
    new: NewMember,
    target_pid: Option<u32>,
}

impl Making {
    async fn make(self, namespace: &Namespace, found: Found) -> Result<(), Error> {
        let namespace = namespace.clone();
        blocking::run("create member", move || {
            container::under_lease(&self.core, &namespace, &self.id, |leased| {
                self.under(leased, found)
            })
        })
        .await
        .map_err(Error::Daemon)?
    }

    fn under(&self, leased: &View, found: Found) -> Result<(), Error> {
        let (new, id) = (&self.new, &self.id);
        let asked = (&new.config, new.mounted_images.as_slice());
        let places = volumes::acquire(&self.core, leased, (&self.pod, id), asked)?;
        let found = Found {
            mounts: volumes::merge(&new.config, found.mounts.clone(), places),
            ..found
        };
        let image = (&new.snapshotter, &new.image_snapshot);
        let made =
            container::on_snapshot(leased, id, image, |mounts| self.on(leased, mounts, found));
        if made.is_err() {
            volumes::release(
                &self.core,
                leased.namespace(),
                (&self.pod.id, id),
                &new.config,
            );
        }
        made
    }

    fn on(&self, leased: &View, mounts: &[Mount], found: Found) -> Result<(), Error> {
        let (new, id, pod) = (&self.new, &self.id, &self.pod);
        let config = &new.config;
        let accounts = container::accounts(mounts).map_err(|source| Error::Accounts {
            container: id.to_string(),
            source,
        })?;
        let mut user = options::user(&config.security, &new.image_defaults.user, &accounts)
            .map_err(|source| Error::User {
                container: id.to_string(),
                source,
            })?;
        user.join(found.edits.groups());
        let image = options::image_defaults(&new.image_defaults, pod, &found.host_name);
        let edits = found.edits.clone();
        let mut options = options::build(config, pod, found, self.target_pid);
        if let Some(runtime) = self.core.configured(&pod.config.handler) {
            options::pass_on(&mut options.annotations, runtime, config, pod);
        }
        let spec = spec::build(id, &image, &options, &user).and_then(|mut spec| {
            edits.apply(&mut spec, options.id_maps.as_ref())?;
            Ok(spec)
        });
        let spec = spec.map_err(|source| MemberError::Spec {
            name: config.name.clone(),
            source,
        })?;
        let log_path = options::log_path(config, pod);
        if let Some(folder) = log_path.as_deref().and_then(Path::parent) {
            make_log_folder(folder)?;
        }
        let facts = Facts {
            config: config.clone(),
            image: new.image.clone(),
            user,
            log_path,
            stop_signal: self.stop_signal()?,
            target_pid: self.target_pid,
        };
        let mut row = self.row(&container::encoded(&spec));
        facts.store(&mut row);
        Standing {
            limits: config.limits.clone(),
            ..Standing::default()
        }
        .store(&mut row);
        leased
            .containers()
            .create(&row)
            .map(drop)
            .map_err(|source| Error::Record {
                container: id.to_string(),
                attempt: "written",
                source,
            })
    }

    fn row(&self, spec: &orlop_meta::TypedBytes) -> Container {
        let new = &self.new;
        let handler = &self.pod.config.handler;
        let name = if handler.is_empty() {
            self.core.settings.default_runtime.clone()
        } else {
            handler.clone()
        };
        let runtime = orlop_meta::Runtime {
            name,
            options: None,
        };
        let mut row = Container::new(self.id.clone(), runtime, spec.clone());
        row.labels = labels(&new.config.labels);
        row.image.clone_from(&new.image.requested);
        row.snapshotter = new.snapshotter.to_string();
        row.snapshot_key = container::snapshot_key(&self.id).to_string();
        row.sandbox = self.pod.id.to_string();
        row
    }

    /// What is asked for, or the image's. An image's that is none is no reason not to run it.
    fn stop_signal(&self) -> Result<u32, MemberError> {
        let asked = &self.new.config.stop_signal;
        if asked.is_empty() {
            let of_image = signal::parse(&self.new.image.stop_signal);
            return Ok(of_image.unwrap_or(signal::TERM));
        }
        signal::parse(asked).ok_or_else(|| MemberError::BadConfig {
            name: self.new.config.name.clone(),
            field: "stop signal",
            value: asked.clone(),
            fault: "it is no signal",
        })
    }
}

/// Labels for selecting rows. Those too long for a row, or with a meaning for the engine, stay with the configuration.
fn labels(asked: &BTreeMap<String, String>) -> Labels {
    let mut labels = Labels::new();
    let is_reserved = |name: &str| RESERVED_LABELS.iter().any(|start| name.starts_with(start));
    for (name, value) in asked.iter().filter(|(name, _)| !is_reserved(name)) {
        if let Err(error) = labels.insert(name, value) {
            tracing::debug!(%error, "a label is kept with the configuration only");
        }
    }
    labels
        .insert(KIND_LABEL, KIND)
        .expect("two short words are a sound label");
    labels
}

fn make_log_folder(folder: &Path) -> Result<(), Error> {
    Dir::create_all(folder, Mode::from_raw_mode(0o755))
        .map(drop)
        .map_err(|source| Error::Logs {
            path: folder.to_owned(),
            source,
        })
}

fn random_id() -> Result<ContainerId, Error> {
    let mut bytes = [0; ID_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::Random)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ContainerId::new(digits).expect("hexadecimal digits are a sound id"))
}
