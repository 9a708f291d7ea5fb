//! What shims are told, from `runtime.handlers.<name>.options`: in the message that the shim understands.
//!
//! Our shim and containerd's for runc take `containerd.runc.v1.Options`; every other one takes `runtimeoptions.v1.Options`,
//! with the table as TOML or the path of a file, as containerd hands it over.

use std::path::Path;

use anyhow::{Context, bail};
use orlop_api::containerd::runc::v1::Options as RuncOptions;
use orlop_api::runtimeoptions::v1::Options as GenericOptions;
use orlop_api::{Any, any};
use toml::{Table, Value};

/// Shims that take runc's options. Ours may have any name: it is the one of `runtime.shim`.
const OF_RUNC: [&str; 2] = ["containerd-shim-runc-v2", "containerd-shim-orlop-v1"];

/// The options of a handler whose shim is `shim`; `engine` is what the engine itself asks of runc and those like it.
///
/// # Errors
/// A key that the shim would not know, or a value of another type.
pub(crate) fn pack(
    shim: &Path,
    is_own: bool,
    table: &Table,
    engine: RuncOptions,
) -> anyhow::Result<Option<Any>> {
    let name = shim.file_name().and_then(|name| name.to_str());
    if is_own || name.is_some_and(|name| OF_RUNC.contains(&name)) {
        let mut options = engine;
        for (key, value) in table {
            set(&mut options, key, value).with_context(|| format!("{key} = {value}"))?;
        }
        return Ok(Some(any::pack(&options)));
    }
    if table.is_empty() {
        return Ok(None);
    }
    generic(table).map(|options| Some(any::pack(&options)))
}

/// Names are compared as Go's TOML does: containerd's files have `SystemdCgroup`.
fn folded(key: &str) -> String {
    key.replace('_', "").to_ascii_lowercase()
}

fn set(options: &mut RuncOptions, key: &str, value: &Value) -> anyhow::Result<()> {
    match folded(key).as_str() {
        "nopivotroot" => options.no_pivot_root = flag(value)?,
        "nonewkeyring" => options.no_new_keyring = flag(value)?,
        "shimcgroup" => options.shim_cgroup = text(value)?,
        "iouid" => options.io_uid = number(value)?,
        "iogid" => options.io_gid = number(value)?,
        "binaryname" => options.binary_name = text(value)?,
        "root" => options.root = text(value)?,
        "systemdcgroup" => options.systemd_cgroup = flag(value)?,
        "criuimagepath" => options.criu_image_path = text(value)?,
        "criuworkpath" => options.criu_work_path = text(value)?,
        _other => bail!("runc's shim has no such option"),
    }
    Ok(())
}

/// Without a path the shim gets the whole table.
fn generic(table: &Table) -> anyhow::Result<GenericOptions> {
    let mut options = GenericOptions::default();
    for (key, value) in table {
        match folded(key).as_str() {
            "typeurl" => options.type_url = text(value).with_context(|| key.clone())?,
            "configpath" => options.config_path = text(value).with_context(|| key.clone())?,
            _of_the_shim => {}
        }
    }
    if options.config_path.is_empty() {
        options.config_body = table.to_string().into_bytes();
    }
    Ok(options)
}

fn flag(value: &Value) -> anyhow::Result<bool> {
    value.as_bool().context("it has to be true or false")
}

fn text(value: &Value) -> anyhow::Result<String> {
    let text = value.as_str().context("it has to be a string")?;
    Ok(text.to_owned())
}

fn number(value: &Value) -> anyhow::Result<u32> {
    let number = value.as_integer().context("it has to be a number")?;
    u32::try_from(number).context("it is out of range")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn packed(shim: &str, table: &str) -> anyhow::Result<Option<Any>> {
        let engine = RuncOptions {
            root: "/run/orlop/runc".into(),
            binary_name: "/usr/sbin/runc".into(),
            ..RuncOptions::default()
        };
        pack(Path::new(shim), false, &table.parse().unwrap(), engine)
    }

    #[test]
    fn runcs_shim_gets_the_engines_options_with_those_of_the_file_over_them() {
        let table = "SystemdCgroup = true\nBinaryName = \"/opt/crun\"\nio_uid = 7\n";
        let packed = packed("/usr/bin/containerd-shim-runc-v2", table).unwrap();
        let options: RuncOptions = any::unpack(&packed.unwrap()).unwrap();
        assert!(options.systemd_cgroup);
        assert_eq!(
            (options.binary_name.as_str(), options.io_uid),
            ("/opt/crun", 7)
        );
        assert_eq!(options.root, "/run/orlop/runc");
    }

    #[test]
    fn other_shims_get_the_table_or_the_path_of_a_file() {
        let kata = "containerd-shim-kata-v2";
        assert_eq!(packed(kata, "").unwrap(), None);
        let body: GenericOptions = any::unpack(
            &packed(kata, "TypeUrl = \"t\"\ndebug = true\n")
                .unwrap()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(body.type_url, "t");
        let read: Table = String::from_utf8(body.config_body)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(read["debug"].as_bool(), Some(true));
        let path: GenericOptions =
            any::unpack(&packed(kata, "ConfigPath = \"/k.toml\"").unwrap().unwrap()).unwrap();
        assert_eq!(
            (path.config_path.as_str(), path.config_body.len()),
            ("/k.toml", 0)
        );
    }

    #[test]
    fn what_a_shim_would_not_know_is_named() {
        for (table, fault) in [
            ("Runtime = \"x\"", "no such option"),
            ("Root = 1", "a string"),
            ("IoUid = -1", "out of range"),
            ("SystemdCgroup = \"yes\"", "true or false"),
        ] {
            let error = packed("containerd-shim-runc-v2", table).unwrap_err();
            assert!(format!("{error:#}").contains(fault), "{error:#}");
        }
    }
}
