//! `~/.docker/config.json` and credential helpers (docker-credential-helpers' protocol).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::credentials::{Credential, CredentialError, CredentialFuture, CredentialSource};

const CONFIG_BYTES_MAX: u64 = 1 << 20;
const HELPER_OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// How much of a failed helper's complaint is passed on.
const HELPER_COMPLAINT_CHARS_MAX: usize = 200;
const HELPER_DEADLINE: Duration = Duration::from_secs(30);
/// The user name that marks a helper's secret as a refresh token.
const TOKEN_USERNAME: &str = "<token>";
/// How Docker names Docker Hub in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials from a Docker configuration file, read at every use so that a new login counts at once.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    /// Where helpers are; nothing means on the search path.
    helpers: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, Entry>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl DockerConfig {
    /// Reads `path`, which need not exist.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            helpers: None,
        }
    }

    /// Takes credential helpers from `folder` instead of the search path.
    #[must_use]
    pub fn with_helpers_in(mut self, folder: PathBuf) -> Self {
        self.helpers = Some(folder);
        self
    }

    /// `$DOCKER_CONFIG/config.json`, or the one in the home folder.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let folder = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
        Some(Self::new(folder.join("config.json")))
    }

    async fn lookup(&self, host: &str) -> Result<Credential, CredentialError> {
        let Some(file) = self.read().await? else {
            return Ok(Credential::Anonymous);
        };
        // An empty name means "no helper for this one", whatever `credsStore` says.
        let own = match host {
            "docker.io" => file
                .cred_helpers
                .get(host)
                .or_else(|| file.cred_helpers.get(DOCKER_HUB_KEY)),
            _ => file.cred_helpers.get(host),
        };
        let helper = own.unwrap_or(&file.creds_store);
        if !helper.is_empty() {
            let server = if host == "docker.io" {
                DOCKER_HUB_KEY
            } else {
                host
            };
            let found = self.ask_helper(helper, server).await?;
            if found != Credential::Anonymous {
                return Ok(found);
            }
            // Written by hand next to a helper that has nothing: meant to be used.
        }
        match entry_for(&file.auths, host) {
            Some(entry) => self.credential_of(entry),
            None => Ok(Credential::Anonymous),
        }
    }

    async fn read(&self) -> Result<Option<File>, CredentialError> {
        let problem = |problem: String| CredentialError::File {
            path: self.path.display().to_string(),
            problem,
        };
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(error.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(CONFIG_BYTES_MAX)
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| problem(error.to_string()))?;
        // serde_json's message has line and column but none of the file's text, which may be a secret.
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| problem(format!("not valid at line {}", error.line())))
    }

    fn credential_of(&self, entry: &Entry) -> Result<Credential, CredentialError> {
        if !entry.identitytoken.is_empty() {
            return Ok(Credential::IdentityToken(entry.identitytoken.clone()));
        }
        if !entry.registrytoken.is_empty() {
            return Ok(Credential::RegistryToken(entry.registrytoken.clone()));
        }
        if entry.auth.is_empty() {
            return Ok(basic_or_anonymous(&entry.username, &entry.password));
        }
        let decoded = STANDARD
            .decode(entry.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (username, password) = pair.ok_or_else(|| CredentialError::File {
            path: self.path.display().to_string(),
            problem: "an auth entry is not base64 of user:password".to_owned(),
        })?;
        Ok(basic_or_anonymous(
            username,
            password.trim_end_matches('\0'),
        ))
    }
}

impl DockerConfig {
    /// Runs `docker-credential-<helper> get`, gives it the server's name and reads the answer, within a deadline.
    async fn ask_helper(&self, helper: &str, server: &str) -> Result<Credential, CredentialError> {
        let problem = |problem: String| CredentialError::Helper {
            helper: helper.to_owned(),
            problem,
        };
        let is_plain_name = helper
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !is_plain_name {
            let detail = "its name must be letters, digits, '-', '_' and '.'";
            return Err(problem(detail.to_owned()));
        }
        let name = format!("docker-credential-{helper}");
        let program = match &self.helpers {
            Some(folder) => folder.join(name),
            None => PathBuf::from(name),
        };
        let (succeeded, text) = tokio::time::timeout(HELPER_DEADLINE, run_helper(&program, server))
            .await
            .map_err(|_elapsed| problem(format!("no answer within {HELPER_DEADLINE:?}")))?
            .map_err(|error| problem(format!("{}: {error}", program.display())))?;
        if !succeeded {
            // The protocol has no status for "none": helpers print this sentence.
            if String::from_utf8_lossy(&text).contains("credentials not found") {
                return Ok(Credential::Anonymous);
            }
            return Err(problem(complaint(&text)));
        }
        // The answer is not repeated: it is a secret.
        let answer = serde_json::from_slice(&text)
            .map_err(|_| problem("its answer is not valid JSON".to_owned()))?;
        Ok(credential_of_answer(answer))
    }
}

