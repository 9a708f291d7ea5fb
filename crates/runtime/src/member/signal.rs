//! Signals by name, as images and Kubernetes write them.

/// Name and number of each signal (signal(7)); both processors that are supported number them alike.
const SIGNALS: [(&str, u32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    // Other names of signals that are above.
    ("IOT", 6),
    ("CLD", 17),
    ("POLL", 29),
];

/// The first and the last real-time signal of C programs.
const REAL_TIME: (u32, u32) = (34, 64);

/// What ends a process that asks for nothing else.
pub(super) const TERM: u32 = 15;
/// What ends a process in any case.
pub(super) const KILL: u32 = 9;

/// The number of `SIGTERM`, `term`, `15`, `RTMIN+3` or `RTMAX-1`.
pub(super) fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return (1..=REAL_TIME.1).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text[1..].parse().ok()
        }
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let number = (rest.is_empty() || rest.starts_with('+')).then(|| offset(rest))??;
        return Some(REAL_TIME.0 + number).filter(|number| *number <= REAL_TIME.1);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let number = (rest.is_empty() || rest.starts_with('-')).then(|| offset(rest))??;
        return REAL_TIME
            .1
            .checked_sub(number)
            .filter(|number| *number >= REAL_TIME.0);
    }
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

/// `SIGTERM` for 15; real-time signals count from the first.
pub(super) fn name(number: u32) -> String {
    let found = SIGNALS.iter().find(|(_, known)| *known == number);
    match (found, number) {
        (Some((name, _)), _) => format!("SIG{name}"),
        (None, 34) => "SIGRTMIN".to_owned(),
        (None, 35..=64) => format!("SIGRTMIN+{}", number - REAL_TIME.0),
        (None, _) => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_one() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-2", Some(62)),
            ("SIGRTMAX", Some(64)),
            ("RTMIN+99", None),
            ("RTMIN-1", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIGNAL", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(number)), Some(number));
        }
    }
}
