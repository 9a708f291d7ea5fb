//! A credential without its secret: a keyed hash, good for comparing and for nothing else.

use std::fmt;

use orlop_registry::Credential;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// What stands for a credential in memory and on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of the service's own credentials.
    pub const SERVICE: Self = Self([0; 32]);

    /// As it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For storing.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(formatter, "Fingerprint({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// The key of all fingerprints of one cache, or of one fleet.
#[derive(Clone)]
pub struct FingerprintKey(hmac::Key);

impl FingerprintKey {
    /// The length of a key, in bytes.
    pub const LEN_BYTES: usize = 32;

    /// A new key's bytes, to be kept where only the cache reads them.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn random_bytes() -> std::io::Result<[u8; Self::LEN_BYTES]> {
        let mut bytes = [0; Self::LEN_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| std::io::Error::other("the kernel gives no randomness"))?;
        Ok(bytes)
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// What stands for `credential`. Two fields never run into each other, and two kinds never give the same.
    #[must_use]
    pub fn of(&self, credential: &Credential) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0);
        let mut add = |field: &str| {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field.as_bytes());
        };
        match credential {
            Credential::Anonymous => add("anonymous"),
            Credential::Basic { username, password } => {
                add("basic");
                add(username);
                add(password);
            }
            Credential::IdentityToken(token) => {
                add("identity");
                add(token);
            }
            Credential::RegistryToken(token) => {
                add("registry");
                add(token);
            }
        }
        let tag = context.sign();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FingerprintKey(…)")
    }
}

/// With whose right upstream is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    fingerprint: Fingerprint,
    credential: Option<Credential>,
}

impl Tenant {
    /// The service.
    #[must_use]
    pub const fn service() -> Self {
        Self {
            fingerprint: Fingerprint::SERVICE,
            credential: None,
        }
    }

    /// A client with a credential of its own, which may be none at all.
    #[must_use]
    pub fn own(key: &FingerprintKey, credential: Credential) -> Self {
        Self {
            fingerprint: key.of(&credential),
            credential: Some(credential),
        }
    }

    /// What stands for the credential.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The client's own credential; nothing for the service.
    #[must_use]
    pub const fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Whether the upstream has to have shown that this one may have something.
    #[must_use]
    pub const fn needs_grants(&self) -> bool {
        self.credential.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn credentials_that_differ_in_anything_have_different_fingerprints() {
        let key = FingerprintKey::from_bytes(&[1; 32]);
        let all = [
            Credential::Anonymous,
            basic("a", "bc"),
            basic("ab", "c"),
            basic("a", "b"),
            Credential::IdentityToken("abc".to_owned()),
            Credential::RegistryToken("abc".to_owned()),
        ];
        let found: std::collections::BTreeSet<_> = all.iter().map(|one| key.of(one)).collect();
        assert_eq!(found.len(), all.len());
        assert!(!found.contains(&Fingerprint::SERVICE));
        let other = FingerprintKey::from_bytes(&[2; 32]);
        assert_ne!(other.of(&all[1]), key.of(&all[1]), "another cache");
    }

    #[test]
    fn nothing_shows_a_secret() {
        let key = FingerprintKey::from_bytes(&FingerprintKey::random_bytes().unwrap());
        let tenant = Tenant::own(&key, basic("u", "hunter2"));
        let shown = format!("{tenant:?} {key:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
