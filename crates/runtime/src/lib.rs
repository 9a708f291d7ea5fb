//! Containers and their tasks: what runs, how it got there, how it ended.
//!
//! Purpose: the operations behind containerd's task service, `orlop.v1` and CRI: create, start, signal, execute, delete.
//!
//! Non-goals: images and registries (their results come in as values), wire types of any façade.
//!
//! Invariants:
//! - the record is written before each outside effect, so a crash at any moment leaves a record that says what may exist;
//! - a creation that fails undoes every step it took;
//! - an exit code that nobody observed is never presented as one that somebody did.
//!
//! Entry points: [`Runtime`], [`events::serve`], [`spec::build`], [`machine::Task`].

mod actor;
mod apparmor;
pub mod attach;
mod bundle;
mod cdi;
mod container;
mod core;
mod dns;
mod error;
pub mod events;
pub mod exec;
mod exit;
pub mod figures;
mod follow;
mod forward;
mod host;
pub mod logs;
pub mod machine;
mod mapping;
pub mod member;
mod network;
pub mod pod;
pub mod probe;
mod process;
mod publish;
mod record;
pub mod restart;
mod runtime;
mod selinux;
mod shim;
pub mod spec;

pub use self::core::{RuntimeSettings, Settings};
pub use cdi::CdiError;
pub use container::{AUTO_REMOVE_LABEL, LOG_LABEL, NETWORK_LABEL, NewContainer};
pub use error::Error;
pub use follow::Follower;
pub use mapping::MappingError;
pub use member::MemberError;
pub use orlop_cni::Settings as NetworkSettings;
pub use orlop_types::ErrorKind;
pub use pod::PodSettings;
pub use process::{Exec, ProcessState, Status};
pub use publish::{Publication, PublishError, publish};
pub use record::{LastTask, RecordFault, Streams};
pub use runtime::{CreateTask, Runtime};
