//! Images as messages.

use orlop_api::runtime::v1 as api;
use orlop_image::images::CatalogEntry;
use tonic::Status;

use crate::status;

/// The text of a required image.
///
/// # Errors
/// It is missing.
pub(super) fn name(spec: Option<api::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| status::missing("image"))
}

pub(super) fn image(entry: CatalogEntry) -> api::Image {
    let (uid, username) = user(&entry.user);
    api::Image {
        id: entry.id.to_string(),
        repo_tags: entry.tags.iter().map(ToString::to_string).collect(),
        repo_digests: entry.digests.iter().map(ToString::to_string).collect(),
        size: entry.size_bytes,
        uid: uid.map(|value| api::Int64Value { value }),
        username,
        spec: Some(api::ImageSpec {
            image: entry.id.to_string(),
            ..api::ImageSpec::default()
        }),
        pinned: entry.pinned,
    }
}

/// The config's `user[:group]` as a number or a name. The kubelet checks `runAsNonRoot` by it.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name() {
        assert_eq!(user("1000:50"), (Some(1000), String::new()));
        assert_eq!(user("www-data:www"), (None, "www-data".to_owned()));
        assert_eq!(user(""), (None, String::new()));
    }
}
