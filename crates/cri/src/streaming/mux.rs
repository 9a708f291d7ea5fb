//! Streams over one connection, whatever protocol they are spoken in.
//!
//! One task owns the connection and the protocol's state; sessions hold the ends of streams.
//!
//! Back-pressure: while a session does not take what a stream brought, nothing more is read from the connection, for any
//! stream (as the clients of Kubernetes do themselves); while the peer does not take what it is sent, writers wait.
//! Bounds: a few chunks per stream and direction, [`OUTPUT_BYTES_MAX`] per connection. Cancellation: a connection ends when
//! its last writer is dropped, after what was written has been sent. Crash: the peer sees the end of the connection.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orlop_base::task::CancellationToken;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Read at a time.
const READ_BYTES: usize = 16 << 10;
/// A chunk that is written is at most so long.
pub(crate) const CHUNK_BYTES_MAX: usize = 16 << 10;
/// Chunks of a stream that wait to be taken by a session.
const CHUNKS_IN_MAX: usize = 4;
/// Chunks of a stream that wait to be sent.
const CHUNKS_OUT_MAX: usize = 4;
/// While so much waits to be sent on the connection, nothing more is put behind it, and nothing is received.
const OUTPUT_BYTES_MAX: usize = 128 << 10;
/// Streams that wait to be taken by a session.
const OPENED_MAX: usize = 16;
/// A peer that has opened no window after so long takes no part in flow control.
const FLOW_CONTROL_PATIENCE: Duration = Duration::from_millis(100);
/// How long the peer may take to hang up after it was told that it is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It opened a stream, with headers whose names are in lower case.
    Opened {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Vec<(String, String)>,
    },
    /// It sent bytes on it.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// It will send no more.
    Ended {
        /// Its number.
        stream: u32,
    },
    /// It gave the stream up, in both directions.
    Reset {
        /// Its number.
        stream: u32,
    },
}

/// What a peer did that its protocol forbids.
#[derive(Debug, thiserror::Error)]
#[error("the peer breaks its protocol")]
pub(crate) struct ProtocolError(#[source] Box<dyn StdError + Send + Sync>);

impl ProtocolError {
    pub(crate) fn new(source: impl StdError + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }
}

/// A protocol that carries streams, without input and output. Calls for a stream that is not open do nothing.
pub(crate) trait Protocol: Send {
    /// Takes bytes from the peer.
    fn receive(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), ProtocolError>;
    /// Tells the peer that its stream is taken.
    fn accept(&mut self, stream: u32);
    /// How many bytes may be sent on a stream at once, now.
    fn window(&self, stream: u32) -> usize;
    /// Whether anything may still be sent on a stream, now or later.
    fn is_open(&self, stream: u32) -> bool;
    /// Sends bytes, not more than the window.
    fn send(&mut self, stream: u32, bytes: &[u8]);
    /// Sends no more on a stream.
    fn end(&mut self, stream: u32);
    /// Gives a stream up.
    fn reset(&mut self, stream: u32);
    /// Tells the peer that its stream is not wanted.
    fn refuse(&mut self, stream: u32);
    /// Bytes of a stream, or of one that is no more, were taken by whoever they are for.
    fn consumed(&mut self, stream: u32, count: usize);
    /// Tells the peer that it is over.
    fn close(&mut self);
    /// What is to be sent; the caller removes what it has sent.
    fn output(&mut self) -> &mut Vec<u8>;
    /// Whether it is not known yet if the peer opens windows.
    fn is_flow_control_in_doubt(&self) -> bool;
    /// From here on windows count for nothing, unless the peer opens one.
    fn assume_no_flow_control(&mut self);
}

/// A stream that the peer has opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// What it is for.
    pub(crate) headers: Vec<(String, String)>,
    /// What it brings.
    pub(crate) reader: StreamReader,
    /// What it takes.
    pub(crate) writer: StreamWriter,
}

impl Opened {
    /// A header's value; empty without it.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }
}

