//! What subscribers are told of a task's life, in the transaction that records it.

use orlop_meta::Event as Announcement;

use super::Actor;
use crate::exit;
use crate::machine::Notice;

impl Actor {
    /// The events of the transaction about to be written. They are kept until it has been.
    pub(super) fn announcements(&self) -> Vec<Announcement> {
        self.notices
            .iter()
            .map(|notice| self.announcement(*notice))
            .collect()
    }

    fn announcement(&self, notice: Notice) -> Announcement {
        let container = self.key.container.clone();
        let pid = self.record.task.pid.unwrap_or(0);
        let (exit_status, exited_at) = self.end();
        match notice {
            Notice::Created => {
                let streams = self.record.plan.streams.clone();
                Announcement::TaskCreate {
                    container,
                    bundle: self.bundle.path().to_string_lossy().into_owned(),
                    rootfs: self.record.plan.rootfs.clone(),
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                    terminal: streams.terminal,
                    checkpoint: self.record.plan.checkpoint.clone(),
                    pid,
                }
            }
            Notice::Started => Announcement::TaskStart { container, pid },
            Notice::Exited => {
                let cause = self
                    .record
                    .task
                    .exit
                    .as_ref()
                    .map(|exit| exit::word(exit.cause));
                let process = container.to_string();
                Announcement::TaskExit {
                    container,
                    process,
                    pid,
                    exit_status,
                    exited_at,
                    cause,
                }
            }
            Notice::Paused => Announcement::TaskPaused { container },
            Notice::Resumed => Announcement::TaskResumed { container },
            Notice::Deleted => {
                let process = String::new();
                Announcement::TaskDelete {
                    container,
                    process,
                    pid,
                    exit_status,
                    exited_at,
                }
            }
        }
    }

    /// Exit status and time in nanoseconds since 1970: the observed one, or what the shim said on deletion.
    fn end(&self) -> (u32, i64) {
        let observed = self
            .record
            .task
            .exit
            .as_ref()
            .map(|exit| (exit.code, exit.at));
        let told = self.ended.map(|ended| (ended.exit_status, ended.at));
        let Some((code, at)) = observed.or(told) else {
            return (0, 0);
        };
        let nanos = at
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        (code, i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}
