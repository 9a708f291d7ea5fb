use std::path::Path;

use oci_spec::runtime::Spec;
use orlop_types::{ContainerId, ErrorKind, IdMaps, IdRange};

use super::format::parse;
use super::*;
use crate::spec::{self, ContainerOptions, ImageDefaults, ResolvedUser};

const JSON: &str = r#"{"cdiVersion": "0.7.0", "kind": "v.com/gpu", "containerEdits": {"env": ["ALL=1"]},
    "devices": [
        {"name": "0", "containerEdits": {
            "env": ["A=device", "PATH=/gpu"], "additionalGids": [0, 7],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}],
            "mounts": [{"hostPath": "/usr", "containerPath": "/gpu", "options": ["ro"]},
                       {"hostPath": "tmpfs-is-no-path", "containerPath": "/x"}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true", "x"], "timeout": 3}],
            "intelRdt": {"closID": "fast", "enableCMT": true}}}]}"#;

fn sound() -> String {
    JSON.replace("tmpfs-is-no-path", "/etc")
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn names(texts: &[&str]) -> Vec<DeviceName> {
    texts
        .iter()
        .map(|text| DeviceName::parse(text).unwrap())
        .collect()
}

fn spec_of(edits: &Edits, maps: Option<&IdMaps>, uid: u32) -> Spec {
    let image = ImageDefaults {
        cmd: vec!["/x".into()],
        env: vec!["A=image".into()],
        ..ImageDefaults::default()
    };
    let id = ContainerId::new("web").unwrap();
    let user = ResolvedUser {
        uid,
        ..ResolvedUser::root()
    };
    let mut made = spec::build(&id, &image, &ContainerOptions::default(), &user).unwrap();
    edits.apply(&mut made, maps).unwrap();
    made
}

#[test]
fn everything_that_a_file_says_is_in_the_spec() {
    let folder = folder(&[("v.json", &sound())]);
    let edits = find(&[folder.path().into()], &names(&["v.com/gpu=0"])).unwrap();
    assert_eq!(edits.groups(), [7]);
    assert!(edits.divides_caches());
    let made = spec_of(&edits, None, 1000);
    let env = made.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(env, ["ALL=1", "A=device", "PATH=/gpu"]);
    let linux = made.linux().as_ref().unwrap();
    let node = &linux.devices().as_ref().unwrap()[0];
    assert_eq!(
        (node.path().as_path(), node.major(), node.minor()),
        (Path::new("/dev/gpu0"), 1, 3)
    );
    assert_eq!((node.uid(), node.gid()), (Some(1000), None));
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    let rule = rules.last().unwrap();
    assert_eq!((rule.allow(), rule.access().as_deref()), (true, Some("rw")));
    let rdt = linux.intel_rdt().as_ref().unwrap();
    assert_eq!(rdt.clos_id().as_deref(), Some("fast"));
    let mounts = made.mounts().clone().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/gpu"))
        .unwrap();
    assert_eq!(mount.options().clone().unwrap(), ["ro", "rbind"]);
    let hooks = made
        .hooks()
        .clone()
        .unwrap()
        .create_container()
        .clone()
        .unwrap();
    assert_eq!(
        (hooks[0].path().as_path(), hooks[0].timeout()),
        (Path::new("/bin/true"), Some(3))
    );
}

#[test]
fn mounts_of_devices_are_mapped_in_a_user_namespace() {
    let folder = folder(&[("v.json", &sound())]);
    let edits = find(&[folder.path().into()], &names(&["v.com/gpu=0"])).unwrap();
    let range = IdRange {
        inside: 0,
        outside: 100_000,
        count: 65_536,
    };
    let maps = IdMaps {
        uids: vec![range],
        gids: vec![range],
    };
    let made = spec_of(&edits, Some(&maps), 0);
    let mounts = made.mounts().clone().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/gpu"))
        .unwrap();
    assert_eq!(mount.uid_mappings().as_ref().unwrap()[0].host_id(), 100_000);
}

#[test]
fn yaml_says_the_same_as_json() {
    let yaml = "cdiVersion: 0.5.0\nkind: v.com/gpu\ncontainerEdits:\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    \
                - path: /dev/gpu0\n      type: c\n      major: 0x1\n      minor: 3\n      fileMode: 0660\n      uid: 5\n";
    let folder = folder(&[("v.yaml", yaml), ("ignored.txt", "x")]);
    let edits = find(&[folder.path().into()], &names(&["v.com/gpu=0"])).unwrap();
    let made = spec_of(&edits, None, 0);
    let node = made.linux().as_ref().unwrap().devices().as_ref().unwrap()[0].clone();
    assert_eq!(
        (node.major(), node.minor(), node.file_mode(), node.uid()),
        (1, 3, Some(0o660), Some(5))
    );
}

#[test]
fn a_later_folder_goes_before_an_earlier_one_and_equals_conflict() {
    let with = |value: &str| sound().replace("ALL=1", value);
    let (first, last) = (
        folder(&[("v.json", &with("ALL=etc"))]),
        folder(&[("v.json", &with("ALL=run"))]),
    );
    let both = [first.path().to_owned(), last.path().to_owned()];
    let edits = find(&both, &names(&["v.com/gpu=0"])).unwrap();
    let env = spec_of(&edits, None, 0)
        .process()
        .as_ref()
        .unwrap()
        .env()
        .clone()
        .unwrap();
    assert!(env.contains(&"ALL=run".to_owned()), "{env:?}");
    std::fs::write(last.path().join("w.json"), with("ALL=other")).unwrap();
    let error = find(&both, &names(&["v.com/gpu=0"])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("v.json") && text.contains("w.json"), "{text}");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn an_unknown_device_is_told_with_what_was_searched() {
    let folder = folder(&[("v.json", &sound()), ("w.json", "{"), ("x.yaml", "a: [")]);
    let missing = folder.path().join("missing");
    let folders = [missing.clone(), folder.path().to_owned()];
    let error = find(
        &folders,
        &names(&["v.com/gpu=0", "v.com/gpu=7", "w.com/x=1"]),
    )
    .unwrap_err();
    let text = error.to_string();
    for part in [
        "v.com/gpu=7, w.com/x=1",
        "missing",
        "w.json",
        "x.yaml could not be used: line",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What is damaged hides nothing else.
    assert!(find(&folders, &names(&["v.com/gpu=0"])).is_ok());
}

#[test]
fn nodes_are_those_of_this_machine() {
    let node = |node: &str| {
        let text = format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v/c", "devices": [{{"name": "a", "containerEdits": {{"deviceNodes": [{node}]}}}}]}}"#
        );
        let folder = folder(&[("v.json", &text)]);
        let found = find(&[folder.path().into()], &names(&["v/c=a"]));
        found.map_err(|error| orlop_types::chain(&error))
    };
    assert!(node(r#"{"path": "/dev/null"}"#).is_ok());
    assert!(node(r#"{"path": "/dev/gone", "type": "c", "major": 9}"#).is_ok());
    for (text, fault) in [
        (r#"{"path": "/dev/gone"}"#, "No such file"),
        (r#"{"path": "/dev/null", "type": "b"}"#, "type c, not b"),
        (
            r#"{"path": "/dev/x", "hostPath": "/etc/passwd"}"#,
            "no device",
        ),
    ] {
        let error = node(text).unwrap_err();
        assert!(error.contains(fault), "{error}");
    }
}

#[allow(clippy::too_many_lines, reason = "a table with one row per case")]
#[test]
fn files_that_say_what_cannot_be_are_refused() {
    let file = |version: &str, edits: &str| {
        format!(
            r#"{{"cdiVersion": "{version}", "kind": "v.com/gpu", "devices": [{{"name": "a", "containerEdits": {edits}}}]}}"#
        )
    };
    let table = [
        (JSON.to_owned(), "absolute"),
        (file("0.2.0", r#"{"env": ["A=1"]}"#), "not known"),
        (file("2.0.0", r#"{"env": ["A=1"]}"#), "not known"),
        (file("0.3.0", "{}"), "changes nothing"),
        (file("0.3.0", r#"{"env": ["=1"]}"#), "NAME=value"),
        (file("0.3.0", r#"{"gpus": 1}"#), "unknown field"),
        (
            file("0.6.0", r#"{"additionalGids": [1]}"#),
            "needs version 0.7.0",
        ),
        (file("0.6.0", r#"{"intelRdt": {}}"#), "needs version 0.7.0"),
        (
            file(
                "0.3.0",
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "bind"}]}"#,
            ),
            "0.4.0",
        ),
        (
            file(
                "0.4.0",
                r#"{"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}"#,
            ),
            "0.5.0",
        ),
        (file("1.0.0", r#"{"netDevices": [{}]}"#), "1.1.0"),
        (file("1.1.0", r#"{"netDevices": [{}]}"#), "cannot be given"),
        (
            file("0.5.0", r#"{"deviceNodes": [{"path": "/a", "type": "x"}]}"#),
            "not b, c, u or p",
        ),
        (
            file(
                "0.5.0",
                r#"{"deviceNodes": [{"path": "/a", "permissions": "x"}]}"#,
            ),
            "of r, w and m",
        ),
        (
            file("0.5.0", r#"{"deviceNodes": [{"path": "/a", "major": -1}]}"#),
            "out of range",
        ),
        (
            file(
                "0.5.0",
                r#"{"hooks": [{"hookName": "later", "path": "/a"}]}"#,
            ),
            "is none of",
        ),
        (
            file(
                "0.5.0",
                r#"{"hooks": [{"hookName": "poststop", "path": "a"}]}"#,
            ),
            "absolute",
        ),
        (
            file("0.7.0", r#"{"intelRdt": {"closID": "../x"}}"#),
            "folder's name",
        ),
        (
            r#"{"cdiVersion": "0.3.0", "kind": "v.com/gpu"}"#.to_owned(),
            "no devices",
        ),
        (
            r#"{"cdiVersion": "0.3.0", "kind": "gpu", "devices": []}"#.to_owned(),
            "no class",
        ),
    ];
    for (text, fault) in table {
        let error = parse(&text, false).unwrap_err().to_string();
        assert!(error.contains(fault), "{text}\n{error}");
        assert!(parse(&text, true).is_err());
    }
}
