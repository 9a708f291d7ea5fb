//! Clients attached to a container's streams: they hear what it writes, and one of them may write to it.
//!
//! A container never waits for a client. What a client has not read is kept up to [`OUTPUT_BYTES_MAX`]; one that falls
//! further behind is told so and hung up on, and the log goes on. Input works the other way round: while the container does
//! not read, nothing is read from the client either.
//!
//! Crash: clients see the connection end. Ordering: every client gets output in the order it was read, from the moment it
//! connected. Waiting: the hub has an epoll descriptor of its own, which the server's waits for, so that the server knows of
//! one descriptor per container and not of every client.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use orlop_types::attach::{ATTACH_SOCKET, Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::log;

/// Clients at once.
const CLIENTS_MAX: usize = 16;
/// Kept for a client that does not read.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Kept of a client's input until the container reads it: one frame and the beginning of the next.
const INPUT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + HEADER_BYTES;
/// What the epoll descriptor says of the listener and of the container's input; clients have larger numbers.
const LISTENER: u64 = 0;
const STDIN: u64 = 1;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// Tells a hub what one output of the container brings.
#[derive(Debug)]
pub(crate) struct Tap {
    hub: SharedHub,
    output: Output,
}

/// A hub and those who feed it.
pub(crate) type SharedHub = Rc<RefCell<Hub>>;

/// All clients of one container.
#[derive(Debug)]
pub(crate) struct Hub {
    epoll: OwnedFd,
    listener: OwnedFd,
    clients: Vec<Client>,
    next_number: u64,
    stdin: Option<Stdin>,
    /// Outputs that have not ended.
    outputs: usize,
    has_ended: bool,
}

#[derive(Debug)]
struct Stdin {
    to: OwnedFd,
    pending: Vec<u8>,
    is_once: bool,
    /// The client that writes.
    holder: Option<u64>,
    /// Whether it ends when nothing is pending any more.
    is_ending: bool,
    is_watched: bool,
}

#[derive(Debug)]
struct Client {
    number: u64,
    socket: OwnedFd,
    hello: Option<Hello>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more is said to it once the output is written.
    is_leaving: bool,
    is_lost: bool,
    watched: epoll::EventFlags,
}

impl Hub {
    /// Listens in the bundle.
    pub(crate) fn listen(bundle: &Path) -> Result<Self, Fault> {
        let subject = || bundle.join(ATTACH_SOCKET).display().to_string();
        let listener = bind(bundle).map_err(|error| Fault::io("listen at", subject(), error))?;
        let fault = |error: Errno| Fault::io("watch", subject(), error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(fault)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN).map_err(fault)?;
        Ok(Self {
            epoll,
            listener,
            clients: Vec::new(),
            next_number: STDIN + 1,
            stdin: None,
            outputs: 0,
            has_ended: false,
        })
    }

    /// Takes clients' input to `to`, which does not block.
    pub(crate) fn set_stdin(&mut self, to: OwnedFd, is_once: bool) {
        self.stdin = Some(Stdin {
            to,
            pending: Vec::new(),
            is_once,
            holder: None,
            is_ending: false,
            is_watched: false,
        });
    }

    /// Lets the container see the end of its input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Readable when [`Hub::turn`] has something to do.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether a client has not got all of the output yet.
    pub(crate) fn has_output(&self) -> bool {
        self.clients.iter().any(|client| !client.output.is_empty())
    }

