//! Tasks: the runtime's own record of what runs, written before each outside effect and replayed after a restart.
//!
//! Written without waiting for the disk: a record is there after a crash of the daemon, and a power cut ends the tasks
//! themselves, so that an older record, or none, is as true as the newest.

use std::time::SystemTime;

use orlop_types::{ContainerId, Namespace};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Columns;
use crate::db::Tx;
use crate::time::{from_nanos, to_nanos};
use crate::{Db, Error, Event, View, node};

const KIND: &str = "task";

/// How far a task is. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TaskState {
    /// Effects of its creation are under way; undo them after a crash.
    Creating = 1,
    /// Created, not started.
    Created = 2,
    /// Its first process runs.
    Running = 3,
    /// Frozen.
    Paused = 4,
    /// Its first process ended.
    Stopped = 5,
    /// Effects of its removal are under way; complete them after a crash.
    Deleting = 6,
}

impl TaskState {
    const ALL: [Self; 6] = [
        Self::Creating,
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Deleting,
    ];
}

/// A task's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The namespace it runs in.
    pub namespace: Namespace,
    /// The container it runs.
    pub container: ContainerId,
    /// Its folder, for the shim.
    pub bundle: String,
    /// Where the shim listens; empty until it is known.
    pub shim_address: String,
    /// The first process; 0 until it is known.
    pub pid: u32,
    /// How far it is.
    pub state: TaskState,
    /// How the first process ended, and when.
    pub exit: Option<(u32, SystemTime)>,
    /// The version of `record`: the runtime reads every version it ever wrote.
    pub record_version: u32,
    /// All else, in the runtime's own encoding.
    pub record: Vec<u8>,
    /// Set by the database.
    pub created_at: SystemTime,
    /// Set by the database.
    pub updated_at: SystemTime,
}

/// A task to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// The container to run. It must exist.
    pub container: ContainerId,
    /// Its folder.
    pub bundle: String,
    /// The version of `record`.
    pub record_version: u32,
    /// The runtime's record.
    pub record: Vec<u8>,
}

/// What changes in a task's record; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskUpdate {
    /// How far it is.
    pub state: Option<TaskState>,
    /// Where the shim listens.
    pub shim_address: Option<String>,
    /// The first process.
    pub pid: Option<u32>,
    /// How the first process ended, and when.
    pub exit: Option<(u32, SystemTime)>,
    /// The runtime's record and its version.
    pub record: Option<(u32, Vec<u8>)>,
    /// Events to append in the same transaction.
    pub events: Vec<Event>,
}

/// The tasks of a namespace.
#[derive(Debug)]
pub struct Tasks<'a> {
    view: &'a View,
}

const SELECT: &str = "SELECT container, namespaces.name, bundle, shim_address, pid, state, exit_status, exited_at,
    record_version, record, created_at, updated_at FROM tasks JOIN namespaces ON namespaces.id = tasks.namespace";

impl<'a> Tasks<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self { view }
    }

    /// Records that a task is about to be created. Call it before the first effect.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for the container, `Database`.
    pub fn create(&self, task: &NewTask) -> Result<Task, Error> {
        let failed = Error::database("create a task");
        self.view.db().write_relaxed("create a task", |tx| {
            let namespace = self.container(tx, &task.container)?;
            let inserted = tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO tasks VALUES (?1, ?2, ?3, '', 0, ?4, NULL, NULL, ?5, ?6, ?7, ?7)",
                )
                .and_then(|mut insert| {
                    insert.execute(params![
                        namespace,
                        task.container.as_str(),
                        task.bundle,
                        TaskState::Creating as u8,
                        task.record_version,
                        task.record,
                        tx.now,
                    ])
                })
                .map_err(failed)?;
            if inserted == 0 {
                return Err(Error::AlreadyExists {
                    kind: KIND,
                    key: task.container.to_string(),
                    namespace: self.view.namespace().to_string(),
                });
            }
            load(tx, self.view.namespace(), &task.container)
        })
    }

    /// Changes a task's record and appends the events of the change. Call it before the effect it announces, or after
    /// the one it reports.
    ///
    /// # Errors
    /// `NotFound`, `Database`.
    pub fn update(&self, container: &ContainerId, update: &TaskUpdate) -> Result<Task, Error> {
        self.view.db().write_relaxed("update a task", |tx| {
            let mut task = load(tx, self.view.namespace(), container)?;
            apply(&mut task, update);
            task.updated_at = from_nanos(tx.now);
            store(tx, &task)?;
            for event in &update.events {
                tx.append(self.view.namespace(), event)?;
            }
            Ok(task)
        })
    }

    /// One task.
    ///
    /// # Errors
    /// `NotFound`, `Database`, `Corrupt`.
    pub fn find(&self, container: &ContainerId) -> Result<Task, Error> {
        self.view.db().read("read a task", |connection| {
            load(connection, self.view.namespace(), container)
        })
    }

    /// All tasks of the namespace, by container.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub fn list(&self) -> Result<Vec<Task>, Error> {
        list(self.view.db(), Some(self.view.namespace()))
    }

    /// Removes a task's record, appending `events` in the same transaction. Call it after the last effect.
    ///
    /// # Errors
    /// `NotFound`, `Database`.
    pub fn delete(&self, container: &ContainerId, events: &[Event]) -> Result<(), Error> {
        self.view.db().write_relaxed("remove a task", |tx| {
            load(tx, self.view.namespace(), container)?;
            tx.prepare_cached(
                "DELETE FROM tasks WHERE container = ?2 AND namespace = (SELECT id FROM namespaces WHERE name = ?1)",
            )
            .and_then(|mut delete| {
                delete.execute([self.view.namespace().as_str(), container.as_str()])
            })
            .map_err(Error::database("remove a task"))?;
            tx.note_deletion();
            for event in events {
                tx.append(self.view.namespace(), event)?;
            }
            Ok(())
        })
    }

    /// The namespace's id, if the container exists in it.
    fn container(&self, tx: &Tx<'_>, container: &ContainerId) -> Result<i64, Error> {
        let missing =
            || node::not_found(node::NodeKind::Container, container, self.view.namespace());
        let namespace = node::namespace_id(tx, self.view.namespace())?.ok_or_else(missing)?;
        let key = node::NodeKey {
            namespace,
            kind: node::NodeKind::Container,
            scope: "",
            key: container.as_str(),
        };
        node::find_live(tx, key)?.ok_or_else(missing)?;
        Ok(namespace)
    }
}

