//! The store with the real kernel: loop devices, new file systems, one mount on another. Needs root and `mkfs.ext4`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on has failed, and writes files freely"
)]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orlop_mounts::{Error, Made, Plan, Store};
use orlop_sys::mount::MountTable;
use orlop_types::Mount;

/// A store on a temporary folder, beside a folder where files may be made.
struct World {
    store: Option<Store>,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let mut world = Self {
            store: None,
            folder,
        };
        world.store = Some(world.open());
        world
    }

    fn open(&self) -> Store {
        Store::open(&self.path("mounts"), &[self.path("files")]).unwrap()
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make(&self, number: u64, mounts: Vec<Mount>, temporary: bool) -> Result<Made, Error> {
        let plan = Plan::new(mounts, temporary)?.unwrap();
        self.store().make(number, &plan, SystemTime::now())
    }

    /// How many mounts there are in the store's folder.
    fn mounted(&self) -> usize {
        let table = MountTable::read().unwrap();
        table.beneath(&self.path("mounts")).count()
    }

    /// A new file system in a file, a device of it, it mounted, and an overlay on that.
    fn stack(&self) -> Vec<Mount> {
        let lower = self.path("lower");
        std::fs::create_dir_all(&lower).unwrap();
        std::fs::write(lower.join("below"), "below").unwrap();
        let file = self.path("files/disk.img");
        vec![
            mount(
                "mkfs/loop",
                file.to_str().unwrap(),
                &["X-containerd.mkfs.size=16MiB", "X-containerd.mkfs.fs=ext4"],
            ),
            mount("format/ext4", "{{ mount 0 }}", &[]),
            mount(
                "format/mkdir/overlay",
                "overlay",
                &[
                    "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                    "X-containerd.mkdir.path={{ mount 1 }}/work",
                    &format!("lowerdir={}", lower.display()),
                    "upperdir={{ mount 1 }}/upper",
                    "workdir={{ mount 1 }}/work",
                ],
            ),
        ]
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for number in self.store().numbers().unwrap_or_default() {
            self.store().remove(number).ok();
        }
    }
}

fn mount(fs_type: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        fs_type: fs_type.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

/// The loop devices whose file is beneath `folder`.
fn devices(folder: &Path) -> usize {
    let blocks = std::fs::read_dir("/sys/block").unwrap();
    blocks
        .filter_map(|entry| {
            let file = entry.unwrap().path().join("loop/backing_file");
            std::fs::read_to_string(file).ok()
        })
        .filter(|file| Path::new(file.trim()).starts_with(folder))
        .count()
}

#[test]
fn a_stack_is_made_for_whoever_looks_and_all_of_it_goes() {
    let world = World::new();
    let made = world.make(7, world.stack(), true).unwrap();
    assert_eq!(made.active.len(), 3);
    assert_eq!(made.system.len(), 1);
    assert_eq!(made.system[0].fs_type, "bind");
    let top = Path::new(&made.system[0].source);
    assert_eq!(std::fs::read_to_string(top.join("below")).unwrap(), "below");
    std::fs::write(top.join("new"), "new").unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (2, 1));
    let table = world.store().table().unwrap();
    assert!(world.store().is_whole(&made.active, &table));
    world.store().remove(7).unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (0, 0));
    assert!(
        !world
            .store()
            .is_whole(&made.active, &world.store().table().unwrap())
    );
    assert!(world.store().numbers().unwrap().is_empty());
    world.store().remove(7).unwrap();
    // The file stays and is not made anew: it keeps what was written.
    let again = world.make(8, world.stack(), true).unwrap();
    let new = Path::new(&again.system[0].source).join("new");
    assert_eq!(std::fs::read_to_string(new).unwrap(), "new");
}

#[test]
fn what_the_client_mounts_itself_is_given_back_prepared() {
    let world = World::new();
    let made = world.make(1, world.stack(), false).unwrap();
    assert_eq!((made.active.len(), made.system.len()), (2, 1));
    let overlay = &made.system[0];
    assert_eq!(overlay.fs_type, "overlay");
    let upper = format!("{}/upper", made.active[1].mount_point);
    assert!(overlay.options.contains(&format!("upperdir={upper}")));
    assert_eq!(overlay.options.len(), 3, "{overlay:?}");
    assert!(Path::new(&upper).is_dir());
}

#[test]
fn another_store_on_the_same_folder_takes_down_what_a_killed_one_made() {
    let mut world = World::new();
    let made = world.make(3, world.stack(), true).unwrap();
    world.store = Some(world.open());
    assert!(
        world
            .store()
            .is_whole(&made.active, &world.store().table().unwrap())
    );
    assert_eq!(world.store().numbers().unwrap(), [3]);
    world.store().remove(3).unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (0, 0));
}

