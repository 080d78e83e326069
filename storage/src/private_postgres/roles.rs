//! What the cluster holds from the start: a superuser, the server's role, and its database.

use std::time::{Duration, Instant};

use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{
    cluster::Cluster,
    error::{PrivatePostgresError, Result},
    socket,
};

/// The superuser, for the start, for upgrades and for operators.
pub(super) const SUPERUSER: &str = "postgres";
/// The role of the server, as weak as it would be on a PostgreSQL of somebody else's.
pub(super) const SERVER: &str = "hearth";
/// The server's database.
pub(super) const DATABASE: &str = "hearth";

/// How long a PostgreSQL that says it is ready may take to let us in.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the server's role and its database, if they are not there yet.
pub(super) async fn ensure_database(cluster: &Cluster) -> Result<()> {
    async fn ensure(connection: &mut PgConnection) -> sqlx::Result<()> {
        let role = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hearth')";
        if !sqlx::query_scalar::<_, bool>(role)
            .fetch_one(&mut *connection)
            .await?
        {
            sqlx::query("CREATE ROLE hearth LOGIN")
                .execute(&mut *connection)
                .await?;
        }
        let database = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'hearth')";
        if !sqlx::query_scalar::<_, bool>(database)
            .fetch_one(&mut *connection)
            .await?
        {
            sqlx::query("CREATE DATABASE hearth OWNER hearth")
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
    let mut connection = connect(cluster, "postgres").await?;
    ensure(&mut connection)
        .await
        .map_err(PrivatePostgresError::SetUp)?;
    connection.close().await.map_err(PrivatePostgresError::SetUp)
}

/// Ends the sessions of a server that was killed, and with them their transactions and locks.
pub(super) async fn end_sessions(cluster: &Cluster) -> Result<()> {
    let mut connection = connect(cluster, "postgres").await?;
    // Not in the WHERE clause: there PostgreSQL may evaluate it first, and end everybody.
    let ended =
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = 'hearth'";
    let ended = sqlx::query_scalar::<_, i64>(ended)
        .fetch_one(&mut connection)
        .await;
    let ended = ended.map_err(PrivatePostgresError::SetUp)?;
    tracing::info!(ended, "ended the sessions of the server before");
    connection.close().await.map_err(PrivatePostgresError::SetUp)
}

/// Gathers statistics, which `pg_upgrade` leaves behind.
pub(super) async fn analyze(cluster: &Cluster) -> Result<()> {
    let mut connection = connect(cluster, DATABASE).await?;
    sqlx::query("ANALYZE")
        .execute(&mut connection)
        .await
        .map_err(PrivatePostgresError::SetUp)?;
    connection.close().await.map_err(PrivatePostgresError::SetUp)
}

/// Connects as the superuser.
async fn connect(cluster: &Cluster, database: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&cluster.socket_directory)
        .port(socket::PORT)
        .username(SUPERUSER)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .application_name("hearth set-up");
    let begun = Instant::now();
    loop {
        match PgConnection::connect_with(&options).await {
            Ok(connection) => return Ok(connection),
            // One that was taken over may be recovering from the crash of a child, whatever its pid file says.
            Err(error) if is_passing(&error) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(PrivatePostgresError::SetUp(error)),
        }
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // 57P03: starting up, shutting down or recovering. 53300: too many connections.
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300")),
        _ => false,
    }
}