    /// Does what can be done without waiting.
    pub(crate) fn turn(&mut self, buffer: &mut [u8]) {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 8];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&now)) else {
            return;
        };
        for event in ready.iter() {
            match event.data.u64() {
                LISTENER => self.accept(),
                STDIN => self.flush_stdin(),
                number => self.serve(number, buffer),
            }
        }
        self.settle();
    }

    fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let ours = rustix::net::sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            if !ours || self.clients.len() >= CLIENTS_MAX {
                log::warn("refused a client of another user, or one too many");
                continue;
            }
            let number = self.next_number;
            self.next_number += 1;
            let watched = epoll::EventFlags::IN;
            let data = epoll::EventData::new_u64(number);
            if epoll::add(&self.epoll, &socket, data, watched).is_ok() {
                self.clients.push(Client::new(number, socket, watched));
            }
        }
    }

    fn serve(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(client) = self.clients.iter_mut().find(|one| one.number == number) else {
            return;
        };
        client.write();
        if client.watched.contains(epoll::EventFlags::IN) {
            client.read(buffer);
            self.take_frames(number);
        }
    }

    /// Takes the frames of a client as far as the container's input has room.
    fn take_frames(&mut self, number: u64) {
        while let Some(index) = self.clients.iter().position(|one| one.number == number) {
            let client = &mut self.clients[index];
            let input = std::mem::take(&mut client.input);
            let taken = match Frame::decode(&input) {
                Ok(Some((frame, length))) => self.take(index, frame).then_some(length),
                Ok(None) => None,
                Err(error) => {
                    log::warn(&format!("an attached client is hung up on: {error}"));
                    client.is_lost = true;
                    None
                }
            };
            self.clients[index].input = input;
            match taken {
                Some(length) => drop(self.clients[index].input.drain(..length)),
                None => return,
            }
        }
    }

    /// Acts on one frame. `false` when it has to wait.
    fn take(&mut self, index: usize, frame: Frame<'_>) -> bool {
        let client = &mut self.clients[index];
        match frame {
            Frame::Hello(hello) => {
                client.hello = Some(hello);
                self.greet(index);
            }
            Frame::Input(bytes) => return self.give(index, bytes),
            Frame::InputEnd => self.end_input_of(self.clients[index].number),
            Frame::Output(_) | Frame::Error(_) | Frame::Cut(_) | Frame::End => {
                client.is_lost = true
            }
        }
        true
    }

    fn greet(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if self.has_ended {
            client.say_last(Frame::End);
        }
        let wants_stdin = client.hello.is_some_and(|hello| hello.stdin);
        match &mut self.stdin {
            Some(stdin) if wants_stdin && stdin.holder.is_none() && !stdin.is_ending => {
                stdin.holder = Some(client.number);
            }
            Some(stdin) if wants_stdin && stdin.holder != Some(client.number) => {
                client.say_last(Frame::Cut("standard input is taken by another client"));
            }
            Some(_) | None => {}
        }
    }

    /// Passes input on, unless what came before is still on its way.
    fn give(&mut self, index: usize, bytes: &[u8]) -> bool {
        let number = self.clients[index].number;
        match &mut self.stdin {
            Some(stdin) if stdin.holder == Some(number) => {
                if !stdin.pending.is_empty() {
                    return false;
                }
                stdin.pending.extend_from_slice(bytes);
                self.flush_stdin();
            }
            // It has no input, or this client is not the one who gives it.
            Some(_) | None => {}
        }
        true
    }

    fn end_input_of(&mut self, number: u64) {
        if let Some(stdin) = &mut self.stdin
            && stdin.holder == Some(number)
        {
            stdin.holder = None;
            stdin.is_ending = stdin.is_once;
        }
        self.flush_stdin();
    }

    fn flush_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        if !stdin.write() || (stdin.is_ending && stdin.pending.is_empty()) {
            self.stdin = None;
        }
    }

    /// Forgets clients that have gone, goes on with input that had to wait, and waits for what is next.
    fn settle(&mut self) {
        let gone: Vec<u64> = self
            .clients
            .iter()
            .filter(|client| client.has_gone())
            .map(|client| client.number)
            .collect();
        self.clients.retain(|client| !client.has_gone());
        for number in gone {
            self.end_input_of(number);
        }
        let waiting = self.stdin.as_ref();
        let waiting = waiting.filter(|stdin| stdin.pending.is_empty());
        if let Some(holder) = waiting.and_then(|stdin| stdin.holder) {
            self.take_frames(holder);
        }
        self.watch();
    }

    fn watch(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.watch(&self.epoll);
        }
        for client in &mut self.clients {
            client.watch(&self.epoll);
        }
    }

    fn output(&mut self, output: Output, bytes: &[u8]) {
        if self.clients.is_empty() {
            return;
        }
        for piece in bytes.chunks(PAYLOAD_BYTES_MAX) {
            for client in &mut self.clients {
                client.hear(output, piece);
            }
        }
        self.settle();
    }

    fn output_ended(&mut self) {
        self.outputs = self.outputs.saturating_sub(1);
        if self.outputs > 0 {
            return;
        }
        self.has_ended = true;
        for client in &mut self.clients {
            client.say_last(Frame::End);
        }
        self.settle();
    }
}

