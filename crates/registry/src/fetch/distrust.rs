//! Who gave wrong bytes: hosts that are not asked again for a blob whose digest did not match.
//!
//! With several hosts at work nobody can say whose bytes were wrong. The blob is then fetched from one host at a time
//! until a host is convicted by a whole blob of its own. Forgotten with the process, and when no host is left: what
//! was wrong may have been mended by the next pull.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orlop_types::Digest;

use super::Fetched;

/// More blobs than any mirror spoils before an operator hears of it; beyond that the oldest go.
const BLOBS_MAX: usize = 1024;

/// What is known about blobs that came wrong.
#[derive(Debug, Default)]
pub(crate) struct Distrust {
    blobs: Mutex<VecDeque<(Digest, Suspicion)>>,
}

/// What is known about one blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// Hosts not to ask for it.
    pub(crate) hosts: Vec<String>,
    /// Whether only one host at a time is to be asked for it.
    pub(crate) one_at_a_time: bool,
}

impl Distrust {
    pub(crate) fn of(&self, digest: &Digest) -> Suspicion {
        let blobs = self.lock();
        let known = blobs.iter().find(|(known, _)| known == digest);
        known
            .map(|(_, suspicion)| suspicion.clone())
            .unwrap_or_default()
    }

    /// Draws the consequences of a wrong digest. Whether anything is new, so that another fetch makes sense.
    pub(crate) fn blame(&self, digest: Digest, size: u64, fetched: &Fetched) -> bool {
        let mut suspicion = self.of(&digest);
        let before = suspicion.clone();
        match fetched.bytes_by_host.as_slice() {
            [(host, bytes)] if *bytes >= size => suspicion.hosts.push(host.clone()),
            givers if suspicion.one_at_a_time => {
                let hosts = givers.iter().map(|(host, _)| host.clone());
                suspicion.hosts.extend(hosts);
            }
            // Several hosts, or bytes kept from an earlier fetch.
            _ => suspicion.one_at_a_time = true,
        }
        let is_news = suspicion != before;
        let mut blobs = self.lock();
        blobs.retain(|(known, _)| *known != digest);
        if blobs.len() >= BLOBS_MAX {
            blobs.pop_front();
        }
        blobs.push_back((digest, suspicion));
        is_news
    }

    /// Gives everybody another chance.
    pub(crate) fn forgive(&self, digest: &Digest) {
        self.lock().retain(|(known, _)| known != digest);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Digest, Suspicion)>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(givers: &[(&str, u64)]) -> Fetched {
        Fetched {
            bytes_by_host: givers
                .iter()
                .map(|(host, bytes)| ((*host).to_owned(), *bytes))
                .collect(),
            rounds: 1,
        }
    }

    #[test]
    fn a_host_is_convicted_by_a_whole_blob_of_its_own_only() {
        let (distrust, digest) = (Distrust::default(), Digest::sha256([1; 32]));
        assert!(distrust.blame(digest, 10, &fetched(&[("a", 4), ("b", 6)])));
        let suspicion = distrust.of(&digest);
        assert!(suspicion.one_at_a_time && suspicion.hosts.is_empty());
        assert!(distrust.blame(digest, 10, &fetched(&[("a", 10)])));
        assert_eq!(distrust.of(&digest).hosts, ["a"]);
        assert_eq!(distrust.of(&Digest::sha256([2; 32])), Suspicion::default());
    }

    #[test]
    fn blaming_comes_to_an_end() {
        let (distrust, digest) = (Distrust::default(), Digest::sha256([1; 32]));
        assert!(distrust.blame(digest, 10, &fetched(&[])));
        assert!(
            !distrust.blame(digest, 10, &fetched(&[])),
            "nobody gave anything"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let distrust = Distrust::default();
        for at in 0..BLOBS_MAX + 5 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&at.to_be_bytes());
            distrust.blame(Digest::sha256(bytes), 1, &fetched(&[("a", 1)]));
        }
        assert_eq!(distrust.lock().len(), BLOBS_MAX);
    }
}
