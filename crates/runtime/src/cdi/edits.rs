//! What devices change in a container's spec.
//!
//! Looking up the nodes blocks and is done first ([`Edits::add`]); making the changes is pure ([`Edits::apply`]).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use oci_spec::runtime::{
    Hook as SpecHook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxIntelRdt, Mount as SpecMount, MountBuilder,
    Spec,
};
use orlop_types::IdMaps;

use super::CdiError;
use super::format::{ContainerEdits, DeviceNode, Hook, IntelRdt, Mount};
use crate::host;
use crate::mapping::to_spec;
use crate::spec::SpecError;

/// Permissions of a node where the file says nothing.
const ALL_PERMISSIONS: &str = "rwm";

/// Everything that a container's devices change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edits {
    environment: Vec<String>,
    nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    intel_rdt: Option<IntelRdt>,
    groups: Vec<u32>,
}

/// A node as it is on this machine.
#[derive(Debug, Clone)]
struct Node {
    path: String,
    kind: LinuxDeviceType,
    major: u32,
    minor: u32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// Empty for none.
    access: String,
}

impl Edits {
    /// Adds what a file asks for; of several classes of service the last one counts.
    pub(super) fn add(&mut self, edits: &ContainerEdits) -> Result<(), CdiError> {
        self.environment.extend_from_slice(&edits.env);
        for node in &edits.device_nodes {
            let found = look_up(node).map_err(|source| CdiError::Node {
                path: host_path(node).into(),
                source,
            })?;
            self.nodes.push(found);
        }
        self.mounts.extend_from_slice(&edits.mounts);
        self.hooks.extend_from_slice(&edits.hooks);
        self.intel_rdt = edits.intel_rdt.clone().or(self.intel_rdt.take());
        // The superuser's group is nobody's to give.
        let groups = edits.additional_gids.iter().map(|group| group.0);
        self.groups.extend(groups.filter(|group| *group != 0));
        Ok(())
    }

    /// Groups that its first process is in, too.
    pub(crate) fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Whether the kernel has to divide caches or bandwidth.
    pub(crate) const fn divides_caches(&self) -> bool {
        self.intel_rdt.is_some()
    }

    /// Makes the changes, all but the groups; `maps` are those of the container's user namespace.
    pub(crate) fn apply(&self, spec: &mut Spec, maps: Option<&IdMaps>) -> Result<(), SpecError> {
        self.set_environment(spec);
        self.add_nodes(spec).map_err(model("devices"))?;
        self.add_mounts(spec, maps).map_err(model("mounts"))?;
        self.add_hooks(spec).map_err(model("hooks"))?;
        if let (Some(asked), Some(linux)) = (&self.intel_rdt, spec.linux_mut()) {
            linux.set_intel_rdt(Some(intel_rdt(asked)));
        }
        Ok(())
    }

    /// Of two with one name the device's stays.
    fn set_environment(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else {
            return;
        };
        let mut all = process.env().clone().unwrap_or_default();
        for entry in &self.environment {
            let name = entry.split_inclusive('=').next().unwrap_or_default();
            all.retain(|there| !there.starts_with(name));
            all.push(entry.clone());
        }
        process.set_env(Some(all));
    }

    fn add_nodes(&self, spec: &mut Spec) -> Result<(), oci_spec::OciSpecError> {
        let user = spec
            .process()
            .as_ref()
            .map(|process| process.user().clone());
        // A node without an owner belongs to the process, so that it can use it.
        let uid = user.as_ref().map(|user| user.uid()).filter(|uid| *uid > 0);
        let gid = user.as_ref().map(|user| user.gid()).filter(|gid| *gid > 0);
        let Some(linux) = spec.linux_mut() else {
            return Ok(());
        };
        let mut nodes = linux.devices().clone().unwrap_or_default();
        let mut rules = Vec::new();
        for node in &self.nodes {
            nodes.retain(|there| there.path() != std::path::Path::new(&node.path));
            nodes.push(node.to_spec(uid, gid)?);
            rules.extend(node.rule()?);
        }
        if self.nodes.is_empty() {
            return Ok(());
        }
        linux.set_devices(Some(nodes));
        let mut resources = linux.resources().clone().unwrap_or_default();
        let before = resources.devices().clone().unwrap_or_default();
        resources.set_devices(Some(before.into_iter().chain(rules).collect()));
        linux.set_resources(Some(resources));
        Ok(())
    }

    fn add_mounts(
        &self,
        spec: &mut Spec,
        maps: Option<&IdMaps>,
    ) -> Result<(), oci_spec::OciSpecError> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        let mut all = spec.mounts().clone().unwrap_or_default();
        for mount in &self.mounts {
            let place = std::path::Path::new(&mount.container_path);
            all.retain(|there| there.destination() != place);
            all.push(mount.to_spec(maps)?);
        }
        // A mount must not hide another one that was made before it below its place.
        all.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(all));
        Ok(())
    }

    #[allow(deprecated, reason = "files may name the deprecated prestart hooks")]
    fn add_hooks(&self, spec: &mut Spec) -> Result<(), oci_spec::OciSpecError> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let mut all: Hooks = spec.hooks().clone().unwrap_or_default();
        for hook in &self.hooks {
            let list = match hook.hook_name.as_str() {
                "prestart" => all.prestart_mut(),
                "createRuntime" => all.create_runtime_mut(),
                "createContainer" => all.create_container_mut(),
                "startContainer" => all.start_container_mut(),
                "poststart" => all.poststart_mut(),
                _poststop => all.poststop_mut(),
            };
            list.get_or_insert_default().push(hook.to_spec()?);
        }
        spec.set_hooks(Some(all));
        Ok(())
    }
}

