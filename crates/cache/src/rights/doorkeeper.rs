//! Whether a client may use the cache at all, and as whom.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_registry::Credential;
use ring::digest;

use super::{Fingerprint, FingerprintKey, Tenant};
use crate::origin::Recent;

/// A password that was right is right for a while: bcrypt takes tenths of a second, on purpose.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
const REMEMBERED_MAX: usize = 1024;
/// Longer ones are no credentials.
const AUTHORIZATION_BYTES_MAX: usize = 8192;

/// How clients show who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Admission {
    /// Not at all.
    Open,
    /// With a user name and a password, kept as bcrypt hashes by user.
    Basic(BTreeMap<String, String>),
    /// With a token; names by token.
    Bearer(BTreeMap<String, String>),
    /// With a certificate, which the connection has shown already.
    Certificate,
    /// With their credential for the upstream, which decides.
    PassThrough,
}

impl std::fmt::Debug for Admission {
    /// Names the kind only: the rest are secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Open => "Open",
            Self::Basic(_) => "Basic(…)",
            Self::Bearer(_) => "Bearer(…)",
            Self::Certificate => "Certificate",
            Self::PassThrough => "PassThrough",
        })
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the ledger: a user, a token's name, a certificate's; empty for nobody in particular.
    pub name: String,
    /// With whose right upstream is asked.
    pub tenant: Tenant,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was shown.
    #[error("this cache wants to know who asks")]
    Nothing,
    /// What was shown is not right.
    #[error("the credential is not right")]
    Wrong,
    /// What was shown cannot be read.
    #[error("the Authorization header cannot be understood")]
    Unreadable,
}

/// What a client's `Authorization` header says.
enum Shown {
    Nothing,
    Basic(String, String),
    Bearer(String),
}

/// Lets clients in.
#[derive(Debug)]
pub struct Doorkeeper {
    admission: Admission,
    key: FingerprintKey,
    /// The hash that a password was found to fit.
    remembered: Mutex<Recent<Fingerprint, String>>,
}

impl Doorkeeper {
    /// A doorkeeper who asks as `admission` says.
    #[must_use]
    pub fn new(admission: Admission, key: FingerprintKey) -> Self {
        Self {
            admission,
            key,
            remembered: Mutex::new(Recent::new(REMEMBERED_MAX)),
        }
    }

    /// Reads who asks. May take tenths of a second for a password that was not seen lately: call it where blocking is
    /// allowed. `now` is boot time; `certificate` is the name in the certificate that the connection was made with.
    ///
    /// # Errors
    /// The client is not let in.
    pub fn admit(
        &self,
        authorization: Option<&str>,
        certificate: Option<&str>,
        now: Duration,
    ) -> Result<Caller, Refusal> {
        let service = |name: String| Caller {
            name,
            tenant: Tenant::service(),
        };
        let known = certificate.unwrap_or_default().to_owned();
        match &self.admission {
            Admission::Open => Ok(service(known)),
            // The handshake has refused everybody without one.
            Admission::Certificate if certificate.is_some() => Ok(service(known)),
            Admission::Certificate => Err(Refusal::Nothing),
            Admission::Basic(users) => match shown(authorization)? {
                Shown::Nothing => Err(Refusal::Nothing),
                Shown::Basic(user, password) => {
                    self.check_password(users, user, password, now).map(service)
                }
                Shown::Bearer(_) => Err(Refusal::Wrong),
            },
            Admission::Bearer(tokens) => match shown(authorization)? {
                Shown::Nothing => Err(Refusal::Nothing),
                Shown::Bearer(token) => name_of(tokens, &token).map(service).ok_or(Refusal::Wrong),
                // Clients that know only user names and passwords send the token as a password.
                Shown::Basic(_, token) => {
                    name_of(tokens, &token).map(service).ok_or(Refusal::Wrong)
                }
            },
            Admission::PassThrough => Ok(self.passed_through(shown(authorization)?)),
        }
    }

    /// Whether answering needs a password to be hashed.
    #[must_use]
    pub const fn may_take_long(&self) -> bool {
        matches!(self.admission, Admission::Basic(_))
    }

