//! Claims on digests: a commit of a blob and the sweep of the same blob never overlap.
//!
//! A commit makes a file and then a row; the sweep sees that there is no row and removes the file. Whoever does
//! either holds the claim from before its first look until after its last step. Claims live in memory only: after a
//! crash nobody is committing or sweeping.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use orlop_types::Digest;

#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<HashSet<Digest>>,
    released: Condvar,
}

/// A held claim; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    digest: Digest,
}

impl Claims {
    /// Waits until nobody else claims `digest`.
    pub(crate) fn claim(self: &Arc<Self>, digest: Digest) -> Claim {
        let mut held = self.lock();
        while !held.insert(digest) {
            held = self
                .released
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(held);
        let claims = Arc::clone(self);
        Claim { claims, digest }
    }

    /// Claims `digest` unless somebody else does: for the sweep, which has other work meanwhile.
    pub(crate) fn try_claim(self: &Arc<Self>, digest: Digest) -> Option<Claim> {
        let claims = Arc::clone(self);
        self.lock()
            .insert(digest)
            .then_some(Claim { claims, digest })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.digest);
        self.claims.released.notify_all();
    }
}
