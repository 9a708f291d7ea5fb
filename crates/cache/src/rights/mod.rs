//! Who asks, and with whose right.
//!
//! Two arrangements. With the *service's* credentials everybody who may use the cache sees what the service may see, and
//! a blob comes only through a repository that has it. With the client's *own* credentials the upstream decides: what a
//! credential was shown to have is kept as a grant until it ends, under a fingerprint that tells nobody the secret.
//!
//! Crash: a fingerprint's key is a file beside the store, so grants survive; who has the key and not the secrets cannot
//! make requests. Cancellation: nothing is under way here.

mod doorkeeper;
mod fingerprint;

pub use self::doorkeeper::{Admission, Caller, Doorkeeper, Refusal};
pub use self::fingerprint::{Fingerprint, FingerprintKey, Tenant};
