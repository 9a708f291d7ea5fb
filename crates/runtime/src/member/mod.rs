//! Containers of pods: what CRI calls a container. Here each is a *member* of its pod.
//!
//! A member is a row of `containers` with two extensions: what was asked of it, which never changes, and how it stands
//! (in `record`). Whether it runs is its task's matter; the task is deleted as soon as the process has ended, so a member
//! that has ended costs no process, and its end stays with its row. Nothing about members is kept in memory but the names
//! of calls under way, so lists and states are always what the database and the tasks say.
//!
//! Crash: a creation leaves a lease and a snapshot, which the next start releases; a start is a task's creation and undone
//! or gone on with as any; a removal is on record before its first effect and repeated by [`Runtime::recover`].
//! Cancellation: a caller that leaves stops nothing but its own waiting. Ordering: of two calls that change one member the
//! later is refused or waits, and is told what the earlier one is doing.
//!
//! [`Runtime::recover`]: crate::Runtime::recover

mod calls;
mod config;
mod create;
mod end;
mod error;
mod lifecycle;
mod options;
mod paths;
mod record;
mod recover;
mod signal;
mod status;
mod stop;
mod update;
mod volumes;

use std::path::PathBuf;
use std::time::SystemTime;

use orlop_types::{ContainerId, SandboxId, SnapshotKey, SnapshotterName};
use serde::{Deserialize, Serialize};

use crate::machine::{Exit, Transition};
use crate::pod::VolumeImage;
use crate::spec::{ImageDefaults, Limits, ResolvedUser};

pub(crate) use calls::Calls;
pub use config::{
    GroupPolicy, MemberConfig, MemberDevice, MemberMount, MemberProcesses, MemberSecurity,
    MountedImage, Profile, Propagation, RunAs,
};
pub use error::MemberError;
pub(crate) use record::is_member;

/// A container to be made in a pod.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// The pod, which has to be ready.
    pub pod: SandboxId,
    /// What is asked for.
    pub config: MemberConfig,
    /// What it is made from.
    pub image: MemberImage,
    /// What the image says about how it is run.
    pub image_defaults: ImageDefaults,
    /// The committed snapshot of the whole image.
    pub image_snapshot: SnapshotKey,
    /// Where that snapshot is.
    pub snapshotter: SnapshotterName,
    /// The images that its mounts name, as the engine found them.
    pub mounted_images: Vec<VolumeImage>,
}

/// The image a member was made from, as its maker named it and as the engine found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberImage {
    /// What the maker asked for.
    pub requested: String,
    /// What the user of the maker asked for, before it was resolved; empty if the maker does not say.
    pub user_specified: String,
    /// The engine's id of the image: the digest of its config.
    pub id: String,
    /// A reference with the digest of its manifest or index; empty if it has none.
    pub reference: String,
    /// The signal that asks its program to end; empty for none of its own.
    pub stop_signal: String,
}

/// A container of a pod as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id: 64 hexadecimal digits.
    pub id: ContainerId,
    /// Its pod.
    pub pod: SandboxId,
    /// What was asked for.
    pub config: MemberConfig,
    /// What it was made from.
    pub image: MemberImage,
    /// Where it is in its life.
    pub state: MemberState,
    /// When it was made.
    pub created_at: SystemTime,
    /// When its process was started, if it ever was.
    pub started_at: Option<SystemTime>,
    /// Its first process in the host's pid namespace, while there is one.
    pub pid: Option<u32>,
    /// The limits in force, which may have changed since it was made.
    pub limits: Limits,
    /// Whom its first process runs as.
    pub user: ResolvedUser,
    /// The file its log is in; absent for none.
    pub log_path: Option<PathBuf>,
    /// The signal that asks it to end, by its name.
    pub stop_signal: String,
    /// Its runtime's name.
    pub runtime: String,
    /// Where its root file system is.
    pub snapshotter: String,
    /// Its root file system.
    pub snapshot_key: String,
    /// Whether it is being removed.
    pub removing: bool,
    /// The first process of the container whose processes it sees, as it was when this one was made.
    pub target_pid: Option<u32>,
    /// How its start went, oldest step first.
    pub transitions: Vec<Transition>,
}

/// Where a container of a pod is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    /// Made, and never started with success.
    Created,
    /// Its process runs, or is frozen.
    Running,
    /// Its process has ended, or could not be started.
    Exited(MemberEnd),
    /// It cannot be told, and this is why.
    Unknown(String),
}

/// How a member ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEnd {
    /// When.
    pub at: SystemTime,
    /// The code a shell would show.
    pub code: u32,
    /// One word for programs, as the kubelet knows them: `Completed`, `Error`, `OOMKilled`, `StartError`,
    /// `ContainerStatusUnknown`.
    pub reason: &'static str,
    /// One sentence for people, with the cause and its evidence; empty if all went well.
    pub message: String,
    /// What is on record of it; absent for a start that failed.
    pub exit: Option<Exit>,
}
