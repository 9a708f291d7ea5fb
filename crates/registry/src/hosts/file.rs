//! One `hosts.toml`: pure, and complete in its complaints.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "toml's values: one or two kinds fit a key, every other is the same mistake"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::{Capabilities, Endpoint, Scheme, TlsFiles};

const KEYS: [&str; 7] = [
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
];

/// Parses a file; relative paths in it start at `folder`. All its problems are in the error.
pub(super) fn parse(
    text: &str,
    folder: &Path,
    registry: &str,
) -> Result<Vec<Endpoint>, Vec<String>> {
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| vec![error.to_string()])?;
    let mut problems = Vec::new();
    let mut endpoints = Vec::new();
    let hosts = match table.get("host") {
        None => None,
        Some(Value::Table(hosts)) => Some(hosts),
        Some(_) => {
            problems.push("host: must be tables, as in [host.\"https://mirror\"]".to_owned());
            None
        }
    };
    for (url, settings) in hosts.into_iter().flatten() {
        let Value::Table(settings) = settings else {
            problems.push(format!("host.{url:?}: must be a table"));
            continue;
        };
        let mut section = Section {
            place: format!("host.{url:?}"),
            folder,
            problems: &mut problems,
        };
        let endpoint = Endpoint {
            is_upstream: false,
            ..Endpoint::default_for(registry)
        };
        let endpoint = section.apply(endpoint, Some(url), settings);
        endpoints.push(endpoint);
    }
    let mut section = Section {
        place: String::new(),
        folder,
        problems: &mut problems,
    };
    let server = section.text(&table, "server");
    let upstream = section.apply(Endpoint::default_for(registry), server.as_deref(), &table);
    endpoints.push(upstream);
    if problems.is_empty() {
        Ok(endpoints)
    } else {
        Err(problems)
    }
}

/// The part of a file that describes one host, and where its problems go.
struct Section<'a> {
    place: String,
    folder: &'a Path,
    problems: &'a mut Vec<String>,
}

