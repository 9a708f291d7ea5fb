//! Starts of containers that need no call of the OCI runtime: see [`crate::runc`].
//!
//! Ordering: a start is told when the container's program runs, and an end that comes first is told after it. Crash: the
//! container stays created, or runs; the engine's recovery asks which. Cancellation: there is none.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Server;
use super::container::Caller;
use super::jobs::Step;
use super::poller::{Interest, Token};
use crate::clock;
use crate::fault::Fault;
use crate::runc::{Plain, Progress, Starting};

/// A start under way.
pub(super) struct Start {
    container: String,
    caller: Caller,
    starting: Starting,
    deadline: Duration,
}

impl Start {
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Server {
    /// Starts a container's own process, by the OCI runtime if need be.
    pub(super) fn start_init(&mut self, id: &str, caller: Caller) -> Result<(), Fault> {
        // Whatever is odd about it, the runtime has the words for.
        let starting = self.plain(id).and_then(|plain| plain.start().ok());
        let Some(starting) = starting else {
            return self.start_plain(id, Some(caller), Step::Start, &[]);
        };
        let number = self.number();
        let token = Token::Start(number);
        self.poller.add(starting.as_fd(), token, Interest::Read)?;
        let start = Start {
            container: id.to_owned(),
            caller,
            starting,
            deadline: clock::boot() + Step::Start.timeout(),
        };
        self.starts.insert(number, start);
        Ok(())
    }

    /// The container as the OCI runtime keeps it, if nothing about it needs the runtime.
    pub(super) fn plain(&self, id: &str) -> Option<Plain> {
        let container = self.container(id).ok()?;
        container.runtime.plain(id, container.init.pid)
    }

    /// There is something to read from a container's first process.
    pub(super) fn advance_start(&mut self, number: u32) {
        // It may have been settled in this turn.
        let Some(start) = self.starts.get_mut(&number) else {
            return;
        };
        let outcome = match start.starting.advance() {
            Ok(Progress::Waiting) => return,
            Ok(Progress::Started) => Ok(()),
            Err(error) => Err(Fault::io("start", &start.container, error)),
        };
        self.finish_start(number, outcome);
    }

    /// A container's first process has ended. If it is being started, it has either come by before, or never will.
    pub(super) fn settle_start(&mut self, id: &str) {
        let found = self.starts.iter().find(|(_, start)| start.container == id);
        let Some(number) = found.map(|(number, _)| *number) else {
            return;
        };
        self.advance_start(number);
        let dead = Fault::Runtime {
            step: "start",
            message: "container process is already dead".to_owned(),
        };
        self.finish_start(number, Err(dead));
    }

    pub(super) fn end_silent_starts(&mut self, now: Duration) {
        let late = self
            .starts
            .iter()
            .filter(|(_, start)| now >= start.deadline);
        let late: Vec<u32> = late.map(|(number, _)| *number).collect();
        for number in late {
            let silent = Fault::RuntimeSilent {
                step: "start",
                seconds: Step::Start.timeout().as_secs(),
            };
            self.finish_start(number, Err(silent));
        }
    }

    /// Does nothing for a start that was told already.
    fn finish_start(&mut self, number: u32, outcome: Result<(), Fault>) {
        if let Some(start) = self.starts.remove(&number) {
            self.started(&start.container, Some(start.caller), outcome);
        }
    }
}
