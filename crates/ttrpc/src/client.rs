//! An asynchronous client on tokio, for the daemon.
//!
//! One connection carries any number of calls at once. The connection is driven by one future, [`Driver::run`], which the
//! caller of [`Client::connect`] spawns as a task of its own kind; the client itself never spawns.
//!
//! Ordering: calls go out in the order they were made. Cancellation: dropping a call forgets it; the peer is not told,
//! because the protocol has no word for that. Crash: nothing is kept; a peer that dies ends every call with
//! [`ClientError::ConnectionLost`].

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::caller::{CallError, Connection};
use crate::message::{KeyValue, Status};

/// How many calls may wait to be written. A caller beyond that waits, within its own deadline.
const QUEUE_LENGTH: usize = 64;
const READ_BYTES: usize = 16 << 10;

/// How a call failed, and what that means.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The peer answered with a refusal: it is alive.
    #[error("{service}/{method} was refused")]
    Remote {
        /// The service.
        service: String,
        /// The method.
        method: String,
        /// The refusal.
        #[source]
        status: Status,
    },
    /// The connection ended before the answer: whether the call took effect is not known.
    #[error("the connection to {} ended during {method}", peer.display())]
    ConnectionLost {
        /// The socket.
        peer: PathBuf,
        /// The method.
        method: String,
    },
    /// No answer in time. The call may still take effect.
    #[error("no answer to {method} from {} within {timeout:?}", peer.display())]
    TimedOut {
        /// The socket.
        peer: PathBuf,
        /// The method.
        method: String,
        /// The time given.
        timeout: Duration,
    },
    /// Nobody listens.
    #[error("cannot connect to {}", peer.display())]
    Connect {
        /// The socket.
        peer: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The call was never sent.
    #[error("cannot send {method}")]
    Unsendable {
        /// The method.
        method: String,
        /// Why.
        #[source]
        source: CallError,
    },
}

impl ClientError {
    /// The stable id an operator can look up.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Remote { .. } => "ORL-E6101",
            Self::ConnectionLost { .. } => "ORL-E6102",
            Self::TimedOut { .. } => "ORL-E6103",
            Self::Connect { .. } => "ORL-E6104",
            Self::Unsendable { .. } => "ORL-E6105",
        }
    }

    /// Whether the peer may be gone, as opposed to unwilling.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::ConnectionLost { .. } | Self::Connect { .. })
    }

    /// The peer's refusal, if it sent one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Remote { status, .. } => Some(status),
            Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::Connect { .. }
            | Self::Unsendable { .. } => None,
        }
    }
}

/// One call for the driver to send.
struct Order {
    service: String,
    method: String,
    payload: Vec<u8>,
    timeout_nanos: i64,
    metadata: Vec<KeyValue>,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Result<Vec<u8>, Status>, CallError>;

/// A connection to one peer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    peer: PathBuf,
    orders: mpsc::Sender<Order>,
}

impl Client {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(path: &Path) -> Result<(Self, Driver), ClientError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect {
                peer: path.to_owned(),
                source,
            })?;
        Ok(Self::over(stream, path.to_owned()))
    }

    /// Speaks over a connection that exists already; `peer` is for messages.
    #[must_use]
    pub fn over(stream: UnixStream, peer: PathBuf) -> (Self, Driver) {
        let (orders, queue) = mpsc::channel(QUEUE_LENGTH);
        let (reader, writer) = stream.into_split();
        let driver = Driver {
            reader,
            writer,
            queue,
            connection: Connection::default(),
            waiting: HashMap::new(),
        };
        (Self { peer, orders }, driver)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.orders.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.orders.closed().await;
    }

    /// Makes a unary call. Without a `timeout` it may hang as long as the peer lives, which is what a Wait wants.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        timeout: Option<Duration>,
        metadata: Vec<KeyValue>,
    ) -> Result<Vec<u8>, ClientError> {
        let (answer, answered) = oneshot::channel();
        let order = Order {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nanos: timeout
                .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)),
            metadata,
            answer,
        };
        let exchange = async {
            self.orders.send(order).await.ok()?;
            answered.await.ok()
        };
        let outcome = match timeout {
            None => exchange.await,
            Some(timeout) => tokio::time::timeout(timeout, exchange)
                .await
                .map_err(|_elapsed| ClientError::TimedOut {
                    peer: self.peer.clone(),
                    method: method.to_owned(),
                    timeout,
                })?,
        };
        self.interpret(service, method, outcome)
    }

    fn interpret(
        &self,
        service: &str,
        method: &str,
        outcome: Option<Answer>,
    ) -> Result<Vec<u8>, ClientError> {
        match outcome {
            Some(Ok(Ok(payload))) => Ok(payload),
            Some(Ok(Err(status))) => Err(ClientError::Remote {
                service: service.to_owned(),
                method: method.to_owned(),
                status,
            }),
            Some(Err(source)) => Err(ClientError::Unsendable {
                method: method.to_owned(),
                source,
            }),
            None => Err(ClientError::ConnectionLost {
                peer: self.peer.clone(),
                method: method.to_owned(),
            }),
        }
    }
}

