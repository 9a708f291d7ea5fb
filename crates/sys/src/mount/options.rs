//! Options in fstab's words, sorted by who takes them: the mount, its propagation, or the file system.

use rustix::mount::MountAttrFlags;

use super::attributes::{Attributes, Depth, Propagation};

/// Options of one mount, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` or `rbind`, if either is there.
    pub(super) bind: Option<Bind>,
    /// Flags of the top mount.
    pub(super) attributes: Attributes,
    /// Flags of the whole tree (`rro`, `rnosuid` …).
    pub(super) tree_attributes: Attributes,
    /// What to set once the mount is attached.
    pub(super) propagation: Vec<(Propagation, Depth)>,
    /// What the file system takes, in the order given.
    pub(super) parameters: Vec<Parameter>,
}

/// Whether a bind mount takes along what is mounted beneath its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bind {
    One,
    Recursive,
}

/// One option for the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) key: String,
    /// `None` for a flag.
    pub(super) value: Option<String>,
}

impl Options {
    /// Sorts `options`; of two that exclude each other the later wins. What is not known here is the file
    /// system's: the kernel says so if it does not know it either.
    pub(super) fn parse<T: AsRef<str>>(options: &[T]) -> Self {
        let mut sorted = Self::default();
        for option in options {
            sorted.add(option.as_ref());
        }
        sorted
    }

    fn add(&mut self, option: &str) {
        match option {
            "" | "defaults" => {}
            "bind" => self.bind = self.bind.or(Some(Bind::One)),
            "rbind" => self.bind = Some(Bind::Recursive),
            _ if change_flags(&mut self.attributes, option) => {}
            _ if self.add_tree_flag(option) => {}
            _ => match propagation(option) {
                Some(change) => self.propagation.push(change),
                None => self.parameters.push(parameter(option)),
            },
        }
    }

    fn add_tree_flag(&mut self, option: &str) -> bool {
        option.strip_prefix('r').is_some_and(|flag| {
            RECURSIVE.contains(&flag) && change_flags(&mut self.tree_attributes, flag)
        })
    }
}

/// The flags that runc, and so everybody, also spells with a leading `r` for "and all mounts beneath".
const RECURSIVE: [&str; 11] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "nosymfollow",
];

/// Applies `option` to `attributes` if it names a flag of a mount.
fn change_flags(attributes: &mut Attributes, option: &str) -> bool {
    match option {
        "ro" => attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY),
        "rw" => attributes.unset(MountAttrFlags::MOUNT_ATTR_RDONLY),
        "nosuid" => attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "suid" => attributes.unset(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "nodev" => attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV),
        "dev" => attributes.unset(MountAttrFlags::MOUNT_ATTR_NODEV),
        "noexec" => attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "exec" => attributes.unset(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "nodiratime" => attributes.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "diratime" => attributes.unset(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => attributes.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => attributes.unset(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => attributes.set_access_time(MountAttrFlags::MOUNT_ATTR_NOATIME),
        "strictatime" => attributes.set_access_time(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        // `relatime` is the kernel's default and has no bit; so is what undoes one of the other two.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => {
            attributes.set_access_time(MountAttrFlags::empty());
        }
        _ => return false,
    }
    true
}

fn propagation(option: &str) -> Option<(Propagation, Depth)> {
    Some(match option {
        "private" => (Propagation::Private, Depth::One),
        "rprivate" => (Propagation::Private, Depth::Tree),
        "shared" => (Propagation::Shared, Depth::One),
        "rshared" => (Propagation::Shared, Depth::Tree),
        "slave" => (Propagation::Slave, Depth::One),
        "rslave" => (Propagation::Slave, Depth::Tree),
        "unbindable" => (Propagation::Unbindable, Depth::One),
        "runbindable" => (Propagation::Unbindable, Depth::Tree),
        _ => return None,
    })
}

fn parameter(option: &str) -> Parameter {
    match option.split_once('=') {
        None => Parameter {
            key: option.to_owned(),
            value: None,
        },
        Some((key, value)) => Parameter {
            key: key.to_owned(),
            value: Some(unquoted(value).to_owned()),
        },
    }
}

/// SELinux contexts hold commas and are quoted for mount(8); a single value needs no quotes.
fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_who_takes_them() {
        let options = Options::parse(&[
            "rbind",
            "ro",
            "nosuid",
            "rslave",
            "rnoexec",
            "size=64k",
            "nr_inodes=5",
            "newinstance",
            "defaults",
        ]);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(
            options.attributes.set,
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID
        );
        assert_eq!(
            options.tree_attributes.set,
            MountAttrFlags::MOUNT_ATTR_NOEXEC
        );
        assert_eq!(options.propagation, [(Propagation::Slave, Depth::Tree)]);
        let parameters: Vec<_> = options
            .parameters
            .iter()
            .map(|p| (p.key.as_str(), p.value.as_deref()))
            .collect();
        assert_eq!(
            parameters,
            [
                ("size", Some("64k")),
                ("nr_inodes", Some("5")),
                ("newinstance", None)
            ]
        );
    }

    #[test]
    fn the_later_of_two_options_wins() {
        let options = Options::parse(&["ro", "rw", "noatime", "relatime", "dev", "nodev"]);
        assert_eq!(options.attributes.set, MountAttrFlags::MOUNT_ATTR_NODEV);
        assert!(
            options
                .attributes
                .clear
                .contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
        );
    }

    #[test]
    fn only_the_first_equals_sign_separates_and_quotes_of_a_value_are_taken_off() {
        assert_eq!(
            parameter("context=\"system_u:object_r:x:s0:c1,c2\"")
                .value
                .as_deref(),
            Some("system_u:object_r:x:s0:c1,c2")
        );
        assert_eq!(parameter("a=b=c").value.as_deref(), Some("b=c"));
        assert_eq!(parameter("a=").value.as_deref(), Some(""));
    }

    #[test]
    fn words_that_only_look_recursive_belong_to_the_file_system() {
        for word in ["rsize=5", "redirect_dir=off", "rbound", "r", "rrelatime"] {
            assert_eq!(Options::parse(&[word]).parameters.len(), 1, "{word}");
        }
    }
}