/// A credential helper that is asked for every host, whatever a configuration file says: `ecr-login` for
/// `docker-credential-ecr-login`.
#[derive(Debug, Clone)]
pub struct CredentialHelper {
    name: String,
    helpers: DockerConfig,
}

impl CredentialHelper {
    /// The helper `name`, in `folder` or on the search path.
    #[must_use]
    pub fn new(name: &str, folder: Option<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            helpers: DockerConfig {
                path: PathBuf::new(),
                helpers: folder,
            },
        }
    }
}

impl CredentialSource for CredentialHelper {
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a> {
        let server = if host == "docker.io" {
            DOCKER_HUB_KEY
        } else {
            host
        };
        Box::pin(self.helpers.ask_helper(&self.name, server))
    }
}

impl CredentialSource for DockerConfig {
    fn credential<'a>(&'a self, host: &'a str) -> CredentialFuture<'a> {
        Box::pin(self.lookup(host))
    }
}

fn basic_or_anonymous(username: &str, password: &str) -> Credential {
    if username.is_empty() && password.is_empty() {
        return Credential::Anonymous;
    }
    Credential::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

/// Finds the entry whose key, without scheme and path, is `host`. Docker has written keys in all these forms.
fn entry_for<'a>(auths: &'a HashMap<String, Entry>, host: &str) -> Option<&'a Entry> {
    let key = if host == "docker.io" {
        DOCKER_HUB_KEY
    } else {
        host
    };
    if let Some(entry) = auths.get(key) {
        return Some(entry);
    }
    let bare = |key: &str| {
        let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
        let name = rest.split('/').next().unwrap_or_default();
        if name == "index.docker.io" {
            "docker.io".to_owned()
        } else {
            name.to_owned()
        }
    };
    let mut matching: Vec<&String> = auths.keys().filter(|key| bare(key) == host).collect();
    matching.sort();
    auths.get(*matching.first()?)
}

/// A helper's answer.
fn credential_of_answer(answer: HelperAnswer) -> Credential {
    if answer.username == TOKEN_USERNAME {
        return Credential::IdentityToken(answer.secret);
    }
    basic_or_anonymous(&answer.username, &answer.secret)
}

/// What a failed helper says about itself: its first line, without what a terminal would obey.
fn complaint(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().next().unwrap_or_default();
    let line: String = line
        .chars()
        .filter(|character| !character.is_control())
        .take(HELPER_COMPLAINT_CHARS_MAX)
        .collect();
    if line.is_empty() {
        return "it failed without a word".to_owned();
    }
    format!("it failed: {line}")
}

