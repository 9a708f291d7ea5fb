//! Signals as something to read, and as something to send.
//!
//! Ordering: a [`SignalFd`] is made before children are started, so that no end of a child is missed. Cancellation:
//! dropping it leaves its signals blocked. Crash: nothing is kept.
#![allow(
    unsafe_code,
    reason = "signalfd, signal sets and real-time signals are not in rustix"
)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// Turns signals into bytes to be read.
#[derive(Debug)]
pub struct SignalFd(File);

impl SignalFd {
    /// Blocks `signals` for this thread and makes them readable instead. Non-blocking.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set; sigaddset only writes to it and refuses bad numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                if libc::sigaddset(set.as_mut_ptr(), *signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised; no old set is asked for.
        let refused =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: the set is initialised; −1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// The next signal's number, or nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next_signal(&mut self) -> io::Result<Option<i32>> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match self.0.read(&mut record) {
            Ok(count) if count >= 4 => {
                let number = [record[0], record[1], record[2], record[3]];
                Ok(Some(i32::from_ne_bytes(number)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends any signal, real-time ones included, to the process behind a pidfd.
///
/// # Errors
/// `ESRCH` when it has ended; `EINVAL` for a number that is no signal.
pub fn send_by_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the call takes numbers and null for the optional record.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor for the process, safe against the reuse of its id from now on. It becomes readable at its end.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let pid = pid.ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_instead_of_ending_the_process() {
        // The mask is this thread's alone: the test's harness gives each test a thread or a process.
        let mut signals = SignalFd::new(&[libc::SIGUSR1]).unwrap();
        assert_eq!(signals.next_signal().unwrap(), None);
        // SAFETY: raise takes a number; the signal is blocked.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(signals.next_signal().unwrap(), Some(libc::SIGUSR1));
        assert_eq!(signals.next_signal().unwrap(), None);
    }

    #[test]
    fn numbers_that_are_no_signals_are_refused() {
        assert!(SignalFd::new(&[1000]).is_err());
        let own = pidfd_of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(send_by_pidfd(own.as_fd(), 1000).is_err());
        assert!(pidfd_of(0).is_err());
    }
}
