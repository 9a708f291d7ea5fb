//! The fleet in PostgreSQL: leases, tags, grants, pins and counts that replicas share.
//!
//! One connection, on which calls are pipelined. Each call is one statement and so happens as a whole or not at all. A
//! call that takes too long drops the connection: the next one makes another, after a pause, and until then every call
//! fails at once. Times are the database's, so replicas' clocks need not agree; but for `checked` and `until` of tags
//! and grants, which come from the cache's own rules.

mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_base::clock::SharedClock;
use orlop_base::task::{TaskKind, TaskTree};
use orlop_cache::fleet::{
    Claim, Duty, Fleet, FleetAnswer, FleetError, FleetErrorKind, FleetState, GrantKey, Lease,
    Leases, Pulls, SharedTag,
};
use orlop_types::Digest;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

pub(crate) use settings::{FleetSettings, life};

const CONNECTION: TaskKind = TaskKind::dropped("fleet connection");

/// How long a connection may take, and how long a call.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a failure nobody tries to connect.
const PAUSE: Duration = Duration::from_secs(2);

const CLAIM: &str = "
WITH taken AS (
    INSERT INTO orlop_lease AS lease (duty, holder, life, token, address, until)
    VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 second')
    ON CONFLICT (duty) DO UPDATE
    SET holder = excluded.holder, life = excluded.life, token = excluded.token,
        address = excluded.address, until = excluded.until
    WHERE lease.until < now() OR (lease.holder = excluded.holder AND lease.life <> excluded.life)
    RETURNING token
)
SELECT (SELECT token FROM taken), before.holder, before.address
FROM (VALUES (1)) AS one LEFT JOIN orlop_lease AS before ON before.duty = $1";

/// In one statement, so that nobody ever sees a half.
const TELL_PULLS: &str = "
WITH told AS (
    SELECT digest, week, month
    FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS new (digest, week, month)
), gone AS (
    DELETE FROM orlop_pulls
    WHERE replica = $1 AND digest NOT IN (SELECT digest FROM told)
)
INSERT INTO orlop_pulls (replica, digest, week, month, told)
SELECT $1, digest, week, month, now() FROM told
ON CONFLICT (replica, digest) DO UPDATE
SET week = excluded.week, month = excluded.month, told = excluded.told";

/// A replica that is gone for so long has no clients any more.
const PULLS: &str = "
SELECT digest, sum(week)::bigint, sum(month)::bigint FROM orlop_pulls
WHERE told > now() - interval '2 days' GROUP BY digest ORDER BY digest";

/// A replica's share in a fleet.
pub(crate) struct Postgres {
    config: Config,
    replica: String,
    address: Option<String>,
    silence_max: Duration,
    /// This process, as nobody else.
    life: String,
    tokens: AtomicU64,
    clock: SharedClock,
    tasks: TaskTree,
    connection: tokio::sync::Mutex<Connection>,
    state: Mutex<FleetState>,
}

#[derive(Default)]
struct Connection {
    client: Option<Arc<Client>>,
    /// Boot time before which nobody tries again.
    not_before: Duration,
}

/// A statement's value.
type Value<'a> = &'a (dyn ToSql + Sync);

impl Postgres {
    /// Makes ready to speak to a database. Nothing is sent yet: one that is away is no error.
    pub(crate) fn new(
        settings: &FleetSettings,
        config: Config,
        life: String,
        clock: SharedClock,
        tasks: TaskTree,
    ) -> Self {
        Self {
            config,
            replica: settings.replica(),
            address: settings.address.clone(),
            silence_max: settings.silence_max.duration(),
            life,
            tokens: AtomicU64::default(),
            clock,
            tasks,
            connection: tokio::sync::Mutex::default(),
            state: Mutex::new(FleetState::Together),
        }
    }

