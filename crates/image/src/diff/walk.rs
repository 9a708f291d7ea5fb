//! Walking trees and finding what changed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_sys::beneath::{self, NodeKind, NodeStat};

use super::DiffOptions;
use super::error::{DiffError, shown};
use super::pending::{Node, Output};
use super::same::is_same;
use crate::apply::{MergedView, OPAQUE_MARKER, WHITEOUT_PREFIX, is_opaque};
use crate::layer::{LayerWriter, name};

/// Deeper than any layer can make a tree; each level holds two descriptors.
const DEPTH_MAX: usize = 1024;

pub(super) struct Differ<W> {
    output: Output<W>,
    cancel: Option<Arc<AtomicBool>>,
    depth: usize,
}

impl<W: Write> Differ<W> {
    pub(super) fn new(writer: LayerWriter<W>, options: &DiffOptions) -> Self {
        let output = Output::new(writer, options);
        Self {
            output,
            cancel: options.cancel.clone(),
            depth: 0,
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.output.finish()
    }

    /// Compares two complete trees.
    pub(super) fn trees(
        &mut self,
        lower: Option<BorrowedFd<'_>>,
        upper: BorrowedFd<'_>,
    ) -> Result<(), DiffError> {
        self.compare(b"", lower, upper)
    }

    fn compare(
        &mut self,
        path: &[u8],
        lower: Option<BorrowedFd<'_>>,
        upper: BorrowedFd<'_>,
    ) -> Result<(), DiffError> {
        self.check(path)?;
        let list = |directory: BorrowedFd<'_>| {
            reopen(directory)
                .and_then(beneath::list_directory)
                .map_err(|source| DiffError::tree("list", path, source))
        };
        let mut names: BTreeSet<Vec<u8>> = list(upper)?.into_iter().collect();
        names.extend(lower.map(list).transpose()?.unwrap_or_default());
        for base in names {
            let below = lower
                .map(|lower| stat(lower, &base, path))
                .transpose()?
                .flatten();
            match (stat(upper, &base, path)?, below) {
                (None, None) => {}
                (None, Some(_)) => {
                    self.output
                        .write_marker(path, &[WHITEOUT_PREFIX, &base].concat())?;
                }
                (Some(there), below) => {
                    let child = name::join(path, &base);
                    let node = Node {
                        parent: upper,
                        base: &base,
                        path: &child,
                        stat: &there,
                    };
                    let below = below.zip(lower);
                    self.compare_node(&node, below)?;
                }
            }
        }
        Ok(())
    }

    fn compare_node(
        &mut self,
        node: &Node<'_, BorrowedFd<'_>>,
        below: Option<(NodeStat, BorrowedFd<'_>)>,
    ) -> Result<(), DiffError> {
        let unchanged = match &below {
            Some((stat, parent)) => {
                let other = Node {
                    parent: *parent,
                    stat,
                    ..*node
                };
                is_same(node, &other)
                    .map_err(|source| DiffError::tree("compare", node.path, source))?
            }
            None => false,
        };
        if node.stat.kind != NodeKind::Directory {
            return if unchanged {
                Ok(())
            } else {
                self.output.write(node)
            };
        }
        if unchanged {
            self.output.enter(node)?
        } else {
            self.output.write(node)?
        }
        let open = |parent: BorrowedFd<'_>| {
            beneath::open_directory_beneath(parent, node.base)
                .map_err(|source| DiffError::tree("open", node.path, source))
        };
        let upper = open(node.parent)?;
        let lower = match below {
            Some((stat, parent)) if stat.kind == NodeKind::Directory => Some(open(parent)?),
            Some(_) | None => None,
        };
        self.depth += 1;
        self.compare(node.path, lower.as_ref().map(AsFd::as_fd), upper.as_fd())?;
        self.depth -= 1;
        self.output.leave(node.path);
        Ok(())
    }

