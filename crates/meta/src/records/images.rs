//! Images: names for blobs, and the roots that keep those.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use orlop_types::filter::{Fields, label_field, text_field};
use orlop_types::{Descriptor, Digest, ImageName, Labels};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Columns, filters, signed, to_json, without_empty};
use crate::db::Tx;
use crate::node::{self, EdgeKind, NodeKey, NodeKind, already_exists, not_found};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, Event, View, mask};

/// A name for a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name.
    pub name: ImageName,
    /// What it names: type, digest, size and annotations are kept.
    pub target: Descriptor,
    /// Its labels. With `containerd.io/gc.expire` it is kept only until then.
    pub labels: Labels,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

impl Image {
    /// An image to be created; the database sets the times.
    #[must_use]
    pub const fn new(name: ImageName, target: Descriptor, labels: Labels) -> Self {
        Self {
            name,
            target,
            labels,
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match (path[0].as_str(), path.get(1).map(String::as_str)) {
            ("name", _) => text_field(self.name.as_str()),
            ("target", Some("digest")) => Some(self.target.digest.to_string().into()),
            ("target", Some("mediatype")) => text_field(&self.target.media_type),
            ("labels", _) => label_field(&self.labels, &path[1..]),
            ("annotations", _) => {
                let annotations = &self.target.annotations;
                let value = annotations.get(&path[1..].join("."));
                value.map(|value| Cow::Borrowed(value.as_str()))
            }
            _ => None,
        }
    }
}

/// The images of a namespace.
#[derive(Debug)]
pub struct Images<'a> {
    view: &'a View,
}

const SELECT: &str = "SELECT node.key, image.digest, image.media_type, image.size, image.annotations, image.labels,
    image.created_at, image.updated_at FROM images AS image CROSS JOIN nodes AS node ON node.id = image.id";

impl<'a> Images<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Creates an image. One that expires is bound to the view's lease.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for the lease, `InvalidArgument` for an empty media type or size, `Database`.
    pub fn create(&self, image: &Image) -> Result<Image, Error> {
        check(image)?;
        self.view.db().write("create an image", |tx| {
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            let mut image = image.clone();
            image.labels = without_empty(&image.labels);
            image.created_at = from_nanos(tx.now);
            image.updated_at = image.created_at;
            let kept = node::expiry(NodeKind::Image, image.name.as_str(), &image.labels);
            let id = node::enliven(tx, key(namespace, &image.name), kept)?.ok_or_else(|| {
                already_exists(NodeKind::Image, &image.name, self.view.namespace())
            })?;
            self.store(tx, (id, namespace), &image)?;
            let (name, labels) = (image.name.clone(), image.labels.clone());
            tx.append(self.view.namespace(), &Event::ImageCreate { name, labels })?;
            Ok(image)
        })
    }

    /// One image.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, name: &ImageName) -> Result<Image, Error> {
        self.view.db().read("read an image", |connection| {
            Ok(self.load(connection, name)?.1)
        })
    }

    /// The images that any of `filters` keeps, by name.
    ///
    /// # Errors
    /// `Filter`, `Database`, `Corrupt`.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Image>, Error> {
        let filters = self::filters("image", filters)?;
        let mut images = Vec::new();
        let sql = format!("{SELECT} WHERE node.namespace = ?1 ORDER BY image.id");
        self.view.each_row("images", &sql, |columns| {
            let image = image(columns)?;
            if filters.matches(&image) {
                images.push(image);
            }
            Ok(())
        })?;
        images.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Changes an image: the fields named (`labels`, `labels.KEY`, `target`, `annotations`, `annotations.KEY`), or
    /// without any all of them.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for another field or an unusable target, `Database`.
    pub fn update(&self, image: &Image, fields: &[String]) -> Result<Image, Error> {
        self.view.db().write("update an image", |tx| {
            let (id, mut updated) = self.load(tx, &image.name)?;
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            apply(&mut updated, image, fields)?;
            check(&updated)?;
            updated.labels = without_empty(&updated.labels);
            updated.updated_at = from_nanos(tx.now);
            self.store(tx, (id, namespace), &updated)?;
            tx.note_deletion();
            let (name, labels) = (updated.name.clone(), updated.labels.clone());
            tx.append(self.view.namespace(), &Event::ImageUpdate { name, labels })?;
            Ok(updated)
        })
    }

    /// Removes an image; with `target` only if it still names that digest.
    ///
    /// # Errors
    /// `NotFound`, also where the name has another target; `Database`.
    pub fn delete(&self, name: &ImageName, target: Option<&Digest>) -> Result<(), Error> {
        self.view.db().write("remove an image", |tx| {
            let (id, image) = self.load(tx, name)?;
            if target.is_some_and(|target| *target != image.target.digest) {
                return Err(not_found(NodeKind::Image, name, self.view.namespace()));
            }
            let namespace = node::ensure_namespace(tx, self.view.namespace())?;
            self.view.unbind(tx, namespace, id)?;
            remove(tx, id)?;
            let name = name.clone();
            tx.append(self.view.namespace(), &Event::ImageDelete { name })?;
            Ok(())
        })
    }

    fn load(&self, connection: &Connection, name: &ImageName) -> Result<(i64, Image), Error> {
        let missing = || not_found(NodeKind::Image, name, self.view.namespace());
        let namespace =
            node::namespace_id(connection, self.view.namespace())?.ok_or_else(missing)?;
        let id = node::find_live(connection, key(namespace, name))?.ok_or_else(missing)?;
        let found = connection
            .prepare_cached(&format!("{SELECT} WHERE image.id = ?1"))
            .and_then(|mut select| {
                let found = select.query_row([id], |row| {
                    Ok(Columns::new("images", row).and_then(|columns| image(&columns)))
                });
                found.optional()
            })
            .map_err(Error::database("read an image"))?;
        Ok((id, found.unwrap_or_else(|| Err(missing()))?))
    }

    fn store(&self, tx: &Tx<'_>, (id, namespace): (i64, i64), image: &Image) -> Result<(), Error> {
        let size = signed("store image", image.name.as_str(), image.target.size)?;
        tx.prepare_cached("INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
            .and_then(|mut insert| {
                insert.execute(params![
                    id,
                    image.target.digest.to_string(),
                    image.target.media_type,
                    size,
                    to_json(&image.target.annotations),
                    to_json(&image.labels),
                    to_nanos(image.created_at),
                    to_nanos(image.updated_at),
                ])
            })
            .map_err(Error::database("store an image"))?;
        let kept = node::expiry(NodeKind::Image, image.name.as_str(), &image.labels);
        node::relabel(tx, (id, namespace), &image.labels, Some(kept))?;
        node::unlink_owned(tx, id, Some(&[EdgeKind::Field]))?;
        let target = image.target.digest.to_string();
        let target = NodeKey {
            namespace,
            kind: NodeKind::Content,
            scope: "",
            key: &target,
        };
        let target = node::intern(tx, target)?;
        node::link(tx, (id, target, id), EdgeKind::Field, None)?;
        if kept.expires_at.is_some() {
            self.view.bind(tx, namespace, id)?;
        }
        Ok(())
    }
}

