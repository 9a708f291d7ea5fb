//! A client of SPDY/3.1 as client-go is one: it opens streams, waits for no window and opens none.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const FIN: u8 = 1;
/// Adler-32 of SPDY/3's dictionary.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

/// What came on a stream.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) bytes: Vec<u8>,
    /// How much came, also of what is not kept.
    pub(crate) count: usize,
    pub(crate) has_ended: bool,
    pub(crate) was_reset: bool,
    pub(crate) was_accepted: bool,
}

impl Incoming {
    pub(crate) fn has_come_to_its_end(&self) -> bool {
        self.has_ended || self.was_reset
    }
}

pub(crate) struct Client {
    socket: TcpStream,
    input: Vec<u8>,
    last_stream: u32,
    has_sent_headers: bool,
    pub(crate) streams: BTreeMap<u32, Incoming>,
    /// Whether bytes are kept, or only counted.
    pub(crate) keeps: bool,
    pub(crate) is_closed: bool,
    pub(crate) protocol: String,
}

impl Client {
    /// Upgrades a connection for `url`.
    pub(crate) fn connect(url: &str, protocols: &[&str]) -> Self {
        let mut headers = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n".to_owned();
        for protocol in protocols {
            headers.push_str(&format!("X-Stream-Protocol-Version: {protocol}\r\n"));
        }
        let (socket, head) = request(url, "POST", &headers);
        assert_switches(&head);
        let protocol = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("x-stream-protocol-version: ")
                .map(str::to_owned)
        });
        Self {
            socket,
            input: Vec::new(),
            last_stream: 0,
            has_sent_headers: false,
            streams: BTreeMap::new(),
            keeps: true,
            is_closed: false,
            protocol: protocol.unwrap_or_default(),
        }
    }

    /// Opens a stream and gives its number.
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = if self.last_stream == 0 {
            1
        } else {
            self.last_stream + 2
        };
        self.last_stream = stream;
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        if !self.has_sent_headers {
            self.has_sent_headers = true;
            payload.extend_from_slice(&[0x78, 0x20]);
            payload.extend_from_slice(&DICTIONARY_ID);
        }
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        let length = u16::try_from(block.len()).unwrap();
        payload.push(0);
        payload.extend_from_slice(&length.to_le_bytes());
        payload.extend_from_slice(&(!length).to_le_bytes());
        payload.extend_from_slice(&block);
        self.streams.insert(stream, Incoming::default());
        self.send_frame([0x80, 3, 0, 1], 0, &payload);
        stream
    }

    pub(crate) fn send(&mut self, stream: u32, bytes: &[u8]) {
        for piece in bytes.chunks(32 << 10) {
            self.send_frame(stream.to_be_bytes(), 0, piece);
        }
    }

    pub(crate) fn end(&mut self, stream: u32) {
        self.send_frame(stream.to_be_bytes(), FIN, &[]);
    }

    /// Hangs up.
    pub(crate) fn close(self) {
        drop(self);
    }

    /// Reads until `is_enough`, or the connection ends.
    pub(crate) fn read_until(&mut self, mut is_enough: impl FnMut(&Self) -> bool) {
        let mut buffer = vec![0; 64 << 10];
        while !is_enough(self) && !self.is_closed {
            let count = self.socket.read(&mut buffer).unwrap();
            self.is_closed = count == 0;
            self.input.extend_from_slice(&buffer[..count]);
            while self.take_frame() {}
        }
    }

    /// What came on a stream so far.
    pub(crate) fn text(&self, stream: u32) -> String {
        String::from_utf8_lossy(&self.streams[&stream].bytes).into_owned()
    }

    fn send_frame(&mut self, first: [u8; 4], flags: u8, payload: &[u8]) {
        let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = first.to_vec();
        frame.extend_from_slice(&[flags, high, middle, low]);
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).unwrap();
    }

    fn take_frame(&mut self) -> bool {
        let Some((head, rest)) = self.input.split_first_chunk::<8>() else {
            return false;
        };
        let [a, b, c, d, flags, high, middle, low] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let Some(payload) = rest.get(..length).map(<[u8]>::to_vec) else {
            return false;
        };
        self.input.drain(..8 + length);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        if a & 0x80 == 0 {
            let stream = self.streams.get_mut(&number(&[a, b, c, d])).unwrap();
            stream.count += payload.len();
            if self.keeps {
                stream.bytes.extend_from_slice(&payload);
            }
            stream.has_ended |= flags & FIN != 0;
            return true;
        }
        match d {
            2 => {
                self.streams
                    .get_mut(&number(&payload))
                    .unwrap()
                    .was_accepted = true
            }
            3 => self.streams.get_mut(&number(&payload)).unwrap().was_reset = true,
            // Going away and windows: as client-go, nothing is made of them.
            7 | 9 => {}
            other => panic!("a frame of type {other}"),
        }
        true
    }
}

/// Sends a request and reads the answer's head.
pub(crate) fn request(url: &str, method: &str, headers: &str) -> (TcpStream, String) {
    let (authority, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut socket = TcpStream::connect(authority).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let text = format!("{method} /{path} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    (socket, String::from_utf8(head).unwrap())
}

/// Go's clients look at the first line of a kind only.
pub(crate) fn assert_switches(head: &str) {
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    let connection: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("connection:"))
        .collect();
    assert_eq!(connection, ["connection: upgrade"], "{head}");
}

/// The streams of a remote command.
pub(crate) struct Command {
    pub(crate) client: Client,
    pub(crate) error: u32,
    pub(crate) stdin: u32,
    pub(crate) stdout: u32,
    pub(crate) stderr: u32,
    pub(crate) resize: u32,
}

impl Command {
    /// Opens the streams that a request has; the others are 0.
    pub(crate) fn start(url: &str, stdin: bool, terminal: bool) -> Self {
        let protocols = [
            "v4.channel.k8s.io",
            "v3.channel.k8s.io",
            "v2.channel.k8s.io",
            "channel.k8s.io",
        ];
        let mut client = Client::connect(url, &protocols);
        assert_eq!(client.protocol, protocols[0]);
        let mut open = |kind, wanted: bool| {
            if wanted {
                client.open(&[("streamtype", kind)])
            } else {
                0
            }
        };
        let (error, stdin) = (open("error", true), open("stdin", stdin));
        let (stdout, stderr) = (open("stdout", true), open("stderr", !terminal));
        let resize = open("resize", terminal);
        Self {
            client,
            error,
            stdin,
            stdout,
            stderr,
            resize,
        }
    }

    /// Reads to the end of the command and gives its status.
    pub(crate) fn finish(&mut self) -> serde_json::Value {
        let error = self.error;
        self.client
            .read_until(|client| client.streams[&error].has_ended);
        self.client.read_until(|_| false);
        serde_json::from_str(&self.client.text(error)).unwrap()
    }

    pub(crate) fn read_until_stdout_has(&mut self, text: &str) {
        let stdout = self.stdout;
        self.client
            .read_until(|client| client.text(stdout).contains(text));
        assert!(
            self.client.text(stdout).contains(text),
            "{:?}",
            self.client.text(stdout)
        );
    }
}

/// The exit code in a status.
pub(crate) fn exit_code(status: &serde_json::Value) -> u32 {
    if status["status"] == "Success" {
        return 0;
    }
    assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
    status["details"]["causes"][0]["message"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
