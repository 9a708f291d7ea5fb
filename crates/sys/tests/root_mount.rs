//! Mounts on the real kernel: every test has its own folder and takes its mounts down even when it fails.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use orlop_sys::mount::preflight::{self, Argument, Fault};
use orlop_sys::mount::{
    Detached, MountError, MountTable, Unmount, UnmountErrors, detached_overlay_at_once,
    escape_layer, mount_all, mount_overlay_at_once, unmount_all,
};
use orlop_types::Mount;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The folder `name`, created.
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn entries(&self) -> Vec<PathBuf> {
        let table = MountTable::read().unwrap();
        let root = self.folder("");
        table
            .beneath(&root)
            .map(|entry| entry.mountpoint.clone())
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount_all(self.0.path(), EVERYTHING).ok();
    }
}

const EVERYTHING: Unmount = Unmount {
    detach: true,
    recursive: true,
};

fn mount(fs_type: &str, options: &[&str]) -> Mount {
    Mount {
        fs_type: fs_type.to_owned(),
        source: fs_type.to_owned(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn overlay(lowers: &[&Path], upper: Option<(&Path, &Path)>) -> Mount {
    let text = |path: &Path| escape_layer(path.to_str().unwrap());
    let lowers: Vec<_> = lowers.iter().map(|lower| text(lower)).collect();
    let mut options = vec![
        "index=off".to_owned(),
        format!("lowerdir={}", lowers.join(":")),
    ];
    if let Some((upper, work)) = upper {
        options.push(format!("upperdir={}", text(upper)));
        options.push(format!("workdir={}", text(work)));
    }
    Mount {
        options,
        ..mount("overlay", &[])
    }
}

fn all_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn put(path: &Path, text: &str) {
    use std::io::Write;
    fs::File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

#[test]
fn flags_and_data_options_reach_the_kernel() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    let options = [
        "nosuid", "nodev", "noexec", "noatime", "size=64k", "mode=700", "ro",
    ];
    mount_all(&[mount("tmpfs", &options)], &at).unwrap();
    let table = MountTable::read().unwrap();
    let entry = table.covering(&at).unwrap();
    assert_eq!(entry.mountpoint, at);
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(
            entry.options.split(',').any(|o| o == option),
            "{option}: {}",
            entry.options
        );
    }
    assert_eq!(entry.super_values("size").next().unwrap(), Path::new("64k"));
    assert!(fs::create_dir(at.join("x")).is_err());
}

#[test]
fn the_file_systems_of_a_container_can_all_be_mounted() {
    let scratch = Scratch::new();
    for (fs_type, options) in [
        ("proc", &["nosuid", "nodev", "noexec"][..]),
        ("sysfs", &["ro", "nosuid"]),
        ("mqueue", &["nosuid"]),
        (
            "devpts",
            &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("tmpfs", &["strictatime", "size=65536k"]),
    ] {
        let at = scratch.folder(fs_type);
        mount_all(&[mount(fs_type, options)], &at)
            .unwrap_or_else(|e| panic!("{fs_type}: {}", all_of(&e)));
    }
    assert_eq!(scratch.entries().len(), 5);
    unmount_all(
        &scratch.folder(""),
        Unmount {
            detach: false,
            recursive: true,
        },
    )
    .unwrap();
    assert!(scratch.entries().is_empty());
}

#[test]
fn a_refused_option_is_named_with_the_kernels_words() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    for (mount, named) in [
        (mount("tmpfs", &["no_such_key=5"]), "no_such_key"),
        (mount("tmpfs", &["size=many"]), "size"),
        (mount("overlay", &["redirect_dir=perhaps"]), "redirect_dir"),
        (mount("no_such_fs", &[]), "no_such_fs"),
        (mount("bind", &["bind"]), "bind"),
    ] {
        let error = mount_all(std::slice::from_ref(&mount), &at).unwrap_err();
        assert!(all_of(&error).contains(named), "{}", all_of(&error));
        assert!(error.code().starts_with("ORL-E21"));
    }
    let unknown = mount_all(&[mount("tmpfs", &["no_such_key=5"])], &at).unwrap_err();
    assert!(
        unknown.to_string().contains("Unknown parameter"),
        "{unknown}"
    );
    assert!(scratch.entries().is_empty());
}

#[test]
fn a_bind_mount_is_read_only_and_takes_submounts_only_if_recursive() {
    let scratch = Scratch::new();
    let source = scratch.folder("source");
    mount_all(&[mount("tmpfs", &[])], &scratch.folder("source/sub")).unwrap();
    put(&source.join("sub/file"), "x");
    for (options, sees_submount) in [(["bind", "ro"], false), (["rbind", "rro"], true)] {
        let at = scratch.folder("at");
        let bind = Mount {
            source: source.to_str().unwrap().to_owned(),
            ..mount("bind", &options)
        };
        mount_all(&[bind], &at).unwrap();
        assert_eq!(at.join("sub/file").exists(), sees_submount);
        assert!(fs::create_dir(at.join("x")).is_err());
        assert!(!sees_submount || fs::create_dir(at.join("sub/x")).is_err());
        unmount_all(&at, EVERYTHING).unwrap();
    }
}

#[test]
fn propagation_is_set_after_attaching() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    mount_all(&[mount("tmpfs", &["shared"])], &at).unwrap();
    let table = MountTable::read().unwrap();
    assert!(
        table
            .covering(&at)
            .unwrap()
            .propagation
            .iter()
            .any(|p| p.starts_with("shared:"))
    );
}

#[test]
fn a_failing_mount_takes_the_earlier_ones_down_again() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    let mounts = [
        mount("tmpfs", &[]),
        mount("tmpfs", &[]),
        mount("tmpfs", &["size=many"]),
    ];
    mount_all(&mounts, &at).unwrap_err();
    assert!(scratch.entries().is_empty());
}