impl Node {
    fn to_spec(
        &self,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<LinuxDevice, oci_spec::OciSpecError> {
        let mut node = LinuxDeviceBuilder::default()
            .path(&self.path)
            .typ(self.kind)
            .major(self.major)
            .minor(self.minor)
            .build()?;
        node.set_file_mode(self.mode)
            .set_uid(self.uid.or(uid))
            .set_gid(self.gid.or(gid));
        Ok(node)
    }

    /// What the cgroup has to allow; FIFOs are no devices to it.
    fn rule(&self) -> Result<Option<LinuxDeviceCgroup>, oci_spec::OciSpecError> {
        if self.kind == LinuxDeviceType::P || self.access.is_empty() {
            return Ok(None);
        }
        let kind = if self.kind == LinuxDeviceType::U {
            LinuxDeviceType::C
        } else {
            self.kind
        };
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind)
            .major(self.major)
            .minor(self.minor)
            .access(self.access.clone())
            .build()
            .map(Some)
    }
}

impl Mount {
    /// A path of the host is bound, whether or not the file says so.
    fn to_spec(&self, maps: Option<&IdMaps>) -> Result<SpecMount, oci_spec::OciSpecError> {
        let mut options = self.options.clone();
        let says =
            |options: &[String]| options.iter().any(|word| word == "bind" || word == "rbind");
        let is_bind = ["", "bind", "none"].contains(&self.kind.as_str());
        if is_bind && !says(&options) {
            options.push("rbind".to_owned());
        }
        let kind = if is_bind { "bind" } else { &self.kind };
        let mut mount = MountBuilder::default()
            .destination(&self.container_path)
            .source(&self.host_path)
            .typ(kind)
            .options(options)
            .build()?;
        let maps = maps.filter(|_| is_bind);
        mount
            .set_uid_mappings(maps.map(|maps| to_spec(&maps.uids)))
            .set_gid_mappings(maps.map(|maps| to_spec(&maps.gids)));
        Ok(mount)
    }
}

impl Hook {
    fn to_spec(&self) -> Result<SpecHook, oci_spec::OciSpecError> {
        let mut hook = HookBuilder::default().path(&self.path).build()?;
        let given = |words: &Vec<String>| Some(words.clone()).filter(|words| !words.is_empty());
        hook.set_args(given(&self.args))
            .set_env(given(&self.env))
            .set_timeout(self.timeout.map(|seconds| i64::from(seconds.0)));
        Ok(hook)
    }
}

#[allow(
    deprecated,
    reason = "files before version 1.1.0 have only the older fields"
)]
fn intel_rdt(asked: &IntelRdt) -> LinuxIntelRdt {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let set = |flag: bool| flag.then_some(true);
    let mut made = LinuxIntelRdt::default();
    made.set_clos_id(given(&asked.clos_id))
        .set_l3_cache_schema(given(&asked.l3_cache_schema))
        .set_mem_bw_schema(given(&asked.mem_bw_schema))
        .set_schemata(asked.schemata.clone())
        .set_enable_monitoring(set(asked.enable_monitoring.0))
        .set_enable_cmt(set(asked.enable_cmt.0))
        .set_enable_mbm(set(asked.enable_mbm.0));
    made
}

fn host_path(node: &DeviceNode) -> &str {
    if node.host_path.is_empty() {
        &node.path
    } else {
        &node.host_path
    }
}

/// What a file does not say of a node is as on the host. One that is told in full need not be there.
fn look_up(node: &DeviceNode) -> io::Result<Node> {
    let is_complete = !node.kind.is_empty() && (node.major.0 != 0 || node.kind == "p");
    let mut found = Node {
        path: node.path.clone(),
        kind: kind(&node.kind),
        major: node.major.0,
        minor: node.minor.0,
        mode: node.file_mode.map(|mode| mode.0),
        uid: node.uid.map(|uid| uid.0),
        gid: node.gid.map(|gid| gid.0),
        access: match node.permissions.as_str() {
            "" => ALL_PERMISSIONS.to_owned(),
            "none" => String::new(),
            letters => letters.to_owned(),
        },
    };
    let there = match fs::symlink_metadata(host_path(node)) {
        Ok(there) => there,
        Err(_missing) if is_complete => return Ok(found),
        Err(error) => return Err(error),
    };
    found.mode = found.mode.or(Some(there.mode() & host::PERMISSION_BITS));
    if is_complete {
        return Ok(found);
    }
    let actual = actual_kind(&there)?;
    if node.kind.is_empty() {
        found.kind = actual;
    }
    let is_same =
        found.kind == actual || found.kind == LinuxDeviceType::U && actual == LinuxDeviceType::C;
    if !is_same {
        let fault = format!("it is of type {}, not {}", actual.as_str(), node.kind);
        return Err(io::Error::other(fault));
    }
    if found.kind != LinuxDeviceType::P {
        (found.major, found.minor) = host::numbers(there.rdev());
    }
    Ok(found)
}

fn actual_kind(there: &fs::Metadata) -> io::Result<LinuxDeviceType> {
    let kind = there.file_type();
    if kind.is_block_device() {
        Ok(LinuxDeviceType::B)
    } else if kind.is_char_device() {
        Ok(LinuxDeviceType::C)
    } else if kind.is_fifo() {
        Ok(LinuxDeviceType::P)
    } else {
        Err(io::Error::other("it is no device"))
    }
}

fn kind(word: &str) -> LinuxDeviceType {
    match word {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        "u" => LinuxDeviceType::U,
        _c_or_looked_up => LinuxDeviceType::C,
    }
}

const fn model(part: &'static str) -> impl FnOnce(oci_spec::OciSpecError) -> SpecError {
    move |source| SpecError::Model { part, source }
}
