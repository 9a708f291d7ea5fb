//! The terminal: its size, and raw mode that is always given back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Columns and rows, or nothing where there is no terminal or it does not say.
pub(crate) fn size(terminal: impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(terminal).ok()?;
    let known = size.ws_col > 0 && size.ws_row > 0;
    known.then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Keeps a terminal in raw mode: every key goes to the container, Ctrl-C too. Dropping gives the terminal back.
///
/// Crash: a SIGKILL leaves the terminal raw, as with any program; `reset` helps. A panic gives it back.
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches the terminal to raw mode.
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let restored = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        if let Err(error) = restored {
            eprintln!("orlop: cannot restore the terminal ({error}): type `reset`");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::termios::LocalModes;

    use super::*;

    fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let controller = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&controller).unwrap();
        rustix::pty::unlockpt(&controller).unwrap();
        let user = rustix::pty::ioctl_tiocgptpeer(&controller, flags).unwrap();
        (controller, user)
    }

    #[test]
    fn raw_mode_is_given_back() {
        let (_controller, user) = pseudo_terminal();
        let echoes = |fd: &OwnedFd| {
            tcgetattr(fd)
                .unwrap()
                .local_modes
                .contains(LocalModes::ECHO)
        };
        assert!(echoes(&user));
        {
            let _raw = RawMode::enter(user.as_fd()).unwrap();
            assert!(!echoes(&user));
        }
        assert!(echoes(&user));
    }

    #[test]
    fn what_is_no_terminal_has_no_size_and_no_raw_mode() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(size(&file), None);
        assert!(RawMode::enter(file.as_fd()).is_err());
    }
}