#[test]
fn targets_beneath_cannot_lead_out_of_the_folder() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    let outside = scratch.folder("outside");
    scratch.folder("at/outside");
    std::os::unix::fs::symlink("../outside", at.join("link")).unwrap();
    let inside = Mount {
        target: "link".to_owned(),
        ..mount("tmpfs", &[])
    };
    mount_all(&[inside], &at).unwrap();
    assert_eq!(scratch.entries(), [at.join("outside")]);
    assert!(fs::read_dir(outside).unwrap().next().is_none());
}

#[test]
fn two_hundred_layers_with_long_and_odd_names_are_one_overlay() {
    let scratch = Scratch::new();
    let base = scratch.folder(&format!("{}/a:b\\c,d e", "long".repeat(60)));
    let lowers: Vec<_> = (0..200).map(|n| base.join(format!("{n}"))).collect();
    for (n, lower) in lowers.iter().enumerate() {
        fs::create_dir(lower).unwrap();
        put(&lower.join(format!("file{n}")), "x");
        put(&lower.join("which"), &n.to_string());
    }
    let (upper, work, at) = (base.join("upper"), base.join("work"), scratch.folder("at"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let paths: Vec<_> = lowers.iter().map(PathBuf::as_path).collect();
    let mount = overlay(&paths, Some((&upper, &work)));
    assert!(
        mount.options[1].len() > 2 * 4096,
        "more than mount(2) takes"
    );
    assert!(preflight::overlay(&mount).is_empty());
    mount_all(&[mount], &at).unwrap_or_else(|e| panic!("{}", all_of(&e)));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 201);
    assert_eq!(
        fs::read_to_string(at.join("which")).unwrap(),
        "0",
        "the first is the top"
    );
    put(&at.join("new"), "x");
    assert!(upper.join("new").exists());
}

#[test]
fn a_detached_mount_ends_when_it_is_dropped() {
    let scratch = Scratch::new();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.folder(name));
    let mut mount = overlay(&[&lower], Some((&upper, &work)));
    // With an index the kernel lets only one overlay at a time use an upper folder.
    mount.options.push("index=on".to_owned());
    let detached = Detached::new(&mount).unwrap();
    let error = Detached::new(&mount).expect_err("the first is still there");
    assert!(all_of(&error).contains("busy"), "{}", all_of(&error));
    drop(detached);
    Detached::new(&mount).unwrap();
}

