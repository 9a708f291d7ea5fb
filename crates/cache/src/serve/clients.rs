//! How many answers one client may have under way: no client takes every connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Answers under way, by address.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    under_way: Arc<Mutex<HashMap<IpAddr, usize>>>,
    each_max: usize,
}

/// A client's place, given back when dropped.
pub(super) struct Place {
    clients: Clients,
    address: IpAddr,
}

impl Clients {
    /// At most `each_max` for one address; 0 for any number.
    pub(super) fn new(each_max: usize) -> Self {
        Self {
            under_way: Arc::default(),
            each_max,
        }
    }

    /// A place for one more answer, if there is one.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(address).or_default();
        if self.each_max > 0 && *count >= self.each_max {
            return None;
        }
        *count += 1;
        drop(under_way);
        Some(Place {
            clients: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self
            .clients
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_so_many_places_and_others_have_theirs() {
        let clients = Clients::new(2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = clients.place(one).unwrap();
        let _second = clients.place(one).unwrap();
        assert!(clients.place(one).is_none());
        assert!(clients.place(other).is_some());
        drop(first);
        assert!(clients.place(one).is_some());
        assert_eq!(clients.under_way.lock().unwrap().len(), 1, "nobody else");
    }
}
