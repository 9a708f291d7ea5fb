//! `orlop cache setup`: a client's mirror configuration, printed or written.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::error::CacheError;

/// Beside a file that was there before.
const BACKUP: &str = "orlop-backup";

/// What `setup` was given.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Whose configuration
    #[arg(value_enum)]
    client: Client,
    /// Where clients reach the cache
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5015")]
    url: String,
    /// For which registries; may be given several times
    #[arg(long, value_name = "REGISTRY", default_values_t = ["docker.io".to_owned(), "ghcr.io".to_owned(), "quay.io".to_owned(), "registry.k8s.io".to_owned()])]
    registry: Vec<String>,
    /// PEM file with the authority of the cache's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Write the files; what was there stays beside them
    #[arg(long)]
    write: bool,
    /// Below this folder instead of /
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    prefix: PathBuf,
}

/// Whose mirror the cache is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Client {
    /// hosts.toml below /etc/containerd/certs.d
    Containerd,
    /// A file in /etc/containers/registries.conf.d; podman, skopeo and buildah read it too
    Crio,
    /// registry-mirrors in /etc/docker/daemon.json: docker.io only
    Docker,
    /// hosts.toml below /etc/orlop/certs.d
    Orlop,
}

/// A file and what is to be in it.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    path: PathBuf,
    text: String,
}

/// Prints or writes the configuration; the answer is what was done, for a person.
pub(crate) fn run(arguments: &Arguments) -> Result<String, CacheError> {
    let pieces = pieces(arguments)?;
    let mut answer = String::new();
    for piece in &pieces {
        if arguments.write {
            let kept = write(piece)?;
            let path = piece.path.display();
            let beside = kept.map_or(String::new(), |kept| {
                format!(" (what was there is in {})", kept.display())
            });
            writeln!(answer, "wrote {path}{beside}").ok();
        } else {
            writeln!(answer, "# {}\n{}", piece.path.display(), piece.text).ok();
        }
    }
    answer.push_str(advice(arguments.client));
    Ok(answer)
}

fn pieces(arguments: &Arguments) -> Result<Vec<Piece>, CacheError> {
    let url = arguments.url.trim_end_matches('/');
    let below = |path: &str| arguments.prefix.join(path);
    let trees = |folder: &str| {
        let one = |registry: &String| Piece {
            path: below(&format!("{folder}/{registry}/hosts.toml")),
            text: hosts(registry, url, arguments.ca.as_deref()),
        };
        arguments.registry.iter().map(one).collect()
    };
    Ok(match arguments.client {
        Client::Containerd => trees("etc/containerd/certs.d"),
        Client::Orlop => trees("etc/orlop/certs.d"),
        Client::Crio => vec![Piece {
            path: below("etc/containers/registries.conf.d/50-orlop-cache.conf"),
            text: registries(&arguments.registry, url),
        }],
        Client::Docker => {
            let path = below("etc/docker/daemon.json");
            let text = daemon_json(&path, url)?;
            vec![Piece { path, text }]
        }
    })
}

/// The cache first, then the registry itself: a cache that is away costs no pull.
fn hosts(registry: &str, url: &str, ca: Option<&Path>) -> String {
    let server = match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        other => format!("https://{other}"),
    };
    let mut text = format!(
        "server = {}\n\n[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n",
        quoted(&server),
        quoted(url)
    );
    if let Some(ca) = ca {
        writeln!(text, "  ca = {}", quoted(&ca.display().to_string())).ok();
    }
    text
}

/// containers-registries.conf(5) knows no namespace in the query: the registry is the first part of the mirror's path.
fn registries(registries: &[String], url: &str) -> String {
    let (is_plain, bare) = match url.split_once("://") {
        Some((scheme, bare)) => (scheme == "http", bare),
        None => (false, url),
    };
    let mut text = String::new();
    for registry in registries {
        let mirror = quoted(&format!("{bare}/{registry}"));
        write!(
            text,
            "[[registry]]\nlocation = {}\n\n[[registry.mirror]]\nlocation = {mirror}\ninsecure = {is_plain}\n\n",
            quoted(registry)
        )
        .ok();
    }
    text
}

