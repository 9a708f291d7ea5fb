//! Object stores on this machine, each for one test.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_cache::fleet::NoteLeases;
use orlop_testkit::servers::{BUCKET, CREDENTIALS, ObjectStore};

use crate::s3::{DepotSettings, S3};
use crate::shared::{Shared, SharedSettings};

/// A store, and how the cache is told of it.
pub(crate) struct Server(ObjectStore);

impl Deref for Server {
    type Target = ObjectStore;

    fn deref(&self) -> &ObjectStore {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut ObjectStore {
        &mut self.0
    }
}

impl Server {
    pub(crate) fn moto() -> Self {
        Self(ObjectStore::moto())
    }

    pub(crate) fn s3s() -> Self {
        Self(ObjectStore::s3s())
    }

    /// As it stands in a configuration.
    pub(crate) fn section(&self) -> String {
        let keys = self.keys();
        format!("[depot]\n{keys}")
    }

    pub(crate) fn settings(&self) -> DepotSettings {
        toml::from_str(&self.keys()).unwrap()
    }

    /// What a replica shares with credentials that no environment has.
    pub(crate) async fn shared(&self, settings: &SharedSettings, tasks: &TaskTree) -> Shared {
        let mut settings = settings.clone();
        settings.depot = Some(self.settings());
        let mut shared = settings.open(None, tasks).await.unwrap();
        shared.depot = Arc::new(self.connect().await);
        if shared.fleet.is_none() {
            shared.leases = Arc::new(NoteLeases::new(
                Arc::clone(&shared.depot) as _,
                SystemClock::shared(),
                shared.life.clone(),
                None,
                Duration::from_secs(10),
            ));
        }
        shared
    }

    fn keys(&self) -> String {
        format!(
            "bucket = \"{BUCKET}\"\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\npath_style = true\nprefix = \"cache/\"\npart_size = \"5MiB\"",
            self.address()
        )
    }

    pub(crate) async fn connect(&self) -> S3 {
        self.connect_with(&self.settings()).await
    }

    pub(crate) async fn connect_with(&self, settings: &DepotSettings) -> S3 {
        let credentials = Credentials::new(CREDENTIALS.0, CREDENTIALS.1, None, None, "test");
        let connected = S3::connect_as(settings, Some(credentials)).await;
        connected.unwrap()
    }
}
