//! What a plugin answers: addresses, routes, interfaces (CNI 1.1, section 5), or an error.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The result of a chain, as far as Orlop looks into it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Interfaces made, on both sides.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    #[serde(default)]
    pub ips: Vec<Address>,
    /// Routes made.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What to put into `resolv.conf`.
    #[serde(default)]
    pub dns: Dns,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default)]
    pub mac: String,
    /// The network namespace it is in; empty on the host.
    #[serde(default)]
    pub sandbox: String,
}

/// An address of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// In CIDR form: `10.88.0.7/16`.
    pub address: String,
    /// Where it leaves its subnet.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Which interface has it: an index into [`Outcome::interfaces`].
    #[serde(default)]
    pub interface: Option<u32>,
}

/// A route of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination in CIDR form.
    pub dst: String,
    /// Next hop.
    #[serde(default)]
    pub gw: Option<String>,
}

/// Name resolution a plugin asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// An error as a plugin prints it (CNI 1.1, "Error").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct PluginError {
    pub(crate) code: u32,
    #[serde(default)]
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) details: String,
}

impl Outcome {
    /// Reads the result of the last plugin.
    pub(crate) fn parse(result: &Value) -> Result<Self, serde_json::Error> {
        // `null` stands for an empty list in what Go programs print.
        let mut result = result.clone();
        if let Value::Object(map) = &mut result {
            map.retain(|_, value| !value.is_null());
        }
        serde_json::from_value(result)
    }

    /// The addresses without prefix length, in the order given: the first is the container's own.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.ips
            .iter()
            .map(|ip| ip.address.split('/').next().unwrap_or(&ip.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_result_is_read_in_both_formats() {
        for text in [
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"interface":0,"address":"10.1.0.5/24","gateway":"10.1.0.1"}],"routes":null,"dns":{}}"#,
            r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.5/24"}],"dns":{"nameservers":["10.1.0.1"]}}"#,
        ] {
            let outcome = Outcome::parse(&serde_json::from_str(text).unwrap()).unwrap();
            assert_eq!(outcome.addresses().collect::<Vec<_>>(), ["10.1.0.5"]);
        }
    }
}
