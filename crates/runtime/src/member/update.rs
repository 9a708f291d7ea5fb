//! Changing what a member may use while it runs.
//!
//! Crash: the new limits are on record first, marked as perhaps not in force; the next daemon puts them in force.
//! Ordering: one change at a time per member.

use std::sync::Arc;

use orlop_api::Any;
use orlop_base::blocking;
use orlop_sys::cgroup::Cgroup;
use orlop_types::{ContainerId, Namespace};

use super::record::{Standing, standing_field};
use super::status::{find, key};
use super::{Member, MemberError, MemberState};
use crate::container::encoded;
use crate::host;
use crate::runtime::Runtime;
use crate::spec::Limits;
use crate::{Error, spec};

/// The type of OCI Linux resources in a message, as containerd's clients name it.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Runtime {
    /// Changes what a member may use: what is absent in `limits` stays. Returns when the change is in force, or, for a
    /// member that does not run, on record.
    ///
    /// # Errors
    /// No such member, limits that cannot be, a memory limit below what is in use, or the OCI runtime refused: then the
    /// record is as before.
    pub async fn update_member(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        limits: Limits,
    ) -> Result<(), Error> {
        let change = self.core.calls.change(id);
        let _turn = change.wait("being updated").await;
        let member = self.member(namespace, id).await?;
        if member.removing {
            return Err(MemberError::Refused {
                container: id.to_string(),
                attempt: "update",
                state: member.standing().to_owned(),
            }
            .into());
        }
        check(&member, &limits)?;
        let (before, after) = (member.limits.clone(), limits.over(&member.limits));
        let is_running = member.state == MemberState::Running;
        self.record_limits(namespace, id, after.clone(), is_running)
            .await?;
        if !is_running {
            return Ok(());
        }
        if let Err(error) = self.enforce(namespace, id, &after).await {
            self.record_limits(namespace, id, before, false).await?;
            return Err(error);
        }
        self.record_limits(namespace, id, after, false).await
    }

    /// Puts limits that are on record in force.
    pub(super) async fn enforce(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        limits: &Limits,
    ) -> Result<(), Error> {
        let resources = limits
            .resources(host::machine(false).limits_swap)
            .map_err(|source| bad(id, source))?;
        let value = serde_json::to_vec(&resources).expect("resources have only text keys");
        let message = Any {
            type_url: RESOURCES_TYPE.to_owned(),
            value,
        };
        self.update(namespace, id, message).await
    }

    /// Writes limits into the record and into the spec, which the next start reads.
    pub(super) async fn record_limits(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        limits: Limits,
        pending: bool,
    ) -> Result<(), Error> {
        let (core, key) = (Arc::clone(&self.core), key(namespace, id));
        blocking::run("write limits", move || {
            let _alone = core.calls.record();
            let records = core.db.namespace(&key.namespace);
            let mut row = find(&records, &key.container)?;
            let mut standing = Standing::read(&row)?;
            row.spec = encoded(
                &spec::with_limits(&row.spec.value, &limits, host::machine(false).limits_swap)
                    .map_err(|source| bad(&key.container, source))?,
            );
            standing.limits = limits;
            standing.limits_pending = pending;
            standing.store(&mut row);
            records
                .containers()
                .update(&row, &["spec".to_owned(), standing_field()])
                .map(drop)
                .map_err(|source| super::lifecycle::written(&key.container, source))
        })
        .await
        .map_err(Error::Daemon)?
    }
}

fn check(member: &Member, limits: &Limits) -> Result<(), MemberError> {
    let name = || member.config.name.clone();
    limits.check().map_err(|source| MemberError::Spec {
        name: name(),
        source,
    })?;
    let lacks = |feature, evidence: &str| MemberError::Unsupported {
        name: name(),
        feature,
        evidence: evidence.to_owned(),
    };
    if !limits.unified.is_empty() && !host::has_unified_cgroups() {
        return Err(lacks(
            "settings of cgroup version 2",
            "cgroups are of version 1",
        ));
    }
    if !limits.hugepage_bytes_max.is_empty() && !host::limits_huge_pages() {
        return Err(lacks(
            "limits on huge pages",
            "there is no hugetlb cgroup controller",
        ));
    }
    let (Some(limit), Some(pid)) = (limits.memory_bytes_max, member.pid) else {
        return Ok(());
    };
    match memory_in_use(pid) {
        Some(used) if used > limit => Err(MemberError::MemoryInUse {
            container: member.id.to_string(),
            limit,
            used,
        }),
        Some(_) | None => Ok(()),
    }
}

/// What cannot be written back to a file, so that only killing would free it. The page cache does not count.
fn memory_in_use(pid: u32) -> Option<u64> {
    let cgroup = Cgroup::of_process(i32::try_from(pid).ok()?).ok()?;
    let details = cgroup.stats().memory?.details;
    // Version 2's name, then version 1's.
    let anonymous = details.get("anon").or_else(|| details.get("total_rss"));
    anonymous.copied()
}

fn bad(id: &ContainerId, source: spec::SpecError) -> Error {
    Error::Spec {
        container: id.to_string(),
        source,
    }
}
