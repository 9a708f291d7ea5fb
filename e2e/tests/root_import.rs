//! A node changes from Debian's containerd to orlopd: what it has pulled is brought over and run without a registry.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::time::Duration;

use orlop_e2e::programs::run;
use orlop_e2e::{Daemon, Engine, Options, Programs, Registry, Scratch, image};
use orlop_sys::process::Spawn;
use serde_json::Value;

/// How often the import is killed before it may end.
const KILLS: u64 = 6;

struct Node {
    programs: Programs,
    scratch: Scratch,
}

impl Node {
    fn import<'a>(&self, theirs: &'a Path, more: &[&'a str]) -> Spawn<'a> {
        let ours = self.scratch.path().join("ours");
        let root = format!("engine.root={}", ours.display());
        Spawn::new(self.programs.orlopd())
            .args(["--set", &root, "import", "containerd", "--root"])
            .arg(theirs)
            .args(more)
    }

    fn start(&self) -> Engine {
        let options = Options {
            root: Some(self.scratch.path().join("ours")),
            ..Options::default()
        };
        Engine::orlopd(&self.programs, &self.scratch, &options).unwrap()
    }
}

/// Names, times and bytes of what a stopped containerd has, snapshots aside.
fn fingerprint(root: &Path) -> String {
    let script = "cd \"$0\" && find io.containerd.metadata.v1.bolt io.containerd.content.v1.content \
                  -type f -printf '%p %s %T@ ' -exec sha256sum {} +";
    let spawn = Spawn::new("sh").args(["-c", script]).arg(root);
    run(spawn, "find").unwrap()
}

/// What Debian's containerd has pulled, leased, labelled and made a container of.
fn fill(engine: &Engine, reference: &str) {
    let ctr = |arguments: &[&str]| engine.ctr(arguments).unwrap();
    ctr(&["namespaces", "label", engine.namespace(), "owner=team"]);
    ctr(&["images", "pull", "--plain-http", reference]);
    ctr(&["images", "label", reference, "colour=blue"]);
    ctr(&["leases", "create", "--id", "kept", "why=test"]);
    ctr(&["containers", "create", reference, "web", "sleep", "1"]);
}

fn import_with_kills(node: &Node, theirs: &Path) -> String {
    for kill in 0..KILLS {
        let log = node.scratch.path().join("import.log");
        let import = Daemon::start("import", node.import(theirs, &[]), &log).unwrap();
        std::thread::sleep(Duration::from_millis(2 + 9 * kill));
        import.kill().unwrap();
    }
    run(node.import(theirs, &[]), "import").unwrap()
}

fn assert_all_is_here(engine: &Engine, programs: &Programs, reference: &str) {
    let orlop = |arguments: &[&str]| engine.orlop(programs, arguments).unwrap();
    let json = |arguments: &[&str]| -> Value {
        let text = orlop(&[&["-o", "json"], arguments].concat());
        serde_json::from_str(&text).unwrap()
    };
    let images = json(&["images"]);
    assert_eq!(images[0]["name"], reference, "{images:#}");
    assert!(
        engine
            .ctr(&["images", "ls"])
            .unwrap()
            .contains("colour=blue")
    );
    assert_eq!(json(&["leases", "ls"])[0]["id"], "kept");
    let namespaces = engine.ctr(&["namespaces", "ls"]).unwrap();
    assert!(namespaces.contains("owner=team"), "{namespaces}");
    let said = orlop(&["run", "--rm", "--net", "none", reference, "echo", "hello"]);
    assert_eq!(said, "hello\n");
    // What nothing holds goes, what the image holds stays.
    orlop(&["gc", "run"]);
    orlop(&["fsck", "--verify"]);
    let said = orlop(&["run", "--rm", "--net", "none", reference, "echo", "again"]);
    assert_eq!(said, "again\n");
}

#[test]
fn what_containerd_pulled_runs_without_a_registry() {
    let node = Node {
        programs: Programs::find().unwrap(),
        scratch: Scratch::new().unwrap(),
    };
    let registry = Registry::start(&node.scratch).unwrap();
    let layout = image::small(&node.scratch).unwrap();
    let reference = registry.push(&layout, image::TAG, "e2e/small:1").unwrap();
    let containerd = Engine::containerd(&node.scratch, &Options::default()).unwrap();
    let (theirs, namespace) = (
        containerd.root().to_owned(),
        containerd.namespace().to_owned(),
    );
    fill(&containerd, &reference);

    let running = run(node.import(&theirs, &["--dry-run"]), "import").unwrap_err();
    assert!(running.to_string().contains("ORL-E4102"), "{running:#}");
    containerd.into_daemon().end().unwrap();
    drop(registry);
    let before = fingerprint(&theirs);

    let plan = run(node.import(&theirs, &["--dry-run"]), "import").unwrap();
    assert!(
        plan.contains(&format!("{namespace}: images 1; blobs ")),
        "{plan}"
    );
    assert!(plan.contains("1 containers: "), "{plan}");
    assert!(plan.contains("snapshots of \"overlayfs\": "), "{plan}");
    assert!(!node.scratch.path().join("ours").exists());
    let told = import_with_kills(&node, &theirs);
    assert!(told.contains(&format!("{namespace}: images ")), "{told}");
    assert_eq!(
        fingerprint(&theirs),
        before,
        "containerd's files are as before"
    );

    let engine = node.start();
    assert_all_is_here(&engine, &node.programs, &reference);
    let second = run(node.import(&theirs, &[]), "import").unwrap_err();
    assert!(second.to_string().contains("in use"), "{second:#}");
    assert_eq!(engine.into_daemon().end().unwrap().exit_code(), Some(0));
    assert_eq!(
        fingerprint(&theirs),
        before,
        "nor does collection touch them"
    );
    assert_eq!(node.scratch.close().unwrap(), Vec::<String>::new());
}
