//! Blobs that were found damaged: out of the way, and kept for a person to look at.

use orlop_sys::fs::{Name, remove_tree_beneath};
use orlop_types::{Algorithm, Digest};

use crate::layout::{ASIDE, PRIVATE_DIR};
use crate::progress::lock;
use crate::{ContentError, Store};

impl Store {
    /// Takes a damaged blob's name away, durably: it is not found any more, and can be fetched anew. Its bytes lie in
    /// `aside` until [`Store::drop_aside`]; those of an earlier time under the same name go. Returns how many bytes.
    ///
    /// # Errors
    /// [`ContentError::BlobNotFound`], [`ContentError::ReadOnly`] or [`ContentError::Io`].
    pub fn set_aside(&self, digest: &Digest) -> Result<u64, ContentError> {
        self.shelves.check_writable("set a blob aside")?;
        let size_bytes = self.stat(digest)?.size_bytes;
        let blobs = self.shelves.blobs(digest.algorithm());
        let aside = self.shelves.root.ensure_dir(&ASIDE, PRIVATE_DIR)?;
        {
            let _publishing = lock(&self.shelves.publishing);
            blobs.rename(&Name::from(digest), &aside, &name_of(digest))?;
        }
        blobs.sync()?;
        aside.sync()?;
        Ok(size_bytes)
    }

    /// What was set aside, with sizes in bytes. What has another name is left out.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn aside(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        let aside = match self.shelves.root.open_dir(&ASIDE) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in aside.entries()? {
            let name = entry?.name;
            if let Some(digest) = digest_of(&name) {
                found.push((digest, aside.stat(&name)?.len_bytes));
            }
        }
        Ok(found)
    }

    /// Removes what was set aside under this digest. Nothing is no error.
    ///
    /// # Errors
    /// [`ContentError::ReadOnly`] or [`ContentError::Io`].
    pub fn drop_aside(&self, digest: &Digest) -> Result<(), ContentError> {
        self.shelves.check_writable("remove what was set aside")?;
        match self.shelves.root.open_dir(&ASIDE) {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(aside) => {
                remove_tree_beneath(&aside, &name_of(digest))?;
                Ok(())
            }
        }
    }
}

/// One name for both parts of a digest.
fn name_of(digest: &Digest) -> Name {
    let text = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
    Name::new(text).expect("a digest has no character that a name may not have")
}

fn digest_of(name: &Name) -> Option<Digest> {
    let text = name.as_str()?;
    let known = [Algorithm::Sha256, Algorithm::Sha512];
    known.iter().find_map(|algorithm| {
        let hex = text.strip_prefix(algorithm.as_str())?.strip_prefix('-')?;
        format!("{}:{hex}", algorithm.as_str()).parse().ok()
    })
}
