//! User namespaces held by this program, and mounts with their maps, on the real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test writes its own files and may panic"
)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_sys::mount::{Detached, MountTable, Unmount, unmount_all};
use orlop_sys::namespace::user::{Making, UserNamespace, create_owned};
use orlop_sys::namespace::{self, Kind, Parameter, Pin, Setup};
use orlop_types::{IdMaps, IdRange, Mount};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-orlop-v1");

const fn range(inside: u32, outside: u32, count: u32) -> IdRange {
    IdRange {
        inside,
        outside,
        count,
    }
}

/// The superuser and the others in ranges apart, groups elsewhere than users.
fn maps() -> IdMaps {
    IdMaps {
        uids: vec![range(0, 200_000, 1), range(1, 300_000, 65_535)],
        gids: vec![range(0, 400_000, 65_536)],
    }
}

fn making(maps: &IdMaps) -> Making<'_> {
    Making {
        program: Path::new(SHIM),
        maps,
        limit: Duration::from_secs(10),
    }
}

fn make() -> UserNamespace {
    UserNamespace::make(&making(&maps())).unwrap()
}

fn holders() -> usize {
    let is_holder = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.windows(15).any(|word| word == b"\0user-namespace"))
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(is_holder)
        .count()
}

fn mount_count() -> usize {
    MountTable::read().unwrap().iter().count()
}

fn open_folder(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

#[test]
fn namespaces_belong_to_the_pinned_user_namespace_and_go_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pins = [
        (Kind::Network, at("net")),
        (Kind::Ipc, at("ipc")),
        (Kind::Uts, at("uts")),
    ]
    .map(|(kind, path)| Pin { kind, path });
    let parameter = |path: &str, value: &str| Parameter {
        path: path.into(),
        value: value.to_owned(),
        optional: false,
    };
    let setup = Setup {
        hostname: Some("mapped".to_owned()),
        parameters: vec![
            parameter("net/ipv4/ip_unprivileged_port_start", "7"),
            parameter("kernel/shm_rmid_forced", "1"),
            parameter("kernel/msgmax", "4096"),
            parameter("fs/mqueue/msg_max", "33"),
        ],
    };
    let before = mount_count();
    create_owned(&making(&maps()), &at("user"), &pins, &setup).unwrap();
    create_owned(&making(&maps()), &at("user"), &pins, &setup).unwrap();
    assert_eq!(mount_count(), before + 4);
    assert_eq!(holders(), 0);
    let user = fs::metadata(at("user")).unwrap().ino();
    for pin in &pins {
        assert_eq!(owner(&pin.path), user, "{:?}", pin.kind);
    }
    let seen = |kind: &str, file: &'static str| {
        let text = namespace::within(&at(kind), || fs::read_to_string(file).unwrap());
        text.unwrap().trim().to_owned()
    };
    assert_eq!(seen("uts", "/proc/sys/kernel/hostname"), "mapped");
    let ports = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(seen("net", ports), "7");
    assert_eq!(seen("ipc", "/proc/sys/kernel/shm_rmid_forced"), "1");
    assert_eq!(seen("ipc", "/proc/sys/kernel/msgmax"), "4096");
    assert_eq!(seen("ipc", "/proc/sys/fs/mqueue/msg_max"), "33");
    UserNamespace::open(&at("user"), &maps()).unwrap();
    for name in ["net", "ipc", "uts", "user"] {
        namespace::remove(&at(name)).unwrap();
    }
    assert_eq!(mount_count(), before);
    assert!(UserNamespace::open(&at("user"), &maps()).is_err());
}

/// The inode of the user namespace that the namespace at `path` belongs to.
fn owner(path: &Path) -> u64 {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let file = fs::File::open(path).unwrap();
    // SAFETY: the descriptor is open and the request takes no argument; a result that is not negative is a new descriptor.
    #[allow(unsafe_code, reason = "see SAFETY")]
    let owner = unsafe {
        let owner = libc::ioctl(file.as_raw_fd(), NS_GET_USERNS);
        assert!(owner >= 0);
        OwnedFd::from_raw_fd(owner)
    };
    fs::File::from(owner).metadata().unwrap().ino()
}

#[test]
fn a_failure_leaves_neither_pins_nor_processes() {
    let folder = tempfile::tempdir().unwrap();
    let user = folder.path().join("user");
    let bad = IdMaps {
        uids: vec![range(1, 1, 1)],
        ..maps()
    };
    let error = create_owned(&making(&bad), &user, &[], &Setup::default()).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("id 0"),
        "{error}"
    );
    let unknown = Setup {
        parameters: vec![Parameter {
            path: "kernel/no_such".into(),
            value: "1".to_owned(),
            optional: false,
        }],
        ..Setup::default()
    };
    create_owned(&making(&maps()), &user, &[], &unknown).unwrap_err();
    let maps = maps();
    let silent = Making {
        program: Path::new("/bin/true"),
        ..making(&maps)
    };
    create_owned(&silent, &user, &[], &Setup::default()).unwrap_err();
    let slow = folder.path().join("slow");
    fs::write(&slow, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let slow = Making {
        program: &slow,
        limit: Duration::from_millis(200),
        maps: &maps,
    };
    create_owned(&slow, &user, &[], &Setup::default()).unwrap_err();
    assert!(!user.exists());
    assert_eq!(holders(), 0);
}