#[test]
fn stacked_mounts_go_together_and_a_busy_one_is_named() {
    let scratch = Scratch::new();
    let at = scratch.folder("at");
    mount_all(&[mount("tmpfs", &[]), mount("tmpfs", &[])], &at).unwrap();
    let how = Unmount::default();
    let open = fs::File::create(at.join("open")).unwrap();
    let error = unmount_all(&at, how).unwrap_err();
    assert!(
        matches!(&error, UnmountErrors::Remain { first, .. } if first.mountpoint == at),
        "{error}"
    );
    unmount_all(
        &at,
        Unmount {
            detach: true,
            ..how
        },
    )
    .unwrap();
    drop(open);
    unmount_all(&at, how).expect("nothing there is no error");
    unmount_all(&scratch.folder("").join("none/at/all"), how).expect("no folder is no error");
    assert!(scratch.entries().is_empty());
}

#[test]
fn an_id_map_needs_a_user_namespace() {
    let scratch = Scratch::new();
    let tree = Detached::clone_tree(&scratch.folder("source"), false).unwrap();
    let initial = fs::File::open("/proc/self/ns/user").unwrap();
    let error = tree.map_ids(&initial).unwrap_err();
    assert!(matches!(error, MountError::Attributes { .. }), "{error}");
}

/// What the preflight says about a mount that the kernel must not accept either, unless `kernel_accepts`.
fn faults(scratch: &Scratch, mount: &Mount, kernel_accepts: bool) -> Vec<Fault> {
    let at = scratch.folder("preflight-at");
    let faults = preflight::overlay(mount);
    let result = mount_all(std::slice::from_ref(mount), &at);
    if result.is_ok() {
        unmount_all(&at, EVERYTHING).unwrap();
    }
    assert_eq!(result.is_ok(), kernel_accepts, "{mount:?}: {result:?}");
    faults
}

#[test]
fn the_preflight_finds_missing_folders_and_files_in_their_place() {
    let scratch = Scratch::new();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.folder(name));
    let missing = scratch.folder("").join("missing");
    let file = scratch.folder("").join("file");
    put(&file, "x");
    for bad in [&missing, &file] {
        for (mount, wanted) in [
            (
                overlay(&[&lower, bad], Some((&upper, &work))),
                Argument::Lower(1),
            ),
            (overlay(&[&lower], Some((bad, &work))), Argument::Upper),
            (overlay(&[&lower], Some((&upper, bad))), Argument::Work),
        ] {
            let faults = faults(&scratch, &mount, false);
            let named = match &faults[..] {
                [Fault::Missing { argument, path }] if bad == &missing => (*argument, path),
                [Fault::NotAFolder { argument, path }] if bad == &file => (*argument, path),
                other => panic!("{other:?}"),
            };
            assert_eq!(named, (wanted, bad));
        }
    }
    assert!(faults(&scratch, &overlay(&[&lower], Some((&upper, &work))), true).is_empty());
}

#[test]
fn the_preflight_finds_upper_and_work_that_do_not_fit() {
    let scratch = Scratch::new();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.folder(name));
    mount_all(&[mount("tmpfs", &[])], &scratch.folder("other")).unwrap();
    let other = scratch.folder("other/work");
    let found = faults(&scratch, &overlay(&[&lower], Some((&upper, &other))), false);
    assert!(
        matches!(&found[..], [Fault::DifferentMounts { work, .. }] if work == &other),
        "{found:?}"
    );

    let inside = scratch.folder("upper/work");
    let found = faults(
        &scratch,
        &overlay(&[&lower], Some((&upper, &inside))),
        false,
    );
    assert!(
        matches!(&found[..], [Fault::NotSeparate { work, .. }] if work == &inside),
        "{found:?}"
    );
    let found = faults(&scratch, &overlay(&[&lower], Some((&work, &work))), false);
    assert!(
        matches!(&found[..], [Fault::NotSeparate { .. }]),
        "{found:?}"
    );
}

