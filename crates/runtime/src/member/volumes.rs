//! Images whose files a member sees: from its configuration to what the pod is asked for, and back to mounts.

use std::path::PathBuf;

use orlop_meta::View;
use orlop_types::{ContainerId, Namespace, SandboxId};

use super::{Member, MemberConfig, MemberError, MemberMount, MountedImage, Propagation};
use crate::Error;
use crate::core::Core;
use crate::host;
use crate::pod::{Pod, VolumeError, VolumeImage, Volumes, Wanted};
use crate::spec::UserMount;

/// A bind mount that is made read-only is given all flags anew, so those of the mount it is made of are repeated.
const OPTIONS: [&str; 5] = ["rbind", "rprivate", "nosuid", "nodev", "noexec"];

/// Whether a member sees files of an image.
pub(super) fn any(config: &MemberConfig) -> bool {
    config.mounts.iter().any(|mount| mount.image.is_some())
}

/// Makes what a member wants to see of images. On failure it uses nothing.
pub(super) fn acquire(
    core: &Core,
    leased: &View,
    (pod, container): (&Pod, &ContainerId),
    (config, images): (&MemberConfig, &[VolumeImage]),
) -> Result<Vec<PathBuf>, Error> {
    if !any(config) {
        return Ok(Vec::new());
    }
    let asked = config
        .mounts
        .iter()
        .filter_map(|mount| Some((mount, mount.image.as_ref()?)));
    let wanted = asked
        .map(|(mount, image)| {
            wanted(config, pod, (mount, image), images)
                .map_err(|source| failed(config, &image.reference, source))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let Some(volumes) = Volumes::of(core, leased.namespace(), &pod.id) else {
        return Ok(Vec::new());
    };
    let acquired = volumes.acquire(leased, container, &wanted);
    Ok(acquired.map_err(|source| failed(config, &references(config), source))?)
}

/// Gives up what a member sees of images. What cannot be taken away goes with the pod, or at the next start.
pub(super) fn release(
    core: &Core,
    namespace: &Namespace,
    (pod, container): (&SandboxId, &ContainerId),
    config: &MemberConfig,
) {
    let volumes = Volumes::of(core, namespace, pod).filter(|_| any(config));
    let released = volumes.map_or(Ok(()), |volumes| volumes.release(container));
    if let Err(error) = released {
        let error = orlop_types::chain(&error);
        tracing::warn!(%container, %pod, error, "files of an image stay mounted until the pod is stopped");
    }
}

/// Mounts again what is no longer mounted, before a member starts.
pub(super) fn remount(core: &Core, namespace: &Namespace, member: &Member) -> Result<(), Error> {
    let Some(volumes) = Volumes::of(core, namespace, &member.pod) else {
        return Ok(());
    };
    let remounted = volumes.remount(&member.id);
    Ok(remounted.map_err(|source| failed(&member.config, &references(&member.config), source))?)
}

/// Mounts of the host and of images, in the order they were asked for.
pub(super) fn merge(
    config: &MemberConfig,
    of_host: Vec<UserMount>,
    of_images: Vec<PathBuf>,
) -> Vec<UserMount> {
    let (mut of_host, mut of_images) = (of_host.into_iter(), of_images.into_iter());
    let next = |mount: &MemberMount| match &mount.image {
        None => of_host.next(),
        Some(_) => of_images.next().map(|source| UserMount {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: mount.container_path.clone(),
            read_only: true,
            options: OPTIONS.map(str::to_owned).to_vec(),
            ..UserMount::default()
        }),
    };
    config.mounts.iter().filter_map(next).collect()
}

fn wanted(
    config: &MemberConfig,
    pod: &Pod,
    (mount, image): (&MemberMount, &MountedImage),
    images: &[VolumeImage],
) -> Result<Wanted, VolumeError> {
    if !mount.host_path.is_empty() {
        return Err(VolumeError::Refused(
            "a mount of an image cannot have a path of the host",
        ));
    }
    if !mount.read_only {
        return Err(VolumeError::Refused(
            "a mount of an image has to be read-only",
        ));
    }
    if mount.propagation == Propagation::Bidirectional {
        return Err(VolumeError::Refused("an image cannot pass mounts on"));
    }
    let found = images
        .iter()
        .find(|found| found.reference == image.reference);
    let of_pod = pod.config.namespaces.user.clone();
    if mount.id_maps.is_some() && mount.id_maps != of_pod {
        return Err(VolumeError::Refused(
            "its id maps are not those of the pod's user namespace",
        ));
    }
    let label = config.security.selinux_label.as_ref();
    let label = label.unwrap_or(&pod.config.selinux_label);
    Ok(Wanted {
        image: found
            .cloned()
            .ok_or(VolumeError::Refused("it was not found"))?,
        id_maps: of_pod,
        selinux_label: (host::has_selinux() && !label.is_empty()).then(|| label.clone()),
        sub_path: image.sub_path.clone(),
    })
}

fn references(config: &MemberConfig) -> String {
    let images = config
        .mounts
        .iter()
        .filter_map(|mount| mount.image.as_ref());
    let names: Vec<_> = images.map(|image| image.reference.as_str()).collect();
    names.join(", ")
}

fn failed(config: &MemberConfig, image: &str, source: VolumeError) -> MemberError {
    MemberError::ImageVolume {
        name: config.name.clone(),
        image: image.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_image(target: &str) -> MemberMount {
        MemberMount {
            container_path: target.to_owned(),
            read_only: true,
            image: Some(MountedImage {
                reference: "r.example/a".to_owned(),
                sub_path: String::new(),
            }),
            ..MemberMount::default()
        }
    }

    #[test]
    fn mounts_keep_their_order_and_an_image_has_no_programs() {
        let bind = MemberMount::default();
        let config = MemberConfig {
            mounts: vec![of_image("/a"), bind, of_image("/b")],
            ..MemberConfig::default()
        };
        let host = UserMount {
            target: "/host".to_owned(),
            ..UserMount::default()
        };
        let merged = merge(&config, vec![host], vec!["/1".into(), "/2".into()]);
        let targets: Vec<_> = merged.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/a", "/host", "/b"]);
        assert!(merged[0].read_only && merged[2].source == "/2");
        assert!(merged[0].options.iter().any(|option| option == "noexec"));
    }
}
