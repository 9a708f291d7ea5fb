//! Names of images as people type them.

use orlop_types::{Platform, Reference};

use crate::error::CliError;

/// The name under which the store knows what was typed: `alpine` is `docker.io/library/alpine:latest`. A text that
/// is no reference is taken as it is, for other clients name images freely.
pub(crate) fn name(text: &str) -> String {
    text.parse::<Reference>()
        .map_or_else(|_| text.to_owned(), |reference| reference.to_string())
}

/// A reference that will be talked to, so it has to be one.
pub(crate) fn reference(argument: &str, text: &str) -> Result<String, CliError> {
    text.parse::<Reference>()
        .map(|reference| reference.to_string())
        .map_err(|error| CliError::argument(argument, error))
}

/// `linux/arm64/v8` in the daemon's form.
pub(crate) fn platform(
    text: Option<&str>,
) -> Result<Option<orlop_api::containerd::types::Platform>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let platform: Platform = text
        .parse()
        .map_err(|error| CliError::argument("--platform", error))?;
    Ok(Some(orlop_api::containerd::types::Platform {
        os: platform.os().to_owned(),
        architecture: platform.architecture().to_owned(),
        variant: platform.variant().unwrap_or_default().to_owned(),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_and_free_names_are_kept() {
        assert_eq!(name("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(name("localhost:5000/a:1"), "localhost:5000/a:1");
        assert_eq!(name("not a reference"), "not a reference");
    }

    #[test]
    fn what_is_no_reference_is_refused_before_anything_is_sent() {
        assert!(reference("IMAGE", "library/UPPER").is_err());
        assert!(platform(Some("a b/c")).is_err());
    }
}