    /// Runs one statement, and remembers how it stands with the fleet.
    async fn ask(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, FleetError> {
        let answer = self.try_ask(operation, statement, values).await;
        let state = match &answer {
            Ok(_) => FleetState::Together,
            Err(error) => FleetState::Alone {
                why: orlop_types::chain(error),
            },
        };
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::discriminant(&*known) != std::mem::discriminant(&state) {
            match &state {
                FleetState::Together => tracing::info!("together with the other replicas again"),
                FleetState::Alone { why } => {
                    tracing::warn!(error = why, "going on without the other replicas");
                }
            }
        }
        *known = state;
        drop(known);
        answer
    }

    async fn try_ask(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, FleetError> {
        let client = self.client(operation).await?;
        let answer = in_time(operation, async {
            let statement = client.prepare(statement).await?;
            client.query(&statement, values).await
        })
        .await;
        if answer.is_err() && client.is_closed() || is_late(&answer) {
            self.drop_connection(&client).await;
        }
        answer
    }

    async fn client(&self, operation: &'static str) -> Result<Arc<Client>, FleetError> {
        let mut connection = self.connection.lock().await;
        if let Some(client) = connection.client.as_ref().filter(|one| !one.is_closed()) {
            return Ok(Arc::clone(client));
        }
        connection.client = None;
        if self.clock.boottime() < connection.not_before {
            return Err(away(operation, "the database was away a moment ago"));
        }
        match self.connect(operation).await {
            Ok(client) => {
                let client = Arc::new(client);
                connection.client = Some(Arc::clone(&client));
                Ok(client)
            }
            Err(error) => {
                connection.not_before = self.clock.boottime() + PAUSE;
                Err(error)
            }
        }
    }

    /// A new connection to tables of our version.
    async fn connect(&self, operation: &'static str) -> Result<Client, FleetError> {
        let mut config = self.config.clone();
        config.application_name("orlop-cache");
        let mut client = match config.get_ssl_mode() {
            SslMode::Require => {
                let (client, connection) =
                    in_time(operation, config.connect(tls::connector()?)).await?;
                self.drive(connection);
                client
            }
            // Where nobody asked for TLS a certificate that nobody checks gives nothing.
            SslMode::Disable | SslMode::Prefer | _ => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = in_time(operation, config.connect(NoTls)).await?;
                self.drive(connection);
                client
            }
        };
        schema::migrate(&mut client, operation).await?;
        Ok(client)
    }

    fn drive<C>(&self, connection: C)
    where
        C: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    {
        self.tasks.spawn(CONNECTION, |_| async move {
            // Whoever asks next hears of it.
            if let Err(error) = connection.await {
                tracing::debug!(
                    error = orlop_types::chain(&error),
                    "the fleet's connection ended"
                );
            }
        });
    }

    async fn drop_connection(&self, client: &Arc<Client>) {
        let mut connection = self.connection.lock().await;
        let is_it = connection
            .client
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, client));
        if is_it {
            connection.client = None;
            connection.not_before = self.clock.boottime() + PAUSE;
        }
    }

    async fn claim_duty(&self, duty: &Duty) -> Result<Claim, FleetError> {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}/{number}", self.life);
        let name = duty.to_string();
        let silence = self.silence_max.as_secs_f64();
        let values: [Value<'_>; 6] = [
            &name,
            &self.replica,
            &self.life,
            &token,
            &self.address,
            &silence,
        ];
        let rows = self.ask("elect", CLAIM, &values).await?;
        let row = only("elect", rows)?;
        let taken: Option<String> = value("elect", &row, 0)?;
        if taken.is_some() {
            return Ok(Claim::Ours(Lease {
                duty: duty.clone(),
                token,
            }));
        }
        let holder: Option<String> = value("elect", &row, 1)?;
        Ok(Claim::Held {
            // Who was faster than our statement is not seen by it.
            by: holder.unwrap_or_else(|| "another replica".to_owned()),
            address: value("elect", &row, 2)?,
        })
    }

    async fn renew_lease(&self, lease: &Lease) -> Result<bool, FleetError> {
        let name = lease.duty.to_string();
        let silence = self.silence_max.as_secs_f64();
        let statement = "UPDATE orlop_lease SET until = now() + $3 * interval '1 second'
                         WHERE duty = $1 AND token = $2 RETURNING 1";
        let values: [Value<'_>; 3] = [&name, &lease.token, &silence];
        let rows = self.ask("renew a lease", statement, &values).await?;
        Ok(!rows.is_empty())
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), FleetError> {
        let name = lease.duty.to_string();
        let statement = "DELETE FROM orlop_lease WHERE duty = $1 AND token = $2";
        self.ask("give a lease back", statement, &[&name, &lease.token])
            .await?;
        Ok(())
    }

    async fn read_tag(&self, locator: &str, tag: &str) -> Result<Option<SharedTag>, FleetError> {
        const OPERATION: &str = "read a tag";
        let statement =
            "SELECT digest, media_type, checked FROM orlop_tag WHERE locator = $1 AND tag = $2";
        let rows = self.ask(OPERATION, statement, &[&locator, &tag]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(SharedTag {
            digest: digest(OPERATION, row, 0)?,
            media_type: value(OPERATION, row, 1)?,
            checked: value(OPERATION, row, 2)?,
        }))
    }

    async fn write_tag(
        &self,
        locator: &str,
        tag: &str,
        points_to: &SharedTag,
    ) -> Result<(), FleetError> {
        let statement =
            "INSERT INTO orlop_tag AS known (locator, tag, digest, media_type, checked)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (locator, tag) DO UPDATE
             SET digest = excluded.digest, media_type = excluded.media_type, checked = excluded.checked
             WHERE known.checked < excluded.checked";
        let digest = points_to.digest.to_string();
        let values: [Value<'_>; 5] = [
            &locator,
            &tag,
            &digest,
            &points_to.media_type,
            &points_to.checked,
        ];
        self.ask("share a tag", statement, &values).await?;
        Ok(())
    }

    async fn read_grant(&self, grant: &GrantKey) -> Result<Option<SystemTime>, FleetError> {
        const OPERATION: &str = "read a grant";
        let statement = "SELECT until FROM orlop_grant
                         WHERE fingerprint = $1 AND locator = $2 AND digest = $3 AND until > now()";
        let (fingerprint, digest) = (&grant.fingerprint[..], grant.digest.to_string());
        let values: [Value<'_>; 3] = [&fingerprint, &grant.locator, &digest];
        let rows = self.ask(OPERATION, statement, &values).await?;
        rows.first().map(|row| value(OPERATION, row, 0)).transpose()
    }

    async fn write_grant(&self, grant: &GrantKey, until: SystemTime) -> Result<(), FleetError> {
        let statement = "INSERT INTO orlop_grant AS known (fingerprint, locator, digest, until)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (fingerprint, locator, digest) DO UPDATE
             SET until = greatest(known.until, excluded.until)";
        let (fingerprint, digest) = (&grant.fingerprint[..], grant.digest.to_string());
        let values: [Value<'_>; 4] = [&fingerprint, &grant.locator, &digest, &until];
        self.ask("share a grant", statement, &values).await?;
        Ok(())
    }

    async fn read_pins(&self) -> Result<BTreeSet<Digest>, FleetError> {
        const OPERATION: &str = "read the pins";
        let rows = self
            .ask(OPERATION, "SELECT digest FROM orlop_pin", &[])
            .await?;
        rows.iter().map(|row| digest(OPERATION, row, 0)).collect()
    }

    async fn write_pin(&self, digest: &Digest, is_pinned: bool) -> Result<(), FleetError> {
        let statement = if is_pinned {
            "INSERT INTO orlop_pin (digest) VALUES ($1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM orlop_pin WHERE digest = $1"
        };
        let digest = digest.to_string();
        self.ask("share a pin", statement, &[&digest]).await?;
        Ok(())
    }

    async fn write_pulls(&self, pulls: &[Pulls]) -> Result<(), FleetError> {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let digests: Vec<String> = pulls.iter().map(|one| one.digest.to_string()).collect();
        let weeks: Vec<i64> = pulls.iter().map(|one| signed(one.week)).collect();
        let months: Vec<i64> = pulls.iter().map(|one| signed(one.month)).collect();
        let values: [Value<'_>; 4] = [&self.replica, &digests, &weeks, &months];
        self.ask("tell of pulls", TELL_PULLS, &values).await?;
        self.tidy().await
    }

    /// Removes what nobody will ask for again.
    async fn tidy(&self) -> Result<(), FleetError> {
        const OPERATION: &str = "remove old rows";
        let pulls = "DELETE FROM orlop_pulls WHERE told < now() - interval '2 days'";
        self.ask(OPERATION, pulls, &[]).await?;
        let grants = "DELETE FROM orlop_grant WHERE until < now()";
        self.ask(OPERATION, grants, &[]).await?;
        let leases = "DELETE FROM orlop_lease WHERE until < now() - interval '1 day'";
        self.ask(OPERATION, leases, &[]).await?;
        Ok(())
    }

    async fn read_pulls(&self) -> Result<Vec<Pulls>, FleetError> {
        const OPERATION: &str = "read pulls";
        let rows = self.ask(OPERATION, PULLS, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Pulls {
                    digest: digest(OPERATION, row, 0)?,
                    week: value::<i64>(OPERATION, row, 1)?.unsigned_abs(),
                    month: value::<i64>(OPERATION, row, 2)?.unsigned_abs(),
                })
            })
            .collect()
    }
}

impl Leases for Postgres {
    fn claim<'a>(&'a self, duty: &'a Duty) -> FleetAnswer<'a, Claim> {
        Box::pin(self.claim_duty(duty))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, bool> {
        Box::pin(self.renew_lease(lease))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> FleetAnswer<'a, ()> {
        Box::pin(self.release_lease(lease))
    }

    fn silence_max(&self) -> Duration {
        self.silence_max
    }
}

impl Fleet for Postgres {
    fn tag<'a>(&'a self, locator: &'a str, tag: &'a str) -> FleetAnswer<'a, Option<SharedTag>> {
        Box::pin(self.read_tag(locator, tag))
    }

    fn set_tag<'a>(
        &'a self,
        locator: &'a str,
        tag: &'a str,
        points_to: &'a SharedTag,
    ) -> FleetAnswer<'a, ()> {
        Box::pin(self.write_tag(locator, tag, points_to))
    }

    fn grant<'a>(&'a self, grant: &'a GrantKey) -> FleetAnswer<'a, Option<SystemTime>> {
        Box::pin(self.read_grant(grant))
    }

    fn set_grant<'a>(&'a self, grant: &'a GrantKey, until: SystemTime) -> FleetAnswer<'a, ()> {
        Box::pin(self.write_grant(grant, until))
    }

    fn pins(&self) -> FleetAnswer<'_, BTreeSet<Digest>> {
        Box::pin(self.read_pins())
    }

    fn set_pin<'a>(&'a self, digest: &'a Digest, is_pinned: bool) -> FleetAnswer<'a, ()> {
        Box::pin(self.write_pin(digest, is_pinned))
    }

    fn tell_pulls<'a>(&'a self, pulls: &'a [Pulls]) -> FleetAnswer<'a, ()> {
        Box::pin(self.write_pulls(pulls))
    }

    fn pulls(&self) -> FleetAnswer<'_, Vec<Pulls>> {
        Box::pin(self.read_pulls())
    }

    fn state(&self) -> FleetState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration may hold a password.
        formatter
            .debug_struct("Postgres")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