#[test]
fn the_preflight_finds_an_upper_on_overlay_or_read_only() {
    let scratch = Scratch::new();
    let [lower, upper, work, at] =
        ["lower", "upper", "work", "at"].map(|name| scratch.folder(name));
    mount_all(&[overlay(&[&lower], Some((&upper, &work)))], &at).unwrap();
    let (nested, nested_work) = (scratch.folder("at/upper"), scratch.folder("at/work"));
    let found = faults(
        &scratch,
        &overlay(&[&lower], Some((&nested, &nested_work))),
        false,
    );
    assert!(
        matches!(&found[..], [Fault::UpperOnOverlay { path }] if path == &nested),
        "{found:?}"
    );

    let tmpfs = scratch.folder("ro");
    mount_all(&[mount("tmpfs", &[])], &tmpfs).unwrap();
    let (upper, work) = (scratch.folder("ro/upper"), scratch.folder("ro/work"));
    let read_only = Mount::bind(tmpfs.to_str().unwrap(), true);
    mount_all(&[read_only], &tmpfs).unwrap();
    let found = faults(&scratch, &overlay(&[&lower], Some((&upper, &work))), false);
    assert!(
        matches!(&found[..], [Fault::ReadOnlyUpper { path }] if path == &upper),
        "{found:?}"
    );
}

#[test]
fn the_preflight_finds_an_upper_in_use_which_the_kernel_lets_pass() {
    let scratch = Scratch::new();
    let [lower, upper, work, at] =
        ["lower", "upper", "work", "at"].map(|name| scratch.folder(name));
    let mount = overlay(&[&lower], Some((&upper, &work)));
    mount_all(std::slice::from_ref(&mount), &at).unwrap();
    let other_work = scratch.folder("work2");
    let second = overlay(&[&lower], Some((&upper, &other_work)));
    let found = preflight::overlay(&second);
    assert!(
        matches!(&found[..], [Fault::Busy { argument: Argument::Upper, path, mountpoint }]
            if path == &upper && mountpoint == &at),
        "{found:?}"
    );
}

#[test]
fn the_preflight_finds_lowers_that_are_too_many_equal_or_nested() {
    let scratch = Scratch::new();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.folder(name));
    let inner = scratch.folder("lower/inner");
    let writable = Some((upper.as_path(), work.as_path()));

    let many: Vec<_> = (0..501)
        .map(|n| scratch.folder(&format!("many/{n}")))
        .collect();
    let many: Vec<_> = many.iter().map(PathBuf::as_path).collect();
    let found = faults(&scratch, &overlay(&many, writable), false);
    assert!(
        matches!(&found[..], [Fault::TooManyLowers { count: 501 }]),
        "{found:?}"
    );

    let found = faults(&scratch, &overlay(&[&lower, &lower], writable), false);
    assert!(
        matches!(
            &found[..],
            [Fault::Duplicate {
                first: Argument::Lower(0),
                second: Argument::Lower(1),
                ..
            }]
        ),
        "{found:?}"
    );
    let found = faults(&scratch, &overlay(&[&lower, &inner], writable), false);
    assert!(
        matches!(
            &found[..],
            [Fault::Overlapping {
                inner: Argument::Lower(1),
                outer: Argument::Lower(0),
                ..
            }]
        ),
        "{found:?}"
    );
}

