//! Which protocol a request wants, and whether we speak it.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};

use super::remote::Version;
use super::websocket::accept_key;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accept-stream-protocol-version");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// What is spoken after an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SPDY/3.1.
    Spdy,
    /// Channels over a WebSocket.
    Channels { is_base64: bool, can_close: bool },
    /// SPDY/3.1 over a WebSocket.
    Tunnel,
}

/// What was agreed upon.
#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) dialect: Dialect,
    /// The subprotocol; empty for none.
    pub(super) protocol: &'static str,
    /// What the client gets to read.
    pub(super) response: Response<Full<Bytes>>,
}

/// The subprotocols of one kind of request, best first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) spdy: &'static [&'static str],
    pub(super) websocket: &'static [&'static str],
}

/// Running a command and attaching to one.
pub(super) const REMOTE_COMMAND: Offer = Offer {
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
};

/// Reaching ports.
pub(super) const PORT_FORWARD: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    websocket: &[
        TUNNEL,
        "v2.portforward.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
    ],
};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Agrees with a request, or answers why not.
pub(super) fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<Agreement, Refusal> {
    let upgrades = words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let wants = |name: &str| words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(name));
    if upgrades && wants("websocket") {
        websocket(headers, offer.websocket)
    } else if upgrades && wants("SPDY/3.1") {
        spdy(headers, offer.spdy)
    } else {
        let reason =
            "this is served to connections that are upgraded to SPDY/3.1 or to a WebSocket";
        Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
    }
}

/// What a version of the remote command protocols is about.
pub(super) fn version_of(agreement: &Agreement) -> Version {
    let is_opened_by_client = agreement.dialect == Dialect::Spdy;
    let number = agreement
        .protocol
        .strip_prefix('v')
        .and_then(|rest| rest.get(..1)?.parse().ok())
        .unwrap_or(1_u8);
    Version {
        can_resize: number >= 3 || !is_opened_by_client,
        has_status: number >= 4,
        is_opened_by_client,
    }
}

/// Why a connection is not upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    /// What would have been accepted.
    known: &'static [&'static str],
}

impl Refusal {
    pub(super) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            known: &[],
        }
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}\n", self.reason)));
        *response.status_mut() = self.status;
        // Said here and not left to the server's settings, which would put it into the answers that switch protocols too:
        // Go's client takes a `Connection` with "close" in it away, and finds no upgrade.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        for name in self.known {
            let name = HeaderValue::from_static(name);
            response.headers_mut().append(ACCEPTED_PROTOCOLS, name);
        }
        response
    }
}

fn spdy(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreement, Refusal> {
    let mut response = switching("SPDY/3.1");
    let mut offered = words(headers, &STREAM_PROTOCOL).peekable();
    // A client that offers none speaks the first version there was.
    if offered.peek().is_none() {
        return Ok(Agreement {
            dialect: Dialect::Spdy,
            protocol: "",
            response,
        });
    }
    let Some(protocol) = choose(offered, known) else {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "none of the stream protocols is known",
            known,
        });
    };
    let chosen = HeaderValue::from_static(protocol);
    response.headers_mut().insert(STREAM_PROTOCOL, chosen);
    Ok(Agreement {
        dialect: Dialect::Spdy,
        protocol,
        response,
    })
}

fn websocket(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreement, Refusal> {
    let bad = |reason| Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    if words(headers, &WEBSOCKET_VERSION).next() != Some("13") {
        return bad("only version 13 of the WebSocket protocol is known");
    }
    let Some(key) = headers.get(WEBSOCKET_KEY).and_then(|key| key.to_str().ok()) else {
        return bad("a WebSocket needs a key");
    };
    let Ok(answer) = HeaderValue::try_from(accept_key(key)) else {
        return bad("a WebSocket needs a key");
    };
    let mut response = switching("websocket");
    let name = HeaderName::from_static("sec-websocket-accept");
    response.headers_mut().insert(name, answer);
    let mut offered = words(headers, &WEBSOCKET_PROTOCOL).peekable();
    let protocol = if offered.peek().is_none() {
        ""
    } else {
        let Some(protocol) = choose(offered, known) else {
            return bad("none of the WebSocket subprotocols is known");
        };
        let chosen = HeaderValue::from_static(protocol);
        response.headers_mut().insert(WEBSOCKET_PROTOCOL, chosen);
        protocol
    };
    let dialect = match protocol {
        TUNNEL | "v2.portforward.k8s.io" => Dialect::Tunnel,
        other => Dialect::Channels {
            is_base64: other.contains("base64"),
            can_close: other.starts_with("v5."),
        },
    };
    Ok(Agreement {
        dialect,
        protocol,
        response,
    })
}

/// The client's own order does not count: later versions are better.
fn choose<'a>(
    offered: impl Iterator<Item = &'a str>,
    known: &'static [&'static str],
) -> Option<&'static str> {
    let offered: Vec<&str> = offered.collect();
    known.iter().copied().find(|name| offered.contains(name))
}