async fn in_time<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, FleetError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(operation, error)),
        Err(late) => Err(FleetError {
            operation,
            kind: FleetErrorKind::Away,
            source: late.into(),
        }),
    }
}

fn is_late<T>(answer: &Result<T, FleetError>) -> bool {
    matches!(answer, Err(error) if error.source.is::<tokio::time::error::Elapsed>())
}

fn failed(operation: &'static str, error: tokio_postgres::Error) -> FleetError {
    // Classes of SQLSTATE: rights, names and data that no retry mends (PostgreSQL manual, appendix A).
    let class = error.code().map(|code| code.code().get(..2).unwrap_or(""));
    let kind = match class {
        Some("22" | "23" | "28" | "3D" | "3F" | "42") => FleetErrorKind::Refused,
        Some(_) | None => FleetErrorKind::Away,
    };
    FleetError {
        operation,
        kind,
        source: error.into(),
    }
}

fn away(operation: &'static str, why: &'static str) -> FleetError {
    FleetError {
        operation,
        kind: FleetErrorKind::Away,
        source: why.into(),
    }
}

fn odd(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> FleetError {
    FleetError {
        operation,
        kind: FleetErrorKind::Refused,
        source: source.into(),
    }
}

fn only(operation: &'static str, rows: Vec<Row>) -> Result<Row, FleetError> {
    let row = rows.into_iter().next();
    row.ok_or_else(|| odd(operation, "the answer has no row"))
}

/// A column, of the type that we made the table with: unless somebody changed it.
fn value<'a, T: tokio_postgres::types::FromSql<'a>>(
    operation: &'static str,
    row: &'a Row,
    column: usize,
) -> Result<T, FleetError> {
    row.try_get(column).map_err(|error| odd(operation, error))
}

fn digest(operation: &'static str, row: &Row, column: usize) -> Result<Digest, FleetError> {
    let text: &str = value(operation, row, column)?;
    Digest::from_str(text).map_err(|error| odd(operation, error))
}
