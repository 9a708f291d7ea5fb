//! Signals: those sent to us, and those we send by name.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// Names in the kernel's order, from 1 on (x86 and ARM agree).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The last real-time signal.
const NUMBER_MAX: u32 = 64;

pub(crate) const TERM: u32 = 15;
pub(crate) const KILL: u32 = 9;

/// The number of `TERM`, `SIGTERM` or `15`.
pub(crate) fn parse(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse::<u32>() {
        let known = (1..=NUMBER_MAX).contains(&number);
        return known
            .then_some(number)
            .ok_or_else(|| format!("signals go from 1 to {NUMBER_MAX}"));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    (1..)
        .zip(NAMES)
        .find(|(_, known)| *known == name)
        .map(|(number, _)| number)
        .ok_or_else(|| format!("{text:?} is no signal: write a name such as TERM, or a number"))
}

/// The name of a signal, or its number.
pub(crate) fn name(number: u32) -> String {
    let index = usize::try_from(number)
        .unwrap_or(usize::MAX)
        .wrapping_sub(1);
    NAMES
        .get(index)
        .map_or_else(|| number.to_string(), |name| format!("SIG{name}"))
}

/// Ends when somebody asks us to end.
pub(crate) async fn interrupted() {
    match Asked::listen() {
        Ok(mut asked) => {
            asked.next().await;
        }
        // Without a handler the kernel ends us as it always did.
        Err(_) => std::future::pending().await,
    }
}

/// What is asked of a program in the foreground.
pub(crate) struct Asked {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Asked {
    pub(crate) fn listen() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next signal's number.
    pub(crate) async fn next(&mut self) -> u32 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => TERM,
            _ = self.hang_up.recv() => 1,
            _ = self.quit.recv() => 3,
        }
    }
}

/// Tells when the terminal's size changes.
pub(crate) fn resized() -> Result<Signal, CliError> {
    listen(SignalKind::window_change())
}

fn listen(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|source| CliError::Local {
        what: "cannot listen for signals".to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("1", 1),
            ("64", 64),
            ("SYS", 31),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["0", "65", "", "SIG", "NOPE", "-1"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(name(40), "40");
    }
}