#[test]
fn a_mount_that_fails_leaves_nothing_of_those_before_it() {
    let world = World::new();
    let mut mounts = world.stack();
    mounts[2] = mount("format/ext4", "{{ mount 0 }}", &["nonsense=1"]);
    let refused = world.make(1, mounts, true).unwrap_err();
    assert_eq!(refused.code(), "ORL-E2203", "{refused}");
    assert_eq!((world.mounted(), devices(world.folder.path())), (0, 0));
    assert!(world.store().numbers().unwrap().is_empty());
}

#[test]
fn what_is_in_use_stays_whole_and_goes_when_it_is_not() {
    let world = World::new();
    let made = world.make(1, world.stack(), true).unwrap();
    let held = std::fs::File::open(Path::new(&made.system[0].source).join("below")).unwrap();
    let busy = world.store().remove(1).unwrap_err();
    assert_eq!(busy.code(), "ORL-E2206");
    assert!(
        world
            .store()
            .is_whole(&made.active, &world.store().table().unwrap())
    );
    drop(held);
    world.store().remove(1).unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (0, 0));
}

#[test]
fn a_device_that_is_somebody_elses_by_now_is_let_alone() {
    let world = World::new();
    let file = world.path("files/disk.img");
    std::fs::write(&file, vec![0_u8; 1 << 20]).unwrap();
    let source = file.to_str().unwrap();
    let made = world
        .make(1, vec![mount("loop", source, &["ro"])], false)
        .unwrap();
    let theirs = world
        .make(2, vec![mount("loop", source, &[])], false)
        .unwrap();
    // As after a reboot in which the other one got the number.
    let link = Path::new(&made.active[0].mount_point);
    std::fs::remove_file(link).unwrap();
    std::os::unix::fs::symlink(theirs.active[0].device.as_ref().unwrap(), link).unwrap();
    world.store().remove(1).unwrap();
    assert!(
        world
            .store()
            .is_whole(&theirs.active, &world.store().table().unwrap())
    );
    // The first is known by nobody any more: this test lets it go.
    let device = Path::new(made.active[0].device.as_ref().unwrap());
    let device = orlop_sys::mount::LoopDevice::open(device).unwrap();
    device.keep(false).unwrap();
    drop(device);
    world.store().remove(2).unwrap();
    assert_eq!(devices(world.folder.path()), 0);
}

#[test]
fn files_are_mounted_as_devices_that_go_with_their_mounts() {
    let world = World::new();
    let file = world.path("files/disk.img");
    let source = file.to_str().unwrap();
    let first = mount("mkfs/ext4", source, &["X-containerd.mkfs.size=16m", "loop"]);
    let made = world.make(1, vec![first], true).unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (1, 1));
    assert!(made.active[0].device.is_none());
    world.store().remove(1).unwrap();
    assert_eq!((world.mounted(), devices(world.folder.path())), (0, 0));
}

#[test]
fn what_cannot_be_is_refused_by_its_place_and_leaves_nothing() {
    let world = World::new();
    std::os::unix::fs::symlink("/tmp", world.path("files/link")).unwrap();
    let files = world.path("files");
    let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let folder = |path: String| {
        let option = format!("X-containerd.mkdir.path={path}");
        mount("mkdir/bind", "/tmp", &[&option])
    };
    let table = [
        (mount("loop", &at("missing"), &[]), "ORL-E2204"),
        (mount("loop", "/dev/null", &[]), "ORL-E2204"),
        (mount("loop", "", &[]), "ORL-E2201"),
        (mount("format/bind", "{{ mount 0 }}", &[]), "ORL-E2201"),
        (mount("mkfs/loop", &at("a"), &[]), "ORL-E2201"),
        (
            mount("mkfs/loop", "/etc/a", &["X-containerd.mkfs.size=1m"]),
            "ORL-E2202",
        ),
        (
            mount("mkfs/loop", &at("a"), &["X-containerd.mkfs.size=1k"]),
            "ORL-E2205",
        ),
        (folder("/etc/new".to_owned()), "ORL-E2202"),
        (folder(at("../new")), "ORL-E2202"),
        (folder(at("link/new")), "ORL-E2207"),
        (
            mount("erofs", &at("a"), &["X-containerd.dmverity=/a"]),
            "ORL-E2202",
        ),
        (mount("other/ext4", "/a", &[]), "ORL-E2202"),
    ];
    for (number, (mount, code)) in table.into_iter().enumerate() {
        let number = u64::try_from(number).unwrap();
        let refused = world.make(number, vec![mount.clone()], true).unwrap_err();
        assert_eq!(refused.code(), code, "{mount:?}: {refused}");
    }
    assert!(world.store().numbers().unwrap().is_empty());
    assert!(!files.join("a").exists());
}
