//! The images of an index beside the chosen one.

use std::collections::HashSet;

use futures_util::future::join_all;
use orlop_meta::View;
use orlop_types::{Descriptor, Labels};

use super::super::error::{Error, first_cause};
use super::super::progress::UnpackState;
use super::check::refuse_foreign;
use super::download::Blobs;
use super::select::Part;
use super::{Pull, Stored};
use crate::model::{
    Document, INDEX_DEPTH_MAX, MediaKind, ModelError, kind_of, offered, parse_document,
};

/// More manifests than any honest index lists.
const MANIFESTS_MAX: usize = 1000;

/// An image whose manifest was stored, and how much more of it is wanted.
pub(super) struct Other {
    stored: Stored,
    part: Part,
}

impl Pull {
    /// Fetches and stores the selected manifests of an index, besides the chosen one: level by level, those of a level
    /// a few at a time.
    pub(super) async fn others(
        &self,
        view: &View,
        target: &Descriptor,
        chosen: Option<&Stored>,
        source: &Labels,
    ) -> Result<Vec<Other>, Error> {
        let mut seen: HashSet<_> = chosen.iter().map(|it| it.descriptor.digest).collect();
        let mut level = vec![(target.clone(), Part::Whole)];
        let (mut found, mut offer) = (Vec::new(), String::new());
        for depth in 0.. {
            level.retain(|(descriptor, _)| seen.insert(descriptor.digest));
            if level.is_empty() {
                break;
            }
            if depth > INDEX_DEPTH_MAX || seen.len() > MANIFESTS_MAX {
                let limit = INDEX_DEPTH_MAX;
                let at = level[0].0.digest;
                return Err(Error::model(at)(ModelError::TooDeep { limit }));
            }
            let fetched = level.drain(..).map(|(descriptor, part)| async move {
                let document = self.fetched(view, &descriptor, source).await?;
                Ok((descriptor, part, document))
            });
            for (descriptor, part, document) in first_cause(join_all(fetched).await)? {
                match document {
                    Document::Index(index) => {
                        offer = offered(&index);
                        level.extend(self.request.beside.entries(&index.manifests));
                    }
                    Document::Manifest(manifest) => {
                        let manifest = *manifest;
                        let stored = Stored {
                            descriptor,
                            manifest,
                        };
                        found.push(Other { stored, part });
                    }
                }
            }
        }
        let demanded = self.request.beside.demanded();
        if chosen.is_none() && found.is_empty() && !demanded.is_empty() {
            return Err(Error::model(target.digest)(ModelError::NoPlatform {
                wanted: demanded.join(", "),
                offered: offer,
            }));
        }
        Ok(found)
    }

    async fn fetched(
        &self,
        view: &View,
        descriptor: &Descriptor,
        source: &Labels,
    ) -> Result<Document, Error> {
        let _permit = self.permit().await?;
        let bytes = self.document(view, descriptor, None).await?;
        let document = parse_document(&descriptor.media_type, &bytes)
            .map_err(Error::model(descriptor.digest))?;
        self.keep(view, descriptor, bytes, source).await?;
        Ok(document)
    }

    /// Adds the blobs of the images beside the chosen one, as far as they are wanted.
    ///
    /// # Errors
    /// A layer that is not in the registry.
    pub(super) fn add_others(&self, blobs: &mut Blobs, others: &[Other]) -> Result<(), Error> {
        for other in others {
            let manifest = &other.stored.manifest;
            match other.part {
                Part::Whole => {
                    refuse_foreign(manifest)?;
                    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                        blobs.add(&self.board, blob, UnpackState::None);
                    }
                }
                Part::Metadata if kind_of(&manifest.config.media_type) == MediaKind::Config => {
                    blobs.add(&self.board, &manifest.config, UnpackState::None);
                }
                Part::Metadata => {}
            }
        }
        Ok(())
    }
}
