//! The way to the database: every call runs in the bounded pool, in the caller's namespace and under its lease.

use orlop_base::blocking;
use orlop_meta::{Db, Error, View};
use tonic::Status;

use crate::request::Caller;
use crate::status;

/// What the pool's figures call these jobs.
const JOB: &str = "services";

/// The database, for services. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Db,
}

impl Store {
    pub(crate) const fn new(db: Db) -> Self {
        Self { db }
    }

    /// Runs `job` on the caller's records. A caller that goes away does not stop a job that began.
    ///
    /// # Errors
    /// What the job says, as a status.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        job: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let view = self.view(caller);
        blocking::run(JOB, move || job(&view))
            .await
            .map_err(|error| status::of_blocking(&error))?
            .map_err(|error| status::of_meta(&error))
    }

    /// As [`Store::run`], for a job that may wait for others: for a program, or for a device.
    ///
    /// # Errors
    /// What the job says, as a status.
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        caller: Caller,
        job: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let view = self.view(caller);
        blocking::run_long(JOB, move || job(&view))
            .await
            .map_err(|error| status::of_blocking(&error))?
            .map_err(|error| status::of_meta(&error))
    }

    /// Runs `job` on records of every namespace.
    ///
    /// # Errors
    /// What the job says, as a status.
    pub(crate) async fn run_globally<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Db) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let db = self.db.clone();
        blocking::run(JOB, move || job(&db))
            .await
            .map_err(|error| status::of_blocking(&error))?
            .map_err(|error| status::of_meta(&error))
    }

    /// The caller's records, for jobs that keep them.
    pub(crate) fn view(&self, caller: Caller) -> View {
        let view = self.db.namespace(&caller.namespace);
        match caller.lease {
            Some(lease) => view.under(lease),
            None => view,
        }
    }

    /// The database itself, for what does not block.
    pub(crate) const fn db(&self) -> &Db {
        &self.db
    }
}
