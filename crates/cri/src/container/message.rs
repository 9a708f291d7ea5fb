//! Containers as CRI's answers have them.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as api;
use orlop_runtime::member::{Member, MemberMount, MemberState, Propagation};
use orlop_runtime::pod::IdRange;
use serde_json::{Value, json};

use super::resources;
use crate::{find, translate};

/// One line of a list.
pub(crate) fn entry(member: Member) -> api::Container {
    api::Container {
        id: member.id.to_string(),
        pod_sandbox_id: member.pod.to_string(),
        state: state(&member.state).into(),
        created_at: translate::nanos(Some(member.created_at)),
        metadata: Some(metadata(&member)),
        image: Some(image(&member)),
        image_ref: image_ref(&member),
        image_id: member.image.id,
        labels: member.config.labels,
        annotations: member.config.annotations,
    }
}

/// Whether a list's filter keeps a container.
pub(crate) fn keeps(filter: &api::ContainerFilter, member: &Member) -> bool {
    let has_label =
        |(name, value): (&String, &String)| member.config.labels.get(name) == Some(value);
    find::begins(member.id.as_str(), &filter.id)
        && find::begins(member.pod.as_str(), &filter.pod_sandbox_id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state == i32::from(state(&member.state)))
        && filter.label_selector.iter().all(has_label)
}

/// Everything of one container.
pub(crate) fn status(member: &Member) -> api::ContainerStatus {
    let end = match &member.state {
        MemberState::Exited(end) => Some(end),
        MemberState::Created | MemberState::Running | MemberState::Unknown(_) => None,
    };
    let (reason, message) = match (&member.state, end) {
        (MemberState::Unknown(why), _) => ("", why.clone()),
        (_, Some(end)) => (end.reason, end.message.clone()),
        (_, None) => ("", String::new()),
    };
    let config = &member.config;
    api::ContainerStatus {
        id: member.id.to_string(),
        metadata: Some(metadata(member)),
        state: state(&member.state).into(),
        created_at: translate::nanos(Some(member.created_at)),
        started_at: translate::nanos(member.started_at),
        finished_at: translate::nanos(end.map(|end| end.at)),
        exit_code: end.map_or(0, |end| i32::try_from(end.code).unwrap_or(i32::MAX)),
        image: Some(image(member)),
        image_ref: image_ref(member),
        image_id: member.image.id.clone(),
        reason: reason.to_owned(),
        message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(mount).collect(),
        log_path: log_path(member),
        resources: Some(api::ContainerResources {
            linux: Some(resources::message(&member.limits)),
            windows: None,
        }),
        user: Some(user(member)),
        stop_signal: stop_signal(&member.stop_signal).into(),
    }
}

/// What `crictl inspect` shows beside the status: JSON under the key `info`.
pub(crate) fn info(member: &Member) -> BTreeMap<String, String> {
    let exit = match &member.state {
        MemberState::Exited(end) => json!(end.exit),
        MemberState::Created | MemberState::Running | MemberState::Unknown(_) => Value::Null,
    };
    let value = json!({
        "sandboxID": member.pod.to_string(),
        "pid": member.pid.unwrap_or(0),
        "removing": member.removing,
        "snapshotter": member.snapshotter,
        "snapshotKey": member.snapshot_key,
        "runtimeType": member.runtime,
        "config": member.config,
        "start": member.transitions,
        "exit": exit,
    });
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

const fn state(state: &MemberState) -> api::ContainerState {
    match state {
        MemberState::Created => api::ContainerState::ContainerCreated,
        MemberState::Running => api::ContainerState::ContainerRunning,
        MemberState::Exited(_) => api::ContainerState::ContainerExited,
        MemberState::Unknown(_) => api::ContainerState::ContainerUnknown,
    }
}

fn metadata(member: &Member) -> api::ContainerMetadata {
    api::ContainerMetadata {
        name: member.config.name.clone(),
        attempt: member.config.attempt,
    }
}

fn image(member: &Member) -> api::ImageSpec {
    api::ImageSpec {
        image: member.image.requested.clone(),
        user_specified_image: member.image.user_specified.clone(),
        ..api::ImageSpec::default()
    }
}

/// With the digest that the registry has, or else the engine's own id.
fn image_ref(member: &Member) -> String {
    let image = &member.image;
    if image.reference.is_empty() {
        image.id.clone()
    } else {
        image.reference.clone()
    }
}

fn log_path(member: &Member) -> String {
    let path = member.log_path.as_deref();
    path.map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn user(member: &Member) -> api::ContainerUser {
    let groups = member.user.additional_gids.iter();
    api::ContainerUser {
        linux: Some(api::LinuxContainerUser {
            uid: member.user.uid.into(),
            gid: member.user.gid.into(),
            supplemental_groups: groups.map(|gid| i64::from(*gid)).collect(),
        }),
    }
}

fn mount(mount: &MemberMount) -> api::Mount {
    use api::MountPropagation as Wire;

    let propagation = match mount.propagation {
        Propagation::Private => Wire::PropagationPrivate,
        Propagation::HostToContainer => Wire::PropagationHostToContainer,
        Propagation::Bidirectional => Wire::PropagationBidirectional,
    };
    let maps = mount.id_maps.clone().unwrap_or_default();
    let (image, sub_path) = mount
        .image
        .clone()
        .map(|image| (image.reference, image.sub_path))
        .unzip();
    api::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: maps.uids.iter().map(range).collect(),
        gid_mappings: maps.gids.iter().map(range).collect(),
        recursive_read_only: mount.recursive_read_only,
        image: image.map(|image| api::ImageSpec {
            image,
            ..api::ImageSpec::default()
        }),
        image_sub_path: sub_path.unwrap_or_default(),
    }
}

const fn range(range: &IdRange) -> api::IdMapping {
    api::IdMapping {
        host_id: range.outside,
        container_id: range.inside,
        length: range.count,
    }
}

/// `SIGRTMIN+3` is `SIGRTMINPLUS3` here; beyond 15, real-time signals are counted from the last one, 30 above the first.
fn stop_signal(name: &str) -> api::Signal {
    let offset = name.strip_prefix("SIGRTMIN+");
    let wire = match offset.and_then(|offset| offset.parse::<u32>().ok()) {
        Some(30) => "SIGRTMAX".to_owned(),
        Some(offset @ 16..30) => format!("SIGRTMAXMINUS{}", 30 - offset),
        Some(offset) => format!("SIGRTMINPLUS{offset}"),
        None => name.to_owned(),
    };
    api::Signal::from_str_name(&wire).unwrap_or(api::Signal::Sigterm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_have_their_names_of_cri() {
        for (name, expected) in [
            ("SIGTERM", api::Signal::Sigterm),
            ("SIGRTMIN", api::Signal::Sigrtmin),
            ("SIGRTMIN+3", api::Signal::Sigrtminplus3),
            ("SIGRTMIN+16", api::Signal::Sigrtmaxminus14),
            ("SIGRTMIN+29", api::Signal::Sigrtmaxminus1),
            ("SIGRTMIN+30", api::Signal::Sigrtmax),
        ] {
            assert_eq!(stop_signal(name), expected, "{name}");
        }
    }
}