/// The end of a stream that bytes come out of.
#[derive(Debug)]
pub(crate) struct StreamReader {
    chunks: mpsc::Receiver<Bytes>,
}

impl StreamReader {
    /// The next bytes; none when the peer sends no more. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }
}

/// The end of a stream that bytes go into. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    stream: u32,
    places: Arc<Semaphore>,
    commands: mpsc::UnboundedSender<Command>,
}

/// The peer is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer has gone")]
pub(crate) struct Gone;

impl StreamWriter {
    /// Sends bytes; waits until there is room for them.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            self.send(Bytes::copy_from_slice(chunk)).await?;
        }
        Ok(())
    }

    /// Sends a chunk as it is, even an empty one.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.map_err(|_closed| Gone)?;
        let stream = self.stream;
        let command = Command::Data {
            stream,
            bytes,
            place,
        };
        self.commands.send(command).map_err(|_closed| Gone)
    }

    /// Gives the stream up.
    pub(crate) fn reset(self) {
        // A peer that has gone needs not be told.
        self.commands
            .send(Command::Reset {
                stream: self.stream,
            })
            .ok();
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let stream = self.stream;
        self.commands.send(Command::End { stream }).ok();
    }
}

/// Few at a time: data has places, and the others come once per stream.
#[derive(Debug)]
enum Command {
    Data {
        stream: u32,
        bytes: Bytes,
        place: OwnedSemaphorePermit,
    },
    End {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
}

/// The session's end of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Streams as the peer opens them; none when the connection has ended.
    pub(crate) opened: mpsc::Receiver<Opened>,
    /// Cancelled when the peer has gone.
    pub(crate) gone: CancellationToken,
    /// Keeps the connection open; without streams it ends when this is dropped.
    _commands: mpsc::UnboundedSender<Command>,
}

/// How long a connection may last.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Without a byte in either direction.
    pub(crate) idle: Duration,
    /// Cancelled when the daemon ends.
    pub(crate) ending: CancellationToken,
}

/// A connection before anything was done with it: the future to drive, and the session's end.
pub(crate) fn connect<P, S>(
    protocol: P,
    begin: Vec<Event>,
    socket: S,
    limits: Limits,
) -> (impl Future<Output = ()> + Send, Link)
where
    P: Protocol + 'static,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (opened, opened_by_peer) = mpsc::channel(OPENED_MAX);
    // Bounded by the places of the streams.
    let (commands, commanded) = mpsc::unbounded_channel();
    let gone = CancellationToken::new();
    let (reader, writer) = tokio::io::split(socket);
    let link = Link {
        opened: opened_by_peer,
        gone: gone.clone(),
        _commands: commands.clone(),
    };
    let mux = Mux {
        protocol,
        reader,
        writer,
        limits,
        events: begin.into(),
        streams: BTreeMap::new(),
        opened,
        commands: commands.downgrade(),
        gone,
    };
    (mux.run(commanded), link)
}

struct Mux<P, S> {
    protocol: P,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    limits: Limits,
    /// What was received and not taken yet.
    events: VecDeque<Event>,
    streams: BTreeMap<u32, Stream>,
    opened: mpsc::Sender<Opened>,
    commands: mpsc::WeakUnboundedSender<Command>,
    gone: CancellationToken,
}

#[derive(Default)]
struct Stream {
    /// Absent once the peer sends no more.
    incoming: Option<mpsc::Sender<Bytes>>,
    outgoing: VecDeque<(Bytes, OwnedSemaphorePermit)>,
    is_ending: bool,
}

/// Where the first event goes.
enum Place {
    Opened(mpsc::OwnedPermit<Opened>),
    Data(mpsc::OwnedPermit<Bytes>),
    Nowhere,
}

/// Why a connection is over.
enum End {
    /// Sessions have nothing more to say.
    Finished,
    /// The peer has gone, or has to.
    Lost,
}