#[allow(
    clippy::disallowed_methods,
    reason = "a child executable by protocol; orlop_sys is not an edge of this crate, and the child is killed when dropped"
)]
async fn run_helper(program: &Path, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(server.as_bytes()).await {
            // It need not read what it does not want to know.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(HELPER_OUTPUT_BYTES_MAX)
            .read_to_end(&mut text)
            .await?;
    }
    Ok((child.wait().await?.success(), text))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "tests write their fixtures directly"
    )]

    use super::*;

    fn config(json: &str) -> (tempfile::TempDir, DockerConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        (folder, DockerConfig::new(path))
    }

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    #[tokio::test]
    async fn entries_are_found_in_every_form_docker_has_written() {
        let (_folder, config) = config(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
                "plain.io": {"username": "u", "password": "p"},
                "https://scheme.io/v2/": {"auth": "czpw"},
                "id.io": {"identitytoken": "refresh"},
                "empty.io": {}
            }}"#,
        );
        for (host, expected) in [
            ("docker.io", basic("hub", "secret")),
            ("plain.io", basic("u", "p")),
            ("scheme.io", basic("s", "p")),
            ("id.io", Credential::IdentityToken("refresh".to_owned())),
            ("empty.io", Credential::Anonymous),
            ("other.io", Credential::Anonymous),
        ] {
            assert_eq!(config.lookup(host).await.unwrap(), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_means_anonymous_and_a_broken_one_is_an_error_without_its_text() {
        let missing = DockerConfig::new("/nonexistent/config.json".into());
        assert_eq!(missing.lookup("a.io").await.unwrap(), Credential::Anonymous);
        let (_folder, broken) = config("{\"auths\": {\"a.io\": {\"auth\": \"c2VjcmV0\"");
        let error = broken.lookup("a.io").await.unwrap_err().to_string();
        assert!(
            error.contains("config.json") && !error.contains("c2VjcmV0"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_or_named_like_a_path_is_an_error_that_names_it() {
        for helper in ["orlop-does-not-exist", "../evil"] {
            let (_folder, config) = config(&format!("{{\"credsStore\": {helper:?}}}"));
            let error = config.lookup("a.io").await.unwrap_err().to_string();
            assert!(error.contains(helper), "{error}");
        }
    }

    /// A folder with helpers and a configuration that uses them.
    fn with_helpers(json: &str) -> (tempfile::TempDir, DockerConfig) {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, config) = config(json);
        for (name, script) in [
            (
                "good",
                "read -r server; printf '{\"ServerURL\":\"%s\",\"Username\":\"%s\",\"Secret\":\"s\"}' \"$server\" \"$server\"",
            ),
            (
                "token",
                "echo '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}'",
            ),
            (
                "none",
                "echo 'credentials not found in native keychain'; exit 1",
            ),
            (
                "broken",
                "printf 'the \\033[31mkeychain\\033[0m is locked\\nmore'; exit 1",
            ),
            ("silent", "exit 3"),
            ("garbage", "echo '<html>secret</html>'"),
            (
                "endless",
                "while echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; do :; done",
            ),
            ("hanging", "exec sleep 3600"),
        ] {
            let path = folder.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let helpers = folder.path().to_owned();
        (folder, config.with_helpers_in(helpers))
    }

    #[tokio::test]
    async fn a_host_of_its_own_helper_comes_before_the_store_and_the_store_before_the_file() {
        let (_folder, config) = with_helpers(
            r#"{
                "credsStore": "good",
                "credHelpers": {"own.io": "token", "none.io": "none", "empty.io": "", "lost.io": "none"},
                "auths": {
                    "own.io": {"username": "file", "password": "p"},
                    "none.io": {"username": "file", "password": "p"},
                    "empty.io": {"username": "file", "password": "p"}
                }
            }"#,
        );
        for (host, expected) in [
            ("own.io", Credential::IdentityToken("refresh".to_owned())),
            ("store.io:5000", basic("store.io:5000", "s")),
            ("docker.io", basic(DOCKER_HUB_KEY, "s")),
            ("none.io", basic("file", "p")),
            ("empty.io", basic("file", "p")),
            ("lost.io", Credential::Anonymous),
        ] {
            assert_eq!(config.lookup(host).await.unwrap(), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_an_error_that_says_how_and_shows_no_secret() {
        for (helper, complaint) in [
            ("broken", "it failed: the [31mkeychain[0m is locked"),
            ("silent", "it failed without a word"),
            ("garbage", "its answer is not valid JSON"),
            ("endless", "it failed: xxx"),
            ("absent", "No such file"),
        ] {
            let (_folder, config) = with_helpers(&format!("{{\"credsStore\": {helper:?}}}"));
            let error = config.lookup("a.io").await.unwrap_err().to_string();
            assert!(
                error.contains(helper) && error.contains(complaint),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    // The clock runs ahead when nothing else is to be done: the helper's half minute takes no time.
    #[tokio::test(start_paused = true)]
    async fn a_helper_that_hangs_is_given_up() {
        let (_folder, config) = with_helpers(r#"{"credsStore": "hanging"}"#);
        let error = config.lookup("a.io").await.unwrap_err().to_string();
        assert!(error.contains("no answer within 30s"), "{error}");
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", basic("u", "secret")), "Basic(…)");
    }
}
