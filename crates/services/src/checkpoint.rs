//! What a checkpoint of a task needs: a folder to go to, and CRIU.

use std::path::PathBuf;

use orlop_api::containerd::runc::v1::CheckpointOptions;
use orlop_api::{Any, any};
use orlop_base::blocking;
use orlop_runtime::probe::find_executable;
use tonic::Status;

use crate::status;

/// The program that OCI runtimes take checkpoints with.
const CRIU: &str = "criu";

/// The folder that the options name. Without one containerd puts a checkpoint into its content store.
pub(crate) fn folder(options: Option<&Any>) -> Result<String, Status> {
    let options = options
        .filter(|options| !options.type_url.is_empty())
        .map(any::unpack::<CheckpointOptions>)
        .transpose()
        .map_err(|error| status::invalid(&error))?;
    let folder = options.unwrap_or_default().image_path;
    if folder.is_empty() {
        return Err(status::unimplemented(
            "checkpoints are not put into the content store: name a folder (image_path, `ctr tasks checkpoint --image-path`)",
        ));
    }
    Ok(folder)
}

/// Says that CRIU is missing, rather than have the OCI runtime fail over it.
pub(crate) async fn check_criu() -> Result<(), Status> {
    let find = || find_executable(CRIU, &folders());
    let found = blocking::run("find criu", find)
        .await
        .map_err(|error| status::of_blocking(&error))?;
    match found {
        Some(_) => Ok(()),
        None => Err(status::failed_precondition(
            "checkpoints need the program criu, which is not installed",
        )),
    }
}

/// Where the OCI runtime, a child of ours, will look for it too.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_checkpoint_goes_into_the_folder_that_the_options_name() {
        let options = any::pack(&CheckpointOptions {
            image_path: "/tmp/x".to_owned(),
            ..CheckpointOptions::default()
        });
        assert_eq!(folder(Some(&options)).unwrap(), "/tmp/x");
        for none in [None, Some(&Any::default())] {
            assert_eq!(folder(none).unwrap_err().code(), Code::Unimplemented);
        }
    }
}
