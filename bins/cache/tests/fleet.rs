//! Two replicas of the program with one bucket and one database, of which one is killed again and again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test starts the program as a shell would, and writes its configuration"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orlop_testkit::registry::{Action, FakeRegistry, Fault, ImageParts, Layer};
use orlop_testkit::servers::{BUCKET, CREDENTIALS, Cluster, ObjectStore};

const PATIENCE: Duration = Duration::from_secs(120);
const LAYERS: usize = 6;
const LAYER_BYTES: usize = 4 << 20;
const CLIENTS: usize = 64;

/// What all replicas share.
struct Scene {
    upstream: FakeRegistry,
    image: ImageParts,
    bucket: ObjectStore,
    database: Cluster,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let upstream = FakeRegistry::start();
        let layers: Vec<Layer> = (0..LAYERS).map(|seed| Layer::plain(noise(seed))).collect();
        Self {
            image: upstream.put_image("team/app", "1", &layers),
            upstream,
            bucket: ObjectStore::moto(),
            database: Cluster::start(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A replica's folder and configuration; its port stays the same over its lives.
    fn replica(&self, name: &str) -> Replica {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let root = self.folder.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let config = self.folder.path().join(format!("{name}.toml"));
        let host = self.upstream.host();
        let text = format!(
            "[serve]\naddress = \"{address}\"\n\
             [origin]\nregistries = [\"{host}\"]\ndefault = \"{host}\"\nhosts_dirs = [\"/nonexistent\"]\ncredentials_file = \"/nonexistent\"\n\
             [store]\nroot = \"{}\"\n\
             [depot]\nbucket = \"{BUCKET}\"\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\npath_style = true\nprefix = \"cache/\"\n\
             [fleet]\ndatabase = \"{}\"\nreplica = \"{name}\"\nsilence_max = \"3s\"\n\
             [tiering]\npoll = \"1s\"\n",
            root.display(),
            self.bucket.address(),
            self.database.address(),
        );
        std::fs::write(&config, text).unwrap();
        Replica { address, config }
    }

    /// Whole blobs that upstream was asked for, by digest: a GET without a range, or from the beginning.
    fn fills(&self) -> Vec<(String, usize)> {
        let asked = self.upstream.requests();
        let is_fill = |path: &str, digest: &str| path.contains("/blobs/") && path.ends_with(digest);
        self.image
            .layers
            .iter()
            .map(|digest| {
                let digest = digest.to_string();
                let count = asked
                    .iter()
                    .filter(|seen| seen.method == "GET" && is_fill(&seen.path, &digest))
                    .filter(|seen| {
                        seen.header("range")
                            .is_none_or(|range| range.starts_with("bytes=0-"))
                    })
                    .count();
                (digest, count)
            })
            .collect()
    }
}

struct Replica {
    address: SocketAddr,
    config: PathBuf,
}

/// A life of a replica.
struct Life(Child);

impl Replica {
    fn begin(&self) -> Life {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop-cache"));
        command.args(["serve", "--config"]).arg(&self.config);
        command.env("AWS_ACCESS_KEY_ID", CREDENTIALS.0);
        command.env("AWS_SECRET_ACCESS_KEY", CREDENTIALS.1);
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        let life = Life(command.stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        life
    }

    /// A whole answer, or why there is none.
    fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.address).map_err(text)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
        let request =
            format!("GET /v2/{path} HTTP/1.1\r\nhost: cache\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(text)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off(end.ok_or("no head")? + 4);
        let head = String::from_utf8_lossy(&answer).to_lowercase();
        if !head.starts_with("http/1.1 200") {
            return Err(head);
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        if length.is_some_and(|length: usize| length != body.len()) {
            return Err(format!("cut after {} bytes", body.len()));
        }
        Ok(body)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // This is `kill -9`.
        let _killed = self.0.kill().is_ok();
        let _reaped = self.0.wait().is_ok();
    }
}

fn noise(seed: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64 ^ (seed as u64 + 1);
    let mut bytes = Vec::with_capacity(LAYER_BYTES + 8);
    while bytes.len() < LAYER_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(LAYER_BYTES);
    bytes
}

/// Pulls the image as containerd does: a part that fails is asked for again, here or at the other replica.
fn pull(replicas: &[Replica; 2], image: &ImageParts, client: usize) -> usize {
    let mut failures = 0;
    let mut parts = vec!["team/app/manifests/1".to_owned()];
    for turn in 0..LAYERS {
        let layer = &image.layers[(client + turn) % LAYERS];
        parts.push(format!("team/app/blobs/{layer}"));
    }
    for (turn, part) in parts.iter().enumerate() {
        let deadline = Instant::now() + PATIENCE;
        let mut at = client;
        loop {
            match replicas[at % 2].get(part) {
                Ok(body) if turn == 0 => {
                    assert!(body == image.manifest_bytes);
                    break;
                }
                Ok(body) => {
                    assert!(body == noise((client + turn - 1) % LAYERS), "another blob");
                    break;
                }
                Err(why) => {
                    assert!(Instant::now() < deadline, "{part}: {why}");
                    failures += 1;
                    at += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
    failures
}

fn all_pull(scene: &Scene, replicas: &[Replica; 2]) -> usize {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || pull(replicas, &scene.image, client)))
            .collect();
        clients.into_iter().map(|one| one.join().unwrap()).sum()
    })
}

#[test]
fn two_replicas_ask_upstream_for_each_blob_once() {
    let scene = Scene::new();
    let replicas = [scene.replica("one"), scene.replica("two")];
    let _lives = [replicas[0].begin(), replicas[1].begin()];
    let failures = all_pull(&scene, &replicas);
    assert_eq!(failures, 0, "nothing was killed");
    for (digest, fills) in scene.fills() {
        assert_eq!(fills, 1, "{digest}");
    }
}

#[test]
fn clients_of_two_replicas_get_everything_while_one_is_killed_again_and_again() {
    let scene = Scene::new();
    let replicas = [scene.replica("steady"), scene.replica("mortal")];
    let _steady = replicas[0].begin();
    let first = replicas[1].begin();
    let is_done = AtomicBool::new(false);
    let deaths = std::thread::scope(|scope| {
        let (mortal, is_done) = (&replicas[1], &is_done);
        let killer = scope.spawn(move || {
            let mut life = first;
            let mut deaths = 0;
            loop {
                std::thread::sleep(Duration::from_millis(150 + 130 * (deaths % 5)));
                drop(life);
                deaths += 1;
                if is_done.load(Ordering::SeqCst) {
                    return deaths;
                }
                life = mortal.begin();
            }
        });
        all_pull(&scene, &replicas);
        is_done.store(true, Ordering::SeqCst);
        killer.join().unwrap()
    });
    // A life that dies in the middle of a fill was one request more; whatever came whole came once.
    for (digest, fills) in scene.fills() {
        let most = 1 + usize::try_from(deaths).unwrap();
        assert!((1..=most).contains(&fills), "{digest}: {fills} of {most}");
    }
}

#[test]
fn without_bucket_and_database_a_replica_serves_all_the_same() {
    let mut scene = Scene::new();
    let replicas = [scene.replica("one"), scene.replica("two")];
    let _lives = [replicas[0].begin(), replicas[1].begin()];
    assert_eq!(pull(&replicas, &scene.image, 0), 0);
    scene.bucket.end();
    scene.database.end();
    // What is on disk, and what only upstream has.
    assert_eq!(pull(&replicas, &scene.image, 0), 0);
    let failures = pull(&replicas, &scene.image, 1);
    assert_eq!(failures, 0, "what the other has must come from upstream");
}

#[test]
fn an_archived_blob_comes_from_upstream_and_without_one_after_its_restore() {
    let scene = Scene::new();
    let replicas = [scene.replica("one"), scene.replica("two")];
    let _lives = [replicas[0].begin(), replicas[1].begin()];
    assert_eq!(pull(&replicas, &scene.image, 0), 0);
    let path = |layer: usize| format!("team/app/blobs/{}", scene.image.layers[layer]);
    for layer in &scene.image.layers[..2] {
        let key = format!("cache/blobs/{}", layer.to_string().replace(':', "/"));
        scene.bucket.archive(&key);
    }
    let two = &replicas[1];
    assert!(two.get("team/app/manifests/1").is_ok());
    assert!(two.get(&path(0)).unwrap() == noise(0), "upstream has it");

    let missing = Action::Status(404, Vec::new());
    scene.upstream.fault(Fault::on("/blobs/", missing));
    let late = two.get(&path(1)).unwrap_err();
    assert!(late.starts_with("http/1.1 503"), "{late}");
    assert!(late.contains("retry-after: "), "{late}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match two.get(&path(1)) {
            Ok(body) => {
                assert!(body == noise(1));
                return;
            }
            Err(why) => assert!(Instant::now() < deadline, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// `orlop cache tier` with credentials of the environment, as a person calls it.
#[test]
fn the_plan_is_shown_to_a_person_and_to_a_program() {
    let scene = Scene::new();
    let replica = scene.replica("one");
    let answer = |more: &[&str]| run(&replica.config, &scene.folder.path().join("one"), more);
    let text = answer(&[]);
    assert!(
        text.contains("Objects") && text.contains("A month now"),
        "{text}"
    );
    let json = answer(&["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["moves"], 0);
}

fn run(config: &Path, root: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop-cache"));
    command.args(["tier", "--plan", "--config"]).arg(config);
    command.arg("--root").arg(root).args(more);
    command.env("AWS_ACCESS_KEY_ID", CREDENTIALS.0);
    command.env("AWS_SECRET_ACCESS_KEY", CREDENTIALS.1);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}