impl Db {
    /// The tasks of all namespaces, for the runtime to replay after a restart.
    ///
    /// # Errors
    /// `Database`, `Corrupt`.
    pub fn tasks(&self) -> Result<Vec<Task>, Error> {
        list(self, None)
    }
}

fn apply(task: &mut Task, update: &TaskUpdate) {
    if let Some(state) = update.state {
        task.state = state;
    }
    if let Some(address) = &update.shim_address {
        task.shim_address.clone_from(address);
    }
    if let Some(pid) = update.pid {
        task.pid = pid;
    }
    if let Some(exit) = update.exit {
        task.exit = Some(exit);
    }
    if let Some((version, record)) = &update.record {
        task.record_version = *version;
        task.record.clone_from(record);
    }
}

fn store(tx: &Tx<'_>, task: &Task) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE tasks SET shim_address = ?3, pid = ?4, state = ?5, exit_status = ?6, exited_at = ?7,
            record_version = ?8, record = ?9, updated_at = ?10
         WHERE container = ?2 AND namespace = (SELECT id FROM namespaces WHERE name = ?1)",
    )
    .and_then(|mut write| {
        write.execute(params![
            task.namespace.as_str(),
            task.container.as_str(),
            task.shim_address,
            task.pid,
            task.state as u8,
            task.exit.map(|(status, _)| status),
            task.exit.map(|(_, at)| to_nanos(at)),
            task.record_version,
            task.record,
            to_nanos(task.updated_at),
        ])
    })
    .map_err(Error::database("update a task"))?;
    Ok(())
}

fn load(
    connection: &Connection,
    namespace: &Namespace,
    container: &ContainerId,
) -> Result<Task, Error> {
    connection
        .prepare_cached(&format!(
            "{SELECT} WHERE namespaces.name = ?1 AND container = ?2"
        ))
        .and_then(|mut select| {
            let values = [namespace.as_str(), container.as_str()];
            select.query_row(values, |row| Ok(task(row))).optional()
        })
        .map_err(Error::database("read a task"))?
        .unwrap_or_else(|| {
            Err(Error::NotFound {
                kind: KIND,
                key: container.to_string(),
                namespace: namespace.to_string(),
            })
        })
}

fn list(db: &Db, namespace: Option<&Namespace>) -> Result<Vec<Task>, Error> {
    let failed = Error::database("list tasks");
    db.read("list tasks", |connection| {
        let sql = format!("{SELECT} WHERE ?1 IS NULL OR namespaces.name = ?1 ORDER BY 2, 1");
        let mut select = connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = select
            .query([namespace.map(Namespace::as_str)])
            .map_err(failed)?;
        let mut tasks = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            tasks.push(task(row)?);
        }
        Ok(tasks)
    })
}

fn task(row: &Row<'_>) -> Result<Task, Error> {
    let columns = Columns::new("tasks", row)?;
    let state: u8 = columns.value(5)?;
    let exit: (Option<u32>, Option<i64>) = (columns.value(6)?, columns.value(7)?);
    Ok(Task {
        container: columns.parsed(0)?,
        namespace: columns.parsed(1)?,
        bundle: columns.value(2)?,
        shim_address: columns.value(3)?,
        pid: columns.value(4)?,
        state: TaskState::ALL
            .into_iter()
            .find(|known| *known as u8 == state)
            .ok_or_else(|| columns.damaged(format!("state {state} is not known")))?,
        exit: exit.0.zip(exit.1.map(from_nanos)),
        record_version: columns.value(8)?,
        record: columns.value(9)?,
        created_at: columns.time(10)?,
        updated_at: columns.time(11)?,
    })
}
