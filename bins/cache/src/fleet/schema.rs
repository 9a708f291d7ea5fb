//! Tables, and how they come from one version to the next.
//!
//! Replicas of two versions run at once while a fleet is brought up to date, so a migration only adds: what a version
//! knows it finds in every later one. A version that must break this is refused by the older ones.

use orlop_cache::fleet::FleetError;
use tokio_postgres::Client;

use super::{failed, in_time, odd, value};

/// Migrations in their order: the first makes version 1.
const MIGRATIONS: [&str; 1] = [include_str!("0001.sql")];

/// No replica may change tables while another does. The number means nothing.
const LOCK: i64 = 0x6f72_6c6f_7001;

/// Brings the tables to this version, or finds that somebody has.
pub(super) async fn migrate(
    client: &mut Client,
    operation: &'static str,
) -> Result<(), FleetError> {
    if version(client, operation).await? == Some(newest()) {
        return Ok(());
    }
    let transaction = in_time(operation, client.transaction()).await?;
    let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
    in_time(operation, transaction.batch_execute(&lock)).await?;
    // Replicas that start together wait here for the first.
    let table = "CREATE TABLE IF NOT EXISTS orlop_schema (version integer NOT NULL)";
    in_time(operation, transaction.batch_execute(table)).await?;
    let row = transaction.query_opt("SELECT max(version) FROM orlop_schema", &[]);
    let row = in_time(operation, row).await?;
    let known: Option<i32> = row
        .as_ref()
        .map_or(Ok(None), |row| value(operation, row, 0))?;
    let known = known.unwrap_or_default();
    if known > newest() {
        return Err(newer(operation, known));
    }
    for (version, migration) in (1..)
        .zip(MIGRATIONS)
        .filter(|(version, _)| *version > known)
    {
        in_time(operation, transaction.batch_execute(migration)).await?;
        let note = "INSERT INTO orlop_schema (version) VALUES ($1)";
        in_time(operation, transaction.execute(note, &[&version])).await?;
    }
    transaction
        .commit()
        .await
        .map_err(|error| failed(operation, error))
}

/// The tables' version; `None` if there are none.
async fn version(client: &Client, operation: &'static str) -> Result<Option<i32>, FleetError> {
    let exists = client.query_one("SELECT to_regclass('orlop_schema') IS NOT NULL", &[]);
    let row = in_time(operation, exists).await?;
    if !value::<bool>(operation, &row, 0)? {
        return Ok(None);
    }
    let row = client.query_one("SELECT max(version) FROM orlop_schema", &[]);
    let row = in_time(operation, row).await?;
    let known = value::<Option<i32>>(operation, &row, 0)?;
    match known {
        Some(known) if known > newest() => Err(newer(operation, known)),
        known => Ok(known),
    }
}

fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

fn newer(operation: &'static str, known: i32) -> FleetError {
    let newest = newest();
    odd(
        operation,
        format!("the tables are of version {known}, and this program knows {newest}"),
    )
}
