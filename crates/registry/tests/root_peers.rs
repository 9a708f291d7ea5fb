//! Debian's docker-registry behind TLS and a password, with skopeo on its other side.

#![allow(clippy::unwrap_used, reason = "fixtures of tests may fail the test")]
#![allow(
    clippy::disallowed_methods,
    reason = "fixtures are written directly; the peers are started as an operator starts them"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{LAYER, MemorySink, Source, hosts, noise, options};
use orlop_registry::{
    BlobSink, Client, ClientOptions, DockerConfig, FailureKind, HostTree, Pushed, TlsCause,
};
use orlop_testkit::registry::{Authority, FakeRegistry, ImageParts, Layer, digest_of};
use orlop_types::{Descriptor, Digest, Reference};

const USER: &str = "user";
const PASSWORD: &str = "right-password";
/// bcrypt of the password: what htpasswd files of docker-registry hold.
const HTPASSWD: &str = "user:$2b$04$rgBb99AYPUzFQv84glIBP.KVDURfUieJo7Q.gcFKzjsLK2khzo5ue\n";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// docker-registry with a store and a certificate of its own. Ends when dropped.
struct Peer {
    address: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Peer {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = Authority::new();
        let (certificate, key) = authority.certificate();
        std::fs::create_dir(path("ca")).unwrap();
        for (name, text) in [
            ("ca/ca.crt", authority.pem()),
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("htpasswd", HTPASSWD),
        ] {
            std::fs::write(path(name), text).unwrap();
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {store}}}}}\n\
             auth: {{htpasswd: {{realm: orlop, path: {place}/htpasswd}}}}\n\
             http: {{addr: \"{address}\", tls: {{certificate: {place}/tls.crt, key: {place}/tls.key}}}}\n",
            store = path("store").display(),
            place = folder.path().display(),
        );
        std::fs::write(path("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let peer = Self {
            address,
            folder,
            child,
        };
        peer.wait();
        peer
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.address).is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            assert!(Instant::now() < until, "docker-registry: {log:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reference(&self, repository: &str) -> Reference {
        format!("{}/{repository}:1", self.address).parse().unwrap()
    }

    fn docker(&self, repository: &str) -> String {
        format!("docker://{}/{repository}:1", self.address)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// A client with `hosts.toml` and a login in `config.json`, both as an operator writes them.
    fn client(&self, password: &str, trusts: bool) -> Client {
        use base64::Engine as _;
        let below = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        let login = format!(
            "{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}",
            self.address
        );
        std::fs::write(below.join("config.json"), login).unwrap();
        let text = format!(
            "server = \"https://{}\"\nca = {:?}\n",
            self.address,
            self.ca().join("ca.crt")
        );
        let text = if trusts {
            text
        } else {
            text.lines().next().unwrap().to_owned()
        };
        let hosts: HostTree = hosts(&below.join("hosts"), &self.address.to_string(), &text);
        let mut options = options();
        options.fetch.no_progress = Duration::from_secs(20);
        Client::new(ClientOptions {
            hosts,
            credentials: Arc::new(DockerConfig::new(below.join("config.json"))),
            ..options
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs skopeo and gives what it printed.
fn skopeo(words: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(words)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {words:?}: {complaint}");
    output.stdout
}

fn image(fake: &FakeRegistry, big: usize) -> ImageParts {
    let layers = [
        Layer::with_files(&[("bin/sh", b"#!")]),
        Layer::with_files(&[("data", &noise(big))]),
    ];
    fake.put_image("app", "1", &layers)
}

async fn fetch(client: &Client, reference: &Reference, digest: Digest, size: u64) -> Digest {
    let blob = Descriptor::new(LAYER, digest, size);
    let sink = Arc::new(MemorySink::new(usize::try_from(size).unwrap()));
    client
        .fetch_blob(reference, &blob, Arc::clone(&sink) as Arc<dyn BlobSink>)
        .await
        .unwrap();
    sink.digest()
}

#[tokio::test]
async fn an_image_that_skopeo_pushed_is_pulled_over_tls_with_a_password() {
    let (peer, fake) = (Peer::start(), FakeRegistry::start());
    let parts = image(&fake, 3 << 20);
    let ca = peer.ca();
    skopeo(&[
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-cert-dir",
        ca.to_str().unwrap(),
        "--dest-creds",
        &format!("{USER}:{PASSWORD}"),
        &format!("docker://{}", fake.reference("app", "1")),
        &peer.docker("deep/app"),
    ]);
    let (client, reference) = (peer.client(PASSWORD, true), peer.reference("deep/app"));
    let resolved = client.resolve(&reference).await.unwrap();
    assert_eq!(resolved.descriptor.digest, parts.manifest);
    let manifest = client
        .fetch_manifest(&reference, &parts.manifest)
        .await
        .unwrap();
    assert_eq!(manifest.bytes, parts.manifest_bytes);
    for digest in &parts.layers {
        let size = fake.blob("app", digest).unwrap().len() as u64;
        assert_eq!(fetch(&client, &reference, *digest, size).await, *digest);
    }
}

async fn push(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
    mount_from: Option<&str>,
) -> Pushed {
    let blob = Descriptor::new(LAYER, digest_of(bytes), bytes.len() as u64);
    let source = Arc::new(Source(bytes.to_vec()));
    client
        .push_blob(reference, &blob, source, mount_from)
        .await
        .unwrap()
}

/// Every blob of a `dir:` copy that skopeo made.
fn copied(folder: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "version" {
            found.push(digest_of(&std::fs::read(&path).unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn what_is_pushed_whole_in_pieces_or_by_mount_is_an_image_to_skopeo() {
    let (peer, fake) = (Peer::start(), FakeRegistry::start());
    // Above a piece of 8 MiB, so that the second layer goes in three.
    let parts = image(&fake, 20 << 20);
    let client = peer.client(PASSWORD, true);
    let blobs: Vec<Vec<u8>> = [parts.config]
        .iter()
        .chain(&parts.layers)
        .map(|digest| fake.blob("app", digest).unwrap().to_vec())
        .collect();
    assert!(blobs.iter().any(|blob| blob.len() > 16 << 20));
    for (repository, expected, mount_from) in [
        ("one", Pushed::Uploaded, None),
        ("one", Pushed::AlreadyThere, None),
        ("two", Pushed::Mounted, Some("one")),
        // A repository that does not have them: the registry opens an upload instead.
        ("three", Pushed::Uploaded, Some("nowhere")),
    ] {
        let reference = peer.reference(repository);
        for blob in &blobs {
            let pushed = push(&client, &reference, blob, mount_from).await;
            assert_eq!(pushed, expected, "{repository}");
        }
        let bytes = parts.manifest_bytes.clone();
        client
            .push_manifest(&reference, MANIFEST, bytes)
            .await
            .unwrap();
        let to = tempfile::tempdir().unwrap();
        skopeo(&[
            "copy",
            "--quiet",
            "--preserve-digests",
            "--src-cert-dir",
            peer.ca().to_str().unwrap(),
            "--src-creds",
            &format!("{USER}:{PASSWORD}"),
            &peer.docker(repository),
            &format!("dir:{}", to.path().display()),
        ]);
        let copied = copied(to.path());
        for digest in parts.layers.iter().chain([&parts.config, &parts.manifest]) {
            assert!(copied.contains(digest), "{repository}: {digest}");
        }
    }
}

#[tokio::test]
async fn a_real_registry_s_refusals_have_their_kinds() {
    let peer = Peer::start();
    let reference = peer.reference("nothing");
    for (password, trusts, kind, code) in [
        ("wrong", true, FailureKind::Unauthorized, "ORL-E3001"),
        (PASSWORD, true, FailureKind::NotFound, "ORL-E3003"),
        (
            PASSWORD,
            false,
            FailureKind::Tls(TlsCause::UnknownAuthority),
            "ORL-E3007",
        ),
    ] {
        let error = peer
            .client(password, trusts)
            .resolve(&reference)
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
    }
}
