//! Deleting containers and their further processes.
//!
//! Ordering: an exec is deleted after it ended and its output was copied; a container after its own process ended. Crash:
//! the engine runs [`crate::cleanup`], which does the same with what is left.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use orlop_api::Message;
use orlop_api::containerd::events;
use orlop_api::containerd::task::v3 as api;
use orlop_sys::mount::{Unmount, unmount_all};
use orlop_sys::signal::send_by_pidfd;
use rustix::fs::{Mode, OFlags};

use super::container::{Caller, Container, Exit, Process, State};
use super::jobs::Step;
use super::lifecycle::wrong_state;
use super::{SIGKILL, Server};
use crate::clock;
use crate::fault::Fault;
use crate::log;
use crate::runtime::says_gone;

/// How long a deletion waits for output that still flows, as containerd's shim does.
const DRAIN: Duration = Duration::from_secs(10);

/// How long it waits besides for a creation to end, which has limits of its own.
const CREATION: Duration = Duration::from_secs(120);

/// How long a creation may go on that nobody wants any more. It is let end, if it will: what a killed runtime leaves has
/// to be searched for.
const UNWANTED_CREATION: Duration = Duration::from_secs(2);

impl Server {
    pub(super) fn delete(
        &mut self,
        caller: Caller,
        request: &api::DeleteRequest,
    ) -> Result<(), Fault> {
        let mut patience = DRAIN;
        let process = self
            .container_mut(&request.id)?
            .process_mut(&request.exec_id)?;
        if process.deleting.is_some() {
            return Err(Fault::State("the process is being deleted".to_owned()));
        }
        match process.state {
            State::Stopped => {}
            // A container that was never started ends here.
            State::Created if request.exec_id.is_empty() => kill(process),
            // The engine that asked for it died, and its successor does not want it: see [`Server::end_if_unwanted`].
            State::Creating if request.exec_id.is_empty() => patience += CREATION,
            // An exec that was never started has no process.
            State::Created => {
                let never_started = Exit {
                    status: 0,
                    at: clock::now(),
                };
                process.exit.get_or_insert(never_started);
            }
            State::Creating | State::Starting | State::Running => {
                return Err(wrong_state("delete", process.state));
            }
        }
        let is_being_created = process.state == State::Creating;
        process.deleting = Some((caller, clock::boot() + patience));
        if is_being_created {
            self.hurry_creation(&request.id, UNWANTED_CREATION);
        }
        Ok(())
    }

    /// Ends a container whose deletion was asked for while it was being created.
    pub(super) fn end_if_unwanted(&mut self, id: &str) {
        let Ok(container) = self.container_mut(id) else {
            return;
        };
        if let Some((_, deadline)) = &mut container.init.deleting {
            *deadline = clock::boot() + DRAIN;
            kill(&mut container.init);
        }
    }

    /// Goes on with deletions whose process has ended and whose output has come to its end, or was given up.
    pub(super) fn settle_deletions(&mut self, now: Duration) {
        let mut due = Vec::new();
        for (id, container) in &self.containers {
            let execs = container
                .execs
                .iter()
                .map(|(exec, process)| (exec.as_str(), process));
            for (exec, process) in execs.chain([("", &container.init)]) {
                let Some((caller, deadline)) = process.deleting else {
                    continue;
                };
                if process.state == State::Creating && now < deadline {
                    continue;
                }
                let settled = process.exit.is_some() && !self.has_output(id, exec);
                if settled || now >= deadline {
                    due.push((id.clone(), exec.to_owned(), caller));
                }
            }
        }
        for (id, exec, caller) in due {
            self.copies
                .retain(|_, owned| owned.container != id || owned.exec != exec);
            match exec.is_empty() {
                true => self.delete_container(&id, caller),
                false => self.delete_exec(&id, &exec, caller),
            }
        }
    }

    fn delete_exec(&mut self, id: &str, exec: &str, caller: Caller) {
        let removed = self
            .container_mut(id)
            .map(|container| container.execs.remove(exec));
        let answer = removed.map(|process| process.as_ref().map_or_else(Vec::new, delete_response));
        self.answer(caller, answer);
    }

