//! Mounts as containerd's API has them (`types.Mount`): what to mount, where from, and with which options.

use serde::{Deserialize, Serialize};

/// One mount to be made, not yet made.
///
/// The four fields are those of containerd's `types.Mount`, so that shims and clients of containerd understand
/// them. Nothing here is checked: whoever makes the mount does that and names the field at fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// The type of file system, such as `overlay`, `bind` or `tmpfs`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// A path or a device; for file systems without either, their name.
    pub source: String,
    /// A folder below the one the mounts are made at; empty for that folder itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Options as in fstab, one each. Values may hold commas; overlay paths escape `:` and `\` with a backslash.
    #[serde(default)]
    pub options: Vec<String>,
}

impl Mount {
    /// A recursive bind mount of `source`, read-only or writable.
    #[must_use]
    pub fn bind(source: impl Into<String>, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        Self {
            fs_type: "bind".to_owned(),
            source: source.into(),
            target: String::new(),
            options: vec![access.to_owned(), "rbind".to_owned()],
        }
    }

    /// The value of the last option `key=value`, as the kernel would take it.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether nothing can be written through this mount.
    ///
    /// An overlay without an upper folder is read-only whatever its options say.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let last_access = self
            .options
            .iter()
            .rev()
            .find(|option| matches!(option.as_str(), "ro" | "rw"));
        last_access.is_some_and(|access| access == "ro")
            || (self.fs_type == "overlay" && self.option("upperdir").is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_options_counts() {
        let mount = Mount {
            fs_type: "overlay".to_owned(),
            options: ["upperdir=/a", "upperdir=/b", "upperdirs=/c"]
                .map(str::to_owned)
                .to_vec(),
            ..Mount::default()
        };
        assert_eq!(mount.option("upperdir"), Some("/b"));
        assert_eq!(mount.option("lowerdir"), None);
    }

    #[test]
    fn read_only_is_read_from_options_or_follows_from_a_missing_upper_folder() {
        assert!(Mount::bind("/a", true).is_read_only());
        assert!(!Mount::bind("/a", false).is_read_only());
        let lowers_only = Mount {
            fs_type: "overlay".to_owned(),
            options: vec!["lowerdir=/a:/b".to_owned()],
            ..Mount::default()
        };
        assert!(lowers_only.is_read_only());
    }

    #[test]
    fn json_uses_the_field_names_of_containerd() {
        let json = serde_json::to_value(Mount::bind("/a", true)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "bind", "source": "/a", "options": ["ro", "rbind"]})
        );
    }
}