fn switching(to: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// The values of a header, also where several stand in one line.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(
        offer: Offer,
        lines: &[(&'static str, &'static str)],
    ) -> Result<(Dialect, &'static str), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        match negotiate(&headers, offer) {
            Ok(agreement) => Ok((agreement.dialect, agreement.protocol)),
            Err(refusal) => Err(refusal.response().status().as_u16()),
        }
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_best_version_both_know_is_spoken() {
        let name = "x-stream-protocol-version";
        let with = |lines: &[(&'static str, &'static str)]| [&SPDY[..], lines].concat();
        let table = [
            (with(&[]), Ok((Dialect::Spdy, ""))),
            (
                with(&[(name, "v2.channel.k8s.io"), (name, "v4.channel.k8s.io")]),
                Ok((Dialect::Spdy, "v4.channel.k8s.io")),
            ),
            (
                with(&[(name, "channel.k8s.io, v3.channel.k8s.io")]),
                Ok((Dialect::Spdy, "v3.channel.k8s.io")),
            ),
            (with(&[(name, "v9.channel.k8s.io")]), Err(403)),
            (SPDY[1..].to_vec(), Err(400)),
            (SPDY[..1].to_vec(), Err(400)),
        ];
        for (lines, expected) in table {
            assert_eq!(agreed(REMOTE_COMMAND, &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_websocket_is_channels_or_a_tunnel() {
        let name = "sec-websocket-protocol";
        let channels = |is_base64, can_close| Dialect::Channels {
            is_base64,
            can_close,
        };
        let table = [
            (
                REMOTE_COMMAND,
                "v4.channel.k8s.io, v5.channel.k8s.io",
                Ok((channels(false, true), "v5.channel.k8s.io")),
            ),
            (
                REMOTE_COMMAND,
                "base64.channel.k8s.io",
                Ok((channels(true, false), "base64.channel.k8s.io")),
            ),
            (
                PORT_FORWARD,
                "SPDY/3.1+portforward.k8s.io",
                Ok((Dialect::Tunnel, TUNNEL)),
            ),
            (
                PORT_FORWARD,
                "v4.base64.channel.k8s.io",
                Ok((channels(true, false), "v4.base64.channel.k8s.io")),
            ),
            (PORT_FORWARD, "v5.channel.k8s.io", Err(400)),
        ];
        for (offer, protocols, expected) in table {
            let lines = [&WEBSOCKET[..], &[(name, protocols)]].concat();
            assert_eq!(agreed(offer, &lines), expected, "{protocols}");
        }
        assert_eq!(
            agreed(REMOTE_COMMAND, &WEBSOCKET),
            Ok((channels(false, false), ""))
        );
        assert_eq!(agreed(REMOTE_COMMAND, &WEBSOCKET[..3]), Err(400));
    }

    #[test]
    fn versions_differ_in_sizes_and_status() {
        let name = "x-stream-protocol-version";
        for (protocol, can_resize, has_status) in [
            ("v4.channel.k8s.io", true, true),
            ("v3.channel.k8s.io", true, false),
            ("v2.channel.k8s.io", false, false),
            ("channel.k8s.io", false, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [SPDY[0], SPDY[1], (name, protocol)] {
                headers.append(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            let version = version_of(&negotiate(&headers, REMOTE_COMMAND).unwrap());
            assert_eq!(
                (version.can_resize, version.has_status),
                (can_resize, has_status),
                "{protocol}"
            );
        }
    }
}