impl Tap {
    /// One more output that the hub waits for.
    pub(crate) fn new(hub: &SharedHub, output: Output) -> Self {
        hub.borrow_mut().outputs += 1;
        Self {
            hub: Rc::clone(hub),
            output,
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        self.hub.borrow_mut().output(self.output, bytes);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.hub.borrow_mut().output_ended();
    }
}

impl Stdin {
    /// Writes what is pending; `false` when nobody reads any more.
    fn write(&mut self) -> bool {
        let mut written = 0;
        let alive = loop {
            if written == self.pending.len() {
                break true;
            }
            match rustix::io::write(&self.to, &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break true,
                Err(_) => break false,
            }
        };
        self.pending.drain(..written);
        if self.pending.is_empty() {
            // An idle hub holds no memory.
            self.pending = Vec::new();
        }
        alive
    }

    fn watch(&mut self, epoll: &OwnedFd) {
        let wanted = !self.pending.is_empty();
        if wanted == self.is_watched {
            return;
        }
        let data = epoll::EventData::new_u64(STDIN);
        let changed = match wanted {
            true => epoll::add(epoll, &self.to, data, epoll::EventFlags::OUT),
            false => epoll::delete(epoll, &self.to),
        };
        self.is_watched = changed.is_ok() == wanted;
    }
}

impl Client {
    fn new(number: u64, socket: OwnedFd, watched: epoll::EventFlags) -> Self {
        Self {
            number,
            socket,
            hello: None,
            input: Vec::new(),
            output: Vec::new(),
            is_leaving: false,
            is_lost: false,
            watched,
        }
    }

    fn has_gone(&self) -> bool {
        self.is_lost || (self.is_leaving && self.output.is_empty())
    }

    fn hear(&mut self, output: Output, bytes: &[u8]) {
        let wanted = self.hello.is_some_and(|hello| match output {
            Output::Stdout => hello.stdout,
            Output::Stderr => hello.stderr,
        });
        if !wanted || self.is_leaving || self.is_lost {
            return;
        }
        if self.output.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return self.say_last(Frame::Cut("the client reads too slowly: output is lost"));
        }
        let frame = match output {
            Output::Stdout => Frame::Output(bytes),
            Output::Stderr => Frame::Error(bytes),
        };
        frame.encode(&mut self.output);
        self.write();
    }

