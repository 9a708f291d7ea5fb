//! The examples in `dist/cache` are what they say.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the parser has events that no example brings"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use crate::shared::SharedSettings;

/// A document. Numbers and truth values are texts here.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

impl Node {
    fn at(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |node, key| match node {
            Self::Map(map) => map.get(key),
            Self::List(list) => list.get(key.parse::<usize>().ok()?),
            Self::Text(_) => None,
        })
    }

    fn text(&self, path: &str) -> &str {
        match self.at(path) {
            Some(Self::Text(text)) => text,
            Some(Self::List(_) | Self::Map(_)) | None => panic!("{path} is no text in {self:?}"),
        }
    }

    fn list(&self, path: &str) -> &[Self] {
        match self.at(path) {
            Some(Self::List(list)) => list,
            Some(Self::Text(_) | Self::Map(_)) | None => panic!("{path} is no list in {self:?}"),
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/cache")
}

fn documents(name: &str) -> Vec<Node> {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    let mut events = Parser::new_from_str(&text).map(|event| event.unwrap().0);
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        if matches!(event, Event::DocumentStart(_)) {
            let first = events.next().unwrap();
            documents.push(node(first, &mut events));
        }
    }
    documents
}

fn node<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Node {
    match event {
        Event::Scalar(text, ..) => Node::Text(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut list = Vec::new();
            loop {
                match events.next().unwrap() {
                    Event::SequenceEnd => return Node::List(list),
                    next => list.push(node(next, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut map = BTreeMap::new();
            loop {
                let key = match events.next().unwrap() {
                    Event::MappingEnd => return Node::Map(map),
                    Event::Scalar(text, ..) => text.into_owned(),
                    other => panic!("{other:?} is no key"),
                };
                let next = events.next().unwrap();
                let known = map.insert(key.clone(), node(next, events));
                assert_eq!(known, None, "{key} stands twice");
            }
        }
        other => panic!("{other:?} is nothing that an example has"),
    }
}

fn settings(text: &str) -> SharedSettings {
    SharedSettings::parse(Path::new("example"), text).unwrap()
}

#[test]
fn the_compose_example_is_a_fleet_with_a_database() {
    let [compose] = &documents("compose.yaml")[..] else {
        panic!("a compose file is one document");
    };
    for service in ["cache", "front", "postgres"] {
        assert!(
            !compose
                .text(&format!("services/{service}/image"))
                .is_empty()
        );
    }
    assert_eq!(compose.text("services/cache/deploy/replicas"), "2");
    let volumes = compose.list("services/cache/volumes");
    let mount = "./fleet.toml:/etc/orlop/cache.toml:ro".to_owned();
    assert!(volumes.contains(&Node::Text(mount)));
    let text = std::fs::read_to_string(folder().join("fleet.toml")).unwrap();
    let settings = settings(&text);
    assert_eq!(settings.depot.unwrap().bucket, "blobs");
    let fleet = settings.fleet.unwrap();
    assert!(fleet.database.unwrap().contains("host=postgres"));
    assert_eq!(
        fleet.password_file,
        Some("/run/secrets/database-password".into())
    );
    assert!(settings.tiering.rules().is_ok());
}

/// Kind and name of each document, and that what a workload names is there.
fn workloads(name: &str, kind: &str) -> (Vec<String>, Node) {
    let documents = documents(name);
    let kinds = documents
        .iter()
        .map(|one| format!("{}/{}", one.text("kind"), one.text("metadata/name")))
        .collect();
    let workload = documents.iter().find(|one| one.text("kind") == kind);
    let workload = workload.unwrap().clone();
    let selected = workload.at("spec/selector/matchLabels");
    assert_eq!(selected, workload.at("spec/template/metadata/labels"));
    let volumes: Vec<&str> = workload
        .list("spec/template/spec/volumes")
        .iter()
        .map(|volume| volume.text("name"))
        .collect();
    for mount in workload.list("spec/template/spec/containers/0/volumeMounts") {
        assert!(volumes.contains(&mount.text("name")), "{mount:?}");
    }
    (kinds, workload)
}

#[test]
fn the_kubernetes_example_is_a_fleet_behind_a_service() {
    let (kinds, deployment) = workloads("kubernetes.yaml", "Deployment");
    for expected in [
        "Service/cache",
        "ConfigMap/cache",
        "Secret/cache-database",
        "ServiceAccount/cache",
        "StatefulSet/postgres",
        "Service/postgres",
    ] {
        assert!(
            kinds.contains(&expected.to_owned()),
            "{expected}: {kinds:?}"
        );
    }
    assert_eq!(deployment.text("spec/replicas"), "2");
    let documents = documents("kubernetes.yaml");
    let config = documents.iter().find(|one| one.text("kind") == "ConfigMap");
    let settings = settings(config.unwrap().text("data/cache.toml"));
    assert!(settings.depot.is_some());
    let fleet = settings.fleet.unwrap();
    let path = fleet.password_file.unwrap();
    let mounts = deployment.list("spec/template/spec/containers/0/volumeMounts");
    let is_mounted = |mount: &Node| path.starts_with(mount.text("mountPath"));
    assert!(mounts.iter().any(is_mounted), "{}", path.display());
}

#[test]
fn the_nodes_example_is_a_daemonset_that_asks_the_fleet() {
    let (kinds, _) = workloads("daemonset.yaml", "DaemonSet");
    assert_eq!(kinds, ["ConfigMap/node-cache", "DaemonSet/node-cache"]);
    let config = &documents("daemonset.yaml")[0];
    assert_eq!(
        settings(config.text("data/cache.toml")),
        SharedSettings::default()
    );
    let hosts: toml::Table = config.text("data/hosts.toml").parse().unwrap();
    let hosts = hosts["host"].as_table().unwrap();
    assert!(hosts.contains_key("http://cache.orlop-cache.svc:5015"));
}
