//! Images as the kubelet sees them.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::kubelet::image_spec;
use orlop_e2e::node::eventually;
use orlop_e2e::{Kubelet, Site};

fn status(kubelet: &Kubelet, image: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest {
        image: Some(image_spec(image)),
        verbose: true,
    };
    let answer = kubelet.call_images(async |mut client| client.image_status(request).await);
    answer.unwrap().image
}

fn listed(kubelet: &Kubelet, filter: Option<&str>) -> Vec<cri::Image> {
    let filter = filter.map(|image| cri::ImageFilter {
        image: Some(image_spec(image)),
    });
    let request = cri::ListImagesRequest { filter };
    let answer = kubelet.call_images(async |mut client| client.list_images(request).await);
    answer.unwrap().images
}

fn remove(kubelet: &Kubelet, image: &str) {
    let request = cri::RemoveImageRequest {
        image: Some(image_spec(image)),
    };
    let removed = kubelet.call_images(async |mut client| client.remove_image(request).await);
    removed.unwrap();
}

pub(crate) fn an_image_is_pulled_listed_described_and_removed(site: &Site) {
    let (kubelet, tag) = (site.kubelet(), site.image());
    let pulled = kubelet.pull(tag).unwrap();
    let image = status(kubelet, tag).unwrap();
    assert_eq!(image.repo_tags, [tag]);
    assert_eq!(image.repo_digests.len(), 1, "{image:?}");
    let (name, digest) = image.repo_digests[0].split_once('@').unwrap();
    assert_eq!(name, tag.rsplit_once(':').unwrap().0);
    assert!(digest.starts_with("sha256:"));
    assert!(image.size > 0);
    assert!(image.id.starts_with("sha256:"));
    assert!([&image.id, &image.repo_digests[0]].contains(&&pulled));
    // By every name it has.
    let short = image.id.trim_start_matches("sha256:");
    for name in [&*image.id, short, &image.repo_digests[0]] {
        assert_eq!(status(kubelet, name).as_ref(), Some(&image), "{name}");
    }
    let in_list = |images: &[cri::Image]| images.iter().any(|one| one.id == image.id);
    assert!(in_list(&listed(kubelet, None)));
    assert!(in_list(&listed(kubelet, Some(tag))));
    assert!(status(kubelet, "localhost/not/here:1").is_none());
    eventually("the disk's use is told", || {
        let request = cri::ImageFsInfoRequest {};
        let told = kubelet.call_images(async |mut client| client.image_fs_info(request).await);
        let told = told?.image_filesystems;
        let used = told.first().and_then(|one| one.used_bytes);
        Ok(used.filter(|used| used.value > 0))
    })
    .unwrap();
    remove(kubelet, tag);
    remove(kubelet, tag);
    assert!(status(kubelet, tag).is_none());
    assert!(!in_list(&listed(kubelet, None)));
}

pub(crate) fn what_cannot_be_pulled_is_refused(site: &Site) {
    let kubelet = site.kubelet();
    let host = site.ground().registry().host();
    for image in [
        "",
        "UPPER/../case",
        &format!("{host}/no/such:1"),
        &format!("{host}/e2e/small:no-such-tag"),
        "127.0.0.1:1/nobody/listens:1",
    ] {
        let refused = kubelet.pull(image).unwrap_err();
        assert!(!refused.message().is_empty(), "{image}");
    }
}