/// What a container's files are on disk and in the mount: uid, gid.
fn ids(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

struct Layers {
    folder: tempfile::TempDir,
}

impl Layers {
    /// Two lower layers and an empty upper one, with files of several owners.
    fn new() -> Self {
        let layers = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for name in ["1/fs/etc", "2/fs/bin", "3/fs", "3/work", "rootfs"] {
            fs::create_dir_all(layers.at(name)).unwrap();
        }
        fs::write(layers.at("1/fs/etc/passwd"), "root").unwrap();
        fs::write(layers.at("1/fs/etc/app"), "app").unwrap();
        chown(layers.at("1/fs/etc/app"), Some(1000), Some(1000)).unwrap();
        fs::write(layers.at("2/fs/bin/sh"), "sh").unwrap();
        layers
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mount(&self) -> Mount {
        let option = |key: &str, name: &str| format!("{key}={}", self.at(name).display());
        let lower = format!(
            "{}:{}",
            option("lowerdir", "2/fs"),
            self.at("1/fs").display()
        );
        Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                lower,
                option("upperdir", "3/fs"),
                option("workdir", "3/work"),
            ],
        }
    }

    /// Every path below the lower layers with owner, mode and change time.
    fn print(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.at("1"), self.at("2")];
        while let Some(path) = open.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            found.push(format!(
                "{} {} {} {:o} {}.{}",
                path.display(),
                metadata.uid(),
                metadata.gid(),
                metadata.mode(),
                metadata.ctime(),
                metadata.ctime_nsec()
            ));
            if metadata.is_dir() {
                open.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
        found.sort();
        found
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let how = Unmount {
            detach: true,
            recursive: true,
        };
        unmount_all(&self.at("rootfs"), how).unwrap();
    }
}

#[test]
fn files_of_an_overlay_appear_mapped_and_stay_as_they_are_on_disk() {
    let layers = Layers::new();
    let before = (layers.print(), mount_count());
    let namespace = make();
    let mount = Detached::mapped(&layers.mount(), &namespace).unwrap();
    // The mounts keep the map, not the descriptor.
    drop(namespace);
    assert_eq!(mount_count(), before.1);
    let rootfs = layers.at("rootfs");
    mount.attach(open_folder(&rootfs), &rootfs).unwrap();
    drop(mount);
    assert_eq!(ids(&rootfs), (200_000, 400_000));
    assert_eq!(ids(&rootfs.join("etc/passwd")), (200_000, 400_000));
    assert_eq!(ids(&rootfs.join("etc/app")), (300_999, 401_000));
    // As the container's superuser would.
    let written = rootfs.join("etc/passwd");
    as_superuser(move || {
        fs::write(&written, "more").unwrap();
        fs::write(written.with_file_name("new"), "new").unwrap();
        fs::remove_file(written.with_file_name("app")).unwrap();
        chown(written.with_file_name("new"), Some(300_004), Some(400_005)).unwrap();
    });
    assert_eq!(ids(&layers.at("3/fs/etc/passwd")), (0, 0));
    assert_eq!(ids(&layers.at("3/fs/etc/new")), (5, 5));
    let whiteout = fs::symlink_metadata(layers.at("3/fs/etc/app")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    let entry = MountTable::read().unwrap();
    let entry = entry.covering(&rootfs).unwrap();
    assert_eq!(entry.overlay_folders()[0], layers.at("3/fs"));
    assert!(entry.overlay_folders().contains(&layers.at("1/fs")));
    let how = Unmount {
        detach: false,
        recursive: false,
    };
    unmount_all(&rootfs, how).unwrap();
    assert_eq!((layers.print(), mount_count()), before);
}

/// On a thread that is the container's superuser with the capabilities of one.
fn as_superuser(job: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(400_000)).unwrap();
        let bits = rustix::thread::CapabilitiesSecureBits::NO_SETUID_FIXUP;
        rustix::thread::set_capabilities_secure_bits(bits).unwrap();
        rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(200_000)).unwrap();
        job();
    });
    thread.join().unwrap();
}

#[test]
fn two_pods_can_map_the_same_image_differently_at_the_same_time() {
    let layers = Layers::new();
    let first = Detached::mapped(&layers.mount(), &make()).unwrap();
    let other = IdMaps {
        uids: vec![range(0, 700_000, 65_536)],
        gids: vec![range(0, 700_000, 65_536)],
    };
    let other = UserNamespace::make(&making(&other)).unwrap();
    let mut mount = layers.mount();
    mount.options.truncate(1);
    let second = Detached::mapped(&mount, &other).unwrap();
    let uid = |mount: &Detached| {
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::statat(mount.as_fd(), "etc/app", flags)
            .unwrap()
            .st_uid
    };
    assert_eq!((uid(&first), uid(&second)), (300_999, 701_000));
}

#[test]
fn a_bound_volume_appears_mapped_even_where_a_mount_beneath_cannot_be() {
    let layers = Layers::new();
    let volume = layers.at("1/fs/etc");
    let namespace = make();
    let bound =
        Detached::mapped(&Mount::bind(volume.to_str().unwrap(), false), &namespace).unwrap();
    let rootfs = layers.at("rootfs");
    bound.attach(open_folder(&rootfs), &rootfs).unwrap();
    assert_eq!(ids(&rootfs.join("app")), (300_999, 401_000));
    let proc = Detached::mapped(&Mount::bind("/proc", false), &namespace).unwrap_err();
    let told = orlop_types::chain(&proc);
    assert!(told.contains("id map"), "{told}");
}

#[test]
fn folders_that_one_clone_does_not_hold_are_refused_by_name() {
    let layers = Layers::new();
    let other = layers.at("2/fs");
    let tmpfs = Mount {
        fs_type: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        ..Mount::default()
    };
    let tmpfs = Detached::new(&tmpfs).unwrap();
    tmpfs.attach(open_folder(&other), &other).unwrap();
    drop(tmpfs);
    let error = Detached::mapped(&layers.mount(), &make()).unwrap_err();
    unmount_all(&other, Unmount::default()).unwrap();
    let told = orlop_types::chain(&error);
    assert!(
        told.contains("2/fs") && told.contains("another file system"),
        "{told}"
    );
}