/// What is in `daemon.json` stays; the cache becomes the first mirror.
fn daemon_json(path: &Path, url: &str) -> Result<String, CacheError> {
    let mut document = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| setup(path, std::io::Error::other(error)))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::json!({}),
        Err(error) => return Err(setup(path, error)),
    };
    let not_an_object = || setup(path, std::io::Error::other("it is not one JSON object"));
    let object: &mut serde_json::Map<_, _> = document.as_object_mut().ok_or_else(not_an_object)?;
    let mirrors = object
        .entry("registry-mirrors")
        .or_insert_with(|| serde_json::json!([]));
    let mirrors = mirrors.as_array_mut().ok_or_else(not_an_object)?;
    mirrors.retain(|mirror| mirror != url);
    mirrors.insert(0, serde_json::json!(url));
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| setup(path, std::io::Error::other(error)))?;
    Ok(format!("{text}\n"))
}

/// Writes a file by another name first; what was there is kept once, and nothing is done twice.
fn write(piece: &Piece) -> Result<Option<PathBuf>, CacheError> {
    let path = &piece.path;
    let failed = |error| setup(path, error);
    if fs::read_to_string(path).is_ok_and(|text| text == piece.text) {
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{suffix}"));
        PathBuf::from(name)
    };
    let backup = beside(BACKUP);
    let had = path.exists();
    if had && !backup.exists() {
        fs::copy(path, &backup).map_err(failed)?;
    }
    let new = beside("orlop-new");
    let mut file = fs::File::create(&new).map_err(failed)?;
    file.write_all(piece.text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    Ok(had.then_some(backup))
}

const fn advice(client: Client) -> &'static str {
    match client {
        Client::Containerd => {
            "# containerd reads this at every pull if it is told where: config_path = \"/etc/containerd/certs.d\"\n# (below plugins.\"io.containerd.grpc.v1.cri\".registry; ctr: --hosts-dir).\n"
        }
        Client::Crio => "# CRI-O reads this after: systemctl reload crio\n",
        Client::Docker => {
            "# Docker reads this after: systemctl reload docker. It mirrors docker.io only.\n"
        }
        Client::Orlop => "# orlopd reads this at every pull.\n",
    }
}

fn quoted(text: &str) -> String {
    orlop_base::config::quoted(text)
}

fn setup(path: &Path, source: std::io::Error) -> CacheError {
    CacheError::Setup {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn setup_of(prefix: &Path, words: &[&str]) -> String {
        let prefix = prefix.display().to_string();
        let line = [&["setup"], words, &["--prefix", &prefix]].concat();
        let answer = run(&Line::parse_from(line).arguments).unwrap();
        answer.replace(&prefix, "")
    }

    #[test]
    fn every_client_gets_what_it_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = String::new();
        for client in ["containerd", "crio", "docker", "orlop"] {
            let words = [client, "--registry", "docker.io", "--registry", "ghcr.io"];
            all.push_str(&setup_of(folder.path(), &words));
            all.push('\n');
        }
        insta::assert_snapshot!("setup", all);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "printed only"
        );
    }

    #[test]
    fn what_was_there_is_kept_and_nothing_is_done_twice() {
        let folder = tempfile::tempdir().unwrap();
        let docker = folder.path().join("etc/docker");
        fs::create_dir_all(&docker).unwrap();
        let path = docker.join("daemon.json");
        let before = "{\"log-driver\": \"local\", \"registry-mirrors\": [\"https://old\"]}";
        fs::File::create(&path)
            .unwrap()
            .write_all(before.as_bytes())
            .unwrap();
        for _ in 0..2 {
            setup_of(folder.path(), &["docker", "--write"]);
            let text = fs::read_to_string(&path).unwrap();
            let found: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(found["log-driver"], "local");
            let mirrors = serde_json::json!(["http://127.0.0.1:5015", "https://old"]);
            assert_eq!(found["registry-mirrors"], mirrors);
            let kept = fs::read_to_string(docker.join("daemon.json.orlop-backup")).unwrap();
            assert_eq!(kept, before);
        }
        fs::File::create(&path).unwrap().write_all(b"[]").unwrap();
        let line = Line::parse_from([
            "setup",
            "docker",
            "--prefix",
            &folder.path().display().to_string(),
        ]);
        let error = run(&line.arguments).unwrap_err();
        assert_eq!(error.code(), "ORL-E9220");
    }
}
