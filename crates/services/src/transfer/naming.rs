//! Which names the images of a transfer get in the store (`core/transfer/image` of containerd).
//!
//! A destination has a name, which is for what is transferred as a whole, and further references: whole ones, and
//! prefixes to which a tag from an archive or a digest is added.

use orlop_api::containerd::types::transfer::{ImageReference, ImageStore};
use orlop_meta::{Error, ErrorKind, Image, View};
use orlop_types::{Descriptor, ImageName, Labels};
use tonic::Status;

use crate::status;
use crate::translate::parse;

/// With this label an image goes when the one it names goes.
const BACK_REFERENCE: &str = "containerd.io/gc.bref.image";
/// With this label an image is held by others only.
const EXPIRE: &str = "containerd.io/gc.expire";
/// Any time in the past will do.
const LONG_AGO: &str = "1970-01-01T00:00:00Z";

/// The name that an image is told of by while it is fetched: the destination's own, or the first other that will be
/// written.
///
/// # Errors
/// There is none, or none that can be one.
pub(super) fn first(store: &ImageStore) -> Result<ImageName, Status> {
    if !store.name.is_empty() {
        return parse(&store.name);
    }
    let names_something = |it: &&ImageReference| !it.is_prefix || it.add_digest;
    match store.extra_references.iter().find(names_something) {
        Some(reference) => parse(&reference.name),
        None => Err(status::missing("an image's name")),
    }
}

/// The records for what is transferred as a whole; the destination's own name comes first.
///
/// # Errors
/// A name that cannot be one.
pub(super) fn of_target(
    store: &ImageStore,
    labels: &Labels,
    target: &Descriptor,
) -> Result<Vec<Image>, Error> {
    let mut images = Vec::new();
    if !store.name.is_empty() {
        images.push(record(&store.name, target, labels.clone())?);
    }
    let further = further_labels(store, labels);
    for reference in &store.extra_references {
        match (reference.is_prefix, reference.add_digest) {
            // A prefix alone names nothing.
            (true, false) => {}
            (_, true) => images.push(by_digest(reference, target, &further)?),
            (false, false) => images.push(record(&reference.name, target, further.clone())?),
        }
    }
    Ok(images)
}

/// The records for one image of an archive, which calls it `annotated`: with a whole name or a mere tag.
///
/// # Errors
/// A name that cannot be one.
pub(super) fn of_archived(
    store: &ImageStore,
    labels: &Labels,
    (annotated, target): (Option<&str>, &Descriptor),
) -> Result<Vec<Image>, Error> {
    let mut images = Vec::new();
    let further = further_labels(store, labels);
    for reference in store.extra_references.iter().filter(|it| it.is_prefix) {
        let name = annotated.and_then(|name| prefixed(reference, name));
        let is_named = name.is_some();
        if let Some(name) = name {
            images.push(record(&name, target, further.clone())?);
        }
        if reference.add_digest && !(is_named && reference.skip_named_digest) {
            images.push(by_digest(reference, target, &further)?);
        }
    }
    Ok(images)
}

/// Writes a record; a name that exists moves.
///
/// # Errors
/// The database's.
pub(super) fn store(view: &View, image: &Image) -> Result<Image, Error> {
    match view.images().create(image) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => view.images().update(image, &[]),
        other => other,
    }
}

/// The whole name that a name of an archive makes under a prefix, if it does.
fn prefixed(reference: &ImageReference, name: &str) -> Option<String> {
    let prefix = reference.name.as_str();
    if prefix.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{prefix}:{name}"));
    }
    let is_below = name
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    (reference.allow_overwrite || is_below).then(|| name.to_owned())
}

fn by_digest(
    reference: &ImageReference,
    target: &Descriptor,
    labels: &Labels,
) -> Result<Image, Error> {
    let name = format!("{}@{}", reference.name, target.digest);
    record(&name, target, labels.clone())
}

fn record(name: &str, target: &Descriptor, labels: Labels) -> Result<Image, Error> {
    let name = ImageName::new(name).map_err(|error| Error::InvalidArgument {
        operation: "name image",
        subject: name.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Image::new(name, target.clone(), labels))
}

/// Labels of further names: they go with the destination's own name, if it has one.
fn further_labels(store: &ImageStore, labels: &Labels) -> Labels {
    let mut further = labels.clone();
    if !store.name.is_empty() {
        let held = further.insert(BACK_REFERENCE, &store.name);
        // A name too long for a label is kept by nobody, rather than by everybody.
        if held.is_ok() {
            further.insert(EXPIRE, LONG_AGO).ok();
        }
    }
    further
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_without_a_name_is_told_of_by_another() {
        let reference = |name: &str, is_prefix, add_digest| ImageReference {
            name: name.to_owned(),
            is_prefix,
            add_digest,
            ..ImageReference::default()
        };
        let mut store = ImageStore {
            extra_references: vec![reference("a", true, false)],
            ..ImageStore::default()
        };
        assert!(first(&store).is_err());
        store.extra_references.push(reference("b", true, true));
        assert_eq!(first(&store).unwrap().as_str(), "b");
        store.name = "c".to_owned();
        assert_eq!(first(&store).unwrap().as_str(), "c");
    }
}
