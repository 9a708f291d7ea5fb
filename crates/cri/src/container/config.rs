//! `ContainerConfig`: what is asked of a container.

use orlop_api::runtime::v1 as api;
use orlop_runtime::member::{
    GroupPolicy, MemberConfig, MemberDevice, MemberMount, MemberProcesses, MemberSecurity,
    MountedImage, Profile, Propagation, RunAs,
};
use orlop_runtime::pod::{IdMaps, IdRange};
use orlop_runtime::spec::Limits;
use tonic::Status;

use super::resources;
use crate::{status, translate};

/// Reads a configuration.
///
/// # Errors
/// `INVALID_ARGUMENT` with the field at fault.
pub(crate) fn member_config(config: api::ContainerConfig) -> Result<MemberConfig, Status> {
    let stop_signal = stop_signal(config.stop_signal());
    let metadata = config
        .metadata
        .ok_or_else(|| status::missing("config.metadata"))?;
    let linux = config.linux.unwrap_or_default();
    let limits = linux.resources.map(resources::limits).transpose()?;
    Ok(MemberConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        env: config
            .envs
            .into_iter()
            .map(environment)
            .collect::<Result<_, _>>()?,
        mounts: config
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Result<_, _>>()?,
        devices: config.devices.into_iter().map(device).collect(),
        cdi_devices: config.cdi_devices.into_iter().map(|one| one.name).collect(),
        labels: config.labels,
        annotations: config.annotations,
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        terminal: config.tty,
        limits: limits.unwrap_or_else(Limits::default),
        security: security(linux.security_context.unwrap_or_default())?,
        stop_signal,
    })
}

fn environment(variable: api::KeyValue) -> Result<String, Status> {
    let value = String::from_utf8(variable.value);
    let value = value.map_err(|_error| {
        status::invalid_text(format!("the value of {:?} is not UTF-8", variable.key))
    })?;
    Ok(format!("{}={value}", variable.key))
}

/// `SIGRTMINPLUS3` is `SIGRTMIN+3` everywhere else.
fn stop_signal(signal: api::Signal) -> String {
    if signal == api::Signal::RuntimeDefault {
        return String::new();
    }
    let name = signal.as_str_name();
    name.replace("PLUS", "+").replace("MINUS", "-")
}

