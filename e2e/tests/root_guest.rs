//! What takes a machine of one's own: power cuts, and cgroups of version 2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::print_stdout,
    reason = "how much was done is the result of a long run"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use orlop_e2e::guest::{Guest, Machine, reference_for_guest};
use orlop_e2e::workload::{Commands, Lane, Loss, Numbers, remove_everything};
use orlop_e2e::{Programs, Registry, Scratch, image};
use serde_json::{Value, json};

/// How often the power is cut.
const CUTS_VARIABLE: &str = "ORLOP_POWER_CUTS";
const CUTS_DEFAULT: u64 = 3;

/// Repeats a run that failed.
const SEED_VARIABLE: &str = "ORLOP_CRASH_SEED";
const SEED_DEFAULT: u64 = 0x5eed;

/// A start of a container takes about five seconds in there.
const LIFE_MILLIS_MAX: u64 = 15_000;

const MEMORY_MIB: u64 = 512;

/// Where the daemon keeps things in the guest.
const ROOT: &str = "/var/lib/orlop/root";

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Works until the power is cut at a random moment; gives how many operations were acknowledged.
fn work_until_cut(guest: Guest, lane: &mut Lane, numbers: &mut Numbers) -> u32 {
    let life = Duration::from_millis(1 + numbers.below(LIFE_MILLIS_MAX));
    let acknowledged = std::thread::scope(|scope| {
        let switch = guest.switch().unwrap();
        let worker = scope.spawn(|| lane.work(&guest, numbers, 100).unwrap());
        std::thread::sleep(life);
        // The emulator stands still from here on, so that nothing happens after the last answer that was heard.
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(guest.pid()).unwrap(),
            rustix::process::Signal::STOP,
        )
        .unwrap();
        switch.hang_up();
        worker.join().unwrap()
    });
    guest.cut().unwrap();
    acknowledged
}

/// The digests of the files of all committed snapshots, one per snapshot.
fn committed_trees(guest: &Guest) -> BTreeSet<String> {
    let script = format!(
        "cd {ROOT}/snapshots/overlayfs/snapshots && for n in *; do [ -d $n/work ] || [ ! -d $n/fs ] || \
         (cd $n/fs && find . -type f | sort | xargs sha256sum | sha256sum); done"
    );
    let answer = guest.shell(&script).unwrap().success().unwrap();
    answer.lines().map(str::to_owned).collect()
}

/// Everything that has to hold after any power cut.
fn check_after_cut(guest: &Guest, lane: &mut Lane, trees: &BTreeSet<String>, what: &str) {
    lane.check(guest, Loss::Power)
        .unwrap_or_else(|error| panic!("{what}: {error:#}\n{}", guest.daemon_log().unwrap()));
    guest.orlop(&["gc", "run"]).unwrap().success().unwrap();
    let fsck = guest.orlop(&["fsck", "--verify"]).unwrap();
    assert_eq!(fsck.code, 0, "{what}: {fsck:?}");
    let found = committed_trees(guest);
    assert!(
        found.is_subset(trees),
        "{what}: a committed snapshot is damaged: {found:?} {trees:?}"
    );
    let integrity = guest.shell(&format!("sqlite3 {ROOT}/meta.db 'PRAGMA integrity_check'"));
    assert_eq!(integrity.unwrap().success().unwrap(), "ok\n", "{what}");
}

struct Setup {
    machine: Machine,
    images: Vec<String>,
    port: u16,
    // Last: dropping it takes away what the others left.
    _registry: Registry,
    scratch: Scratch,
}

fn set_up() -> Setup {
    let scratch = Scratch::new().unwrap();
    let registry = Registry::start(&scratch).unwrap();
    let small = image::small(&scratch).unwrap();
    let large = image::large(&scratch, 3, 512 << 10).unwrap();
    let pushed = [
        registry.push(&small, image::TAG, "e2e/small:1").unwrap(),
        registry.push(&large, image::TAG, "e2e/large:1").unwrap(),
    ];
    let known = pushed.map(|name| reference_for_guest(&name).unwrap());
    let port = known[0].1;
    let machine = Machine::new(&Programs::find().unwrap(), &scratch).unwrap();
    Setup {
        machine,
        images: known.into_iter().map(|(name, _)| name).collect(),
        port,
        _registry: registry,
        scratch,
    }
}

