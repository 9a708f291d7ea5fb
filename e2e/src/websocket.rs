//! A client of the streams behind the URLs that Exec and Attach give: WebSocket with `v4.channel.k8s.io`, which every
//! engine speaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const PROTOCOL: &str = "v4.channel.k8s.io";

/// What a stream of a suite never takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Channels: input, output, errors, and how it ended.
const CHANNELS: usize = 4;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A connection and what came on each channel so far.
#[derive(Debug)]
pub struct WebSocket {
    reader: BufReader<TcpStream>,
    channels: [Vec<u8>; CHANNELS],
}

impl WebSocket {
    /// Connects to a URL.
    ///
    /// # Errors
    /// Nobody listens, or the upgrade is refused: the answer's first line is in the message.
    pub fn connect(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("not plain HTTP")?;
        let (host, path) = rest.split_once('/').context("a URL has a path")?;
        let mut socket =
            TcpStream::connect(host).with_context(|| format!("cannot reach {host}"))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        )?;
        let mut reader = BufReader::new(socket);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        ensure!(first.contains(" 101 "), "refused: {}", first.trim());
        for line in reader.by_ref().lines() {
            if line?.is_empty() {
                break;
            }
        }
        Ok(Self {
            reader,
            channels: Default::default(),
        })
    }

    /// Sends bytes to the process's input.
    ///
    /// # Errors
    /// The connection is gone, or it is more than a short frame takes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let mask = [1, 2, 3, 4];
        let length = u8::try_from(bytes.len() + 1)
            .ok()
            .filter(|length| *length < 126);
        let length = length.context("too much for one short frame")?;
        let mut frame = vec![0x80 | BINARY, 0x80 | length];
        frame.extend(mask);
        // Channel 0 is the input.
        let payload = std::iter::once(&0).chain(bytes);
        frame.extend(
            payload
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.reader.get_mut().write_all(&frame)?;
        Ok(())
    }

    /// Reads until a channel holds `text`.
    ///
    /// # Errors
    /// The stream ends before.
    pub fn wait_for(&mut self, channel: usize, text: &str) -> Result<()> {
        while !self.text(channel).contains(text) {
            ensure!(self.read()?, "it ended: {:?}", self.text(channel));
        }
        Ok(())
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The connection breaks.
    pub fn read_all(&mut self) -> Result<()> {
        while self.read()? {}
        Ok(())
    }

    /// What came on a channel.
    #[must_use]
    pub fn text(&self, channel: usize) -> String {
        String::from_utf8_lossy(&self.channels[channel]).into_owned()
    }

    /// Reads one frame; `false` at the end.
    fn read(&mut self) -> Result<bool> {
        let mut head = [0; 2];
        if self.reader.read_exact(&mut head).is_err() {
            return Ok(false);
        }
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.bytes()?)),
            127 => u64::from_be_bytes(self.bytes()?),
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length)?];
        self.reader.read_exact(&mut payload)?;
        match (head[0] & 0x0f, payload.split_first()) {
            (BINARY, Some((channel, bytes))) => {
                let channel = self.channels.get_mut(usize::from(*channel));
                channel.context("an unknown channel")?.extend(bytes);
            }
            (CLOSE, _) => return Ok(false),
            (opcode, _) => bail!("unexpected frame {opcode}"),
        }
        Ok(true)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
