//! Lists in pieces: what the calls named `Stream…` answer.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use tonic::Status;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Entries per message. A container's entry is a few kibibytes at most, so a message stays far below its limit.
const ENTRIES_PER_MESSAGE: usize = 256;

/// Splits a list into messages. An empty list is one empty message, so that a client sees an answer.
pub(crate) fn in_pieces<T, M>(entries: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Answers<M>
where
    T: Send,
    M: Send + 'static,
{
    let mut messages = Vec::new();
    let mut entries = entries.into_iter().peekable();
    loop {
        let piece: Vec<T> = entries.by_ref().take(ENTRIES_PER_MESSAGE).collect();
        messages.push(Ok(message(piece)));
        if entries.peek().is_none() {
            break;
        }
    }
    Box::pin(stream::iter(messages))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    async fn lengths(count: usize) -> Vec<usize> {
        let entries: Vec<usize> = (0..count).collect();
        let messages: Vec<_> = in_pieces(entries, |piece| piece.len()).collect().await;
        messages.into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn a_list_is_split_and_none_of_it_is_lost() {
        assert_eq!(lengths(0).await, [0]);
        assert_eq!(lengths(1).await, [1]);
        assert_eq!(lengths(256).await, [256]);
        assert_eq!(lengths(600).await, [256, 256, 88]);
    }
}
