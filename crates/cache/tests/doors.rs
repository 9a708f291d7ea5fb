//! Who is let in: TLS, certificates, passwords, tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;

use orlop_cache::rights::Admission;
use orlop_cache::serve::Tls;
use orlop_testkit::registry::Authority;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Scene, Setting, client_with, image};

fn put(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    use std::io::Write as _;
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

fn roots(authority: &Authority) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(certificate).unwrap();
    roots
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_of_the_right_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = servers.certificate();
    let certificate = put(folder.path(), "server.pem", &certificate);
    let key = put(folder.path(), "server.key", &key);
    let authority = put(folder.path(), "clients.pem", clients.pem());
    let tls = Tls::load(&certificate, &key, Some(&authority)).unwrap();
    let setting = Setting {
        admission: Admission::Certificate,
        tls: Some(tls),
        ..Setting::default()
    };
    let scene = Scene::new(setting).await;
    let parts = image(&scene.upstream, "library/app", "1", 10);
    let url = format!("https://{}/v2/library/app/manifests/1", scene.cache.address);
    let shown = |authority: &Authority| {
        let (certificate, key) = authority.certificate();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        client_with(roots(&servers), Some((certificate, key)))
    };
    let known = shown(&clients).get(&url).send().await.unwrap();
    assert_eq!(known.bytes().await.unwrap(), parts.manifest_bytes);
    assert!(shown(&servers).get(&url).send().await.is_err());
    let nobody = client_with(roots(&servers), None);
    assert!(nobody.get(&url).send().await.is_err());
    let plain = format!("http://{}/v2/", scene.cache.address);
    assert!(scene.client.get(plain).send().await.is_err());
    scene.cache.stop().await;
    let missing = Tls::load(&certificate, Path::new("/nonexistent"), None).unwrap_err();
    assert_eq!(missing.code(), "ORL-E9218");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_tokens_are_asked_for_and_checked() {
    let hash = bcrypt::hash("right", 4).unwrap();
    let basic = Admission::Basic([("ann".to_owned(), hash)].into());
    let bearer = Admission::Bearer([("right".to_owned(), "ci".to_owned())].into());
    for admission in [basic, bearer] {
        let setting = Setting {
            admission,
            ..Setting::default()
        };
        let scene = Scene::new(setting).await;
        image(&scene.upstream, "library/app", "1", 10);
        for path in ["", "library/app/manifests/1"] {
            let refused = scene.get(path).await;
            assert_eq!(refused.status(), 401);
            assert!(refused.headers().contains_key("www-authenticate"));
            assert!(refused.text().await.unwrap().contains("ORL-E9206"));
            for (password, status) in [("right", 200), ("wrong", 401)] {
                let request = scene.client.get(scene.cache.url(path));
                let request = request.basic_auth("ann", Some(password));
                assert_eq!(scene.ask(request).await.status(), status);
            }
        }
        assert_eq!(scene.get("../healthz").await.status(), 200);
        scene.cache.stop().await;
    }
}
