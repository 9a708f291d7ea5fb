//! Section `depot`: which bucket, and how to get there.

use std::path::PathBuf;

use orlop_base::units::ByteSize;
use orlop_cache::tier::ClassName;
use serde::Deserialize;

/// Section `depot`. Credentials are none of its business: they come from the environment (`AWS_ACCESS_KEY_ID`, …), from
/// AWS's files and profiles, from a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, as in EKS), from a container's
/// endpoint, or from the machine's metadata, in this order.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DepotSettings {
    /// The bucket.
    pub(crate) bucket: String,
    /// Its region; what AWS's environment or profile says if there is none.
    #[serde(default)]
    pub(crate) region: Option<String>,
    /// Where it is, for stores that are not AWS's.
    #[serde(default)]
    pub(crate) endpoint: Option<String>,
    /// Whether the bucket stands in the path instead of the host's name, as most such stores want it.
    #[serde(default)]
    pub(crate) path_style: bool,
    /// What the keys of all objects begin with, such as `cache/`.
    #[serde(default)]
    pub(crate) prefix: String,
    /// A profile of AWS's files.
    #[serde(default)]
    pub(crate) profile: Option<String>,
    /// Certificates to trust besides the system's (PEM).
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Blobs above this size are transferred in parts of it. S3 takes none below 5 MiB.
    #[serde(default = "part_size")]
    pub(crate) part_size: ByteSize,
    /// The class of what is put there after a fill.
    #[serde(default = "class")]
    pub(crate) class: ClassName,
    /// Objects above this size are copied in parts. S3 copies none above 5 GiB at once.
    #[serde(default = "copy_size_max")]
    pub(crate) copy_size_max: ByteSize,
}

impl DepotSettings {
    /// What is wrong, in sentences.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.bucket.is_empty() {
            problems.push("depot.bucket must name a bucket".to_owned());
        }
        let is_plain = |text: &str| {
            let mut bytes = text.bytes();
            bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        };
        if !is_plain(&self.bucket) || !is_plain(&self.prefix) || self.prefix.starts_with('/') {
            problems.push("depot.bucket and depot.prefix may have letters, digits, -, _, . and /, and do not begin with /".to_owned());
        }
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            problems.push("depot.prefix must end with /".to_owned());
        }
        let mib = ByteSize::mib;
        if self.part_size < mib(5) || self.part_size > mib(1024) {
            problems.push("depot.part_size must be from 5MiB to 1GiB".to_owned());
        }
        problems
    }
}

fn part_size() -> ByteSize {
    ByteSize::mib(16)
}

fn class() -> ClassName {
    ClassName::new(super::STANDARD)
}

fn copy_size_max() -> ByteSize {
    ByteSize::gib(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DepotSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_bucket_is_all_that_is_needed() {
        let settings = parsed("bucket = \"blobs\"");
        assert_eq!(settings.problems(), Vec::<String>::new());
        assert_eq!(settings.part_size, ByteSize::mib(16));
    }

    #[test]
    fn every_mistake_is_told() {
        let settings = parsed("bucket = \"\"\nprefix = \"/a b\"\npart_size = \"1MiB\"");
        assert_eq!(settings.problems().len(), 4);
        assert!(toml::from_str::<DepotSettings>("bucket = \"b\"\nbukket = \"c\"").is_err());
    }
}