    /// Visits what an upper directory holds.
    pub(super) fn overlay(
        &mut self,
        upper: BorrowedFd<'_>,
        lowers: &[BorrowedFd<'_>],
    ) -> Result<(), DiffError> {
        self.visit(b"", upper, MergedView::new(lowers))
    }

    fn visit(
        &mut self,
        path: &[u8],
        upper: BorrowedFd<'_>,
        below: MergedView<'_>,
    ) -> Result<(), DiffError> {
        self.check(path)?;
        let names = reopen(upper)
            .and_then(beneath::list_directory)
            .map_err(|source| DiffError::tree("list", path, source))?;
        for base in names {
            let Some(there) = stat(upper, &base, path)? else {
                continue;
            };
            let child = name::join(path, &base);
            let lower = below
                .find(&child)
                .map_err(|source| DiffError::tree("look up below", &child, source))?;
            let node = Node {
                parent: upper,
                base: &base,
                path: &child,
                stat: &there,
            };
            if there.is_overlay_whiteout() {
                if lower.is_some() {
                    self.output
                        .write_marker(path, &[WHITEOUT_PREFIX, &base].concat())?;
                }
                continue;
            }
            refuse_elsewhere(&node)?;
            if there.kind == NodeKind::Directory {
                let unchanged = match &lower {
                    Some(found) => {
                        let other = Node {
                            parent: found.parent.as_fd(),
                            base: &found.base,
                            path: &child,
                            stat: &found.stat,
                        };
                        is_same(&node, &other)
                            .map_err(|source| DiffError::tree("compare", &child, source))?
                    }
                    None => false,
                };
                self.visit_directory(&node, unchanged, below)?;
            } else {
                self.output.write(&node)?;
            }
        }
        Ok(())
    }

    fn visit_directory(
        &mut self,
        node: &Node<'_, BorrowedFd<'_>>,
        unchanged: bool,
        below: MergedView<'_>,
    ) -> Result<(), DiffError> {
        let fail = |source| DiffError::tree("open", node.path, source);
        if unchanged {
            self.output.enter(node)?
        } else {
            self.output.write(node)?
        }
        if is_opaque(node.parent, node.base).map_err(fail)? {
            self.output.write_marker(node.path, OPAQUE_MARKER)?;
        }
        let directory = beneath::open_directory_beneath(node.parent, node.base).map_err(fail)?;
        self.depth += 1;
        self.visit(node.path, directory.as_fd(), below)?;
        self.depth -= 1;
        self.output.leave(node.path);
        Ok(())
    }

    fn check(&self, path: &[u8]) -> Result<(), DiffError> {
        if self.depth > DEPTH_MAX {
            let source = io::Error::other("directories nested too deeply");
            return Err(DiffError::tree("visit", path, source));
        }
        let cancelled = self
            .cancel
            .as_ref()
            .is_some_and(|flag| flag.load(Ordering::Relaxed));
        if cancelled {
            Err(DiffError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// A descriptor with a position of its own: listing must not depend on who listed before.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    beneath::open_directory_beneath(directory, b".")
}

fn stat(parent: BorrowedFd<'_>, base: &[u8], path: &[u8]) -> Result<Option<NodeStat>, DiffError> {
    match beneath::stat(parent, base) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiffError::tree("stat", &name::join(path, base), source)),
    }
}

/// With `redirect_dir` and `metacopy` an upper entry's data stands elsewhere; a layer made from it would be wrong.
fn refuse_elsewhere(node: &Node<'_, BorrowedFd<'_>>) -> Result<(), DiffError> {
    for (attribute, feature) in [
        (&b"trusted.overlay.redirect"[..], "redirect_dir"),
        (b"trusted.overlay.metacopy", "metacopy"),
    ] {
        let value = beneath::attribute(node.parent, node.base, attribute)
            .map_err(|source| DiffError::tree("read attributes of", node.path, source))?;
        if value.is_some() {
            return Err(DiffError::Unsupported {
                path: shown(node.path),
                feature,
            });
        }
    }
    Ok(())
}
