//! The lease under which an operation makes things.
//!
//! An operation that ends well deletes its lease: the image's name holds everything by then. One that was cancelled,
//! or failed for reasons outside the image, leaves it to its expiry, so that blobs and ingests survive for the next
//! try. That one takes them over and deletes the old lease, so an image never has more than one that is idle.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use orlop_base::units::format_moment;
use orlop_meta::{LeaseResource, View};
use orlop_types::{Labels, LeaseId, Namespace, chain};

use super::error::Error;
use super::rootfs::is_draft;

const EXPIRE: &str = "containerd.io/gc.expire";
/// Which image a lease was made for.
const SUBJECT: &str = "orlop.io/image";

/// Leases of operations under way in this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActiveLeases {
    held: Arc<Mutex<HashSet<(Namespace, LeaseId)>>>,
    count: Arc<AtomicU64>,
}

/// A view under a lease, which ends with [`OperationLease::end`].
#[derive(Debug)]
pub(crate) struct OperationLease {
    view: View,
    /// Absent where the caller brought the lease.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    id: LeaseId,
    namespace: Namespace,
    /// The image it was made for.
    subject: String,
    active: ActiveLeases,
}

impl OperationLease {
    /// Takes the view's lease, or makes one that lives for `lifetime`. Blocks.
    pub(crate) fn begin(
        view: View,
        active: &ActiveLeases,
        subject: &str,
        lifetime: Duration,
    ) -> Result<Self, Error> {
        if view.lease().is_some() {
            return Ok(Self { view, own: None });
        }
        let now = view.db().clock().wall();
        let nanos = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let number = active.count.fetch_add(1, Ordering::Relaxed);
        let text = format!("orlop-{nanos}-{number}");
        let id = LeaseId::new(&text).map_err(Error::name(&text))?;
        let mut labels = Labels::new();
        labels.insert(EXPIRE, format_moment(now + lifetime))?;
        labels.insert(SUBJECT, subject)?;
        let namespace = view.namespace().clone();
        active.lock().insert((namespace.clone(), id.clone()));
        let own = Own {
            id: id.clone(),
            namespace,
            subject: subject.to_owned(),
            active: active.clone(),
        };
        view.leases().create(&id, &labels)?;
        let lease = Self {
            view: view.under(id),
            own: Some(own),
        };
        lease.take_over()?;
        Ok(lease)
    }

    /// What is made through this view is bound to the lease.
    pub(crate) const fn view(&self) -> &View {
        &self.view
    }

    /// Ends the lease; with `keep` it stays until it expires. Blocks.
    pub(crate) fn end(self, keep: bool) -> Result<(), Error> {
        let Some(own) = &self.own else {
            return Ok(());
        };
        if keep {
            return Ok(());
        }
        // One that was cancelled as this one began may have counted as under way then. Its expiry ends it too.
        if let Err(error) = self.take_over() {
            tracing::debug!(
                error = chain(&error),
                "an idle lease stays until it expires"
            );
        }
        match self.view.leases().delete(&own.id) {
            Err(error) if error.kind() != orlop_meta::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes what earlier operations for the same image left, except their unfinished snapshots.
    fn take_over(&self) -> Result<(), Error> {
        let Some(own) = &self.own else {
            return Ok(());
        };
        let (leases, subject) = (self.view.leases(), &own.subject);
        for old in leases.list(&[format!("labels.\"{SUBJECT}\"=={subject:?}")])? {
            let is_active = own
                .active
                .lock()
                .contains(&(own.namespace.clone(), old.id.clone()));
            if is_active {
                continue;
            }
            for resource in leases.resources(&old.id)? {
                let is_unfinished =
                    matches!(&resource, LeaseResource::Snapshot(_, key) if is_draft(key));
                if !is_unfinished {
                    leases.add_resource(&own.id, &resource)?;
                }
            }
            leases.delete(&old.id)?;
        }
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let held = (self.namespace.clone(), self.id.clone());
        self.active.lock().remove(&held);
    }
}

impl ActiveLeases {
    fn lock(&self) -> MutexGuard<'_, HashSet<(Namespace, LeaseId)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