impl<P: Protocol, S: AsyncRead + AsyncWrite> Mux<P, S> {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let end = self.converse(&mut commands).await;
        // Sessions learn of it before the farewell: they may have a process to hang up on.
        self.gone.cancel();
        self.streams.clear();
        drop(commands);
        match end {
            End::Finished => {
                self.protocol.close();
                if timeout(FAREWELL, self.say_farewell()).await.is_err() {
                    tracing::debug!("a peer did not hang up and was hung up on");
                }
            }
            End::Lost => {}
        }
    }

    async fn converse(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let mut buffer = vec![0; READ_BYTES];
        let mut last_activity = Instant::now();
        let mut is_over = false;
        loop {
            let is_waiting_for_window = self.pump();
            if is_over && self.streams.values().all(|one| one.outgoing.is_empty()) {
                return End::Finished;
            }
            let pending = self.protocol.output().len();
            let can_read = self.events.is_empty() && pending < OUTPUT_BYTES_MAX;
            let place = place_of(self.events.front(), &self.opened, &self.streams);
            tokio::select! {
                () = self.limits.ending.cancelled() => return End::Finished,
                command = commands.recv(), if !is_over => match command {
                    Some(command) => self.obey(command),
                    // What is still waiting is sent first.
                    None => is_over = true,
                },
                place = place, if !self.events.is_empty() => self.deliver(place),
                read = self.reader.read(&mut buffer), if can_read => match read {
                    Ok(count @ 1..) => {
                        last_activity = Instant::now();
                        if let Err(error) = self.protocol.receive(&buffer[..count], &mut self.events) {
                            let error = orlop_types::chain(&error);
                            tracing::info!(error, "a streaming connection is hung up on");
                            return End::Finished;
                        }
                    }
                    Ok(0) | Err(_) => return End::Lost,
                },
                written = self.writer.write(self.protocol.output()), if pending > 0 => match written {
                    Ok(count @ 1..) => {
                        last_activity = Instant::now();
                        self.protocol.output().drain(..count);
                    }
                    Ok(0) | Err(_) => return End::Lost,
                },
                () = sleep(FLOW_CONTROL_PATIENCE), if is_waiting_for_window => {
                    self.protocol.assume_no_flow_control();
                }
                () = sleep_until(last_activity + self.limits.idle) => {
                    tracing::info!(idle = ?self.limits.idle, "a streaming connection was idle for too long");
                    return End::Finished;
                }
            }
        }
    }

    /// Puts what is to be sent into the protocol's output, streams taking turns. Gives whether one waits for a window that
    /// may never open.
    fn pump(&mut self) -> bool {
        let mut is_waiting;
        loop {
            let mut has_moved = false;
            is_waiting = false;
            for (number, stream) in &mut self.streams {
                if self.protocol.output().len() >= OUTPUT_BYTES_MAX {
                    return false;
                }
                match stream.send_one(*number, &mut self.protocol) {
                    Sent::Some => has_moved = true,
                    Sent::WindowIsShut => is_waiting = true,
                    Sent::Nothing => {}
                }
            }
            if !has_moved {
                break;
            }
        }
        // A stream that nobody sends on or receives from any more is forgotten.
        self.streams.retain(|_, stream| {
            stream.incoming.is_some() || !stream.outgoing.is_empty() || !stream.is_ending
        });
        is_waiting && self.protocol.is_flow_control_in_doubt() && self.protocol.output().is_empty()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Data {
                stream,
                bytes,
                place,
            } => {
                // One that is gone by now gives its place back.
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.outgoing.push_back((bytes, place));
                }
            }
            Command::End { stream: number } => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.is_ending = true;
                    if stream.outgoing.is_empty() {
                        self.protocol.end(number);
                    }
                }
            }
            Command::Reset { stream } => {
                self.streams.remove(&stream);
                self.protocol.reset(stream);
            }
        }
    }

    fn deliver(&mut self, place: Place) {
        let Some(event) = self.events.pop_front() else {
            return;
        };
        match (event, place) {
            (Event::Opened { stream, headers }, Place::Opened(place)) => {
                self.open(stream, headers, place);
            }
            (Event::Opened { stream, .. }, Place::Data(_) | Place::Nowhere) => {
                self.protocol.refuse(stream);
            }
            (Event::Data { stream, bytes }, Place::Data(place)) => {
                self.protocol.consumed(stream, bytes.len());
                place.send(bytes);
            }
            (Event::Data { stream, bytes }, Place::Opened(_) | Place::Nowhere) => {
                self.protocol.consumed(stream, bytes.len());
            }
            (Event::Ended { stream }, _) => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.incoming = None;
                }
            }
            (Event::Reset { stream }, _) => drop(self.streams.remove(&stream)),
        }
    }

    fn open(
        &mut self,
        stream: u32,
        headers: Vec<(String, String)>,
        place: mpsc::OwnedPermit<Opened>,
    ) {
        let Some(commands) = self.commands.upgrade() else {
            return self.protocol.refuse(stream);
        };
        self.protocol.accept(stream);
        let (incoming, chunks) = mpsc::channel(CHUNKS_IN_MAX);
        let known = Stream {
            incoming: Some(incoming),
            ..Stream::default()
        };
        self.streams.insert(stream, known);
        place.send(Opened {
            headers,
            reader: StreamReader { chunks },
            writer: StreamWriter {
                stream,
                places: Arc::new(Semaphore::new(CHUNKS_OUT_MAX)),
                commands,
            },
        });
    }

    /// Sends the rest, then waits for the peer to hang up: closing at once with its bytes unread would reset the connection
    /// and take away what it has not read yet (RFC 1122, section 4.2.2.13).
    async fn say_farewell(&mut self) {
        if self.writer.write_all(self.protocol.output()).await.is_err()
            || self.writer.shutdown().await.is_err()
        {
            return;
        }
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(1..) = self.reader.read(&mut buffer).await {}
    }
}