fn mount(message: api::Mount) -> Result<MemberMount, Status> {
    use api::MountPropagation as Wire;

    let propagation = match Wire::try_from(message.propagation) {
        Ok(Wire::PropagationPrivate) => Propagation::Private,
        Ok(Wire::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(Wire::PropagationBidirectional) => Propagation::Bidirectional,
        Err(unknown) => return Err(status::invalid(&unknown)),
    };
    let maps = IdMaps {
        uids: message.uid_mappings.iter().map(range).collect(),
        gids: message.gid_mappings.iter().map(range).collect(),
    };
    let sub_path = message.image_sub_path;
    Ok(MemberMount {
        container_path: message.container_path,
        host_path: message.host_path,
        read_only: message.readonly,
        recursive_read_only: message.recursive_read_only,
        propagation,
        selinux_relabel: message.selinux_relabel,
        id_maps: Some(maps).filter(|maps| !maps.uids.is_empty() || !maps.gids.is_empty()),
        image: message.image.map(|image| MountedImage {
            reference: image.image,
            sub_path,
        }),
    })
}

fn device(message: api::Device) -> MemberDevice {
    MemberDevice {
        container_path: message.container_path,
        host_path: message.host_path,
        permissions: message.permissions,
    }
}

fn range(message: &api::IdMapping) -> IdRange {
    IdRange {
        inside: message.container_id,
        outside: message.host_id,
        count: message.length,
    }
}

#[allow(
    deprecated,
    reason = "the fields that replaced these two are read first; older kubelets set only these"
)]
fn security(context: api::LinuxContainerSecurityContext) -> Result<MemberSecurity, Status> {
    let policy = match context.supplemental_groups_policy() {
        api::SupplementalGroupsPolicy::Merge => GroupPolicy::Merge,
        api::SupplementalGroupsPolicy::Strict => GroupPolicy::Strict,
    };
    let seccomp = profile(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    let apparmor = match (&context.apparmor, context.apparmor_profile.as_str()) {
        // Nothing said is the engine's own, unlike with seccomp (kubernetes#51746).
        (None, "") => Profile::RuntimeDefault,
        (given, old) => profile(given.as_ref(), old)?,
    };
    let options = context.namespace_options.clone().unwrap_or_default();
    let run_as = run_as(&context)?;
    let capabilities = context.capabilities.unwrap_or_default();
    Ok(MemberSecurity {
        privileged: context.privileged,
        capabilities_added: capabilities.add_capabilities,
        capabilities_dropped: capabilities.drop_capabilities,
        capabilities_ambient: capabilities.add_ambient_capabilities,
        processes: processes(&options)?,
        run_as,
        run_as_group: context
            .run_as_group
            .map(|group| id("run_as_group", group.value))
            .transpose()?,
        supplemental_groups: context
            .supplemental_groups
            .into_iter()
            .map(|group| id("supplemental_groups", group))
            .collect::<Result<_, _>>()?,
        group_policy: policy,
        read_only_root: context.readonly_rootfs,
        no_new_privileges: context.no_new_privs,
        masked_paths: context.masked_paths,
        read_only_paths: context.readonly_paths,
        seccomp,
        apparmor,
        selinux_label: context.selinux_options.as_ref().and_then(selinux_label),
        user_namespace: user_namespace(options.userns_options)?,
    })
}

fn run_as(context: &api::LinuxContainerSecurityContext) -> Result<RunAs, Status> {
    match (&context.run_as_user, context.run_as_username.as_str()) {
        (None, "") => Ok(RunAs::Image),
        (Some(user), "") => id("run_as_user", user.value).map(RunAs::Uid),
        (None, name) => Ok(RunAs::Name(name.to_owned())),
        (Some(_), _) => Err(status::invalid_text(
            "run_as_user and run_as_username cannot both be set",
        )),
    }
}

fn id(field: &str, value: i64) -> Result<u32, Status> {
    u32::try_from(value)
        .map_err(|_error| status::invalid_text(format!("{field} cannot be {value}")))
}

fn processes(options: &api::NamespaceOption) -> Result<MemberProcesses, Status> {
    use api::NamespaceMode as Mode;

    match Mode::try_from(options.pid) {
        Ok(Mode::Pod) => Ok(MemberProcesses::Pod),
        Ok(Mode::Container) => Ok(MemberProcesses::Own),
        Ok(Mode::Node) => Ok(MemberProcesses::Host),
        Ok(Mode::Target) => translate::parse(&options.target_id).map(MemberProcesses::Of),
        Err(unknown) => Err(status::invalid(&unknown)),
    }
}

/// The user namespace has to be the pod's, so only how ids map is of interest here.
fn user_namespace(wanted: Option<api::UserNamespace>) -> Result<Option<IdMaps>, Status> {
    use api::NamespaceMode as Mode;

    let Some(wanted) = wanted else {
        return Ok(None);
    };
    match Mode::try_from(wanted.mode) {
        Ok(Mode::Node) => Ok(None),
        Ok(Mode::Pod) => Ok(Some(IdMaps {
            uids: wanted.uids.iter().map(range).collect(),
            gids: wanted.gids.iter().map(range).collect(),
        })),
        Ok(Mode::Container | Mode::Target) => Err(status::invalid_text(
            "a user namespace can only be the pod's or the node's",
        )),
        Err(unknown) => Err(status::invalid(&unknown)),
    }
}

/// A profile, or the deprecated field in its place.
fn profile(given: Option<&api::SecurityProfile>, old: &str) -> Result<Profile, Status> {
    use api::security_profile::ProfileType as Wire;

    let Some(given) = given else {
        return old_profile(old);
    };
    match (
        Wire::try_from(given.profile_type),
        given.localhost_ref.as_str(),
    ) {
        (Ok(Wire::RuntimeDefault), "") => Ok(Profile::RuntimeDefault),
        (Ok(Wire::Unconfined), "") => Ok(Profile::Unconfined),
        (Ok(Wire::Localhost), "") => Err(status::missing("localhost_ref of a security profile")),
        (Ok(Wire::Localhost), name) => {
            let name = name.strip_prefix("localhost/").unwrap_or(name);
            Ok(Profile::Localhost(name.to_owned()))
        }
        (Ok(Wire::RuntimeDefault | Wire::Unconfined), _) => Err(status::invalid_text(
            "localhost_ref is only possible with a Localhost security profile",
        )),
        (Err(unknown), _) => Err(status::invalid(&unknown)),
    }
}

fn old_profile(text: &str) -> Result<Profile, Status> {
    match (text, text.strip_prefix("localhost/")) {
        ("" | "unconfined", _) => Ok(Profile::Unconfined),
        ("runtime/default" | "docker/default", _) => Ok(Profile::RuntimeDefault),
        (_, Some(name)) if !name.is_empty() => Ok(Profile::Localhost(name.to_owned())),
        _ => Err(status::invalid_text(format!(
            "{text:?} is no security profile"
        ))),
    }
}

fn selinux_label(options: &api::SeLinuxOption) -> Option<String> {
    let parts = [
        &options.user,
        &options.role,
        &options.r#type,
        &options.level,
    ];
    let is_set = parts.iter().any(|part| !part.is_empty());
    is_set.then(|| parts.map(String::as_str).join(":"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(context: api::LinuxContainerSecurityContext) -> Result<MemberSecurity, String> {
        security(context).map_err(|status| status.message().to_owned())
    }

    fn profile_of(profile_type: i32, localhost_ref: &str) -> Option<api::SecurityProfile> {
        Some(api::SecurityProfile {
            profile_type,
            localhost_ref: localhost_ref.into(),
        })
    }

    #[test]
    fn nothing_said_is_the_images_user_without_seccomp_and_with_the_engines_apparmor_profile() {
        let read = read(api::LinuxContainerSecurityContext::default()).unwrap();
        let expected = MemberSecurity {
            apparmor: Profile::RuntimeDefault,
            ..MemberSecurity::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn profiles_are_read_in_both_ways() {
        let table = [
            (profile_of(0, ""), "", Some(Profile::RuntimeDefault)),
            (
                profile_of(1, ""),
                "runtime/default",
                Some(Profile::Unconfined),
            ),
            (
                profile_of(2, "/p.json"),
                "",
                Some(Profile::Localhost("/p.json".into())),
            ),
            (
                profile_of(2, "localhost/p"),
                "",
                Some(Profile::Localhost("p".into())),
            ),
            (profile_of(2, ""), "", None),
            (profile_of(0, "x"), "", None),
            (profile_of(7, ""), "", None),
            (None, "", Some(Profile::Unconfined)),
            (None, "runtime/default", Some(Profile::RuntimeDefault)),
            (
                None,
                "localhost//p.json",
                Some(Profile::Localhost("/p.json".into())),
            ),
            (None, "localhost/", None),
            (None, "whatever", None),
        ];
        for (given, old, expected) in table {
            assert_eq!(
                profile(given.as_ref(), old).ok(),
                expected,
                "{given:?} {old}"
            );
        }
    }

    #[test]
    fn ids_outside_their_range_and_contradictions_are_refused() {
        let value = |value| Some(api::Int64Value { value });
        let base = api::LinuxContainerSecurityContext::default;
        let table = [
            (
                api::LinuxContainerSecurityContext {
                    run_as_user: value(-1),
                    ..base()
                },
                "run_as_user cannot be -1",
            ),
            (
                api::LinuxContainerSecurityContext {
                    run_as_user: value(1),
                    run_as_username: "x".into(),
                    ..base()
                },
                "cannot both be set",
            ),
            (
                api::LinuxContainerSecurityContext {
                    supplemental_groups: vec![1 << 40],
                    ..base()
                },
                "supplemental_groups",
            ),
        ];
        for (context, expected) in table {
            let error = read(context).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn stop_signals_are_spelled_as_elsewhere() {
        assert_eq!(stop_signal(api::Signal::RuntimeDefault), "");
        assert_eq!(stop_signal(api::Signal::Sigterm), "SIGTERM");
        assert_eq!(stop_signal(api::Signal::Sigrtminplus3), "SIGRTMIN+3");
        assert_eq!(stop_signal(api::Signal::Sigrtmaxminus1), "SIGRTMAX-1");
    }
}
