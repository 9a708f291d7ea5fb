//! When containers run again that have ended: the labels and policies of containerd's restart monitor. Pure.

use std::str::FromStr;

/// What is wanted of the container: `running` or `stopped`. Containers without it are nobody's concern here.
pub const STATUS_LABEL: &str = "containerd.io/restart.status";
/// When it is started again: see [`RestartPolicy`].
pub const POLICY_LABEL: &str = "containerd.io/restart.policy";
/// Whether somebody stopped it, as `true`.
pub const STOPPED_LABEL: &str = "containerd.io/restart.explicitly-stopped";
/// The policies, for clients that ask what this daemon can do.
pub const POLICIES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// However it ended, a daemon's restart included.
    Always,
    /// If it ended with another code than 0, so many times; 0 for any number.
    OnFailure(u32),
    /// As always, until somebody stops it.
    UnlessStopped,
}

/// A policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no restart policy: \"no\", \"always\", \"unless-stopped\" and \"on-failure[:RETRIES]\" are"
)]
pub struct UnknownPolicy(String);

impl FromStr for RestartPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text.split_once(':') {
            // Clients of containerd before 1.7 knew no policies.
            None if text.is_empty() || text == "always" => Some(Self::Always),
            None if text == "no" => Some(Self::No),
            None if text == "unless-stopped" => Some(Self::UnlessStopped),
            None if text == "on-failure" => Some(Self::OnFailure(0)),
            Some(("on-failure", retries)) => retries.parse().map(Self::OnFailure).ok(),
            Some(_) | None => None,
        }
        .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_containerd_writes_them() {
        for (text, policy) in [
            ("", RestartPolicy::Always),
            ("always", RestartPolicy::Always),
            ("no", RestartPolicy::No),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure(0)),
            ("on-failure:3", RestartPolicy::OnFailure(3)),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text:?}");
        }
        for text in [
            "sometimes",
            "always:3",
            "on-failure:",
            "on-failure:-1",
            "on-failure:x",
        ] {
            assert_eq!(
                text.parse::<RestartPolicy>(),
                Err(UnknownPolicy(text.to_owned()))
            );
        }
    }
}
