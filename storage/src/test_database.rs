//! A database for one test, cloned from a migrated template. For tests only (feature `test-database`).
//!
//! The server is the one that `HEARTH_TEST_POSTGRES` names, a `postgres://` URL of a role that may create
//! databases; `./test` starts one. Without it, `DATABASE_URL` of the environment or of `.env` is taken.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{Database, DatabaseOptions, database::MIGRATOR};

/// Serialises the making of the template among the processes of a test run.
const TEMPLATE_LOCK: i64 = 0x0048_6561_7274_6874;

/// A migrated, empty database of its own. Dropped by [`TestDatabase::drop_now`], or by the next run of tests on
/// that server.
#[derive(Debug)]
pub struct TestDatabase {
    /// Its `postgres://` URL.
    pub url: String,
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// When no server is named or it does not answer: a test cannot go on without it.
    pub async fn new() -> Self {
        let server = server_url();
        let mut admin = PgConnection::connect(&server)
            .await
            .expect("the test PostgreSQL answers");
        let template = migrated_template(&mut admin, &server).await;
        let name = format!("hearth_test_{}_{}", std::process::id(), unique());
        sqlx::query(AssertSqlSafe(format!(
            "CREATE DATABASE {name} TEMPLATE {template}"
        )))
        .execute(&mut admin)
        .await
        .expect("a test database can be cloned");
        Self {
            url: with_database(&server, &name),
            server,
            name,
        }
    }

    /// A pool on it.
    pub async fn connect(&self) -> Database {
        let options = DatabaseOptions {
            url: self.url.clone(),
            max_connections: 8,
        };
        Database::connect(&options)
            .await
            .expect("the test database answers")
    }

    /// Runs statements on it, behind the back of whoever else works with it.
    ///
    /// # Panics
    ///
    /// When one fails.
    pub async fn execute(&self, statements: &str) {
        let mut connection = PgConnection::connect(&self.url)
            .await
            .expect("the test database answers");
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut connection)
            .await
            .expect("the statements run");
    }

    /// What a query finds in its first column, which is text.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.url)
            .await
            .expect("the test database answers");
        let found = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_all(&mut connection)
            .await;
        found.expect("the query runs")
    }

    /// Drops it, whoever is connected.
    pub async fn drop_now(self) {
        let mut admin = PgConnection::connect(&self.server)
            .await
            .expect("the test PostgreSQL answers");
        sqlx::query(AssertSqlSafe(format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.name
        )))
        .execute(&mut admin)
        .await
        .expect("a test database can be dropped");
    }
}

fn server_url() -> String {
    std::env::var("HEARTH_TEST_POSTGRES")
        .or_else(|_| std::env::var("DATABASE_URL"))
        .ok()
        .or_else(|| {
            let env_file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.env");
            let text = std::fs::read_to_string(env_file).ok()?;
            text.lines().find_map(|line| {
                line.strip_prefix("DATABASE_URL=")
                    .map(|url| url.trim().to_owned())
            })
        })
        .expect("HEARTH_TEST_POSTGRES names a PostgreSQL server for the tests; run ./test, which starts one")
}

async fn migrated_template(admin: &mut PgConnection, server: &str) -> String {
    let fingerprint = MIGRATOR
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, migration| {
            migration.checksum.iter().fold(hash, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            })
        });
    let template = format!("hearth_template_{fingerprint:016x}");
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *admin)
        .await
        .expect("locks");
    let exists = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut *admin)
        .await
        .expect("the test PostgreSQL lists its databases");
    if !exists {
        // Made under another name first: a template that a killed test left half migrated is never used.
        let draft = format!("{template}_draft");
        for statement in [
            format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)"),
            format!("CREATE DATABASE {draft}"),
        ] {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *admin)
                .await
                .expect("a template can be made");
        }
        let options = DatabaseOptions {
            url: with_database(server, &draft),
            max_connections: 1,
        };
        let db = Database::connect(&options).await.expect("the template answers");
        db.migrate().await.expect("the migrations run");
        db.close().await;
        sqlx::query(AssertSqlSafe(format!(
            "ALTER DATABASE {draft} RENAME TO {template}"
        )))
        .execute(&mut *admin)
        .await
        .expect("the template can be named");
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(admin)
        .await
        .expect("unlocks");
    template
}

fn with_database(server: &str, name: &str) -> String {
    use sqlx::ConnectOptions as _;
    let options: PgConnectOptions = server.parse().expect("HEARTH_TEST_POSTGRES is a postgres:// URL");
    options.database(name).to_url_lossy().to_string()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a name for a test's database, not a time"
)]
fn unique() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}
