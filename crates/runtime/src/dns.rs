//! What a container finds in `/etc/resolv.conf`.

/// Where systemd-resolved keeps the servers behind its stub (systemd-resolved.service(8)).
pub(crate) const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The text for a container in a network namespace of its own, from the host's.
///
/// A server on a loopback address, such as systemd-resolved's stub 127.0.0.53, would be the container's own loopback,
/// where nobody answers. The servers behind the stub are taken instead; if there are none, the loopback servers are left
/// out, so that a lookup fails at once and says so, rather than after a time-out.
pub(crate) fn for_own_network(host: &str, behind_stub: Option<&str>) -> String {
    let source = if has_usable_server(host) {
        host
    } else {
        behind_stub
            .filter(|text| has_usable_server(text))
            .unwrap_or(host)
    };
    source
        .lines()
        .filter(|line| !is_loopback_server(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// How many servers a text names.
pub(crate) fn servers(text: &str) -> usize {
    text.lines().filter(|line| server(line).is_some()).count()
}

fn has_usable_server(text: &str) -> bool {
    text.lines()
        .any(|line| server(line).is_some() && !is_loopback_server(line))
}

fn is_loopback_server(line: &str) -> bool {
    // A zone index (fe80::1%eth0) is no part of the address.
    let address = server(line)
        .and_then(|address| address.split('%').next()?.parse::<std::net::IpAddr>().ok());
    address.is_some_and(|address| address.is_loopback())
}

/// The address of a `nameserver` line (resolv.conf(5)).
fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then(|| words.next())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";

    #[test]
    fn the_servers_behind_the_stub_are_taken() {
        let upstream = "nameserver 10.0.0.2\nsearch lan\n";
        assert_eq!(for_own_network(STUB, Some(upstream)), upstream);
    }

    #[test]
    fn a_usable_file_stays_as_it_is_but_for_loopback_servers() {
        let text = "search a b\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n";
        assert_eq!(
            for_own_network(text, Some(STUB)),
            "search a b\nnameserver 10.0.0.1\noptions ndots:5\n"
        );
    }

    #[test]
    fn a_stub_with_nothing_behind_it_is_not_leaked() {
        assert_eq!(
            for_own_network(STUB, None),
            "options edns0 trust-ad\nsearch lan\n"
        );
        assert_eq!(
            for_own_network(STUB, Some(STUB)),
            "options edns0 trust-ad\nsearch lan\n"
        );
    }
}
