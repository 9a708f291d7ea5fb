//! Events for the engine: one at a time, in order, tried again until the engine has taken them.
//!
//! Ordering: an event is sent when the one before was taken, because engines handle calls side by side. Bounds: beyond
//! [`QUEUE_MAX`] the oldest is dropped; ends of processes are in the bundle all the same. Crash: the queue is lost.
//! Cancellation: [`Publisher::is_idle`] tells when nothing is left to send.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use orlop_api::containerd::services::events::ttrpc::v1::{ForwardRequest, events_service};
use orlop_api::containerd::types::Envelope;
use orlop_api::{Message, Name, any};
use orlop_ttrpc::KeyValue;
use orlop_ttrpc::caller::Connection;

use crate::clock;

/// Events kept while the engine is away.
const QUEUE_MAX: usize = 512;
/// Refusals of one event before it is given up. Lost connections do not count.
const REFUSALS_MAX: u32 = 5;
const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// An event with its topic.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    envelope: Vec<u8>,
    /// The event alone, for engines that are reached through their binary.
    packed: Vec<u8>,
}

struct Link {
    socket: UnixStream,
    connection: Connection,
    /// The call under way, and when it is given up.
    call: Option<(u32, Duration)>,
}

/// Sends events.
pub(crate) struct Publisher {
    namespace: String,
    path: Option<String>,
    queue: VecDeque<Event>,
    link: Option<Link>,
    refusals: u32,
    pause: Duration,
    next_try: Duration,
    dropped: u64,
}

impl Publisher {
    /// For the engine's ttrpc socket at `address`; without one, events wait for [`Publisher::take`].
    pub(crate) fn new(namespace: &str, address: Option<String>) -> Self {
        let path = address
            .map(|address| {
                address
                    .strip_prefix("unix://")
                    .unwrap_or(&address)
                    .to_owned()
            })
            .filter(|path| !path.is_empty());
        Self {
            namespace: namespace.to_owned(),
            path,
            queue: VecDeque::new(),
            link: None,
            refusals: 0,
            pause: PAUSE_MIN,
            next_try: Duration::ZERO,
            dropped: 0,
        }
    }

