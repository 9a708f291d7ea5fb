//! Debian's docker-registry, skopeo and umoci.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use orlop_image::images::{ExportRequest, ImportRequest, NoProgress, PushRequest};

use super::support::{Engine, name, scope, shell};

/// A real registry on loopback; ends with the test.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {host}}}\n",
            folder.join("registry").display()
        );
        std::fs::write(folder.join("registry.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", "registry.yml"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { child, host };
        for _ in 0..200 {
            if std::net::TcpStream::connect(&started.host).is_ok() {
                return started;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry did not start");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An image of busybox in two layers, made by umoci.
const MAKE_IMAGE: &str = r#"
umoci init --layout oci && umoci new --image oci:v1
umoci unpack --image oci:v1 bundle
mkdir -p bundle/rootfs/bin bundle/rootfs/etc && cp "$(command -v busybox)" bundle/rootfs/bin/busybox
ln -s busybox bundle/rootfs/bin/sh && echo gone > bundle/rootfs/etc/gone
umoci repack --image oci:v1 --refresh-bundle bundle
rm bundle/rootfs/etc/gone && echo new > bundle/rootfs/etc/new && ln bundle/rootfs/bin/busybox bundle/rootfs/bin/linked
umoci repack --image oci:v1 bundle
umoci config --image oci:v1 --config.cmd /bin/sh
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_umoci_is_pulled_pushed_exported_and_imported_and_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let registry = Registry::start(folder);
    shell(folder, MAKE_IMAGE);
    let source = format!("{}/lib/busybox:v1", registry.host);
    shell(
        folder,
        &format!("skopeo copy -q --dest-tls-verify=false oci:oci:v1 docker://{source}"),
    );
    let digest_of = |reference: &str| {
        let script = format!(
            "skopeo inspect --tls-verify=false --format '{{{{.Digest}}}}' docker://{reference}"
        );
        shell(folder, &script)
    };
    let engine = Engine::new();
    let pulled = engine.pull(&source).await.unwrap();
    assert_eq!(pulled.image.target.digest.to_string(), digest_of(&source));

    // Pushed into another repository of the same registry: blobs are mounted, not sent.
    let target = format!("{}/copies/busybox:v2", registry.host);
    let request = PushRequest {
        image: name(&source),
        reference: Some(target.clone()),
        platform: None,
        registry: Default::default(),
    };
    let pushed = engine
        .images
        .push(&scope("test"), request, Arc::new(NoProgress))
        .await
        .unwrap();
    assert_eq!(pushed.target, pulled.image.target);
    assert!(
        pushed.bytes_sent < 10_000,
        "{} bytes were sent",
        pushed.bytes_sent
    );
    assert_eq!(digest_of(&target), digest_of(&source));
    shell(
        folder,
        &format!("skopeo copy -q --src-tls-verify=false docker://{target} oci:back:v2"),
    );

    export_and_import(&engine, folder, &source).await;
}

async fn export_and_import(engine: &Engine, folder: &Path, source: &str) {
    let archive = File::create(folder.join("image.tar")).unwrap();
    let request = ExportRequest {
        images: vec![name(source)],
        platform: None,
    };
    engine
        .images
        .export(&scope("test"), request, archive)
        .await
        .unwrap();
    shell(
        folder,
        "skopeo copy -q oci-archive:image.tar oci:from-oci:x",
    );
    shell(
        folder,
        "skopeo copy -q docker-archive:image.tar docker-archive:docker.tar:example.org/renamed:v3",
    );
    let first = engine
        .images
        .config_of(&scope("test"), name(source), None)
        .await
        .unwrap();

    let fresh = Engine::new();
    let import = |file: &str| {
        let (images, input) = (fresh.images.clone(), File::open(folder.join(file)).unwrap());
        async move {
            images
                .import(
                    &scope("test"),
                    ImportRequest::default(),
                    input,
                    Arc::new(NoProgress),
                )
                .await
        }
    };
    let imported = import("image.tar").await.unwrap();
    assert_eq!(imported[0].name.as_str(), source);
    shell(folder, "gzip -k docker.tar");
    let imported = import("docker.tar.gz").await.unwrap();
    assert_eq!(imported[0].name.as_str(), "example.org/renamed:v3");
    let second = fresh
        .images
        .config_of(&scope("test"), name("example.org/renamed:v3"), None)
        .await
        .unwrap();
    assert_eq!(first.chain_id, second.chain_id);
    assert_eq!(second.config.config.cmd, ["/bin/sh"]);
    assert_eq!(fresh.view("test").leases().list(&[]).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_archive_imports_nothing() {
    let engine = Engine::new();
    let input = std::io::Cursor::new(b"hello".to_vec());
    let imported = engine
        .images
        .import(
            &scope("test"),
            ImportRequest::default(),
            input,
            Arc::new(NoProgress),
        )
        .await;
    assert!(imported.is_err());
    engine.assert_nothing_left(0);
}
