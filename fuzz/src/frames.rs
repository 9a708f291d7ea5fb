//! ttrpc's frames, from a peer that sends anything in pieces of any length.

use orlop_ttrpc::frame::{DATA_BYTES_MAX, Decoder, Frame, FrameError};
use orlop_ttrpc::{caller, server};

/// However a stream is cut, the same frames come out; both ends of a connection survive it.
pub fn ttrpc(input: &[u8]) {
    let Some((first, stream)) = input.split_first() else {
        return;
    };
    let step = usize::from(*first) + 1;
    let whole = frames(&[stream]);
    let pieces: Vec<&[u8]> = stream.chunks(step).collect();
    assert_eq!(whole, frames(&pieces), "in pieces of {step} bytes");
    serve(&pieces);
    call(&pieces);
}

fn frames(pieces: &[&[u8]]) -> Vec<Result<Frame, String>> {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.data.len() <= DATA_BYTES_MAX);
                    found.push(Ok(frame));
                }
                Ok(None) => break,
                Err(error @ FrameError::TooLarge { .. }) => found.push(Err(error.to_string())),
                Err(error @ FrameError::NotTtrpc { .. }) => {
                    found.push(Err(error.to_string()));
                    return found;
                }
            }
        }
    }
    found
}

fn serve(pieces: &[&[u8]]) {
    let mut connection = server::Connection::default();
    for piece in pieces {
        connection.received(piece);
        loop {
            match connection.next_call() {
                Ok(Some(call)) => connection.respond(call.stream, Ok(Vec::new())),
                Ok(None) => break,
                Err(FrameError::TooLarge { .. }) => {}
                Err(FrameError::NotTtrpc { .. }) => return,
            }
        }
        let length = connection.output().len();
        connection.wrote(length);
    }
    assert_eq!(connection.open_calls(), 0, "every call was answered");
}

fn call(pieces: &[&[u8]]) {
    let mut connection = caller::Connection::default();
    let _stream = connection.call("service", "Method", &[], 0, &[]);
    for piece in pieces {
        connection.received(piece);
        loop {
            match connection.next_reply() {
                Ok(Some(_)) | Err(FrameError::TooLarge { .. }) => {}
                Ok(None) => break,
                Err(FrameError::NotTtrpc { .. }) => return,
            }
        }
    }
}
