//! What a plugin is given: environment and standard input (CNI 1.1, section 2).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::{ConfigList, Plugin};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach a container. Succeeds if it is not attached.
    Del,
    /// Compare an attachment with the kernel's state.
    Check,
    /// Tell whether ADD could work now (1.1).
    Status,
    /// Free what belongs to no listed attachment (1.1).
    Gc,
}

impl Command {
    /// The value of `CNI_COMMAND`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// The configuration that goes to `plugin`'s standard input.
///
/// `capability_arguments` holds the arguments of every capability; the plugin gets those it asked for.
pub(crate) fn request(
    list: &ConfigList,
    plugin: &Plugin,
    capability_arguments: &BTreeMap<String, Value>,
    previous: Option<&Value>,
    valid_attachments: Option<&[(String, String)]>,
) -> Value {
    let mut request = plugin.raw.clone();
    request.insert("name".to_owned(), json!(list.name));
    request.insert("cniVersion".to_owned(), json!(list.version));
    let wanted = plugin.capabilities.iter().filter_map(|name| {
        capability_arguments
            .get(name)
            .map(|value| (name.clone(), value.clone()))
    });
    let runtime_config: Map<String, Value> = wanted.collect();
    if !runtime_config.is_empty() {
        request.insert("runtimeConfig".to_owned(), Value::Object(runtime_config));
    }
    if let Some(previous) = previous {
        request.insert("prevResult".to_owned(), previous.clone());
    }
    if let Some(attachments) = valid_attachments {
        let list: Vec<Value> = attachments
            .iter()
            .map(|(id, ifname)| json!({"containerID": id, "ifname": ifname}))
            .collect();
        request.insert("cni.dev/valid-attachments".to_owned(), Value::Array(list));
    }
    Value::Object(request)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_plugin_gets_the_arguments_it_asked_for_and_no_others() {
        let text = r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"portmap","capabilities":{"portMappings":true}},{"type":"tuning"}]}"#;
        let list = ConfigList::parse(text, Path::new("a.conflist")).unwrap();
        let arguments = BTreeMap::from([
            ("portMappings".to_owned(), json!([{"hostPort": 80}])),
            ("bandwidth".to_owned(), json!({})),
        ]);
        let portmap = request(
            &list,
            &list.plugins[0],
            &arguments,
            Some(&json!({"ips": []})),
            None,
        );
        assert_eq!(
            portmap["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80}]})
        );
        assert_eq!(portmap["prevResult"], json!({"ips": []}));
        let tuning = request(&list, &list.plugins[1], &arguments, None, None);
        assert_eq!(
            tuning,
            json!({"type": "tuning", "name": "n", "cniVersion": "1.0.0"})
        );
    }
}
