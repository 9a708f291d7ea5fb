//! Proxies from the environment, with the meaning that Go's `net/http/httpproxy` gives the variables: what containerd
//! and Docker do on the same node. Pure.
//!
//! `HTTP_PROXY` and `HTTPS_PROXY` (or in small letters) name a proxy for each scheme. `NO_PROXY` lists exceptions:
//! `*`, addresses, networks (`10.0.0.0/8`), names with their subdomains (`example.com`), subdomains alone
//! (`.example.com`), each but networks with a port if one wants. Loopback never goes through a proxy.

use std::net::IpAddr;

use reqwest::Url;

/// Which requests go through which proxy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Vec<Exception>,
    problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// A name's end with its leading dot, and whether the name without that dot is meant too.
    Name {
        ending: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// What this process's environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// What the variables that `lookup` knows say.
    #[must_use]
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| {
            let found = lookup(name).or_else(|| lookup(&name.to_ascii_lowercase()));
            found.map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        let mut problems = Vec::new();
        let mut proxy = |name: &str| {
            parse_proxy(&value(name)).unwrap_or_else(|problem| {
                problems.push(format!("{name} {problem}"));
                None
            })
        };
        Self {
            http: proxy("HTTP_PROXY"),
            https: proxy("HTTPS_PROXY"),
            exceptions: value("NO_PROXY")
                .split([',', ' '])
                .filter_map(|entry| Exception::parse(&entry.to_ascii_lowercase()))
                .collect(),
            problems,
        }
    }

    /// Variables that cannot be used; no request is sent while there are any, for it would go another way than meant.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The proxy for a request to `url`, if it is to go through one.
    #[must_use]
    pub fn proxy_for(&self, url: &Url) -> Option<Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let host = url
            .host_str()?
            .trim_matches(['[', ']'])
            .trim_end_matches('.');
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let is_excepted = self
            .exceptions
            .iter()
            .any(|exception| exception.covers(host, address, port));
        (!is_excepted).then(|| proxy.clone())
    }
}

/// A proxy's URL may hold a password, which is not for logs.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = |url: &Option<Url>| url.as_ref().map(crate::transport::host_of);
        formatter
            .debug_struct("Proxies")
            .field("http", &host(&self.http))
            .field("https", &host(&self.https))
            .field("exceptions", &self.exceptions)
            .field("problems", &self.problems)
            .finish()
    }
}

/// A proxy's URL; without a scheme it is spoken to in plain HTTP. The text is not repeated: it may hold a password.
fn parse_proxy(text: &str) -> Result<Option<Url>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|error| format!("is not a URL: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(Some(url)),
        other => Err(format!("must be an http or https URL and is {other:?}")),
    }
}

impl Exception {
    /// Nothing for an entry that means nothing: Go passes over those too.
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            return (bits <= bits_of(address)).then_some(Self::Network(address, bits));
        }
        let (host, port) = split_port(entry);
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, port));
        }
        let name = host.strip_prefix('*').unwrap_or(host);
        let (ending, itself) = if name.starts_with('.') {
            (name.to_owned(), false)
        } else {
            (format!(".{name}"), true)
        };
        (ending.len() > 1).then_some(Self::Name {
            ending,
            itself,
            port,
        })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::Address(excepted, only) => {
                address == Some(*excepted) && only.is_none_or(|only| only == port)
            }
            Self::Name {
                ending,
                itself,
                port: only,
            } => {
                let matches = host.ends_with(ending.as_str()) || (*itself && host == &ending[1..]);
                matches && only.is_none_or(|only| only == port)
            }
        }
    }
}

/// Splits `host:port`; a bare IPv6 address has colons but no port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    match entry.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        None => (entry, None),
    }
}

