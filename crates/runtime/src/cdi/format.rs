//! A file of devices: its fields (SPEC.md, "CDI JSON Specification"), and what has to hold of them.
//!
//! Unknown fields are refused: one that is not understood may be what keeps the device apart from others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::name::{check_device, check_kind};
use super::{FileError, yaml};

/// The versions there are, and what came with each is in [`File::version_needed`].
const VERSIONS: [&str; 8] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// The points in a container's life at which a hook can be run (runtime-spec, config.md).
pub(super) const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    /// `VENDOR/CLASS` of all its devices.
    pub(super) kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// What is done with any of its devices.
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// One device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// What changes in a container's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    net_devices: Vec<Value>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) additional_gids: Vec<Whole<u32>>,
}

/// A node below `/dev`; what is not said is looked up on the host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: Whole<u32>,
    #[serde(default)]
    pub(super) minor: Whole<u32>,
    pub(super) file_mode: Option<Whole<u32>>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<Whole<u32>>,
    pub(super) gid: Option<Whole<u32>>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// A program that is run on the way.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<Whole<u32>>,
}

/// Shares of caches and memory bandwidth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(default, rename = "closID")]
    pub(super) clos_id: String,
    #[serde(default)]
    pub(super) l3_cache_schema: String,
    #[serde(default)]
    pub(super) mem_bw_schema: String,
    pub(super) schemata: Option<Vec<String>>,
    #[serde(default)]
    pub(super) enable_monitoring: Flag,
    /// Until version 1.0.0 there was one for each kind of monitoring.
    #[serde(default, rename = "enableCMT")]
    pub(super) enable_cmt: Flag,
    #[serde(default, rename = "enableMBM")]
    pub(super) enable_mbm: Flag,
}

/// A whole number. In YAML it may be octal, as modes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Whole<T>(pub(super) T);

/// A yes or no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

/// Reads a file's text by its name's ending.
pub(super) fn parse(text: &str, is_yaml: bool) -> Result<File, FileError> {
    let value = if is_yaml {
        yaml::parse(text)?
    } else {
        serde_json::from_str(text)?
    };
    let file: File = serde_json::from_value(without_nulls(value))?;
    file.check().map_err(FileError::Invalid)?;
    Ok(file)
}