#[test]
fn kernels_without_appending_get_overlays_that_are_attached_nowhere() {
    let scratch = Scratch::new();
    let (lower, at) = (scratch.folder("lower"), scratch.folder("at"));
    let (upper, work) = (scratch.folder("upper"), scratch.folder("work"));
    put(&lower.join("below"), "x");
    let mount = overlay(&[&lower], Some((&upper, &work)));
    let before = MountTable::read().unwrap();
    let detached = detached_overlay_at_once(&mount).unwrap_or_else(|e| panic!("{}", all_of(&e)));
    let after = MountTable::read().unwrap();
    assert_eq!(
        after.beneath(&lower).count(),
        before.beneath(&lower).count()
    );
    detached.attach(fs::File::open(&at).unwrap(), &at).unwrap();
    assert_eq!(fs::read(at.join("below")).unwrap(), b"x");
    put(&at.join("new"), "x");
    assert!(upper.join("new").exists());
    // Dropped first: its descriptor keeps the mount busy.
    drop(detached);
    unmount_all(&at, Unmount::default()).unwrap();
    let nothing_below = Mount {
        options: Vec::new(),
        ..mount
    };
    detached_overlay_at_once(&nothing_below).unwrap_err();
}

#[test]
fn kernels_without_appending_get_two_hundred_layers_in_one_option_string() {
    let scratch = Scratch::new();
    let base = scratch.folder(&format!("{}/a:b\\c,d", "long".repeat(60)));
    let lowers: Vec<_> = (0..200).map(|n| base.join(n.to_string())).collect();
    for lower in &lowers {
        fs::create_dir(lower).unwrap();
        put(&lower.join(lower.file_name().unwrap()), "x");
    }
    let (upper, work, at) = (base.join("upper"), base.join("work"), scratch.folder("at"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let paths: Vec<_> = lowers.iter().map(PathBuf::as_path).collect();
    let mut mount = overlay(&paths, Some((&upper, &work)));
    mount.options.push("nosuid".to_owned());
    mount_overlay_at_once(&mount, &at).unwrap_or_else(|e| panic!("{}", all_of(&e)));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 200);
    put(&at.join("new"), "x");
    assert!(upper.join("new").exists());
    let table = MountTable::read().unwrap();
    assert!(table.covering(&at).unwrap().options.contains("nosuid"));
    mount.options.push("no_such_option".to_owned());
    mount_overlay_at_once(&mount, &at).unwrap_err();
    unmount_all(&at, Unmount::default()).unwrap();
    assert!(scratch.entries().is_empty());
}

mod id_map {
    #![allow(
        clippy::disallowed_methods,
        reason = "the child only holds a user namespace open"
    )]

    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    /// A namespace in which users 0 to 999 are 100000 to 100999 outside.
    fn user_namespace() -> fs::File {
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let child = Command::new("unshare")
            .args(["--user", "sleep", "60"])
            .spawn()
            .unwrap();
        let sleeper = Sleeper(child);
        let proc = PathBuf::from(format!("/proc/{}", sleeper.0.id()));
        while fs::read_link(proc.join("ns/user")).unwrap() == own {
            std::thread::yield_now();
        }
        for map in ["uid_map", "gid_map"] {
            use std::io::Write;
            let mut file = fs::File::options()
                .write(true)
                .open(proc.join(map))
                .unwrap();
            file.write_all(b"0 100000 1000\n").unwrap();
        }
        fs::File::open(proc.join("ns/user")).unwrap()
    }

    #[test]
    fn a_mapped_clone_shows_other_owners_and_the_original_does_not() {
        let scratch = Scratch::new();
        let (source, at) = (scratch.folder("source"), scratch.folder("at"));
        put(&source.join("file"), "x");
        std::os::unix::fs::chown(source.join("file"), Some(7), Some(8)).unwrap();
        let tree = Detached::clone_tree(&source, true).unwrap();
        let tree = tree.map_ids(user_namespace()).unwrap();
        tree.attach(fs::File::open(&at).unwrap().as_fd(), &at)
            .unwrap();
        let mapped = fs::metadata(at.join("file")).unwrap();
        assert_eq!((mapped.uid(), mapped.gid()), (100_007, 100_008));
        assert_eq!(fs::metadata(source.join("file")).unwrap().uid(), 7);
        drop(tree);
        assert_eq!(scratch.entries(), [at], "an attached mount stays");
    }
}
