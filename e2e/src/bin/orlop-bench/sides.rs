//! The two engines, side by side.

use anyhow::Result;
use orlop_api::orlop::v1::GcRunRequest;
use orlop_e2e::{Client, Engine, Kind, Network, Options, Pods, Programs, Registry, Scratch, image};

/// One engine and its connection.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    /// The committed snapshot of the small image.
    pub(crate) small: String,
}

/// Both engines, idle, with the small image; and what they stand on.
///
/// Fields are dropped in this order: engines before what they use, the folder last.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) both: [Side; 2],
    pub(crate) registry: Registry,
    pub(crate) programs: Programs,
    /// The small image's reference.
    pub(crate) reference: String,
    networks: [Network; 2],
    pub(crate) scratch: Scratch,
}

impl Sides {
    pub(crate) async fn start() -> Result<Self> {
        let programs = Programs::find()?;
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch)?;
        let layout = image::small(&scratch)?;
        let reference = registry.push(&layout, image::TAG, "bench/small:latest")?;
        let pause = registry.push(&layout, image::add_pause(&layout)?, "bench/pause:latest")?;
        let networks = [
            Network::new(&scratch, "-o", 78)?,
            Network::new(&scratch, "-c", 79)?,
        ];
        let options = |side: usize| Options {
            pods: Some(Pods {
                networks: networks[side].folder().to_owned(),
                pause_image: pause.clone(),
            }),
            ..Options::default()
        };
        let orlop = Engine::orlopd(&programs, &scratch, &options(0))?;
        let containerd = Engine::containerd(&scratch, &options(1))?;
        let both = [
            Side::new(orlop, &reference).await?,
            Side::new(containerd, &reference).await?,
        ];
        Ok(Self {
            both,
            registry,
            programs,
            reference,
            networks,
            scratch,
        })
    }

    /// Both in turns: the one that was first is second in the next round, so that neither always finds a warm machine.
    pub(crate) fn turns(&self, round: u32) -> [usize; 2] {
        match round % 2 {
            0 => [0, 1],
            _ => [1, 0],
        }
    }

    /// Ends everything and tells what was left over.
    pub(crate) fn close(self) -> Result<Vec<String>> {
        drop((self.both, self.registry, self.networks));
        self.scratch.close()
    }
}

impl Side {
    async fn new(engine: Engine, reference: &str) -> Result<Self> {
        let client = engine.client().await?;
        let small = engine.ctr_pull(reference).await?;
        Ok(Self {
            engine,
            client,
            small,
        })
    }

    pub(crate) fn is_orlop(&self) -> bool {
        self.engine.kind() == Kind::Orlop
    }

    /// Collects what nothing holds; containerd does so itself after every synchronous removal.
    pub(crate) async fn collect(&self) -> Result<()> {
        if self.is_orlop() {
            self.client.collection().run(GcRunRequest {}).await?;
        }
        Ok(())
    }
}