/// Nothing in a table is as if the key were not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let there = table.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                there
                    .map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        let given = self.cdi_version.trim_start_matches('v');
        let of = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let version = of(given).ok_or_else(|| format!("version {given:?} is not known"))?;
        let needed = self.version_needed();
        if of(needed).is_none_or(|needed| needed > version) {
            return Err(format!(
                "what it says needs version {needed}, and it is of version {given}"
            ));
        }
        check_kind(&self.kind).map_err(|fault| format!("kind {:?}: {fault}", self.kind))?;
        if self.devices.is_empty() {
            return Err("it has no devices".to_owned());
        }
        self.container_edits.check()?;
        let mut names = Vec::new();
        for device in &self.devices {
            let name = &device.name;
            let of_device = |fault: &str| format!("device {name:?}: {fault}");
            check_device(name).map_err(of_device)?;
            if names.contains(&name) {
                return Err(of_device("there is another one of that name"));
            }
            if device.container_edits == ContainerEdits::default() {
                return Err(of_device("it changes nothing"));
            }
            device
                .container_edits
                .check()
                .map_err(|fault| of_device(&fault))?;
            names.push(name);
        }
        Ok(())
    }

    /// The version that its latest feature came with (SPEC.md, "Versions").
    fn version_needed(&self) -> &'static str {
        let devices = self.devices.iter().map(|device| &device.container_edits);
        let edits: Vec<_> = devices.chain([&self.container_edits]).collect();
        let any = |has: fn(&ContainerEdits) -> bool| edits.iter().any(|edits| has(edits));
        let is_annotated = !self.annotations.is_empty()
            || self
                .devices
                .iter()
                .any(|device| !device.annotations.is_empty());
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let starts_with_digit = |device: &Device| {
            device
                .name
                .starts_with(|first: char| first.is_ascii_digit())
        };
        if any(|edits| {
            let rdt = edits.intel_rdt.as_ref();
            let is_new = |rdt: &IntelRdt| rdt.schemata.is_some() || rdt.enable_monitoring.0;
            !edits.net_devices.is_empty() || rdt.is_some_and(is_new)
        }) {
            "1.1.0"
        } else if any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()) {
            "0.7.0"
        } else if is_annotated || class.contains('.') {
            "0.6.0"
        } else if any(|edits| {
            edits
                .device_nodes
                .iter()
                .any(|node| !node.host_path.is_empty())
        }) || self.devices.iter().any(starts_with_digit)
        {
            "0.5.0"
        } else if any(|edits| edits.mounts.iter().any(|mount| !mount.kind.is_empty())) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        if !self.net_devices.is_empty() {
            return Err("network devices cannot be given by this engine".to_owned());
        }
        check_environment(&self.env)?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.hooks.iter().try_for_each(Hook::check)?;
        for mount in &self.mounts {
            if !mount.host_path.starts_with('/') || !mount.container_path.starts_with('/') {
                return Err(format!(
                    "mount {:?} at {:?}: both have to be absolute paths",
                    mount.host_path, mount.container_path
                ));
            }
        }
        self.intel_rdt.as_ref().map_or(Ok(()), IntelRdt::check)
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        let bad = |fault: String| Err(format!("node {:?}: {fault}", self.path));
        if !self.path.starts_with('/') {
            return bad("its path has to be absolute".to_owned());
        }
        if !["", "b", "c", "u", "p"].contains(&self.kind.as_str()) {
            return bad(format!("type {:?} is not b, c, u or p", self.kind));
        }
        let permissions = &self.permissions;
        if permissions != "none" && permissions.bytes().any(|letter| !b"rwm".contains(&letter)) {
            return bad(format!("permissions {permissions:?} are not of r, w and m"));
        }
        Ok(())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        let name = &self.hook_name;
        if !HOOKS.contains(&name.as_str()) {
            return Err(format!("hook {name:?} is none of {}", HOOKS.join(", ")));
        }
        if !self.path.is_absolute() {
            return Err(format!(
                "hook {name:?}: path {:?} has to be absolute",
                self.path
            ));
        }
        check_environment(&self.env)
    }
}

impl IntelRdt {
    fn check(&self) -> Result<(), String> {
        let id = self.clos_id.as_str();
        let is_name = id.len() < 4096 && !id.contains(['/', '\n']) && id != "." && id != "..";
        if is_name || id == "/" {
            Ok(())
        } else {
            Err(format!("class of service {id:?} cannot be a folder's name"))
        }
    }
}

fn check_environment(entries: &[String]) -> Result<(), String> {
    let is_sound = |entry: &&String| entry.find('=').is_some_and(|at| at > 0);
    match entries.iter().find(|entry| !is_sound(entry)) {
        Some(entry) => Err(format!("environment entry {entry:?} is not NAME=value")),
        None => Ok(()),
    }
}

impl<'de, T: TryFrom<i64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads;

        impl Visitor<'_> for Reads {
            type Value = i64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<i64, E> {
                Ok(number)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<i64, E> {
                i64::try_from(number).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<i64, E> {
                whole(text).ok_or_else(|| E::custom(format!("{text:?} is no whole number")))
            }
        }

        let number = from.deserialize_any(Reads)?;
        T::try_from(number)
            .map(Self)
            .map_err(|_too_large| D::Error::custom(format!("{number} is out of range")))
    }
}

/// A number as YAML writes it: `0660` and `0o660` are octal.
fn whole(text: &str) -> Option<i64> {
    let (digits, radix) = if let Some(digits) = text.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = text.strip_prefix("0o") {
        (digits, 8)
    } else if text.len() > 1 && text.starts_with('0') {
        (text, 8)
    } else {
        (text, 10)
    };
    i64::from_str_radix(digits, radix).ok()
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Flag(bool),
            Word(String),
        }

        match Written::deserialize(from)? {
            Written::Flag(flag) => Ok(Self(flag)),
            Written::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" => Ok(Self(true)),
                "false" => Ok(Self(false)),
                _other => Err(D::Error::custom(format!(
                    "{word:?} is neither true nor false"
                ))),
            },
        }
    }
}
