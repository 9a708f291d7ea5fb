//! The cache between real clients and a real registry: Debian's containerd by hosts.toml, orlopd, skopeo.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_e2e::node::eventually;
use orlop_e2e::programs::run_words;
use orlop_e2e::{Cache, Engine, Options, Programs, Registry, Scratch, image};

#[test]
fn what_one_client_pulled_the_others_have_without_the_registry() {
    let scratch = Scratch::new().unwrap();
    let programs = Programs::find().unwrap();
    let registry = Registry::start(&scratch).unwrap();
    let layout = image::small(&scratch).unwrap();
    let reference = registry.push(&layout, "latest", "team/app:1").unwrap();
    let cache = Cache::start(&programs, &scratch, &registry.host()).unwrap();
    for client in ["containerd", "orlop"] {
        cache.set_up(client, scratch.path()).unwrap();
    }
    let hosts = |client: &str| {
        let folder = scratch.path().join("etc").join(client).join("certs.d");
        folder.display().to_string()
    };
    let containerd = Engine::containerd(&scratch, &Options::default()).unwrap();
    let hosts_dir = hosts("containerd");
    let pull = ["images", "pull", "--hosts-dir", &hosts_dir, &reference];
    // containerd listens before all of it is there.
    eventually("containerd pulls through the cache", || {
        Ok(containerd.ctr(&pull).ok())
    })
    .unwrap();

    // From here on only the cache has it.
    drop(registry);
    let options = Options {
        settings: vec![format!("registry.hosts_dirs={}", hosts("orlop"))],
        ..Options::default()
    };
    let orlopd = Engine::orlopd(&programs, &scratch, &options).unwrap();
    orlopd.orlop(&programs, &["pull", &reference]).unwrap();
    let listed = orlopd.orlop(&programs, &["images"]).unwrap();
    assert!(listed.contains("team/app"), "{listed}");
    // Docker's way: the cache is the registry, and says which it stands for.
    let copy = scratch.path().join("copy");
    let source = format!("docker://{}/team/app:1", cache.host());
    let target = format!("dir:{}", copy.display());
    let options = ["copy", "--quiet", "--src-tls-verify=false"];
    run_words(&[&["skopeo"], &options[..], &[&source, &target]].concat()).unwrap();
    assert!(copy.join("manifest.json").exists());
    // By the first part of the path, as CRI-O's mirrors have it.
    let named = reference.strip_suffix(":1").unwrap();
    let answer = run_words(&[
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://{}/v2/{named}/manifests/1", cache.host()),
    ]);
    assert_eq!(answer.unwrap(), "200");

    let log = cache.daemon().log();
    assert!(!log.contains(" ERROR "), "{log}");
    cache.end().unwrap();
    drop((containerd, orlopd));
    assert_eq!(scratch.close().unwrap(), Vec::<String>::new());
}
