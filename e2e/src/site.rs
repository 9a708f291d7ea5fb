//! One engine of either kind with pods, asked as the kubelet asks: what holds on Debian's containerd is a fact about CRI,
//! and has to hold on ours.

use anyhow::{Context, Result};

use crate::node::{eventually, eventually_empty};
use crate::{Engine, Ground, Kind, Kubelet, Options, Programs};

/// An engine that has pulled the small image, and its kubelet. A dropped one only tidies up.
#[derive(Debug)]
pub struct Site {
    // First: it takes away the pods of a test that failed, and needs the engine for that.
    kubelet: Kubelet,
    engine: Engine,
    ground: Ground,
}

impl Site {
    /// Starts an engine and pulls the image.
    ///
    /// # Errors
    /// Something of it cannot be made.
    pub fn start(kind: Kind) -> Result<Self> {
        let ground = Ground::new()?;
        let options = Options {
            pods: Some(ground.pods()),
            ..Options::default()
        };
        let engine = match kind {
            Kind::Orlop => Engine::orlopd(&Programs::find()?, ground.scratch(), &options)?,
            Kind::Containerd => Engine::containerd(ground.scratch(), &options)?,
        };
        let kubelet = Kubelet::new(ground.scratch(), engine.socket())?;
        // containerd listens before all of it is there.
        eventually("the image is pulled", || {
            let pulled = kubelet.pull(ground.image());
            match (kind, pulled) {
                (_, Ok(_)) => Ok(Some(())),
                (Kind::Containerd, Err(_)) => Ok(None),
                (Kind::Orlop, Err(status)) => Err(status).context("cannot pull"),
            }
        })?;
        Ok(Self {
            kubelet,
            engine,
            ground,
        })
    }

    /// Who asks.
    #[must_use]
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// Which engine it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.engine.kind()
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Registry, network and folder.
    #[must_use]
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The reference of the small image.
    #[must_use]
    pub fn image(&self) -> &str {
        self.ground.image()
    }

    /// Ends the engine and takes everything away.
    ///
    /// # Errors
    /// Something of a pod is still there.
    pub fn close(self) -> Result<()> {
        let Self {
            kubelet,
            engine,
            ground,
        } = self;
        eventually_empty(|| {
            let mut found = ground.leftovers()?;
            found.extend(kubelet.leftovers());
            Ok(found)
        })?;
        drop(kubelet);
        engine.into_daemon().end()?;
        ground.close()
    }
}