/// What became of an attempt to send.
enum Sent {
    Some,
    Nothing,
    WindowIsShut,
}

impl Stream {
    fn send_one(&mut self, number: u32, protocol: &mut impl Protocol) -> Sent {
        let Some((bytes, _place)) = self.outgoing.front_mut() else {
            return Sent::Nothing;
        };
        if !protocol.is_open(number) {
            self.outgoing.clear();
            return Sent::Nothing;
        }
        let count = protocol.window(number).min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            return Sent::WindowIsShut;
        }
        protocol.send(number, &bytes.split_to(count));
        if bytes.is_empty() {
            self.outgoing.pop_front();
        }
        if self.is_ending && self.outgoing.is_empty() {
            protocol.end(number);
        }
        Sent::Some
    }
}

/// Waits until the first event can be taken. Holds nothing of the connection, so that it may wait beside it.
fn place_of(
    event: Option<&Event>,
    opened: &mpsc::Sender<Opened>,
    streams: &BTreeMap<u32, Stream>,
) -> impl Future<Output = Place> + Send + use<> {
    enum Wanted {
        Opened(mpsc::Sender<Opened>),
        Data(mpsc::Sender<Bytes>),
        Nothing,
    }
    let wanted = match event {
        Some(Event::Opened { .. }) => Wanted::Opened(opened.clone()),
        Some(Event::Data { stream, .. }) => {
            let incoming = streams
                .get(stream)
                .and_then(|stream| stream.incoming.clone());
            incoming.map_or(Wanted::Nothing, Wanted::Data)
        }
        Some(Event::Ended { .. } | Event::Reset { .. }) | None => Wanted::Nothing,
    };
    async move {
        // A receiver that is gone wants no more: what comes is thrown away.
        match wanted {
            Wanted::Opened(to) => to
                .reserve_owned()
                .await
                .map_or(Place::Nowhere, Place::Opened),
            Wanted::Data(to) => to.reserve_owned().await.map_or(Place::Nowhere, Place::Data),
            Wanted::Nothing => Place::Nowhere,
        }
    }
}
