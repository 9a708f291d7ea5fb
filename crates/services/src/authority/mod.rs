//! Makes peers understood that send an odd `:authority` over a unix socket.
//!
//! HTTP/2 wants a host name there; over a unix socket there is none, and clients send the socket's path, plain or with
//! percent signs. The HTTP library refuses such calls before any of our code sees them. [`Lenient`] stands between the
//! socket and the library and replaces the value, which nothing here looks at anyway.
//!
//! Only a header block that fits one frame is looked at: clients do not split a few hundred bytes. Everything else goes
//! through as it came, so a peer that speaks nonsense is still told so by the library. Memory: one frame of headers,
//! at most [`HEADERS_BYTES_MAX`], for each connection.

mod hpack;
mod huffman;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS_FRAME: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
const PRIORITY_BYTES: usize = 5;

/// HTTP/2's default for the longest frame; a longer one goes through as it came.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// How much is read at once.
const READ_BYTES: usize = 8 * 1024;

/// A server's side of a connection, with odd authorities replaced in what the peer sends.
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    inner: S,
    filter: Filter,
    /// Read, filtered, and not yet taken.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Lenient<S> {
    /// Wraps a connection from which nothing has been read.
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            filter: Filter::default(),
            ready: Vec::new(),
            taken: 0,
        }
    }

    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let waiting = &self.ready[self.taken..];
        let length = waiting.len().min(buffer.remaining());
        buffer.put_slice(&waiting[..length]);
        self.taken += length;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut ended = false;
        while this.ready.is_empty() && !ended {
            let mut bytes = [0; READ_BYTES];
            let mut scratch = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut scratch))?;
            ended = scratch.filled().is_empty();
            if ended {
                this.filter.finish(&mut this.ready);
            } else {
                this.filter.push(scratch.filled(), &mut this.ready);
            }
        }
        this.hand_out(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Lenient<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// Where in the peer's stream the next byte stands.
#[derive(Debug)]
enum Stage {
    /// So many bytes go through as they come.
    Pass(usize),
    /// A frame's header, or a frame of headers, that is not whole yet.
    Hold(Vec<u8>),
}

/// Walks over frames, whatever the pieces in which they arrive. Sans-IO, so that it can be tested byte by byte.
#[derive(Debug)]
struct Filter {
    stage: Stage,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            stage: Stage::Pass(PREFACE_BYTES),
        }
    }
}

impl Filter {
    /// Takes what arrived and appends what may go on.
    fn push(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            let used = match &mut self.stage {
                Stage::Pass(left) => pass(left, input, output),
                Stage::Hold(held) => hold(held, input),
            };
            input = &input[used..];
            self.step(output);
        }
    }

    /// The peer sends no more: what is held goes on as it is.
    fn finish(&mut self, output: &mut Vec<u8>) {
        if let Stage::Hold(held) = &mut self.stage {
            output.append(held);
        }
    }

    /// Goes to the next stage when the present one is complete.
    fn step(&mut self, output: &mut Vec<u8>) {
        match &mut self.stage {
            Stage::Pass(0) => self.stage = Stage::Hold(Vec::with_capacity(FRAME_HEADER_BYTES)),
            Stage::Pass(_) => {}
            Stage::Hold(held) if held.len() < wanted(held) => {}
            Stage::Hold(held) if held.len() == FRAME_HEADER_BYTES => {
                // Either not a frame of headers, or an empty one.
                output.extend_from_slice(held);
                self.stage = after(payload_bytes(held));
            }
            Stage::Hold(held) => {
                output.extend_from_slice(&repair_frame(held).unwrap_or(std::mem::take(held)));
                self.stage = after(0);
            }
        }
    }
}

fn after(payload: usize) -> Stage {
    match payload {
        0 => Stage::Hold(Vec::with_capacity(FRAME_HEADER_BYTES)),
        left => Stage::Pass(left),
    }
}

fn pass(left: &mut usize, input: &[u8], output: &mut Vec<u8>) -> usize {
    let used = input.len().min(*left);
    output.extend_from_slice(&input[..used]);
    *left -= used;
    used
}

fn hold(held: &mut Vec<u8>, input: &[u8]) -> usize {
    let used = input.len().min(wanted(held) - held.len());
    held.extend_from_slice(&input[..used]);
    used
}

/// How long what is held has to become: a frame's header, and the whole frame if it is one of headers.
fn wanted(held: &[u8]) -> usize {
    if held.len() < FRAME_HEADER_BYTES {
        return FRAME_HEADER_BYTES;
    }
    let payload = payload_bytes(held);
    if held[3] == HEADERS_FRAME && payload <= HEADERS_BYTES_MAX {
        FRAME_HEADER_BYTES + payload
    } else {
        FRAME_HEADER_BYTES
    }
}

fn payload_bytes(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// A whole frame of headers with its authority replaced; nothing when it may stay as it is.
fn repair_frame(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    if flags & END_HEADERS == 0 {
        return None;
    }
    let mut start = FRAME_HEADER_BYTES;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    let block = hpack::repair(frame.get(start..end)?)?;
    let mut repaired = [&frame[..start], &block, &frame[end..]].concat();
    let payload = u32::try_from(repaired.len() - FRAME_HEADER_BYTES).ok()?;
    if usize::try_from(payload).ok()? > HEADERS_BYTES_MAX {
        return None;
    }
    repaired[..3].copy_from_slice(&payload.to_be_bytes()[1..]);
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &[0, 0, 0, 1], payload].concat()
    }

    /// A conversation in which every frame of headers has this authority.
    fn conversation(authority: &[u8]) -> Vec<u8> {
        let literal = [b"\x83\x41\x0b", authority].concat();
        let padded = [b"\x02\0\0\0\0\x07", literal.as_slice(), b"\0\0"].concat();
        [
            PREFACE.to_vec(),
            frame(4, 0, b""),
            frame(HEADERS_FRAME, END_HEADERS, &literal),
            frame(0, 0, b"\x01\x04\x0b/run/x.sock"),
            frame(HEADERS_FRAME, END_HEADERS | PADDED | PRIORITY, &padded),
            frame(HEADERS_FRAME, END_HEADERS, b""),
        ]
        .concat()
    }

    fn filtered(input: &[u8], piece: usize) -> Vec<u8> {
        let mut filter = Filter::default();
        let mut output = Vec::new();
        for part in input.chunks(piece) {
            filter.push(part, &mut output);
        }
        filter.finish(&mut output);
        output
    }

    #[test]
    fn odd_authorities_are_replaced_in_whatever_pieces_they_arrive() {
        for piece in [1, 2, 3, 7, 9, 10, 1000] {
            assert_eq!(
                filtered(&conversation(b"/run/x.sock"), piece),
                conversation(b"xxxxxxxxxxx"),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn everything_else_goes_through_as_it_came() {
        let long = frame(
            HEADERS_FRAME,
            END_HEADERS,
            &vec![0x41; HEADERS_BYTES_MAX + 1],
        );
        let split = frame(HEADERS_FRAME, 0, b"\x83\x41\x0b/run/x.sock");
        let too_much_padding = frame(HEADERS_FRAME, END_HEADERS | PADDED, b"\xff\x83");
        for input in [
            conversation(b"localhost:1"),
            [PREFACE.as_slice(), &long].concat(),
            [PREFACE.as_slice(), &split].concat(),
            [PREFACE.as_slice(), &too_much_padding].concat(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            [PREFACE.as_slice(), b"\0\0\x05\x01\x04\0"].concat(),
        ] {
            assert_eq!(filtered(&input, 5), input);
        }
    }
}