    fn say_last(&mut self, frame: Frame<'_>) {
        if !self.is_leaving {
            self.is_leaving = true;
            frame.encode(&mut self.output);
            self.write();
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        while self.input.len() < INPUT_BYTES_MAX {
            let room = buffer.len().min(INPUT_BYTES_MAX - self.input.len());
            match rustix::io::read(&self.socket, &mut buffer[..room]) {
                Ok(0) => {
                    self.is_lost = true;
                    return;
                }
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }

    fn write(&mut self) {
        let mut written = 0;
        while written < self.output.len() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.output[written..], flags) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.is_lost = true;
                    return;
                }
            }
        }
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// A client whose input has to wait is not read from: then only its output wakes us, if there is any.
    fn watch(&mut self, epoll: &OwnedFd) {
        let mut wanted = epoll::EventFlags::empty();
        if self.input.len() < INPUT_BYTES_MAX && !self.is_leaving {
            wanted |= epoll::EventFlags::IN;
        }
        if !self.output.is_empty() {
            wanted |= epoll::EventFlags::OUT;
        }
        if wanted == self.watched {
            return;
        }
        let data = epoll::EventData::new_u64(self.number);
        let changed = match (self.watched.is_empty(), wanted.is_empty()) {
            // The end of a connection is told even to those who wait for nothing.
            (_, true) => epoll::delete(epoll, &self.socket),
            (true, false) => epoll::add(epoll, &self.socket, data, wanted),
            (false, false) => epoll::modify(epoll, &self.socket, data, wanted),
        };
        self.is_lost |= changed.is_err();
        self.watched = wanted;
    }
}

