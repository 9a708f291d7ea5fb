//! Chain ids (OCI image-spec, config.md "Layer ChainID").

use orlop_types::{ChainId, Digest};
use sha2::{Digest as _, Sha256};

/// The chain id of every layer, bottom first.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => ChainId::bottom(*diff_id),
            Some(below) => {
                let hash = Sha256::digest(below.next_preimage(diff_id));
                ChainId::from_digest(Digest::sha256(hash.into()))
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_that_of_the_specification() {
        let layers: Vec<Digest> = ["a", "b", "c"]
            .map(|text| Digest::sha256(Sha256::digest(text).into()))
            .to_vec();
        let chain = chain_ids(&layers);
        assert_eq!(*chain[0].digest(), layers[0]);
        // printf 'sha256:%s sha256:%s' $(printf a | sha256sum) $(printf b | sha256sum) | sha256sum
        let second = Sha256::digest(format!("{} {}", layers[0], layers[1]));
        assert_eq!(chain[1].digest().as_bytes(), &second[..]);
        let third = Sha256::digest(format!("{} {}", chain[1], layers[2]));
        assert_eq!(chain[2].digest().as_bytes(), &third[..]);
        assert!(chain_ids(&[]).is_empty());
    }
}