impl Section<'_> {
    fn apply(&mut self, mut endpoint: Endpoint, url: Option<&str>, settings: &Table) -> Endpoint {
        self.warn_of_unknown_keys(settings);
        let override_path = self.flag(settings, "override_path").unwrap_or(false);
        if let Some(url) = url {
            endpoint.tls = TlsFiles::default();
            self.set_url(&mut endpoint, url, override_path);
        }
        endpoint.capabilities = self.capabilities(settings);
        let ca = self.paths(settings, "ca");
        if !ca.is_empty() {
            endpoint.tls.skip_verify = false;
            endpoint.tls.ca = ca;
        }
        endpoint.tls.client = self.client(settings);
        if let Some(skip) = self.flag(settings, "skip_verify") {
            endpoint.tls.skip_verify = skip;
        }
        endpoint.headers = self.headers(settings);
        endpoint.dial_timeout = self.dial_timeout(settings);
        endpoint
    }

    fn problem(&mut self, key: &str, text: impl std::fmt::Display) {
        let place = if self.place.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place)
        };
        self.problems.push(format!("{place}: {text}"));
    }

    fn warn_of_unknown_keys(&self, settings: &Table) {
        for key in settings.keys() {
            let is_top_key = self.place.is_empty() && matches!(key.as_str(), "server" | "host");
            if !KEYS.contains(&key.as_str()) && !is_top_key {
                tracing::warn!(folder = %self.folder.display(), place = %self.place, key, "unknown key in hosts.toml");
            }
        }
    }

    fn set_url(&mut self, endpoint: &mut Endpoint, url: &str, override_path: bool) {
        let full = if url.contains("://") {
            url.to_owned()
        } else {
            format!("https://{url}")
        };
        let parsed = match reqwest::Url::parse(&full) {
            Ok(parsed) if parsed.has_host() => parsed,
            Ok(_) => return self.problem("url", format!("{url:?} has no host")),
            Err(error) => return self.problem("url", format!("{url:?}: {error}")),
        };
        endpoint.scheme = match parsed.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return self.problem("url", format!("scheme {other:?} must be http or https")),
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            self.problem("url", "credentials do not belong into the URL");
        }
        endpoint.authority = match (parsed.host_str(), parsed.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let path = parsed.path().trim_end_matches('/');
        endpoint.path = if override_path || path.ends_with("/v2") {
            path.to_owned()
        } else {
            format!("{path}/v2")
        };
    }

    fn capabilities(&mut self, settings: &Table) -> Capabilities {
        let names = self.texts(settings, "capabilities");
        if names.is_empty() {
            return Capabilities::ALL;
        }
        let mut capabilities = Capabilities::NONE;
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                "push" => capabilities.push = true,
                "referrers" => capabilities.referrers = true,
                other => self.problem(
                    "capabilities",
                    format!("{other:?} is none of pull, resolve, push, referrers"),
                ),
            }
        }
        capabilities
    }

    fn client(&mut self, settings: &Table) -> Vec<(PathBuf, Option<PathBuf>)> {
        let folder = self.folder;
        let mut pairs = Vec::new();
        match settings.get("client") {
            None => {}
            Some(Value::String(path)) => pairs.push((folder.join(path), None)),
            Some(Value::Array(list)) => {
                for entry in list {
                    match entry {
                        Value::String(path) => pairs.push((folder.join(path), None)),
                        Value::Array(pair) => match pair.as_slice() {
                            [Value::String(certificate), Value::String(key)] => {
                                let key = Some(key).filter(|key| !key.is_empty());
                                pairs.push((
                                    folder.join(certificate),
                                    key.map(|key| folder.join(key)),
                                ));
                            }
                            _ => self.problem("client", "a pair must be [certificate, key]"),
                        },
                        _ => self.problem("client", "must hold paths or pairs of paths"),
                    }
                }
            }
            Some(_) => self.problem(
                "client",
                "must be a path, a list of paths or a list of pairs",
            ),
        }
        pairs
    }

    fn headers(&mut self, settings: &Table) -> Vec<(String, String)> {
        let table = match settings.get("header") {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problem("header", "must be a table");
                return Vec::new();
            }
        };
        let mut headers = Vec::new();
        for name in table.keys() {
            for value in self.texts(table, name) {
                let is_sound = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && http::HeaderValue::from_str(&value).is_ok();
                if is_sound {
                    headers.push((name.clone(), value));
                } else {
                    self.problem(
                        "header",
                        format!("{name:?} is not a header that can be sent"),
                    );
                }
            }
        }
        headers
    }

    fn dial_timeout(&mut self, settings: &Table) -> Option<Duration> {
        let text = self
            .text(settings, "dial_timeout")
            .filter(|text| !text.is_empty())?;
        let duration = parse_go_duration(&text);
        if duration.is_none() {
            self.problem(
                "dial_timeout",
                format!("{text:?} must be a duration such as 10s or 1m30s"),
            );
        }
        duration
    }

    fn paths(&mut self, settings: &Table, key: &str) -> Vec<PathBuf> {
        let folder = self.folder;
        self.texts(settings, key)
            .iter()
            .map(|path| folder.join(path))
            .collect()
    }

    fn flag(&mut self, settings: &Table, key: &str) -> Option<bool> {
        match settings.get(key)? {
            Value::Boolean(flag) => Some(*flag),
            _ => {
                self.problem(key, "must be true or false");
                None
            }
        }
    }

    fn text(&mut self, settings: &Table, key: &str) -> Option<String> {
        match settings.get(key)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.problem(key, "must be a string");
                None
            }
        }
    }

    /// A string or a list of strings.
    fn texts(&mut self, settings: &Table, key: &str) -> Vec<String> {
        let list = match settings.get(key) {
            None => return Vec::new(),
            Some(Value::String(text)) => return vec![text.clone()],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.problem(key, "must be a string or a list of strings");
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for entry in list {
            match entry {
                Value::String(text) => texts.push(text.clone()),
                _ => self.problem(key, "must hold only strings"),
            }
        }
        texts
    }
}

/// Reads a duration as Go writes them: `1m30s`, `250ms`, `1.5h`.
fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}
