//! Which hosts serve a registry: trees of `hosts.toml`, as containerd reads them (`docs/hosts.md` there).
//!
//! ```text
//! <dir>/<host>_<port>_/hosts.toml   first choice for a registry with a port
//! <dir>/<host>:<port>/hosts.toml    second
//! <dir>/_default/hosts.toml         for every registry without a folder
//! <dir>/<host>/*.crt, *.cert, *.key instead of hosts.toml: certificates, as Docker lays them out
//! ```

mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// Tags.
    pub resolve: bool,
    /// Uploads.
    pub push: bool,
    /// The referrers API.
    pub referrers: bool,
}

impl Capabilities {
    /// Everything: what a host without a `capabilities` key may do.
    pub const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
        referrers: true,
    };
    const NONE: Self = Self {
        pull: false,
        resolve: false,
        push: false,
        referrers: false,
    };
}

/// How to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
    /// TLS, or plain if the port does not speak it: a registry on loopback without configuration.
    HttpsThenHttp,
}

/// Certificates and trust for a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// Authorities trusted besides the system's, PEM.
    pub ca: Vec<PathBuf>,
    /// Client certificates, each with its key, or with the key in the same file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Trust whatever the server shows.
    pub skip_verify: bool,
}

/// One host that serves a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: String,
    /// Where the API begins, `/v2` as a rule, without a slash at the end.
    pub path: String,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// Certificates and trust.
    pub tls: TlsFiles,
    /// Headers for every request to it.
    pub headers: Vec<(String, String)>,
    /// The longest wait for a connection.
    pub dial_timeout: Option<Duration>,
    /// Whether this is the registry itself and not a mirror of it.
    pub is_upstream: bool,
}

impl Endpoint {
    /// The host that serves `registry` when nothing is configured.
    #[must_use]
    pub fn default_for(registry: &str) -> Self {
        let mut endpoint = Self {
            scheme: Scheme::Https,
            authority: registry.to_owned(),
            path: "/v2".to_owned(),
            capabilities: Capabilities::ALL,
            tls: TlsFiles::default(),
            headers: Vec::new(),
            dial_timeout: None,
            is_upstream: true,
        };
        if registry == "docker.io" {
            endpoint.authority = "registry-1.docker.io".to_owned();
        } else if is_loopback(registry) {
            let port = registry.rsplit_once(':').map(|(_, port)| port);
            match port.filter(|port| !port.ends_with(']')) {
                Some("80") => endpoint.scheme = Scheme::Http,
                None | Some("443") => endpoint.tls.skip_verify = true,
                Some(_) => {
                    endpoint.scheme = Scheme::HttpsThenHttp;
                    endpoint.tls.skip_verify = true;
                }
            }
        }
        endpoint
    }
}

/// Whether a registry is on this machine: `localhost`, `127.0.0.0/8` or `::1`.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => registry,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Everything wrong with one registry's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} has {} problem(s): {}", path.display(), problems.len(), problems.join("; "))]
pub struct HostsError {
    /// For which registry.
    pub registry: String,
    /// The file or folder.
    pub path: PathBuf,
    /// All problems, each with its place.
    pub problems: Vec<String>,
}

/// Folders with one folder per registry, searched in order. Read at every use, so changes count at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostTree {
    roots: Vec<PathBuf>,
    plain_http: bool,
}

impl HostTree {
    /// Trees below `roots`; none means that every registry is its own only host.
    #[must_use]
    pub fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            roots: roots.into_iter().collect(),
            plain_http: false,
        }
    }

    /// Speaks plain HTTP to registries without configuration, wherever they are.
    #[must_use]
    pub fn with_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// The hosts that serve `registry`, in the order they are to be asked; the registry itself is last.
    ///
    /// Reads files: call it where blocking is allowed.
    ///
    /// # Errors
    /// The configuration cannot be read or is wrong; all problems are in the error.
    pub fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
        for root in &self.roots {
            for folder in folders_of(root, registry) {
                if folder.is_dir() {
                    return load_folder(&folder, registry);
                }
            }
        }
        let mut endpoint = Endpoint::default_for(registry);
        if self.plain_http {
            endpoint.scheme = Scheme::Http;
        }
        Ok(vec![endpoint])
    }
}

/// What the text of a `hosts.toml` says about `registry`. `path` is where the text is from: it stands in errors, and
/// relative paths in the text start at its folder.
///
/// # Errors
/// The text is wrong; all its problems are in the error.
pub fn parse_hosts_file(
    text: &str,
    path: &Path,
    registry: &str,
) -> Result<Vec<Endpoint>, HostsError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    file::parse(text, folder, registry).map_err(|problems| HostsError {
        registry: registry.to_owned(),
        path: path.to_owned(),
        problems,
    })
}

impl fmt::Display for HostTree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self
            .roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        formatter.write_str(&texts.join(":"))
    }
}

/// The folders that may describe `registry`, best first. A registry's name was validated, so it is one component.
fn folders_of(root: &Path, registry: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':') {
        folders.push(root.join(format!("{host}_{port}_")));
    }
    folders.push(root.join(registry));
    folders.push(root.join("_default"));
    folders
}

fn load_folder(folder: &Path, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let path = folder.join("hosts.toml");
    let problem = |path: &Path, problems: Vec<String>| HostsError {
        registry: registry.to_owned(),
        path: path.to_owned(),
        problems,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => parse_hosts_file(&text, &path, registry),
        Ok(_) => docker_certificates(folder, registry)
            .map_err(|error| problem(folder, vec![error.to_string()])),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            docker_certificates(folder, registry)
                .map_err(|error| problem(folder, vec![error.to_string()]))
        }
        Err(error) => Err(problem(&path, vec![error.to_string()])),
    }
}

/// `*.crt` are authorities, `*.cert` with `*.key` are client certificates.
fn docker_certificates(folder: &Path, registry: &str) -> io::Result<Vec<Endpoint>> {
    let mut endpoint = Endpoint::default_for(registry);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    for file in files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => endpoint.tls.ca.push(file),
            Some("cert") => {
                let key = Some(file.with_extension("key")).filter(|key| key.exists());
                endpoint.tls.client.push((file, key));
            }
            Some(_) | None => {}
        }
    }
    if !endpoint.tls.ca.is_empty() {
        endpoint.tls.skip_verify = false;
    }
    Ok(vec![endpoint])
}

#[cfg(test)]
mod tests;
