//! An HTTP proxy on loopback: tunnels (CONNECT) and plain requests, with or without a password.
//!
//! Every request line is written down. Whatever name it is asked for, it connects to one address: so a test can use
//! names that no resolver knows. Dropping it closes its port; tunnels end with their two ends.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The running proxy.
#[derive(Debug)]
pub struct FakeProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    authorization: Option<String>,
    lines: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl FakeProxy {
    /// A proxy that connects everybody to `target`; with `user`, only who has that name and password.
    ///
    /// # Panics
    /// Loopback has no free port.
    #[must_use]
    pub fn start(target: SocketAddr, user: Option<(&str, &str)>) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            target,
            authorization: user
                .map(|(name, word)| format!("Basic {}", STANDARD.encode(format!("{name}:{word}")))),
            lines: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let own = Arc::clone(&own);
                // A broken connection is the client's to notice.
                std::thread::spawn(move || stream.and_then(|stream| own.serve(stream)).is_ok());
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first line of the first request of every connection, in the order they came.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.shared.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread; if nobody listens any more it has ended already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?.take(HEAD_BYTES_MAX));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let line = text.lines().next().unwrap_or_default().to_owned();
        let is_tunnel = line.starts_with("CONNECT ");
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        let given = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"))
            .map(|(_, value)| value);
        if self.authorization.is_some() && given != self.authorization.as_deref() {
            return client.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
        let mut target = TcpStream::connect(self.target)?;
        if is_tunnel {
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        } else {
            // A server understands the absolute form of a request as it is.
            target.write_all(&head)?;
        }
        target.write_all(reader.buffer())?;
        relay(client, target)
    }
}

/// Copies both ways until both ends have ended.
fn relay(client: TcpStream, target: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, target.try_clone()?);
    let up = std::thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        // The other end may have closed first.
        drop(to.shutdown(Shutdown::Write));
        copied
    });
    let (mut from, mut to) = (target, client);
    let copied = io::copy(&mut from, &mut to);
    drop(to.shutdown(Shutdown::Both));
    drop(up.join());
    copied.map(drop)
}
