//! Which mounts of a list are made here, and which are left to whoever asked. Pure.

use orlop_types::Mount;

use crate::Error;

/// As many as containerd can keep.
const MOUNTS_MAX: usize = 255;

/// What is done to a mount's description before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// `format/`: names of earlier mounts are put in.
    Format,
    /// `mkdir/`: folders are made.
    Mkdir,
    /// `mkfs/`: a file with a new file system is made.
    Mkfs,
}

/// Who makes a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The kernel.
    Kernel,
    /// A link to a loop device takes the place of the mount.
    Loop,
    /// The kernel, by way of a loop device if it cannot mount files.
    Erofs,
}

/// One mount of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its place in the list.
    pub(crate) index: usize,
    /// With the type that is left when the preparations are taken off.
    pub(crate) mount: Mount,
    pub(crate) preparations: Vec<Preparation>,
    pub(crate) maker: Maker,
}

/// What to do for a list of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Made here, in this order.
    pub(crate) made: Vec<Step>,
    /// Given back; only the first may need preparations.
    pub(crate) left: Vec<Step>,
    /// All is made here, and a bind mount is given back.
    pub(crate) temporary: bool,
}

impl Plan {
    /// The plan for `mounts`; nothing if they can all be made by whoever asks. `temporary` has all of them made.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn new(mounts: Vec<Mount>, temporary: bool) -> Result<Option<Self>, Error> {
        let count = mounts.len();
        if count > MOUNTS_MAX {
            let limit = MOUNTS_MAX;
            return Err(Error::TooMany { count, limit });
        }
        let steps = mounts.into_iter().enumerate();
        let mut made: Vec<Step> = steps.map(|(index, mount)| step(index, mount)).collect();
        let needs = |step: &Step| match step.maker {
            Maker::Loop | Maker::Erofs => Some(step.index + 1),
            Maker::Kernel if temporary => Some(step.index + 1),
            Maker::Kernel if step.preparations.is_empty() => None,
            // What goes before it has to be there, so that it can be prepared.
            Maker::Kernel => Some(step.index),
        };
        let Some(first_left) = made.iter().filter_map(needs).max() else {
            return Ok(None);
        };
        let left = made.split_off(first_left);
        Ok(Some(Self {
            made,
            left,
            temporary,
        }))
    }
}

fn step(index: usize, mut mount: Mount) -> Step {
    let mut preparations = Vec::new();
    while let Some((first, rest)) = mount.fs_type.split_once('/') {
        preparations.push(match first {
            "format" => Preparation::Format,
            "mkdir" => Preparation::Mkdir,
            "mkfs" => Preparation::Mkfs,
            _ => break,
        });
        mount.fs_type = rest.to_owned();
    }
    let maker = match mount.fs_type.as_str() {
        "loop" => Maker::Loop,
        "erofs" => Maker::Erofs,
        _ => Maker::Kernel,
    };
    Step {
        index,
        mount,
        preparations,
        maker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(types: &[&str], temporary: bool) -> Option<Plan> {
        let mounts = types.iter().map(|fs_type| Mount {
            fs_type: (*fs_type).to_owned(),
            ..Mount::default()
        });
        Plan::new(mounts.collect(), temporary).unwrap()
    }

    /// How many are made and how many are left.
    fn split(types: &[&str], temporary: bool) -> Option<(usize, usize)> {
        plan(types, temporary).map(|plan| (plan.made.len(), plan.left.len()))
    }

    #[test]
    fn what_the_kernel_mounts_alone_needs_no_plan() {
        assert_eq!(split(&["overlay"], false), None);
        assert_eq!(split(&["bind", "tmpfs"], false), None);
        assert_eq!(split(&["other/overlay"], false), None);
        assert_eq!(split(&[], false), None);
    }

    #[test]
    fn all_up_to_the_last_that_needs_help_is_made() {
        assert_eq!(split(&["loop"], false), Some((1, 0)));
        assert_eq!(split(&["loop", "format/ext4"], false), Some((1, 1)));
        assert_eq!(
            split(&["mkfs/loop", "format/ext4", "format/mkdir/overlay"], false),
            Some((2, 1))
        );
        assert_eq!(
            split(&["tmpfs", "loop", "bind", "bind"], false),
            Some((2, 2))
        );
        assert_eq!(
            split(&["erofs", "format/overlay", "bind"], false),
            Some((1, 2))
        );
        assert_eq!(split(&["mkdir/bind"], false), Some((0, 1)));
    }

    #[test]
    fn whoever_only_looks_has_all_made() {
        assert_eq!(split(&["overlay"], true), Some((1, 0)));
        assert_eq!(split(&["loop", "format/ext4"], true), Some((2, 0)));
    }

    #[test]
    fn preparations_are_taken_off_in_their_order() {
        let plan = plan(&["format/mkdir/overlay"], true).unwrap();
        let step = &plan.made[0];
        assert_eq!(step.mount.fs_type, "overlay");
        assert_eq!(step.preparations, [Preparation::Format, Preparation::Mkdir]);
        assert_eq!(step.maker, Maker::Kernel);
    }

    #[test]
    fn more_mounts_than_are_kept_are_refused() {
        let refused = Plan::new(vec![Mount::default(); 256], false).unwrap_err();
        assert_eq!(refused.code(), "ORL-E2201");
    }
}
