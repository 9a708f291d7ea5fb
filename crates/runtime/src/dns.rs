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

/// Where name servers listen.
pub(crate) const PORT: u16 = 53;

/// The number of the one question there is; answers are told apart by their sockets.
const QUESTION_ID: u16 = 0x6f72;

/// The addresses of the servers that a text names.
pub(crate) fn addresses(text: &str) -> Vec<std::net::IpAddr> {
    let servers = text.lines().filter_map(server);
    servers.filter_map(|address| address.parse().ok()).collect()
}

/// A question for the addresses of a name (RFC 1035, section 4). What is too long for a label is cut, and so unknown.
pub(crate) fn query(name: &str) -> Vec<u8> {
    let mut message = QUESTION_ID.to_be_bytes().to_vec();
    // Recursion is wanted; one question.
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend_from_slice(label);
    }
    // The root; type A, class IN.
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Whether a server knows the name it was asked for.
pub(crate) fn check_answer(message: &[u8]) -> Result<(), String> {
    let [high, low, flags, code, ..] = *message else {
        return Err("the answer is none".to_owned());
    };
    if u16::from_be_bytes([high, low]) != QUESTION_ID || flags & 0x80 == 0 {
        return Err("the answer is to another question".to_owned());
    }
    match code & 0x0f {
        0 => Ok(()),
        2 => Err("the server failed (SERVFAIL)".to_owned()),
        3 => Err("there is no such name (NXDOMAIN)".to_owned()),
        5 => Err("the server refuses (REFUSED)".to_owned()),
        other => Err(format!("the server answers with code {other}")),
    }
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
    fn a_question_and_its_answers_are_those_of_rfc_1035() {
        let question = query("db.example.");
        assert_eq!(question[..6], [0x6f, 0x72, 1, 0, 0, 1]);
        assert_eq!(question[12..], *b"\x02db\x07example\0\0\x01\0\x01");
        let mut answer = question;
        answer[2] |= 0x80;
        assert_eq!(check_answer(&answer), Ok(()));
        answer[3] = 0x83;
        assert!(check_answer(&answer).unwrap_err().contains("NXDOMAIN"));
        answer[0] = 0;
        assert!(
            check_answer(&answer)
                .unwrap_err()
                .contains("another question")
        );
        assert!(check_answer(&[]).is_err());
        assert_eq!(
            addresses("nameserver 10.0.0.1\nsearch x\nnameserver fd00::1\n").len(),
            2
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
