//! What the database keeps of a container of a pod: two extensions of its row, with their version history.
//!
//! - `orlop.dev/pod-container`, version 1: JSON of [`Facts`]. Written once.
//! - `orlop.dev/pod-container-state`, version 1: JSON of [`Standing`]. Written before what it tells of is done.

use std::path::PathBuf;
use std::time::SystemTime;

use orlop_meta::{Container, TypedBytes};
use serde::{Deserialize, Serialize};

use super::{MemberConfig, MemberError, MemberImage};
use crate::spec::{Limits, ResolvedUser};

const FACTS: &str = "orlop.dev/pod-container";
const FACTS_TYPE: &str = "orlop.dev/pod-container/1";
const STANDING: &str = "orlop.dev/pod-container-state";
const STANDING_TYPE: &str = "orlop.dev/pod-container-state/1";

/// What never changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) config: MemberConfig,
    pub(super) image: MemberImage,
    pub(super) user: ResolvedUser,
    #[serde(default)]
    pub(super) log_path: Option<PathBuf>,
    /// The number of the signal that asks it to end.
    pub(super) stop_signal: u32,
    /// The first process of the container whose processes it sees; it has to be the same at the start.
    #[serde(default)]
    pub(super) target_pid: Option<u32>,
}

/// What does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Standing {
    /// What it may use.
    pub(super) limits: Limits,
    /// Whether those limits may not be in force yet.
    pub(super) limits_pending: bool,
    /// When its start failed, and why.
    pub(super) failed_start: Option<FailedStart>,
    /// When somebody first asked it to end.
    pub(super) stop_asked_at: Option<SystemTime>,
    /// Whether it is being removed.
    pub(super) removing: bool,
}

/// A start that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailedStart {
    pub(super) at: SystemTime,
    pub(super) message: String,
}

/// Whether a row is a container of a pod made here.
pub(crate) fn is_member(container: &Container) -> bool {
    container.extensions.contains_key(FACTS)
}

/// The field to be named where only [`Standing`] changes.
pub(super) fn standing_field() -> String {
    format!("extensions.{STANDING}")
}

impl Facts {
    pub(super) fn store(&self, container: &mut Container) {
        let value = serde_json::to_vec(self).expect("facts have only text keys");
        let typed = TypedBytes {
            type_url: FACTS_TYPE.to_owned(),
            value,
        };
        container.extensions.insert(FACTS.to_owned(), typed);
    }

    /// `None` if the row is no container of a pod.
    pub(super) fn read(container: &Container) -> Result<Option<Self>, MemberError> {
        read(container, FACTS, FACTS_TYPE)
    }
}

impl Standing {
    /// Whether something has changed since `before` that a power cut must not take: it ends the container itself, and
    /// who asked for the removal finds the container and asks again.
    pub(super) fn outlives(&self, before: &Self) -> bool {
        let kept = |standing: &Self| Self {
            stop_asked_at: None,
            removing: false,
            ..standing.clone()
        };
        kept(self) != kept(before)
    }

    pub(super) fn store(&self, container: &mut Container) {
        let value = serde_json::to_vec(self).expect("a standing has only text keys");
        let typed = TypedBytes {
            type_url: STANDING_TYPE.to_owned(),
            value,
        };
        container.extensions.insert(STANDING.to_owned(), typed);
    }

    pub(super) fn read(container: &Container) -> Result<Self, MemberError> {
        Ok(read(container, STANDING, STANDING_TYPE)?.unwrap_or_default())
    }
}

fn read<T: serde::de::DeserializeOwned>(
    container: &Container,
    name: &str,
    type_url: &str,
) -> Result<Option<T>, MemberError> {
    let Some(kept) = container.extensions.get(name) else {
        return Ok(None);
    };
    let foreign = |source| MemberError::ForeignRecord {
        container: container.id.to_string(),
        source,
    };
    if kept.type_url != type_url {
        let unknown = format!("its version is {:?}", kept.type_url);
        return Err(foreign(serde::de::Error::custom(unknown)));
    }
    serde_json::from_slice(&kept.value)
        .map(Some)
        .map_err(foreign)
}

#[cfg(test)]
mod tests {
    use orlop_types::ContainerId;

    use super::*;

    fn row() -> Container {
        let runtime = orlop_meta::Runtime::default();
        let spec = TypedBytes {
            type_url: String::new(),
            value: Vec::new(),
        };
        Container::new(ContainerId::new("a").unwrap(), runtime, spec)
    }

    #[test]
    fn what_was_stored_comes_back_and_later_fields_have_defaults() {
        let mut container = row();
        assert!(Facts::read(&container).unwrap().is_none() && !is_member(&container));
        let standing = Standing {
            removing: true,
            ..Standing::default()
        };
        standing.store(&mut container);
        assert_eq!(Standing::read(&container).unwrap(), standing);
        let kept = container.extensions.get_mut(STANDING).unwrap();
        kept.value = b"{}".to_vec();
        assert_eq!(Standing::read(&container).unwrap(), Standing::default());
    }

    #[test]
    fn only_what_a_power_cut_does_not_end_waits_for_the_disk() {
        let before = Standing::default();
        let ending = Standing {
            stop_asked_at: Some(SystemTime::UNIX_EPOCH),
            removing: true,
            ..Standing::default()
        };
        assert!(!ending.outlives(&before));
        let limited = Standing {
            limits_pending: true,
            ..ending
        };
        assert!(limited.outlives(&before));
    }

    #[test]
    fn a_record_of_another_version_is_not_guessed_at() {
        let mut container = row();
        Standing::default().store(&mut container);
        container.extensions.get_mut(STANDING).unwrap().type_url = "orlop.dev/x/2".into();
        let error = Standing::read(&container).unwrap_err();
        assert_eq!(error.code(), "ORL-E6611");
        assert!(orlop_types::chain(&error).contains("orlop.dev/x/2"));
    }
}
