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
        let is_ours = self.lock().insert(digest);
        // Made only if it is ours: one that is dropped takes the lock, and releases the digest for whoever holds it.
        is_ours.then(|| Claim {
            claims: Arc::clone(self),
            digest,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_that_comes_too_late_goes_on_and_leaves_the_claim_to_its_holder() {
        let claims = Arc::new(Claims::default());
        let digest = Digest::sha256([7; 32]);
        let held = claims.claim(digest);
        for _ in 0..2 {
            assert!(claims.try_claim(digest).is_none());
        }
        drop(held);
        let mine = claims.try_claim(digest);
        assert!(mine.is_some());
        assert!(claims.try_claim(digest).is_none());
    }
}
