//! Nothing is reachable without a token, and nothing twice.

use crate::node::{Node, Streams, Wanted};
use crate::spdy::{Client, Command, exit_code, request};

const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

fn status_of(url: &str, method: &str) -> String {
    let (_socket, head) = request(url, method, UPGRADE);
    head.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_url_is_good_once_and_only_for_what_it_is_for() {
    let mut node = Node::start(&[]);
    let id = node.container(&["sleep", "100000"], Streams::default());
    let url = || node.exec_url(&id, &["id"], Wanted::default()).unwrap();
    let good = url();
    let (base, token) = good.rsplit_once('/').unwrap();
    let root = base.rsplit_once('/').unwrap().0;
    for (method, guess) in [
        ("POST", format!("{base}/{}", "0".repeat(32))),
        ("POST", format!("{base}/")),
        ("POST", format!("{root}/")),
        ("POST", format!("{root}/exec/../exec/{token}")),
        ("PUT", good.clone()),
    ] {
        assert_eq!(status_of(&guess, method), "404", "{method} {guess}");
    }
    let mut command = Command::start(&good, false, false);
    assert_eq!(exit_code(&command.finish()), 0);
    assert_eq!(status_of(&good, "POST"), "404");
    // Another verb uses a token up, and gains nothing.
    let other = url();
    assert_eq!(
        status_of(&other.replace("/exec/", "/attach/"), "POST"),
        "404"
    );
    assert_eq!(status_of(&other, "POST"), "404");
}

#[test]
fn what_is_no_upgrade_or_speaks_nothing_known_is_refused() {
    let mut node = Node::start(&[]);
    let id = node.container(&["sleep", "100000"], Streams::default());
    let url = || node.exec_url(&id, &["id"], Wanted::default()).unwrap();
    let (_socket, head) = request(&url(), "GET", "");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let unknown = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n";
    let (_socket, head) = request(&url(), "POST", unknown);
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(
        head.contains("x-accept-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    let long = format!("X-Long: {}\r\n", "x".repeat(64 << 10));
    let (_socket, head) = request(&url(), "GET", &long);
    assert!(
        head.is_empty() || head.starts_with("HTTP/1.1 431"),
        "{head}"
    );
}

#[test]
fn a_client_that_opens_no_streams_or_is_idle_is_hung_up_on() {
    let settings = [
        "cri.stream_creation_timeout=200ms",
        "cri.stream_idle_timeout=700ms",
    ];
    let mut node = Node::start(&settings);
    let id = node.container(&["sleep", "100000"], Streams::default());
    let url = node.exec_url(&id, &["id"], Wanted::default()).unwrap();
    let mut client = Client::connect(&url, &["v4.channel.k8s.io"]);
    client.open(&[("streamtype", "error")]);
    client.read_until(|_| false);
    assert!(client.is_closed);
    let url = node
        .exec_url(&id, &["sleep", "54321"], Wanted::default())
        .unwrap();
    let mut command = Command::start(&url, false, false);
    command.client.read_until(|_| false);
    assert!(command.client.is_closed);
    crate::node::eventually("it is gone", || node.processes_with(&id, "54321") == 0);
}
