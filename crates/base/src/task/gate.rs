//! A gate that whoever uses a thing passes through, and that its owner closes before taking the thing away.

use tokio::sync::watch;

/// Lets users in until it is closed, and lets its owner wait for the last one to leave. Clones are one gate.
///
/// Cancellation: [`Gate::close`] may be dropped and called again; the gate stays closed. Ordering: what a user
/// did before dropping its pass is visible to whoever awaited `close`.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shutting down")]
pub struct GateClosed;

/// Held by a user of the thing behind the gate.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes through, and stays inside until the pass is dropped.
    ///
    /// # Errors
    /// The gate is closed.
    pub fn enter(&self) -> Result<Pass, GateClosed> {
        let mut entered = false;
        self.state.send_if_modified(|state| {
            entered = !state.closed;
            state.inside += usize::from(entered);
            false
        });
        if entered {
            Ok(Pass { gate: self.clone() })
        } else {
            Err(GateClosed)
        }
    }

    /// Lets nobody in any more, and waits for the last to leave.
    pub async fn close(&self) {
        self.shut();
        // The sender lives in `self`, so waiting cannot fail; were it gone, nobody could be inside either.
        let mut state = self.state.subscribe();
        let emptied = state.wait_for(|state| state.inside == 0).await.is_ok();
        debug_assert!(emptied, "the sender outlives the wait");
    }

    /// Lets nobody in any more, without waiting.
    pub fn shut(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    /// Whether the gate lets nobody in.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.state.borrow().inside
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.state.send_if_modified(|state| {
            state.inside -= 1;
            state.inside == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_waits_for_the_last_to_leave() {
        let gate = Gate::new();
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();
        let closing = gate.close();
        tokio::pin!(closing);
        assert!(futures_util::poll!(&mut closing).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut closing).is_pending());
        drop(second);
        closing.await;
        assert_eq!(gate.inside(), 0);
    }

    #[tokio::test]
    async fn a_closed_gate_lets_nobody_in_and_can_be_closed_again() {
        let gate = Gate::new();
        gate.close().await;
        assert_eq!(gate.enter().unwrap_err(), GateClosed);
        gate.close().await;
    }

    #[tokio::test]
    async fn an_abandoned_close_keeps_the_gate_shut() {
        let gate = Gate::new();
        let pass = gate.enter().unwrap();
        {
            let closing = gate.close();
            tokio::pin!(closing);
            assert!(futures_util::poll!(&mut closing).is_pending());
        }
        assert_eq!(gate.enter().unwrap_err(), GateClosed);
        assert_eq!(gate.inside(), 1);
        drop(pass);
        gate.close().await;
    }
}
