//! What cases share: pods, containers, and what commands in them say.

use std::collections::BTreeMap;

use orlop_api::runtime::v1 as cri;
use orlop_e2e::kubelet::container_config;
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Site};

/// A script that does nothing until it is killed.
pub(crate) const SLEEPING: &str = "while :; do sleep 1; done";

/// A pod with its configuration, which every container of it needs again.
pub(crate) struct Pod<'a> {
    pub(crate) kubelet: &'a Kubelet,
    pub(crate) image: &'a str,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) id: String,
}

impl<'a> Pod<'a> {
    pub(crate) fn run(site: &'a Site, name: &str) -> Self {
        Self::run_with(site, name, |_| {})
    }

    /// A pod whose configuration was changed.
    pub(crate) fn run_with(
        site: &'a Site,
        name: &str,
        change: impl FnOnce(&mut cri::PodSandboxConfig),
    ) -> Self {
        let kubelet = site.kubelet();
        let mut config = kubelet.pod_config(name);
        change(&mut config);
        let id = kubelet.run_pod(&config).unwrap();
        Self {
            kubelet,
            image: site.image(),
            config,
            id,
        }
    }

    /// A running container of a script.
    pub(crate) fn container(&self, name: &str, script: &str) -> String {
        self.container_with(name, script, |_| {})
    }

    /// A running container whose configuration was changed.
    pub(crate) fn container_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> String {
        let id = self.create_with(name, script, change);
        self.kubelet.start(&id).unwrap();
        id
    }

    /// A container that was not started.
    pub(crate) fn create_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> String {
        let mut config = container_config(name, self.image, script);
        change(&mut config);
        let created = self.kubelet.create(&self.id, &config, &self.config);
        created.unwrap()
    }

    /// A sleeping container whose security was changed.
    pub(crate) fn secured(
        &self,
        name: &str,
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> String {
        self.container_with(name, SLEEPING, |config| {
            let mut security = cri::LinuxContainerSecurityContext::default();
            change(&mut security);
            config.linux.as_mut().unwrap().security_context = Some(security);
        })
    }

    pub(crate) fn take_away(self) {
        self.kubelet.take_away(&self.id).unwrap();
    }
}

/// What a script in a container says that goes well.
pub(crate) fn says(kubelet: &Kubelet, container: &str, script: &str) -> String {
    let answer = kubelet.exec(container, &["sh", "-c", script]).unwrap();
    assert_eq!(answer.exit_code, 0, "{script}: {answer:?}");
    String::from_utf8(answer.stdout).unwrap()
}

/// The code that a script in a container ends with.
pub(crate) fn code(kubelet: &Kubelet, container: &str, script: &str) -> i32 {
    let answer = kubelet.exec(container, &["sh", "-c", script]);
    answer.unwrap().exit_code
}

pub(crate) fn wait_for_end(kubelet: &Kubelet, container: &str) -> cri::ContainerStatus {
    eventually(&format!("{container} has ended"), || {
        let status = kubelet.container(container)?;
        let has_ended = status.state() == cri::ContainerState::ContainerExited;
        Ok(has_ended.then_some(status))
    })
    .unwrap()
}

/// Labels of one pair.
pub(crate) fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}