    fn delete_container(&mut self, id: &str, caller: Caller) {
        if let Ok(container) = self.container_mut(id) {
            container.init.deleting = None;
        }
        // A process that resists is the runtime's to end.
        let force = self
            .container(id)
            .is_ok_and(|container| container.init.exit.is_none());
        if !force && self.remove_plain(id) {
            return self.deleted(id, Some(caller), Ok(()));
        }
        let args: &[&str] = if force { &["--force"] } else { &[] };
        if let Err(fault) = self.start_plain(id, Some(caller), Step::Delete, args) {
            return self.answer(caller, Err(fault));
        }
        // Nobody is left in there, and the kernel may sync the disk for this: meanwhile the runtime is at work.
        if let (false, Ok(container)) = (force, self.container_mut(id)) {
            let root = unmount_rootfs(container);
            self.roots.extend(root);
        }
    }

    /// Removes what the OCI runtime keeps of a container, if that can be done without it.
    fn remove_plain(&self, id: &str) -> bool {
        let Some(plain) = self.plain(id) else {
            return false;
        };
        let removed = plain.remove();
        if let Err(error) = &removed {
            log::info(&format!("the OCI runtime has to delete {id}: {error}"));
        }
        removed.is_ok()
    }

    pub(super) fn deleted(&mut self, id: &str, caller: Option<Caller>, outcome: Result<(), Fault>) {
        let outcome = match outcome {
            Err(Fault::Runtime { message, .. }) if says_gone(&message) => Ok(()),
            other => other,
        };
        if let Err(fault) = outcome {
            return self.answer_if_asked(caller, Err(fault));
        }
        let Some(mut container) = self.containers.remove(id) else {
            let gone = Fault::NotFound("the container is gone: not found".to_owned());
            return self.answer_if_asked(caller, Err(gone));
        };
        self.roots.extend(unmount_rootfs(&mut container));
        let init = &container.init;
        let event = events::TaskDelete {
            container_id: id.to_owned(),
            pid: u32::try_from(init.pid).unwrap_or(0),
            exit_status: init.exit.map_or(137, |exit| exit.status),
            exited_at: Some(clock::timestamp(
                init.exit.map_or_else(clock::now, |exit| exit.at),
            )),
            ..events::TaskDelete::default()
        };
        self.publisher.publish("/tasks/delete", &event);
        self.answer_if_asked(caller, Ok(delete_response(init)));
    }
}

/// Ends a process that was never started.
fn kill(process: &mut Process) {
    process.sent_signal = Some((SIGKILL, 0));
    if let Some(pidfd) = &process.pidfd {
        // One that has ended is on its way to us.
        send_by_pidfd(pidfd.as_fd(), SIGKILL).ok();
    }
}

fn delete_response(process: &Process) -> Vec<u8> {
    let exit = process.exit.unwrap_or(Exit {
        status: 137,
        at: clock::now(),
    });
    api::DeleteResponse {
        pid: u32::try_from(process.pid).unwrap_or(0),
        exit_status: exit.status,
        exited_at: Some(clock::timestamp(exit.at)),
    }
    .encode_to_vec()
}

/// Takes the root down; what cannot be taken down is said, and stays for the clean-up.
///
/// Gives what still holds the file system that was mounted: whoever lets go of it last waits until the disk has what
/// was written there, and of an overlay all that was written to the disk it is on.
pub(super) fn unmount_rootfs(container: &mut Container) -> Option<OwnedFd> {
    if !container.has_rootfs {
        return None;
    }
    let path = container.bundle.join("rootfs");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Without it the unmounting waits, which is as good.
    let root = rustix::fs::open(&path, flags, Mode::empty()).ok();
    let everything = Unmount {
        detach: true,
        recursive: true,
    };
    match unmount_all(&path, everything) {
        Ok(()) => {
            container.has_rootfs = false;
            root
        }
        Err(error) => {
            log::warn(&format!("the root file system stays mounted: {error}"));
            None
        }
    }
}
