//! Credentials for upstreams: of the service, by registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orlop_registry::{
    Credential, CredentialError, CredentialFuture, CredentialHelper, CredentialSource, DockerConfig,
};

/// Where the credential for one registry comes from.
#[derive(Debug, Clone)]
pub enum CredentialRule {
    /// None is sent.
    Anonymous,
    /// A user name, and a password in a file of its own.
    Password {
        /// The user name.
        username: String,
        /// The file; white space around the password does not count.
        password_file: PathBuf,
    },
    /// A program such as `docker-credential-ecr-login`, asked each time.
    Helper(CredentialHelper),
}

/// Credentials by host; hosts without a rule are looked up in Docker's configuration.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// By registry (`docker.io`) or mirror, with its port.
    pub rules: BTreeMap<String, CredentialRule>,
    /// For every other host.
    pub otherwise: Option<DockerConfig>,
}

impl CredentialSource for Credentials {
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a> {
        match (self.rules.get(host), &self.otherwise) {
            (Some(CredentialRule::Anonymous), _) | (None, None) => {
                Box::pin(async { Ok(Credential::Anonymous) })
            }
            (
                Some(CredentialRule::Password {
                    username,
                    password_file,
                }),
                _,
            ) => Box::pin(password(username, password_file)),
            (Some(CredentialRule::Helper(helper)), _) => helper.credential(host),
            (None, Some(file)) => file.credential(host),
        }
    }
}

/// Read each time, so that a password that was rotated counts at once.
async fn password(username: &str, path: &Path) -> Result<Credential, CredentialError> {
    let read = path.to_owned();
    let problem = |problem: String| CredentialError::File {
        path: path.display().to_string(),
        problem,
    };
    let text = orlop_base::blocking::run("cache-password", move || std::fs::read_to_string(read))
        .await
        .map_err(|error| problem(error.to_string()))?
        .map_err(|error| problem(error.to_string()))?;
    Ok(Credential::Basic {
        username: username.to_owned(),
        password: text.trim().to_owned(),
    })
}
