//! Processes whose daemon, and so whoever listened to them, has gone.

use orlop_types::{ContainerId, ExecId, Namespace};

use super::{ID_PREFIX, LEFT, Place};
use crate::process::Status;
use crate::runtime::Runtime;

impl Runtime {
    /// Hangs up on processes that an earlier daemon started for somebody who was connected to it. In the background: a shim
    /// that does not answer keeps nobody waiting.
    pub fn hang_up_orphans(&self) {
        let runtime = self.clone();
        drop(self.core.tasks.spawn(LEFT, move |_token| async move {
            for (key, _handle) in runtime.core.handles() {
                runtime.hang_up_within(&key.namespace, &key.container).await;
            }
        }));
    }

    async fn hang_up_within(&self, namespace: &Namespace, container: &ContainerId) {
        let state = self.state(namespace, container, None).await;
        if !state.is_ok_and(|state| state.status == Status::Running) {
            return;
        }
        let processes = match self.pids(namespace, container).await {
            Ok(processes) => processes,
            Err(error) => return tracing::debug!(%error, "processes cannot be listed"),
        };
        let infos = processes.into_iter().filter_map(|process| process.info);
        for exec in infos.filter_map(|info| exec_of(&info.value)) {
            tracing::info!(%exec, "a process of an earlier daemon's client is hung up on");
            let place = Place {
                runtime: self.clone(),
                key: self.key(namespace, container),
                exec,
                pid: 0,
            };
            drop(
                self.core
                    .tasks
                    .spawn(LEFT, move |_token| place.leave(false)),
            );
        }
    }
}

/// The id in a shim's details of a process, if it is one of ours.
fn exec_of(details: &[u8]) -> Option<ExecId> {
    use orlop_api::Message;
    let details = orlop_api::containerd::runc::v1::ProcessDetails::decode(details).ok()?;
    let exec = details.exec_id;
    exec.starts_with(ID_PREFIX)
        .then(|| ExecId::new(&exec).ok())
        .flatten()
}
