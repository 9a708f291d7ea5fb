//! `GetContainerEvents`: what changes, as it changes: the kubelet's evented PLEG (KEP-3386).
//!
//! Events come from the engine's outbox, so none is lost while a client is slow. One that is too slow for what is kept is
//! told so by the end of its stream, and lists anew.

use std::collections::{BTreeMap, VecDeque};

use futures_util::stream;
use orlop_api::runtime::v1 as api;
use orlop_api::runtime::v1::ContainerEventType as Type;
use orlop_meta::{Envelope, Event};
use orlop_runtime::Follower;
use orlop_types::{ContainerId, SandboxId};
use tonic::Status;

use crate::stream::Answers;
use crate::{Cri, container, find, pods, status, translate};

pub(super) async fn call(
    cri: &Cri,
    _request: api::GetEventsRequest,
) -> Result<Answers<api::ContainerEventResponse>, Status> {
    let watcher = Watcher::new(cri.clone()).await?;
    let events = stream::try_unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Ok(Some((event, watcher)))
    });
    Ok(Box::pin(events))
}

/// One client's view of the outbox.
struct Watcher {
    cri: Cri,
    follower: Follower,
    /// The pod of every container: a removed one has no record that would say.
    pods: BTreeMap<ContainerId, SandboxId>,
    pending: VecDeque<api::ContainerEventResponse>,
}

/// What an event of the engine is to CRI.
enum Change {
    Container(ContainerId, Type),
    Pod(SandboxId, &'static [Type]),
}

impl Watcher {
    async fn new(cri: Cri) -> Result<Self, Status> {
        let follower = Follower::from_now(cri.db().clone()).await;
        let follower = follower.map_err(|error| status::of_runtime(&error))?;
        let members = cri.runtime().members(cri.namespace(), None).await;
        let pods = members
            .map_err(|error| status::of_runtime(&error))?
            .into_iter()
            .map(|member| (member.id, member.pod))
            .collect();
        Ok(Self {
            cri,
            follower,
            pods,
            pending: VecDeque::new(),
        })
    }

    async fn next(&mut self) -> Result<api::ContainerEventResponse, Status> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let page = self.follower.next().await;
            let page = page.map_err(|error| status::of_runtime(&error))?;
            if page.missed > 0 {
                return Err(status::events_lost(page.missed));
            }
            for event in page.events {
                self.take(event).await?;
            }
        }
    }

    async fn take(&mut self, envelope: Envelope) -> Result<(), Status> {
        if envelope.namespace != *self.cri.namespace() {
            return Ok(());
        }
        let at = translate::nanos(Some(envelope.at));
        match change(envelope.event) {
            Some(Change::Container(id, kind)) => self.container(id, kind, at).await,
            Some(Change::Pod(id, kinds)) => {
                for kind in kinds {
                    let event = self.event(&id, id.to_string(), *kind, at).await?;
                    self.pending.push_back(event);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Containers that are in no pod are other clients'.
    async fn container(&mut self, id: ContainerId, kind: Type, at: i64) -> Result<(), Status> {
        if kind == Type::ContainerCreatedEvent {
            let member = find::if_there(find::member(&self.cri, id.as_str()).await)?;
            if let Some(member) = member {
                self.pods.insert(id.clone(), member.pod);
            }
        }
        let pod = match kind {
            Type::ContainerDeletedEvent => self.pods.remove(&id),
            Type::ContainerCreatedEvent
            | Type::ContainerStartedEvent
            | Type::ContainerStoppedEvent => self.pods.get(&id).cloned(),
        };
        if let Some(pod) = pod {
            let event = self.event(&pod, id.to_string(), kind, at).await?;
            self.pending.push_back(event);
        }
        Ok(())
    }

    /// The states are those of now, which may be later than the event; the kubelet takes the latest.
    async fn event(
        &self,
        pod: &SandboxId,
        subject: String,
        kind: Type,
        at: i64,
    ) -> Result<api::ContainerEventResponse, Status> {
        let found = find::if_there(find::pod(&self.cri, pod.as_str()).await)?;
        let members = self
            .cri
            .runtime()
            .members(self.cri.namespace(), Some(pod))
            .await;
        let members = members.map_err(|error| status::of_runtime(&error))?;
        Ok(api::ContainerEventResponse {
            container_id: subject,
            container_event_type: kind.into(),
            created_at: at,
            pod_sandbox_status: found.map(pods::detailed),
            containers_statuses: members.iter().map(container::status).collect(),
        })
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "CRI knows of containers and pods only, whatever else there will be"
)]
fn change(event: Event) -> Option<Change> {
    Some(match event {
        Event::ContainerCreate { id, .. } => Change::Container(id, Type::ContainerCreatedEvent),
        Event::ContainerDelete { id } => Change::Container(id, Type::ContainerDeletedEvent),
        Event::TaskStart { container, .. } => {
            Change::Container(container, Type::ContainerStartedEvent)
        }
        // Further processes of a container end, too.
        Event::TaskExit {
            container, process, ..
        } if process == container.as_str() => {
            Change::Container(container, Type::ContainerStoppedEvent)
        }
        // A pod is made and started in one go.
        Event::SandboxStart { id } => Change::Pod(
            id,
            &[Type::ContainerCreatedEvent, Type::ContainerStartedEvent],
        ),
        Event::SandboxExit { id, .. } => Change::Pod(id, &[Type::ContainerStoppedEvent]),
        Event::SandboxDelete { id } => Change::Pod(id, &[Type::ContainerDeletedEvent]),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn exit(process: &str) -> Event {
        Event::TaskExit {
            container: "web".parse().unwrap(),
            process: process.to_owned(),
            pid: 1,
            exit_status: 0,
            exited_at: 0,
            cause: None,
        }
    }

    #[test]
    fn only_the_end_of_the_first_process_stops_a_container() {
        assert!(matches!(
            change(exit("web")),
            Some(Change::Container(_, Type::ContainerStoppedEvent))
        ));
        assert!(change(exit("exec-1")).is_none());
    }

    #[test]
    fn a_pods_start_is_its_creation_too() {
        let id = "pod".parse().unwrap();
        let Some(Change::Pod(_, kinds)) = change(Event::SandboxStart { id }) else {
            panic!("no change of a pod");
        };
        assert_eq!(kinds.len(), 2);
    }
}