/// Removes an image's row and node.
pub(crate) fn remove(tx: &Tx<'_>, id: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM images WHERE id = ?1")
        .and_then(|mut delete| delete.execute([id]))
        .map_err(Error::database("remove an image"))?;
    node::retire(tx, id)
}

fn apply(updated: &mut Image, wanted: &Image, fields: &[String]) -> Result<(), Error> {
    if fields.is_empty() {
        updated.labels.clone_from(&wanted.labels);
        updated.target.clone_from(&wanted.target);
    }
    for path in fields {
        let annotations: &BTreeMap<_, _> = &wanted.target.annotations;
        if mask::labels(path, &mut updated.labels, &wanted.labels)?
            || mask::map(
                (path, "annotations"),
                &mut updated.target.annotations,
                annotations,
            )
        {
            continue;
        }
        if path != "target" {
            return Err(mask::refused("update image", &updated.name, path));
        }
        updated.target.clone_from(&wanted.target);
    }
    Ok(())
}

fn check(image: &Image) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::invalid("store image", image.name.as_str(), reason));
    if image.target.media_type.is_empty() {
        return refuse("its target has no media type");
    }
    if image.target.size == 0 {
        return refuse("its target has no size");
    }
    Ok(())
}

fn image(columns: &Columns<'_, '_>) -> Result<Image, Error> {
    let media_type: String = columns.value(2)?;
    let mut target = Descriptor::new(media_type, columns.parsed(1)?, columns.size(3)?);
    target.annotations = columns.json(4)?;
    Ok(Image {
        name: columns.parsed(0)?,
        target,
        labels: columns.json(5)?,
        created_at: columns.time(6)?,
        updated_at: columns.time(7)?,
    })
}

fn key(namespace: i64, name: &ImageName) -> NodeKey<'_> {
    NodeKey {
        namespace,
        kind: NodeKind::Image,
        scope: "",
        key: name.as_str(),
    }
}
