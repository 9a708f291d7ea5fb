//! Pods that resolve names as the host does go on to do so when the host's way changes.
//!
//! Their `resolv.conf` is written in place, because containers have mounted the very file. Crash: looked at once at the
//! start. Cancellation: between two looks.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use orlop_base::blocking;
use orlop_base::task::{CancellationToken, TaskKind};

use super::PodPhase;
use super::files;
use super::record::PodRecord;
use crate::core::Core;

/// Looks at the host's files; holds nothing.
pub(super) const WATCHER: TaskKind = TaskKind::dropped("host's name servers");

/// What tells that a file is another one, or was written: its number, its length, when it was changed.
type Mark = Option<(u64, u64, SystemTime)>;

/// Looks at the host's files now and then, for ever.
pub(super) async fn watch(core: Arc<Core>, token: CancellationToken) {
    // The first look brings what changed while no daemon was there.
    let mut seen = None;
    while !token.is_cancelled() {
        let looking = Arc::clone(&core);
        let looked = blocking::run("look at the host's name servers", move || {
            let settings = &looking.pods.settings;
            let now = [
                mark(&settings.host_resolv_conf),
                mark(&settings.resolved_upstream),
            ];
            if seen != Some(now) {
                reconcile(&looking);
            }
            now
        });
        let Ok(now) = looked.await else {
            return;
        };
        seen = Some(now);
        tokio::time::sleep(core.pods.settings.host_dns_interval).await;
    }
}

/// Links are followed: systemd-resolved's file is behind one.
fn mark(path: &Path) -> Mark {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    let changed = metadata.modified().ok()?;
    Some((metadata.ino(), metadata.len(), changed))
}

/// Writes the host's way into the files of all pods that inherited it. Blocks.
fn reconcile(core: &Core) {
    let namespaces = match core.db.namespaces().list() {
        Ok(namespaces) => namespaces,
        Err(error) => {
            tracing::warn!(
                error = orlop_types::chain(&error),
                "the pods that inherit the host's name servers cannot be read"
            );
            return;
        }
    };
    for namespace in namespaces {
        let rows = core.db.namespace(&namespace.name).sandboxes().list(&[]);
        for row in rows.unwrap_or_default() {
            let record = PodRecord::read(&row).and_then(Result::ok);
            let inherits = |record: &PodRecord| {
                record.state.phase == PodPhase::Ready && files::inherits_dns(&record.config)
            };
            let Some(record) = record.filter(inherits) else {
                continue;
            };
            let Some(path) = &record.places.resolv_conf else {
                continue;
            };
            let text = files::resolv_conf(&core.pods.settings, &record.config);
            match files::rewrite(path, &text) {
                Ok(true) => {
                    tracing::info!(pod = %row.id, "the host's name servers have changed, and the pod's with them");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(pod = %row.id, path = %path.display(), error = orlop_types::chain(&error), "the pod keeps the host's former name servers");
                }
            }
        }
    }
}
