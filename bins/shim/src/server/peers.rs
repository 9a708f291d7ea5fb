//! Connections of engines: read calls, write answers, never wait.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use orlop_ttrpc::Status;
use orlop_ttrpc::server::Connection;

use super::Server;
use super::container::Caller;
use super::poller::{Interest, Token};
use crate::fault::Fault;
use crate::log;

/// Connections at once; engines use one each.
const PEERS_MAX: usize = 64;
/// A peer that does not read its answers is hung up on.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// One connection.
pub(super) struct Peer {
    socket: UnixStream,
    connection: Connection,
    waits_for_room: bool,
    lost: bool,
}

impl Server {
    pub(super) fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let ours = rustix::net::sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            if !ours || self.peers.len() >= PEERS_MAX {
                log::warn("refused a connection of another user, or one too many");
                continue;
            }
            let number = self.number();
            if self
                .poller
                .add(socket.as_fd(), Token::Peer(number), Interest::Read)
                .is_err()
            {
                continue;
            }
            let peer = Peer {
                socket: socket.into(),
                connection: Connection::default(),
                waits_for_room: false,
                lost: false,
            };
            self.peers.insert(number, peer);
        }
    }

    pub(super) fn serve_peer(&mut self, number: u32) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        if peer.read(&mut self.buffer).is_err() {
            peer.lost = true;
        }
        loop {
            let Some(peer) = self.peers.get_mut(&number) else {
                return;
            };
            match peer.connection.next_call() {
                Ok(Some(call)) => {
                    let caller = Caller {
                        connection: number,
                        stream: call.stream,
                    };
                    self.dispatch(caller, &call.service, &call.method, &call.payload);
                }
                Ok(None) => return,
                Err(error) => {
                    log::warn(&error.to_string());
                    peer.lost = true;
                    return;
                }
            }
        }
    }

    /// Answers a caller; one that has hung up is forgotten.
    pub(super) fn answer(&mut self, caller: Caller, result: Result<Vec<u8>, Fault>) {
        let result: Result<Vec<u8>, Status> = result.map_err(|fault| fault.status());
        if let Some(peer) = self.peers.get_mut(&caller.connection) {
            peer.connection.respond(caller.stream, result);
        }
    }

    pub(super) fn write_to_peers(&mut self) {
        let mut lost = Vec::new();
        for (number, peer) in &mut self.peers {
            if peer.lost
                || peer.write().is_err()
                || peer.connection.output().len() > OUTPUT_BYTES_MAX
            {
                lost.push(*number);
                continue;
            }
            let waits_for_room = !peer.connection.output().is_empty();
            if waits_for_room != peer.waits_for_room {
                peer.waits_for_room = waits_for_room;
                let interest = if waits_for_room {
                    Interest::Both
                } else {
                    Interest::Read
                };
                self.poller.remove(peer.socket.as_fd());
                if self
                    .poller
                    .add(peer.socket.as_fd(), Token::Peer(*number), interest)
                    .is_err()
                {
                    lost.push(*number);
                }
            }
        }
        for number in lost {
            self.peers.remove(&number);
            self.forget_callers(number);
        }
    }

    fn forget_callers(&mut self, connection: u32) {
        for container in self.containers.values_mut() {
            for process in container.execs.values_mut().chain([&mut container.init]) {
                process
                    .waiters
                    .retain(|caller| caller.connection != connection);
            }
        }
    }
}

impl Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.connection.received(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.connection.open_calls() > orlop_ttrpc::server::CALLS_MAX {
                return Ok(());
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.connection.output().is_empty() {
            match self.socket.write(self.connection.output()) {
                Ok(count) => self.connection.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
