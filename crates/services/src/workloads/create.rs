//! `orlop.v1.Containers.Create`: from a request to what `runtime` makes.

use orlop_api::orlop::v1 as api;
use orlop_image::images::{ImageDetails, Images, Scope, UnpackRequest};
use orlop_runtime::spec::{ContainerOptions, ImageDefaults, Limits, Network, Security, UserMount};
use orlop_runtime::{NewContainer, Runtime};
use orlop_types::{ContainerId, SnapshotKey, SnapshotterName};
use tonic::Status;

use crate::request::Caller;
use crate::status;
use crate::transfers::platform;
use crate::translate::{labels, parse, parse_optional};

/// Makes a container of an image that is in the store.
pub(super) async fn create(
    images: &Images,
    runtime: &Runtime,
    caller: Caller,
    wanted: api::CreateRequest,
) -> Result<api::CreateResponse, Status> {
    let scope = Scope {
        namespace: caller.namespace.clone(),
        lease: caller.lease,
    };
    let snapshotter = parse_optional(&wanted.snapshotter)?
        .unwrap_or_else(|| images.default_snapshotter().clone());
    let request = UnpackRequest {
        image: parse(&wanted.image)?,
        platform: platform(wanted.platform.clone()),
        snapshotter: Some(snapshotter.clone()),
    };
    let details = images
        .prepare(&scope, request)
        .await
        .map_err(|error| status::of_image(&error))?;
    let id = id(&wanted.name)?;
    let new = new_container(id, wanted, snapshotter, &details)?;
    let made = runtime.create_container(&caller.namespace, new).await;
    let made = made.map_err(|error| status::of_runtime(&error))?;
    Ok(api::CreateResponse {
        id: made.id.to_string(),
        image: made.image,
        warnings: Vec::new(),
    })
}

/// The name asked for, or one that nobody has.
fn id(name: &str) -> Result<ContainerId, Status> {
    if !name.is_empty() {
        return parse(name);
    }
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(|error| status::unreadable("the kernel's random numbers", &error))?;
    let digits: String = random.chars().filter(char::is_ascii_hexdigit).collect();
    parse(&digits)
}

fn new_container(
    id: ContainerId,
    wanted: api::CreateRequest,
    snapshotter: SnapshotterName,
    details: &ImageDetails,
) -> Result<NewContainer, Status> {
    let image_snapshot = details.chain_id.ok_or_else(|| {
        status::failed_precondition(format!("image {} has no layers", details.image.name))
    })?;
    Ok(NewContainer {
        id,
        image: details.image.name.to_string(),
        image_defaults: defaults(details),
        image_snapshot: SnapshotKey::new(image_snapshot.to_string())
            .map_err(|error| status::invalid(&error))?,
        snapshotter,
        runtime: wanted.runtime.clone(),
        labels: labels(wanted.labels.clone())?,
        auto_remove: wanted.auto_remove,
        attach_network: wanted.network() == api::Network::Cni,
        devices: wanted.devices.clone(),
        options: options(wanted)?,
    })
}

fn defaults(details: &ImageDetails) -> ImageDefaults {
    let config = details.config.config.clone();
    ImageDefaults {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
    }
}

fn options(wanted: api::CreateRequest) -> Result<ContainerOptions, Status> {
    let network = match wanted.network() {
        api::Network::Host => Network::Host,
        // The namespace of a CNI network is known to the runtime only.
        api::Network::Unspecified | api::Network::None | api::Network::Cni => Network::None,
    };
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ContainerOptions {
        entrypoint: Some(wanted.entrypoint).filter(|words| !words.is_empty()),
        args: wanted.args,
        env: wanted.env,
        working_dir: given(wanted.working_folder),
        user: given(wanted.user),
        terminal: wanted.tty,
        mounts: wanted.mounts.into_iter().map(mount).collect(),
        capabilities_added: wanted.capabilities_added,
        capabilities_dropped: wanted.capabilities_dropped,
        limits: wanted.limits.map(limits).transpose()?.unwrap_or_default(),
        network,
        hostname: given(wanted.hostname),
        read_only_root: wanted.read_only_root,
        annotations: wanted.annotations,
        security: Security {
            privileged: wanted.privileged,
            // Nothing else of a privileged container is confined either.
            no_new_privileges: !wanted.privileged,
            ..Security::default()
        },
        ..ContainerOptions::default()
    })
}

fn mount(message: api::ContainerMount) -> UserMount {
    UserMount {
        kind: message.r#type,
        source: message.source,
        target: message.destination,
        read_only: message.read_only,
        options: message.options,
        id_maps: None,
    }
}

/// Zero is no limit.
fn limits(message: api::ContainerLimits) -> Result<Limits, Status> {
    let some = |value: u64| (value != 0).then_some(value);
    let small = |value: u64, field: &str| {
        let value = some(value).map(u32::try_from).transpose();
        value.map_err(|_error| {
            status::invalid_text(format!("{field} is beyond what any machine has"))
        })
    };
    Ok(Limits {
        memory_bytes_max: some(message.memory_bytes),
        memory_and_swap_bytes_max: some(message.memory_and_swap_bytes),
        cpu_millis_max: small(message.cpu_millis, "cpu_millis")?,
        cpuset_cpus: Some(message.cpuset_cpus).filter(|cpus| !cpus.is_empty()),
        pids_max: small(message.pids, "pids")?,
        ..Limits::default()
    })
}
