//! Credentials that a client gives when its registry asks for them, over a stream of their own.

use std::time::Duration;

use orlop_api::any;
use orlop_api::containerd::types::transfer::{AuthRequest, AuthResponse, AuthType};
use orlop_image::images::{Credential, CredentialError, CredentialFuture, CredentialSource};
use orlop_types::Reference;
use tokio::sync::Mutex;
use tonic::Status;

use crate::status;
use crate::streams::Pipe;

/// How long a client may take to answer: somebody may have to type.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What stands for the client in errors.
const CLIENT: &str = "the client";

/// containerd's clients know Docker Hub by the host that serves it.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Asks the client. It is asked about the registry of its reference only: clients answer for whatever host they are
/// asked about, and a mirror must not be given what is the registry's.
pub(super) struct StreamCredentials {
    /// Questions and answers alternate, so one is asked at a time.
    pipe: Mutex<Pipe>,
    reference: String,
    host: String,
}

impl StreamCredentials {
    /// # Errors
    /// `INVALID_ARGUMENT` for a reference that does not parse.
    pub(super) fn new(pipe: Pipe, reference: &str) -> Result<Self, Status> {
        let parsed: Reference = reference.parse().map_err(|error| status::invalid(&error))?;
        Ok(Self {
            pipe: Mutex::new(pipe),
            reference: reference.to_owned(),
            host: parsed.registry().to_owned(),
        })
    }

    async fn ask(&self) -> Result<Credential, CredentialError> {
        let (name, served_by) = DOCKER_HUB;
        let host = if self.host == name {
            served_by
        } else {
            &self.host
        };
        let question = AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            wwwauthenticate: Vec::new(),
        };
        let mut pipe = self.pipe.lock().await;
        if !pipe.send(any::pack(&question)).await {
            return Err(failed("it has left"));
        }
        let answer = pipe.next().await.map_err(failed)?;
        let answer = answer.ok_or_else(|| failed("it has left"))?;
        credential(any::unpack(&answer).map_err(failed)?)
    }
}

impl CredentialSource for StreamCredentials {
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a> {
        Box::pin(async move {
            if host != self.host {
                return Ok(Credential::Anonymous);
            }
            let answer = tokio::time::timeout(ANSWER_LIMIT, self.ask()).await;
            answer.map_err(|_elapsed| failed("it does not answer"))?
        })
    }
}

fn failed(problem: impl ToString) -> CredentialError {
    CredentialError::Helper {
        helper: CLIENT.to_owned(),
        problem: problem.to_string(),
    }
}

fn credential(answer: AuthResponse) -> Result<Credential, CredentialError> {
    let is_empty = answer.secret.is_empty() && answer.username.is_empty();
    match answer.auth_type() {
        AuthType::None => Ok(Credential::Anonymous),
        // What clients without credentials say.
        AuthType::Credentials | AuthType::Refresh if is_empty => Ok(Credential::Anonymous),
        AuthType::Credentials => Ok(Credential::Basic {
            username: answer.username,
            password: answer.secret,
        }),
        AuthType::Refresh => Ok(Credential::IdentityToken(answer.secret)),
        AuthType::Header => match answer.secret.strip_prefix("Bearer ") {
            Some(token) => Ok(Credential::RegistryToken(token.to_owned())),
            None => Err(failed("only headers with a bearer token are understood")),
        },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn answer(kind: AuthType, username: &str, secret: &str) -> AuthResponse {
        AuthResponse {
            auth_type: kind.into(),
            username: username.to_owned(),
            secret: secret.to_owned(),
            expire_at: None,
        }
    }

    #[test]
    fn every_kind_of_answer_is_understood() {
        let basic = Credential::Basic {
            username: "a".to_owned(),
            password: "b".to_owned(),
        };
        let token = |text: &str| text.to_owned();
        let table = [
            (answer(AuthType::None, "", ""), Credential::Anonymous),
            (answer(AuthType::Refresh, "", ""), Credential::Anonymous),
            (answer(AuthType::Credentials, "a", "b"), basic),
            (
                answer(AuthType::Refresh, "", "r"),
                Credential::IdentityToken(token("r")),
            ),
            (
                answer(AuthType::Header, "", "Bearer t"),
                Credential::RegistryToken(token("t")),
            ),
        ];
        for (message, expected) in table {
            assert_eq!(credential(message).unwrap(), expected);
        }
        assert!(credential(answer(AuthType::Header, "", "Basic x")).is_err());
    }

    #[tokio::test]
    async fn the_client_is_asked_about_its_registry_and_no_other() {
        let answers = [answer(AuthType::Credentials, "a", "b")];
        let objects = answers.map(|answer| Ok(any::pack(&answer)));
        let (pipe, mut asked) = Pipe::new(stream::iter(objects));
        let source = StreamCredentials::new(pipe, "busybox:1").unwrap();
        let mirror = source.credential("mirror.local:5000").await.unwrap();
        assert_eq!(mirror, Credential::Anonymous);
        let own = source.credential("docker.io").await.unwrap();
        assert!(matches!(own, Credential::Basic { .. }));
        let question = asked.recv().await.unwrap().unwrap();
        let question: AuthRequest = any::unpack(&question).unwrap();
        assert_eq!(question.host, "registry-1.docker.io");
        assert_eq!(question.reference, "busybox:1");
        // It has sent all it had to say.
        assert!(source.credential("docker.io").await.is_err());
    }
}
