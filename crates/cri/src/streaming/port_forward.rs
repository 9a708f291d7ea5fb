//! Ports of a pod, reached over one connection: a pair of streams, for data and for errors, per connection to a port.

use std::collections::HashMap;
use std::path::PathBuf;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until};

use super::Host;
use super::mux::{CHUNK_BYTES_MAX, Link, Opened, StreamReader, StreamWriter};

/// Connections to ports at once over one connection of a client.
const PAIRS_MAX: usize = 256;

/// Forwards until the client goes. With `ports` the streams are there from the beginning, and the first thing on each is
/// its port's number.
pub(super) async fn run(host: &Host, network: Option<PathBuf>, mut link: Link, tells_ports: bool) {
    let mut pairs = Pairs::default();
    let mut forwarding = FuturesUnordered::new();
    loop {
        let deadline = pairs.deadline(host);
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = link.gone.cancelled() => return,
            opened = link.opened.recv() => match opened {
                None => return,
                Some(_) if forwarding.len() + pairs.waiting.len() >= PAIRS_MAX => {
                    tracing::info!("a client forwards too many connections at once");
                }
                Some(opened) => {
                    if let Some(pair) = pairs.take(opened).await {
                        forwarding.push(forward(host, network.clone(), pair, tells_ports));
                    }
                }
            },
            Some(()) = forwarding.next() => {}
            () = late => pairs.give_up_late(host).await,
        }
    }
}

/// Streams whose other half has not come yet.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, Half>,
}

struct Half {
    since: Instant,
    opened: Opened,
}

struct Pair {
    port: u16,
    data: Opened,
    error: Opened,
}

impl Pairs {
    /// Gives a pair that is whole now. What is neither half is refused with a word on itself.
    async fn take(&mut self, opened: Opened) -> Option<Pair> {
        let kind = opened.header("streamtype").to_owned();
        let port = opened.header("port").parse().ok().filter(|port| *port > 0);
        let (Some(port), "data" | "error") = (port, kind.as_str()) else {
            let text = format!(
                "not a stream of a port: type {kind:?}, port {:?}",
                opened.header("port")
            );
            refuse(opened, &text).await;
            return None;
        };
        let id = opened.header("requestid").to_owned();
        let Some(half) = self.waiting.remove(&id) else {
            let since = Instant::now();
            self.waiting.insert(id, Half { since, opened });
            return None;
        };
        if half.opened.header("streamtype") == kind {
            refuse(
                opened,
                &format!("there are two {kind} streams of request {id:?}"),
            )
            .await;
            self.waiting.insert(id, half);
            return None;
        }
        let (data, error) = if kind == "data" {
            (opened, half.opened)
        } else {
            (half.opened, opened)
        };
        Some(Pair { port, data, error })
    }

    fn deadline(&self, host: &Host) -> Option<Instant> {
        let oldest = self.waiting.values().map(|half| half.since).min();
        oldest.map(|since| since + host.options.creation)
    }

    async fn give_up_late(&mut self, host: &Host) {
        let late = |half: &Half| half.since.elapsed() >= host.options.creation;
        let ids: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, half)| late(half))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            if let Some(half) = self.waiting.remove(&id) {
                refuse(half.opened, "the other stream of the pair did not come").await;
            }
        }
    }
}

async fn refuse(opened: Opened, reason: &str) {
    tracing::info!(reason, "a stream is refused");
    // A client that has gone does not want to know.
    opened.writer.write(reason.as_bytes()).await.ok();
    opened.writer.reset();
}

async fn forward(host: &Host, network: Option<PathBuf>, pair: Pair, tells_ports: bool) {
    let Pair { port, data, error } = pair;
    if tells_ports {
        let number = port.to_le_bytes();
        let told = (
            data.writer.write(&number).await,
            error.writer.write(&number).await,
        );
        if told.0.and(told.1).is_err() {
            return;
        }
    }
    let failed = match host.runtime.connect_to_port(network, port).await {
        Ok(socket) => return exchange(socket, data).await,
        Err(error) => orlop_types::chain(&error),
    };
    let text = format!("error forwarding port {port}: {failed}");
    tracing::info!(port, error = failed, "a port cannot be forwarded");
    // As above; the reset makes room for another try.
    error.writer.write(text.as_bytes()).await.ok();
    data.writer.reset();
}

/// Until the pod sends no more; the client may end its half before.
async fn exchange(socket: TcpStream, data: Opened) {
    let (from_pod, to_pod) = socket.into_split();
    let Opened { reader, writer, .. } = data;
    let upwards = async {
        send(reader, to_pod).await;
        std::future::pending().await
    };
    tokio::select! {
        () = receive(from_pod, &writer) => {}
        () = upwards => {}
    }
}

async fn send(mut from: StreamReader, mut to: OwnedWriteHalf) {
    let mut is_open = true;
    while let Some(bytes) = from.next().await {
        // What the pod does not take any more is thrown away, so that the connection's other streams go on.
        is_open = is_open && to.write_all(&bytes).await.is_ok();
    }
    if is_open {
        // Its other half has come to its end by now, or will.
        to.shutdown().await.ok();
    }
}

async fn receive(mut from: OwnedReadHalf, to: &StreamWriter) {
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if to.write(&chunk[..count]).await.is_err() {
            return;
        }
    }
}
