//! epoll with tokens instead of numbers.

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::clock;
use crate::fault::Fault;

const EVENTS_MAX: usize = 32;

/// Who is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Listener,
    Peer(u32),
    Publisher,
    Oom(u32),
    Copy(u32),
    Hub(u32),
    Start(u32),
}

/// For what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
    Both,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Publisher => (2, 0),
            Self::Peer(number) => (3, number),
            Self::Oom(number) => (4, number),
            Self::Copy(number) => (5, number),
            Self::Hub(number) => (6, number),
            Self::Start(number) => (7, number),
        };
        (kind << 32) | u64::from(number)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let number = u32::try_from(packed & u64::from(u32::MAX)).ok()?;
        match packed >> 32 {
            0 => Some(Self::Signals),
            1 => Some(Self::Listener),
            2 => Some(Self::Publisher),
            3 => Some(Self::Peer(number)),
            4 => Some(Self::Oom(number)),
            5 => Some(Self::Copy(number)),
            6 => Some(Self::Hub(number)),
            7 => Some(Self::Start(number)),
            _ => None,
        }
    }
}

/// The one place where the server waits.
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> Result<Self, Fault> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        epoll
            .map(Self)
            .map_err(|error| Fault::io("make", "an epoll descriptor", error))
    }

    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        interest: Interest,
    ) -> Result<(), Fault> {
        let flags = match interest {
            Interest::Read => epoll::EventFlags::IN,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        };
        epoll::add(&self.0, fd, epoll::EventData::new_u64(token.pack()), flags)
            .map_err(|error| Fault::io("watch", "a descriptor", error))
    }

    /// One that is not watched is fine.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        epoll::delete(&self.0, fd).ok();
    }

    /// Waits until something is ready or `deadline` (on the boot clock) has come.
    pub(super) fn wait(&self, deadline: Option<Duration>) -> Result<Vec<Token>, Fault> {
        let left = deadline.map(|deadline| deadline.saturating_sub(clock::boot()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS_MAX];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => Ok(ready
                .iter()
                .filter_map(|event| Token::unpack(event.data.u64()))
                .collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(Fault::io("wait for", "events", error)),
        }
    }
}
