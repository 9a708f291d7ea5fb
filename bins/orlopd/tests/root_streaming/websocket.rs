//! The same over WebSockets.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::node::{Node, Streams, Wanted};
use crate::spdy::{assert_switches, exit_code, request};

const STDIN: Wanted = Wanted {
    stdin: true,
    terminal: false,
};

struct Client {
    socket: TcpStream,
    /// What came on each channel.
    channels: [Vec<u8>; 5],
}

impl Client {
    fn connect(url: &str, protocol: &str) -> Self {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
        );
        let (socket, head) = request(url, "GET", &headers);
        assert_switches(&head);
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.contains(protocol), "{head}");
        Self {
            socket,
            channels: Default::default(),
        }
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mask = [9, 8, 7, 6];
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.socket.write_all(&frame).unwrap();
    }

    /// Reads one message; `false` at the end of the connection, which has to be in order.
    fn read(&mut self) -> bool {
        let mut head = [0; 2];
        self.socket.read_exact(&mut head).unwrap();
        assert_eq!(head[0] & 0x80, 0x80);
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.bytes())),
            127 => u64::from_be_bytes(self.bytes()),
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut payload).unwrap();
        match head[0] & 0x0f {
            2 => self.channels[usize::from(payload[0])].extend_from_slice(&payload[1..]),
            10 => assert_eq!(payload, b"ping"),
            8 => {
                assert_eq!(payload, [3, 232]);
                return false;
            }
            other => panic!("opcode {other}"),
        }
        true
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn version_five_ends_input_and_tells_the_exit_code() {
    let mut node = Node::start(&[]);
    let id = node.container(&["sleep", "100000"], Streams::default());
    let args = ["sh", "-c", "cat; echo problem >&2; exit 9"];
    let mut client = Client::connect(
        &node.exec_url(&id, &args, STDIN).unwrap(),
        "v5.channel.k8s.io",
    );
    client.send(9, b"ping");
    client.send(2, b"\0hello");
    client.send(2, &[255, 0]);
    while client.read() {}
    assert_eq!(client.channels[1], b"hello");
    assert_eq!(client.channels[2], b"problem\n");
    let status = serde_json::from_slice(&client.channels[3]).unwrap();
    assert_eq!(exit_code(&status), 9);
}

#[test]
fn version_four_does_all_but_end_input() {
    let mut node = Node::start(&[]);
    let id = node.container(&["sleep", "100000"], Streams::default());
    let args = ["sh", "-c", "read line; echo heard $line"];
    let mut client = Client::connect(
        &node.exec_url(&id, &args, STDIN).unwrap(),
        "v4.channel.k8s.io",
    );
    client.send(2, b"\0hello\n");
    while client.read() {}
    assert_eq!(client.channels[1], b"heard hello\n");
    let status = serde_json::from_slice(&client.channels[3]).unwrap();
    assert_eq!(exit_code(&status), 0);
}
