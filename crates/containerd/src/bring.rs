//! Into Orlop's stores: blobs first, then what holds them, then the names.

use orlop_meta::{
    AdoptMethod, AdoptedFile, Db, Error as MetaError, ErrorKind, LeaseResource, NamespaceRecord,
    View,
};
use orlop_sys::fs::Name;
use orlop_types::Namespace;

use crate::report::{Left, NamespaceReport, Report, Tally};
use crate::source::left_blob;
use crate::stock::{Blob, Lease, Shelf};
use crate::{Error, Source};

/// How blobs' files are taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// As second names of the same files where both are on one file system, else as copies. Both engines may then remove
    /// theirs; neither ever writes to a blob.
    #[default]
    Link,
    /// As copies: reflinks where the file system can.
    Copy,
}

impl Source {
    /// Brings everything that can be brought. What is here already stays as it is, so it may be called again.
    ///
    /// # Errors
    /// [`Error::Store`] if Orlop's own stores fail, such as on a full disk. What was brought until then stays, held by
    /// whatever held it.
    pub fn bring(&self, db: &Db, method: Method) -> Result<Report, Error> {
        let mut report = self.begin_report();
        for (name, shelf) in self.shelves() {
            self.namespace(db, (name, shelf), method, &mut report)?;
        }
        Ok(report)
    }

    fn namespace(
        &self,
        db: &Db,
        (name, shelf): (&Namespace, &Shelf),
        method: Method,
        report: &mut Report,
    ) -> Result<(), Error> {
        let record = NamespaceRecord {
            name: name.clone(),
            labels: shelf.labels.clone(),
        };
        accept_present(db.namespaces().create(&record))?;
        let view = db.namespace(name);
        let mut one = NamespaceReport::new(name.clone());
        for blob in &shelf.blobs {
            match self.blob(&view, blob, method)? {
                Ok(is_new) => {
                    note(&mut one.blobs, is_new);
                    one.bytes += if is_new { blob.size_bytes } else { 0 };
                }
                Err(why) => report.left.push(left_blob(name, &blob.digest, why)),
            }
        }
        for lease in &shelf.leases {
            note(&mut one.leases, self::lease(&view, lease)?);
        }
        for image in &shelf.images {
            if view.content().info(&image.target.digest).is_err() {
                let what = format!("{name}: image {}", image.name);
                report.left.push(Left::new(what, "its content is missing"));
                continue;
            }
            note(
                &mut one.images,
                accept_present(view.images().create(image))?,
            );
        }
        for sandbox in &shelf.sandboxes {
            let created = accept_present(view.sandboxes().create(sandbox))?;
            note(&mut one.sandboxes, created);
        }
        report.namespaces.push(one);
        Ok(())
    }

    /// Whether a blob is new, or why it stays where it is.
    fn blob(
        &self,
        view: &View,
        blob: &Blob,
        method: Method,
    ) -> Result<Result<bool, String>, Error> {
        let folder = match self.find(blob) {
            Ok(folder) => folder,
            Err(why) => return Ok(Err(why)),
        };
        let name = Name::from(&blob.digest);
        let adopt = |method| {
            let file = AdoptedFile {
                folder,
                name: &name,
                method,
            };
            let expected = (&blob.digest, blob.size_bytes);
            view.content().adopt(&file, expected, &blob.labels)
        };
        let mut adopted = match method {
            Method::Link => adopt(AdoptMethod::HardLink),
            Method::Copy => adopt(AdoptMethod::Copy),
        };
        // Two file systems, or one that cannot: the copy tells if it was anything else.
        if method == Method::Link && adopted.as_ref().is_err_and(is_link_refused) {
            adopted = adopt(AdoptMethod::Copy);
        }
        match adopted {
            Err(error) if error.is_wrong_digest() => Ok(Err("its file is damaged".to_owned())),
            other => Ok(Ok(accept_present(other)?)),
        }
    }
}

/// Makes a lease with what it holds, also where that could not be brought. Whether it is new.
fn lease(view: &View, lease: &Lease) -> Result<bool, Error> {
    let is_new = accept_present(view.leases().create(&lease.id, &lease.labels))?;
    for digest in &lease.blobs {
        let resource = LeaseResource::Content(*digest);
        view.leases().add_resource(&lease.id, &resource)?;
    }
    Ok(is_new)
}

/// Whether it was new.
fn accept_present<T>(created: Result<T, MetaError>) -> Result<bool, MetaError> {
    match created {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_link_refused(error: &MetaError) -> bool {
    error.kind() == ErrorKind::Internal
}

const fn note(tally: &mut Tally, is_new: bool) {
    if is_new {
        tally.brought += 1;
    } else {
        tally.present += 1;
    }
}