    /// What a client is asked for with a 401.
    #[must_use]
    pub const fn challenge(&self) -> Option<&'static str> {
        match self.admission {
            Admission::Basic(_) | Admission::Bearer(_) | Admission::PassThrough => {
                Some("Basic realm=\"orlop-cache\"")
            }
            Admission::Open | Admission::Certificate => None,
        }
    }

    /// What a client is asked for when its credential is the upstream's to judge.
    #[must_use]
    pub const fn upstream_challenge(&self) -> Option<&'static str> {
        match self.admission {
            Admission::PassThrough => self.challenge(),
            Admission::Open
            | Admission::Basic(_)
            | Admission::Bearer(_)
            | Admission::Certificate => None,
        }
    }

    fn passed_through(&self, shown: Shown) -> Caller {
        let (name, credential) = match shown {
            Shown::Nothing => (String::new(), Credential::Anonymous),
            Shown::Basic(username, password) => {
                (username.clone(), Credential::Basic { username, password })
            }
            Shown::Bearer(token) => (String::new(), Credential::RegistryToken(token)),
        };
        Caller {
            name,
            tenant: Tenant::own(&self.key, credential),
        }
    }

    fn check_password(
        &self,
        users: &BTreeMap<String, String>,
        user: String,
        password: String,
        now: Duration,
    ) -> Result<String, Refusal> {
        let hash = users.get(&user).ok_or(Refusal::Wrong)?;
        let credential = Credential::Basic {
            username: user.clone(),
            password: password.clone(),
        };
        let fingerprint = self.key.of(&credential);
        let is_remembered = self
            .remembered()
            .find(&fingerprint, now)
            .is_some_and(|(remembered, _)| remembered == hash);
        if is_remembered || bcrypt::verify(&password, hash).unwrap_or(false) {
            let until = now + REMEMBERED_FOR;
            self.remembered()
                .keep(fingerprint, hash.clone(), now, until);
            return Ok(user);
        }
        Err(Refusal::Wrong)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Recent<Fingerprint, String>> {
        // Entries are plain values, whole at any time.
        self.remembered
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn shown(authorization: Option<&str>) -> Result<Shown, Refusal> {
    let Some(text) = authorization else {
        return Ok(Shown::Nothing);
    };
    if text.len() > AUTHORIZATION_BYTES_MAX {
        return Err(Refusal::Unreadable);
    }
    let (scheme, value) = text.split_once(' ').ok_or(Refusal::Unreadable)?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !value.is_empty() {
        return Ok(Shown::Bearer(value.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Refusal::Unreadable);
    }
    let decoded = STANDARD.decode(value).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let (user, password) = text
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .ok_or(Refusal::Unreadable)?;
    Ok(Shown::Basic(user.to_owned(), password.to_owned()))
}

/// Finds a token by its hash, so that the time it takes says nothing about how much of it is right.
fn name_of(tokens: &BTreeMap<String, String>, token: &str) -> Option<String> {
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    let wanted = hash(token);
    let mut found = None;
    for (token, name) in tokens {
        if hash(token).as_ref() == wanted.as_ref() {
            found = Some(name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn keeper(admission: Admission) -> Doorkeeper {
        Doorkeeper::new(admission, FingerprintKey::from_bytes(&[1; 32]))
    }

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn passwords_are_checked_and_remembered_until_they_change() {
        let hash = bcrypt::hash("right", 4).unwrap();
        let keeper = keeper(Admission::Basic([("ann".to_owned(), hash)].into()));
        let admit = |header: &str| keeper.admit(Some(header), None, NOW);
        for _ in 0..2 {
            let caller = admit(&basic("ann", "right")).unwrap();
            assert_eq!(caller.name, "ann");
            assert!(!caller.tenant.needs_grants());
        }
        assert_eq!(admit(&basic("ann", "wrong")), Err(Refusal::Wrong));
        assert_eq!(admit(&basic("bob", "right")), Err(Refusal::Wrong));
        assert_eq!(admit("Bearer right"), Err(Refusal::Wrong));
        assert_eq!(keeper.admit(None, None, NOW), Err(Refusal::Nothing));
        for unreadable in ["", "Basic", "Basic ????", "Digest x", "Bearer "] {
            assert_eq!(admit(unreadable), Err(Refusal::Unreadable), "{unreadable}");
        }
        let long = format!("Bearer {}", "x".repeat(9000));
        assert_eq!(admit(&long), Err(Refusal::Unreadable));
    }

    #[test]
    fn tokens_come_as_bearer_or_as_a_password() {
        let keeper = keeper(Admission::Bearer(
            [("t0k3n".to_owned(), "ci".to_owned())].into(),
        ));
        let name = |header: &str| keeper.admit(Some(header), None, NOW).map(|c| c.name);
        assert_eq!(name("Bearer t0k3n"), Ok("ci".to_owned()));
        assert_eq!(name(&basic("anybody", "t0k3n")), Ok("ci".to_owned()));
        assert_eq!(name("Bearer t0k3"), Err(Refusal::Wrong));
    }

    #[test]
    fn what_is_passed_through_is_told_apart_by_credential() {
        let keeper = keeper(Admission::PassThrough);
        let tenant = |header: Option<&str>| keeper.admit(header, None, NOW).unwrap().tenant;
        let (ann, bob) = (basic("ann", "a"), basic("bob", "a"));
        assert_ne!(tenant(Some(&ann)), tenant(Some(&bob)));
        assert_ne!(tenant(Some(&ann)), tenant(None));
        assert_eq!(tenant(Some(&ann)), tenant(Some(&ann)));
        assert!(tenant(None).needs_grants());
        assert_eq!(tenant(None).credential(), Some(&Credential::Anonymous));
    }

    #[test]
    fn a_certificate_lets_in_by_its_name() {
        let keeper = keeper(Admission::Certificate);
        let caller = keeper.admit(None, Some("node-7"), NOW).unwrap();
        assert_eq!(caller.name, "node-7");
        assert_eq!(keeper.admit(None, None, NOW), Err(Refusal::Nothing));
    }
}
