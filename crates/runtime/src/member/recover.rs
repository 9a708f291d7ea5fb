//! What a new daemon does with members that an earlier one left in the middle of something.

use orlop_base::blocking;
use orlop_types::{ContainerId, Namespace};

use super::record::{Standing, is_member};
use super::status::key;
use crate::Error;
use crate::core::Core;
use crate::machine::Phase;
use crate::runtime::Runtime;
use crate::spec::Limits;

/// What is left to do with a member.
enum Rest {
    Remove,
    /// A start that was cut off between the creation of the task and the start of its process: it begins anew.
    DeleteTask,
    Enforce(Limits),
}

impl Runtime {
    /// Goes on with removals and changes of limits. To be called when tasks have been recovered.
    pub(crate) async fn recover_members(&self) -> Result<(), Error> {
        for (namespace, id, rest) in self.unfinished_members().await? {
            let done = match rest {
                Rest::Remove => self.remove_member(&namespace, &id).await,
                Rest::DeleteTask => self.delete_task(&namespace, &id).await,
                Rest::Enforce(limits) => self.enforce_again(&namespace, &id, limits).await,
            };
            if let Err(error) = done {
                let error = orlop_types::chain(&error);
                tracing::warn!(%namespace, container = %id, error, "a container of a pod was not recovered in full");
            }
        }
        Ok(())
    }

    async fn enforce_again(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        limits: Limits,
    ) -> Result<(), Error> {
        if self.may_run(namespace, id) {
            self.enforce(namespace, id, &limits).await?;
        }
        self.record_limits(namespace, id, limits, false).await
    }

    async fn unfinished_members(&self) -> Result<Vec<(Namespace, ContainerId, Rest)>, Error> {
        let core = std::sync::Arc::clone(&self.core);
        let listed = blocking::run("list unfinished members", move || {
            let mut unfinished = Vec::new();
            for namespace in core.db.namespaces().list()? {
                let rows = core.db.namespace(&namespace.name).containers().list(&[])?;
                for row in rows.into_iter().filter(is_member) {
                    let Ok(standing) = Standing::read(&row) else {
                        continue;
                    };
                    let rest = if standing.removing {
                        Rest::Remove
                    } else if is_created(&core, &namespace.name, &row.id) {
                        Rest::DeleteTask
                    } else if standing.limits_pending {
                        Rest::Enforce(standing.limits)
                    } else {
                        continue;
                    };
                    unfinished.push((namespace.name.clone(), row.id, rest));
                }
            }
            Ok(unfinished)
        });
        listed
            .await
            .map_err(Error::Daemon)?
            .map_err(|source: orlop_meta::Error| Error::Record {
                container: "*".to_owned(),
                attempt: "read",
                source,
            })
    }
}

/// Whether its task waits for a start that nobody will ask for any more.
fn is_created(core: &Core, namespace: &Namespace, id: &ContainerId) -> bool {
    let handle = core.handle(&key(namespace, id));
    handle.is_some_and(|handle| handle.view.borrow().phase == Phase::Created)
}
