//! What a containerd has, as far as it can be brought over.

use std::collections::BTreeMap;

use orlop_meta::{Image, Sandbox};
use orlop_types::{Digest, Labels, LeaseId, Namespace};

use crate::Left;

/// What a containerd has.
#[derive(Debug, Default)]
pub struct Stock {
    /// The version of its layout: 3 keeps sandboxes beside `v1`, 4 within.
    pub version: i64,
    /// By namespace.
    pub shelves: BTreeMap<Namespace, Shelf>,
    /// What is not brought, and why.
    pub left: Vec<Left>,
}

/// What one namespace has.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Its labels.
    pub labels: Labels,
    /// Names for blobs.
    pub images: Vec<Image>,
    /// What it sees of the blobs.
    pub blobs: Vec<Blob>,
    /// What keeps blobs for its own time.
    pub leases: Vec<Lease>,
    /// Pods, as the sandbox store has them.
    pub sandboxes: Vec<Sandbox>,
}

/// A blob as a namespace sees it.
#[derive(Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its labels, some of which name what it refers to.
    pub labels: Labels,
}

/// A lease with the blobs it holds.
#[derive(Debug)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its labels; one may say when it ends.
    pub labels: Labels,
    /// What it holds.
    pub blobs: Vec<Digest>,
}