const fn bits_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, all) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (
            u128::from(address.to_bits()),
            u128::from(network.to_bits()),
            32,
        ),
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    // A shift by all 128 bits of a network of everything has no result: nothing is compared then.
    let differing = (address ^ network).checked_shr(all - u32::from(bits));
    differing.unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn proxied(proxies: &Proxies, url: &str) -> bool {
        proxies.proxy_for(&url.parse().unwrap()).is_some()
    }

    #[test]
    fn each_scheme_has_its_proxy_and_capitals_win() {
        let found = proxies(&[
            ("HTTP_PROXY", "plain.example:3128"),
            ("http_proxy", "other.example"),
            ("https_proxy", "https://user:secret@tls.example"),
        ]);
        let proxy = |url: &str| found.proxy_for(&url.parse().unwrap()).unwrap().to_string();
        assert_eq!(proxy("http://a.io/"), "http://plain.example:3128/");
        assert_eq!(proxy("https://a.io/"), "https://user:secret@tls.example/");
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn without_variables_nothing_is_proxied() {
        assert!(!proxied(&proxies(&[("NO_PROXY", "*")]), "https://a.io"));
        assert!(!proxied(&proxies(&[("HTTP_PROXY", " ")]), "http://a.io"));
    }

    #[test]
    fn exceptions_are_names_networks_addresses_and_ports() {
        for (exceptions, excepted, others) in [
            ("*", &["a.io"][..], &[][..]),
            (
                "b.io,a.io",
                &["a.io", "x.a.io", "A.IO."],
                &["aa.io", "a.io.c"],
            ),
            (".a.io", &["x.a.io"], &["a.io", "xa.io"]),
            ("*.a.io", &["x.a.io"], &["a.io"]),
            ("a.io:5000", &["a.io:5000"], &["a.io", "a.io:5001"]),
            ("a.io:443 b.io", &["a.io", "b.io"], &["a.io:444"]),
            (
                "10.0.0.0/8",
                &["10.255.1.1", "10.0.0.1:5000"],
                &["11.0.0.1", "ten.io"],
            ),
            ("192.168.1.0/25", &["192.168.1.127"], &["192.168.1.128"]),
            ("0.0.0.0/0", &["8.8.8.8"], &["[2001:db8::1]"]),
            (
                "fd00::/8,::/129",
                &["[fd12::1]"],
                &["[fe80::1]", "10.0.0.1"],
            ),
            ("::/0", &["[2001:db8::1]"], &["8.8.8.8"]),
            ("10.1.2.3:80", &[], &["10.1.2.3"]),
            (
                "[fd00::1]:5000,10.1.2.3",
                &["[fd00::1]:5000", "10.1.2.3"],
                &["[fd00::1]"],
            ),
            (",, /8,x/y,10.0.0.0/33", &[], &["a.io", "10.0.0.1"]),
        ] {
            let found = proxies(&[("HTTPS_PROXY", "p.example"), ("NO_PROXY", exceptions)]);
            for host in excepted {
                assert!(
                    !proxied(&found, &format!("https://{host}")),
                    "{exceptions}: {host}"
                );
            }
            for host in others {
                assert!(
                    proxied(&found, &format!("https://{host}")),
                    "{exceptions}: {host}"
                );
            }
        }
    }

    #[test]
    fn loopback_never_goes_through_a_proxy() {
        let found = proxies(&[("HTTP_PROXY", "p.example")]);
        for host in [
            "localhost:5000",
            "127.0.0.1",
            "127.9.9.9:5000",
            "[::1]:5000",
        ] {
            assert!(!proxied(&found, &format!("http://{host}")), "{host}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_a_problem_that_names_the_variable_and_hides_the_password() {
        let found = proxies(&[
            ("HTTP_PROXY", "socks5://user:secret@p.example"),
            ("HTTPS_PROXY", "http://user:secret@p.example:x"),
        ]);
        let problems = found.problems().join(" ");
        assert!(
            problems.contains("HTTP_PROXY") && problems.contains("HTTPS_PROXY"),
            "{problems}"
        );
        assert!(!problems.contains("secret"), "{problems}");
    }
}