/// Moves bytes for a [`Client`]. Ends when the peer does, or when every clone of the client is gone.
pub struct Driver {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    queue: mpsc::Receiver<Order>,
    connection: Connection,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Driver")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Runs until the connection ends. All calls that are then open end with [`ClientError::ConnectionLost`].
    ///
    /// # Errors
    /// The kernel's answer when reading or writing failed; a peer that closed the connection is no error.
    pub async fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            tokio::select! {
                order = self.queue.recv() => match order {
                    Some(order) => self.send(order),
                    None => return Ok(()),
                },
                read = self.reader.read(&mut buffer) => match read? {
                    0 => return Ok(()),
                    count => self.receive(&buffer[..count])?,
                },
                written = self.writer.write(self.connection.output()), if !self.connection.output().is_empty() => {
                    self.connection.wrote(written?);
                }
            }
        }
    }

    fn send(&mut self, order: Order) {
        // A caller that gave up while its call was in the queue no longer wants it sent.
        if order.answer.is_closed() {
            return;
        }
        self.forget_abandoned();
        let call = self.connection.call(
            &order.service,
            &order.method,
            &order.payload,
            order.timeout_nanos,
            &order.metadata,
        );
        match call {
            Ok(stream) => {
                self.waiting.insert(stream, order.answer);
            }
            // A receiver that is gone wants no answer.
            Err(error) => drop(order.answer.send(Err(error))),
        }
    }

    fn forget_abandoned(&mut self) {
        let connection = &mut self.connection;
        self.waiting.retain(|stream, answer| {
            let abandoned = answer.is_closed();
            if abandoned {
                connection.forget(*stream);
            }
            !abandoned
        });
    }

    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.received(bytes);
        while let Some((stream, result)) = self.connection.next_reply().map_err(io::Error::other)? {
            if let Some(answer) = self.waiting.remove(&stream) {
                // A receiver that is gone wants no answer.
                drop(answer.send(Ok(result)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests own their tasks; base::task is above this crate"
)]
mod tests {
    use super::*;
    use crate::message::Code;
    use crate::server;

    async fn serve(
        stream: UnixStream,
        answer: impl Fn(&server::Call) -> Option<Result<Vec<u8>, Status>>,
    ) {
        let mut stream = stream;
        let mut connection = server::Connection::default();
        let mut buffer = [0; 512];
        loop {
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            connection.received(&buffer[..count]);
            while let Some(call) = connection.next_call().unwrap() {
                if call.method == "Die" {
                    return;
                }
                if let Some(result) = answer(&call) {
                    connection.respond(call.stream, result);
                }
            }
            let written = connection.output().len();
            stream.write_all(connection.output()).await.unwrap();
            connection.wrote(written);
        }
    }

    fn pair() -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve(far, |call| match call.method.as_str() {
            "Echo" => Some(Ok(call.payload.clone())),
            "Refuse" => Some(Err(Status::new(Code::NotFound, "no such task"))),
            _ => None,
        }));
        let (client, driver) = Client::over(near, PathBuf::from("test"));
        tokio::spawn(driver.run());
        client
    }

    #[tokio::test]
    async fn payloads_come_back_and_large_ones_too() {
        let client = pair();
        for length in [0, 1, 100_000] {
            let payload = vec![7; length];
            let answer = client
                .call("s", "Echo", payload.clone(), None, vec![])
                .await;
            assert_eq!(answer.unwrap(), payload);
        }
    }

    #[tokio::test]
    async fn a_refusal_and_a_lost_connection_are_told_apart() {
        let client = pair();
        let refused = client.call("s", "Refuse", vec![], None, vec![]).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status().unwrap().code, Code::NotFound);
        assert!(!refused.is_connection_lost());

        let waiting = client.clone();
        let wait =
            tokio::spawn(async move { waiting.call("s", "Wait", vec![], None, vec![]).await });
        let lost = client.call("s", "Die", vec![], None, vec![]).await;
        assert!(lost.unwrap_err().is_connection_lost());
        assert!(wait.await.unwrap().unwrap_err().is_connection_lost());
        client.closed().await;
        let after = client.call("s", "Echo", vec![], None, vec![]).await;
        assert!(after.unwrap_err().is_connection_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_with_the_deadline_and_the_connection_stays_usable() {
        let client = pair();
        let timeout = Some(Duration::from_secs(3));
        let silent = client.call("s", "Silent", vec![], timeout, vec![]).await;
        assert!(matches!(silent, Err(ClientError::TimedOut { .. })));
        let answer = client.call("s", "Echo", vec![1], None, vec![]).await;
        assert_eq!(answer.unwrap(), [1]);
    }

    #[tokio::test]
    async fn a_request_above_the_limit_is_refused_before_it_is_sent() {
        let client = pair();
        let payload = vec![0; crate::frame::DATA_BYTES_MAX];
        let refused = client.call("s", "Echo", payload, None, vec![]).await;
        assert!(matches!(refused, Err(ClientError::Unsendable { .. })));
    }
}
