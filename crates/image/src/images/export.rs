//! Images out of the store into one archive.

use std::io::Write;

use orlop_types::{ImageName, Platform};

use super::document::load_image;
use super::error::Error;
use super::store::ContentStore;
use super::{Images, Scope, blocking_long};
use crate::archive::{ExportImage, ExportOptions, write_archive};

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct ExportRequest {
    /// The images' names.
    pub images: Vec<ImageName>,
    /// Only the images for this platform. If absent, all that is in the store of each; `docker load` then sees the one
    /// for this machine.
    pub platform: Option<Platform>,
}

impl Images {
    /// Writes images as one tar archive that is an OCI layout and a docker-archive at once. Gives `output` back.
    ///
    /// # Errors
    /// `NotFound` for an image or a part of it; the output's. What was written by then is no archive.
    pub async fn export<W>(
        &self,
        scope: &Scope,
        request: ExportRequest,
        output: W,
    ) -> Result<W, Error>
    where
        W: Write + Send + 'static,
    {
        let view = self.view(scope);
        blocking_long("image-export", move || {
            let mut images = Vec::new();
            for name in &request.images {
                let mut target = view.images().find(name)?.target;
                if let Some(platform) = &request.platform {
                    target = load_image(&view, "export", &target, platform)?.target;
                }
                images.push(ExportImage {
                    name: Some(name.to_string()),
                    target,
                });
            }
            let options = ExportOptions {
                platform: request.platform.unwrap_or_else(Platform::host),
                ..ExportOptions::default()
            };
            let source = ContentStore { view };
            write_archive(output, &images, &source, &options).map_err(|source| Error::Archive {
                operation: "export",
                source,
            })
        })
        .await
    }
}