#[test]
fn whatever_was_acknowledged_survives_power_cuts() {
    let seed = number(SEED_VARIABLE, SEED_DEFAULT);
    let cuts = number(CUTS_VARIABLE, CUTS_DEFAULT);
    let mut numbers = Numbers::new(seed);
    let setup = set_up();
    let images: Vec<&str> = setup.images.iter().map(String::as_str).collect();
    let mut lane = Lane::new(&images, &["one", "two"], "none");

    let mut guest = setup.machine.boot(MEMORY_MIB).unwrap();
    guest.start_daemon(setup.port).unwrap();
    for name in &images {
        guest.orlop(&["pull", name]).unwrap().success().unwrap();
    }
    let trees = committed_trees(&guest);
    assert!(trees.len() > 3, "{trees:?}");
    lane.check(&guest, Loss::Power).unwrap();
    let mut acknowledged = 0;
    for cut in 1..=cuts {
        acknowledged += work_until_cut(guest, &mut lane, &mut numbers);
        guest = setup.machine.boot(MEMORY_MIB).unwrap();
        guest.start_daemon(setup.port).unwrap();
        check_after_cut(
            &guest,
            &mut lane,
            &trees,
            &format!("seed {seed}, cut {cut}"),
        );
    }
    println!("seed {seed}: {cuts} cuts, {acknowledged} acknowledgements");
    for name in &images {
        guest.orlop(&["pull", name]).unwrap().success().unwrap();
    }
    remove_everything(&guest).unwrap();
    guest.orlop(&["gc", "run"]).unwrap().success().unwrap();
    let status = guest.json(&["gc", "status"]).unwrap();
    assert_eq!(status["bytes_held"], 0, "seed {seed}: {status:#}");
    guest.cut().unwrap();
    setup.scratch.close().unwrap();
}

/// Runs a script in a container until it ends, and gives what is known of its end.
fn end_of(guest: &Guest, image: &str, name: &str, options: &[&str], script: &str) -> Value {
    let command = ["--net", "none", "--name", name, image, "sh", "-c", script];
    guest
        .orlop(&[&["run", "-d"], options, &command].concat())
        .unwrap()
        .success()
        .unwrap();
    let mut exit = Value::Null;
    for _ in 0..300 {
        exit = guest.json(&["inspect", name]).unwrap()["exit"].take();
        if exit.is_object() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    guest.orlop(&["rm", "-f", name]).unwrap().success().unwrap();
    exit
}

/// Takes more and more memory.
const GREEDY: &str = "tail /dev/zero";

#[test]
fn cgroups_of_version_2_limit_count_and_tell_who_ran_out_of_memory() {
    let setup = set_up();
    let guest = setup.machine.boot(MEMORY_MIB).unwrap();
    guest.start_daemon(setup.port).unwrap();
    let small = &setup.images[0];
    guest.orlop(&["pull", small]).unwrap().success().unwrap();

    // Limits reach the kernel.
    let limits = ["-m", "48MiB", "--cpus", "0.5", "--pids-limit", "33"];
    let sleep = ["--net", "none", "--name", "limited", small, "sleep", "1000"];
    guest
        .orlop(&[&["run", "-d"], &limits[..], &sleep].concat())
        .unwrap()
        .success()
        .unwrap();
    let inspection = guest.json(&["inspect", "limited"]).unwrap();
    let group = &inspection["container"]["spec"]["linux"]["cgroupsPath"];
    let group = group.as_str().unwrap().to_owned();
    assert_eq!(inspection["cgroup_path"], *group);
    let read = |file: &str| {
        let line = format!("cat /sys/fs/cgroup{group}/{file}");
        guest
            .shell(&line)
            .unwrap()
            .success()
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(read("memory.max"), "50331648");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("pids.max"), "33");
    let stats = guest.json(&["stats", "limited"]).unwrap();
    println!("{stats:#}");
    guest
        .orlop(&["rm", "-f", "limited"])
        .unwrap()
        .success()
        .unwrap();

    let own = end_of(&guest, small, "own", &["-m", "16MiB"], GREEDY);
    assert_eq!(own["cause"], "workload_oom", "{own:#}");
    let code = end_of(&guest, small, "code", &["-m", "32MiB"], "exit 137");
    assert_eq!(code["cause"], "exited", "{code:#}");

    // As in a pod: the limit is above the container.
    guest
        .shell("echo 24M >/sys/fs/cgroup/orlop/memory.max")
        .unwrap()
        .success()
        .unwrap();
    let ancestor = end_of(&guest, small, "pod", &[], GREEDY);
    assert_eq!(ancestor["cause"], "ancestor_oom", "{ancestor:#}");

    // No limit anywhere: the machine itself has no more.
    guest
        .shell("echo max >/sys/fs/cgroup/orlop/memory.max")
        .unwrap()
        .success()
        .unwrap();
    let host = end_of(&guest, small, "host", &[], GREEDY);
    assert_eq!(host["cause"], "host_oom", "{host:#}");
    assert_eq!(
        guest.json(&["info"]).unwrap()["id"],
        Value::Null,
        "the daemon lives on"
    );
    assert_eq!(guest.json(&["ps", "-a"]).unwrap(), json!([]));
    guest.cut().unwrap();
    setup.scratch.close().unwrap();
}
