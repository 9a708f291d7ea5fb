//! A namespace's records, and the lease under which new ones are made.

use orlop_types::{LeaseId, Namespace, SnapshotterName};

use crate::activations::Activations;
use crate::content::Content;
use crate::db::Tx;
use crate::records::{Containers, Images, Leases, Sandboxes, Tasks};
use crate::snapshots::Snapshots;
use crate::{Db, Error, node};

/// The records of one namespace. Cheap to clone and to keep.
#[derive(Debug, Clone)]
pub struct View {
    db: Db,
    namespace: Namespace,
    lease: Option<LeaseId>,
}

impl View {
    pub(crate) const fn new(db: Db, namespace: Namespace) -> Self {
        Self {
            db,
            namespace,
            lease: None,
        }
    }

    /// The same records; what is made through this view is bound to `lease`, in the transaction that makes it.
    ///
    /// That the lease exists is checked then.
    #[must_use]
    pub fn under(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Images: names for blobs.
    #[must_use]
    pub const fn images(&self) -> Images<'_> {
        Images::new(self)
    }

    /// Containers: what is to be run.
    #[must_use]
    pub const fn containers(&self) -> Containers<'_> {
        Containers::new(self)
    }

    /// Sandboxes: pods.
    #[must_use]
    pub const fn sandboxes(&self) -> Sandboxes<'_> {
        Sandboxes::new(self)
    }

    /// Tasks: what runs.
    #[must_use]
    pub const fn tasks(&self) -> Tasks<'_> {
        Tasks::new(self)
    }

    /// Leases: what keeps things while they are being made.
    #[must_use]
    pub const fn leases(&self) -> Leases<'_> {
        Leases::new(self)
    }

    /// Blobs and ingests.
    #[must_use]
    pub const fn content(&self) -> Content<'_> {
        Content::new(self)
    }

    /// Snapshots of one snapshotter.
    #[must_use]
    pub fn snapshots(&self, snapshotter: &SnapshotterName) -> Snapshots<'_> {
        Snapshots::new(self, snapshotter.clone())
    }

    /// Mounts made ahead.
    #[must_use]
    pub const fn activations(&self) -> Activations<'_> {
        Activations::new(self)
    }

    /// The namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The lease under which things are made, if any.
    #[must_use]
    pub const fn lease(&self) -> Option<&LeaseId> {
        self.lease.as_ref()
    }

    /// The database.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.db
    }

    /// Binds `target` to this view's lease, if it has one; whether it has.
    pub(crate) fn bind(&self, tx: &Tx<'_>, namespace: i64, target: i64) -> Result<bool, Error> {
        let Some(lease) = &self.lease else {
            return Ok(false);
        };
        node::bind(tx, (namespace, &self.namespace), lease, target)?;
        Ok(true)
    }

    /// Releases `target` from this view's lease, if it has one that exists.
    pub(crate) fn unbind(&self, tx: &Tx<'_>, namespace: i64, target: i64) -> Result<(), Error> {
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        match node::lease_id(tx, (namespace, &self.namespace), lease) {
            Ok(lease) => {
                node::unlink(tx, lease, target, node::EdgeKind::Lease)?;
                Ok(())
            }
            Err(Error::NotFound { .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }
}