    /// Queues an event.
    pub(crate) fn publish<M: Message + Name>(&mut self, topic: &'static str, event: &M) {
        let packed = any::pack(event);
        let envelope = Envelope {
            timestamp: Some(clock::timestamp(clock::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(packed.clone()),
        };
        if self.queue.len() >= QUEUE_MAX {
            self.drop_first("the engine has been away too long");
        }
        self.queue.push_back(Event {
            topic,
            envelope: ForwardRequest {
                envelope: Some(envelope),
            }
            .encode_to_vec(),
            packed: packed.encode_to_vec(),
        });
    }

    /// Whether all is sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether events go over a socket.
    pub(crate) fn has_socket(&self) -> bool {
        self.path.is_some()
    }

    /// The next event and its bytes, for engines that are reached through their binary.
    pub(crate) fn take(&mut self) -> Option<(&'static str, Vec<u8>)> {
        self.queue
            .pop_front()
            .map(|event| (event.topic, event.packed))
    }

    /// The socket to be watched, and whether for writing too.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let link = self.link.as_ref()?;
        Some((link.socket.as_fd(), !link.connection.output().is_empty()))
    }

    /// When [`Publisher::advance`] wants to be called without anything having come.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.link {
            Some(link) => link.call.map(|(_, deadline)| deadline),
            None => (!self.queue.is_empty() && self.path.is_some()).then_some(self.next_try),
        }
    }

    /// Does what can be done without waiting.
    pub(crate) fn advance(&mut self, now: Duration) {
        if self.path.is_none() || (self.link.is_none() && self.queue.is_empty()) {
            return;
        }
        if let Err(error) = self.try_advance(now) {
            self.link = None;
            self.next_try = now + self.pause;
            if self.pause == PAUSE_MIN {
                crate::log::info(&format!("the engine does not take events now: {error}"));
            }
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn try_advance(&mut self, now: Duration) -> io::Result<()> {
        if self.link.is_none() {
            if now < self.next_try {
                return Ok(());
            }
            self.link = Some(connect(self.path.as_deref().unwrap_or_default())?);
        }
        let answered = match &mut self.link {
            Some(link) => link.receive(now)?,
            None => None,
        };
        match answered {
            Some(Ok(())) => self.taken(),
            Some(Err(text)) => self.refused(&text),
            None => {}
        }
        let (Some(link), Some(event)) = (&mut self.link, self.queue.front()) else {
            return Ok(());
        };
        if link.call.is_none() {
            link.send(event, &self.namespace, now)?;
        }
        link.flush()
    }

    fn taken(&mut self) {
        self.queue.pop_front();
        self.refusals = 0;
        self.pause = PAUSE_MIN;
        if self.queue.is_empty() {
            self.queue.shrink_to_fit();
        }
    }

    fn refused(&mut self, text: &str) {
        self.refusals += 1;
        if self.refusals >= REFUSALS_MAX {
            self.refusals = 0;
            self.drop_first(text);
        }
    }

    fn drop_first(&mut self, why: &str) {
        if let Some(event) = self.queue.pop_front() {
            self.dropped += 1;
            // A call that is under way is about the event that is gone.
            self.link = None;
            let (topic, dropped) = (event.topic, self.dropped);
            crate::log::warn(&format!(
                "gave up an event {topic} ({dropped} so far): {why}"
            ));
        }
    }
}

fn connect(path: &str) -> io::Result<Link> {
    // Connecting to a unix socket does not wait, unless the engine's queue of connections is full.
    let socket = UnixStream::connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(Link {
        socket,
        connection: Connection::default(),
        call: None,
    })
}

impl Link {
    fn send(&mut self, event: &Event, namespace: &str, now: Duration) -> io::Result<()> {
        let metadata = [KeyValue {
            key: "containerd-namespace-ttrpc".to_owned(),
            value: namespace.to_owned(),
        }];
        let timeout = i64::try_from(TIMEOUT.as_nanos()).unwrap_or(0);
        let stream = self
            .connection
            .call(
                events_service::SERVICE,
                events_service::Method::Forward.name(),
                &event.envelope,
                timeout,
                &metadata,
            )
            .map_err(io::Error::other)?;
        self.call = Some((stream, now + TIMEOUT));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.connection.output().is_empty() {
            match self.socket.write(self.connection.output()) {
                Ok(count) => self.connection.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The answer to the call under way, if it has come.
    fn receive(&mut self, now: Duration) -> io::Result<Option<Result<(), String>>> {
        let mut buffer = [0; 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.connection.received(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let reply = self.connection.next_reply().map_err(io::Error::other)?;
        match (reply, self.call) {
            (Some((_, result)), _) => {
                self.call = None;
                Ok(Some(result.map(drop).map_err(|status| status.to_string())))
            }
            (None, Some((_, deadline))) if now >= deadline => Err(io::ErrorKind::TimedOut.into()),
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::containerd::events::TaskOom;
    use orlop_ttrpc::server;
    use std::os::unix::net::UnixListener;

    const T0: Duration = Duration::from_secs(1000);

    fn oom(id: &str) -> TaskOom {
        TaskOom {
            container_id: id.to_owned(),
        }
    }

    /// Takes one event as an engine does, and answers if told to.
    fn take(stream: &mut UnixStream, connection: &mut server::Connection, answers: bool) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(call) = connection.next_call().unwrap() {
                if answers {
                    connection.respond(call.stream, Ok(Vec::new()));
                    stream.write_all(connection.output()).unwrap();
                    connection.wrote(connection.output().len());
                }
                let request = ForwardRequest::decode(call.payload.as_slice()).unwrap();
                let event = request.envelope.unwrap().event.unwrap();
                return any::unpack::<TaskOom>(&event).unwrap().container_id;
            }
            let count = stream.read(&mut buffer).unwrap();
            connection.received(&buffer[..count]);
        }
    }

    #[test]
    fn events_wait_for_the_engine_and_are_sent_again_after_it_died() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut publisher = Publisher::new("n", Some(path.display().to_string()));
        for id in ["a", "b"] {
            publisher.publish("/tasks/oom", &oom(id));
        }
        publisher.advance(T0);
        assert!(publisher.deadline().unwrap() > T0, "it tries again later");

        let listener = UnixListener::bind(&path).unwrap();
        publisher.advance(T0 + PAUSE_MAX);
        let (mut first, _) = listener.accept().unwrap();
        let taken = take(&mut first, &mut server::Connection::default(), false);
        assert_eq!(taken, "a");
        drop(first);
        publisher.advance(T0 + PAUSE_MAX * 2);
        publisher.advance(T0 + PAUSE_MAX * 3);

        let (mut second, _) = listener.accept().unwrap();
        let mut connection = server::Connection::default();
        for id in ["a", "b"] {
            assert_eq!(take(&mut second, &mut connection, true), id);
            publisher.advance(T0 + PAUSE_MAX * 3);
        }
        assert!(publisher.is_idle());
    }

    #[test]
    fn the_queue_is_bounded_and_the_oldest_goes() {
        let mut publisher = Publisher::new("n", None);
        for index in 0..QUEUE_MAX + 2 {
            publisher.publish("/tasks/oom", &oom(&index.to_string()));
        }
        let (_, first) = publisher.take().unwrap();
        let first = any::unpack::<TaskOom>(&orlop_api::Any::decode(first.as_slice()).unwrap());
        assert_eq!(first.unwrap().container_id, "2");
        assert_eq!(publisher.queue.len(), QUEUE_MAX - 1);
    }
}