/// Through the folder's descriptor: a bundle's path may be longer than a socket's may be (unix(7)).
fn bind(bundle: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    let folder = std::fs::File::open(bundle)?;
    let path = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(ATTACH_SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Who connects before is asked who they are, as everybody is.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    const ALL: Hello = Hello {
        stdin: true,
        stdout: true,
        stderr: true,
    };

    struct Fixture {
        _folder: tempfile::TempDir,
        bundle: std::path::PathBuf,
        hub: SharedHub,
        buffer: Vec<u8>,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            // Longer than a socket's path may be.
            let bundle = folder.path().join("x".repeat(120));
            std::fs::create_dir(&bundle).unwrap();
            let hub = Rc::new(RefCell::new(Hub::listen(&bundle).unwrap()));
            Self {
                _folder: folder,
                bundle,
                hub,
                buffer: vec![0; 16 << 10],
            }
        }

        fn client(&mut self, hello: Hello) -> UnixStream {
            let folder = std::fs::File::open(&self.bundle).unwrap();
            let path = format!("/proc/self/fd/{}/{ATTACH_SOCKET}", folder.as_raw_fd());
            let mut socket = UnixStream::connect(path).unwrap();
            let limit = Some(Duration::from_secs(10));
            socket.set_read_timeout(limit).unwrap();
            send(&mut socket, Frame::Hello(hello));
            self.turn();
            socket
        }

        fn stdin(&mut self, is_once: bool) -> std::io::PipeReader {
            let (reader, writer) = std::io::pipe().unwrap();
            rustix::io::ioctl_fionbio(&writer, true).unwrap();
            self.hub.borrow_mut().set_stdin(writer.into(), is_once);
            reader
        }

        /// Until nothing is ready any more.
        fn turn(&mut self) {
            loop {
                let fd = self.hub.borrow().epoll.try_clone().unwrap();
                let mut fds = [rustix::event::PollFd::new(
                    &fd,
                    rustix::event::PollFlags::IN,
                )];
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                if rustix::event::poll(&mut fds, Some(&now)).unwrap() == 0 {
                    return;
                }
                self.hub.borrow_mut().turn(&mut self.buffer);
            }
        }
    }

    fn send(socket: &mut UnixStream, frame: Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        socket.write_all(&bytes).unwrap();
    }

    /// All frames up to the end of the connection, as text.
    fn frames_of(mut socket: UnixStream) -> Vec<String> {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        let (mut rest, mut frames) = (bytes.as_slice(), Vec::new());
        while let Ok(Some((frame, length))) = Frame::decode(rest) {
            frames.push(match frame {
                Frame::Output(bytes) => format!("out {}", String::from_utf8_lossy(bytes)),
                Frame::Error(bytes) => format!("err {}", String::from_utf8_lossy(bytes)),
                Frame::Cut(reason) => format!("cut {reason}"),
                Frame::End => "end".to_owned(),
                Frame::Hello(_) | Frame::Input(_) | Frame::InputEnd => panic!("{frame:?}"),
            });
            rest = &rest[length..];
        }
        frames
    }

    #[test]
    fn every_client_hears_what_it_asked_for_and_that_it_is_over() {
        let mut fixture = Fixture::new();
        let stdout = Tap::new(&fixture.hub, Output::Stdout);
        let stderr = Tap::new(&fixture.hub, Output::Stderr);
        let both = fixture.client(ALL);
        let one = fixture.client(Hello {
            stderr: true,
            ..Hello::default()
        });
        stdout.write(b"a");
        stderr.write(b"b");
        drop(stdout);
        drop(stderr);
        let late = fixture.client(ALL);
        assert_eq!(frames_of(both), ["out a", "err b", "end"]);
        assert_eq!(frames_of(one), ["err b", "end"]);
        assert_eq!(frames_of(late), ["end"]);
    }

    #[test]
    fn a_client_that_does_not_read_is_told_so_and_hung_up_on_and_the_others_stay() {
        let mut fixture = Fixture::new();
        let stdout = Tap::new(&fixture.hub, Output::Stdout);
        let slow = fixture.client(ALL);
        let mut quick = fixture.client(ALL);
        let piece = vec![b'x'; 16 << 10];
        let mut heard = 0;
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..256 {
            stdout.write(&piece);
            while heard % (piece.len() + HEADER_BYTES) != 0 || heard == 0 {
                heard += quick.read(&mut buffer).unwrap();
            }
            heard = 0;
        }
        // What the slow one reads now was kept for it; the end says why there is no more.
        let reader = std::thread::spawn(move || frames_of(slow));
        while !reader.is_finished() {
            fixture.turn();
        }
        let frames = reader.join().unwrap();
        assert!(
            frames.last().unwrap().starts_with("cut"),
            "{:?}",
            frames.last()
        );
        assert!(frames.len() < 256);
        assert_eq!(fixture.hub.borrow().clients.len(), 1);
    }

    #[test]
    fn input_ends_with_the_first_client_if_it_is_once_and_else_waits_for_the_next() {
        for is_once in [true, false] {
            let mut fixture = Fixture::new();
            let mut reader = fixture.stdin(is_once);
            let mut first = fixture.client(ALL);
            let second = fixture.client(ALL);
            let refused = frames_of(second);
            assert!(refused[0].contains("taken"), "{refused:?}");
            send(&mut first, Frame::Input(b"hello "));
            send(&mut first, Frame::InputEnd);
            fixture.turn();
            if !is_once {
                let mut third = fixture.client(ALL);
                send(&mut third, Frame::Input(b"again"));
                fixture.turn();
                fixture.hub.borrow_mut().close_stdin();
            }
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, if is_once { "hello " } else { "hello again" });
        }
    }

    #[test]
    fn input_waits_while_the_container_does_not_read_and_none_is_lost() {
        let mut fixture = Fixture::new();
        let mut reader = fixture.stdin(true);
        let mut client = fixture.client(ALL);
        let sent = vec![7; 1 << 20];
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            for piece in copy.chunks(PAYLOAD_BYTES_MAX) {
                send(&mut client, Frame::Input(piece));
            }
            send(&mut client, Frame::InputEnd);
            client
        });
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        while !reading.is_finished() {
            fixture.turn();
            let hub = fixture.hub.borrow();
            assert!(
                hub.clients
                    .iter()
                    .all(|client| client.input.len() <= INPUT_BYTES_MAX)
            );
        }
        assert_eq!(reading.join().unwrap(), sent);
        drop(writer.join().unwrap());
    }

    #[test]
    fn a_client_that_speaks_nonsense_is_hung_up_on() {
        let mut fixture = Fixture::new();
        let mut client = fixture.client(ALL);
        client.write_all(&[9, 9, 9, 9]).unwrap();
        fixture.turn();
        assert!(frames_of(client).is_empty());
        assert!(fixture.hub.borrow().clients.is_empty());
    }
}
