//! WebSocket (RFC 6455) as a server speaks it to the clients of Kubernetes, without input and output.
//!
//! [`Channels`] carries streams in messages whose first byte is a channel's number, as `*.channel.k8s.io` has it; [`Tunnel`]
//! carries a whole connection of SPDY/3.1. No extension is negotiated.
//!
//! Bounds: messages are passed on in the pieces they come in, so that their length takes no memory; of what encodes three
//! bytes as four, at most three are put aside; a ping has at most 125 bytes.

mod channels;
mod frame;
mod tunnel;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

#[cfg(feature = "fuzzing")]
pub(crate) use channels::fuzz;
pub(crate) use channels::{Channel, Channels};
pub(crate) use tunnel::Tunnel;

/// What a server appends to a client's key (section 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    /// A frame of a client has to be masked (section 5.1).
    #[error("a frame that is not masked")]
    Unmasked,
    /// Bits that belong to an extension nobody has negotiated.
    #[error("a frame with reserved bits")]
    ReservedBits,
    /// An opcode without a meaning.
    #[error("a frame with opcode {0}")]
    Opcode(u8),
    /// A control frame is in pieces or too long (section 5.5).
    #[error("a control frame that is too long or in pieces")]
    Control,
    /// A frame continues nothing, or begins a message inside another.
    #[error("a frame out of order")]
    Order,
    /// A length that no frame may have.
    #[error("a frame of an impossible length")]
    Length,
    /// Text where bytes were agreed upon, or the other way round.
    #[error("a message of the wrong kind")]
    Kind,
    /// No such channel, or none that a client may write to.
    #[error("a message for channel {0}")]
    Channel(u8),
    /// Text that is not base64.
    #[error("a message that is not base64")]
    Base64,
}

/// The answer to a client's key (section 4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(KEY_SUFFIX.as_bytes());
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_answered_as_in_the_rfc() {
        let answer = accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
