//! The private PostgreSQL, on the binaries of this machine: made, stopped, killed, taken over.

use std::{
    env,
    fs::{self, Permissions},
    future::pending,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hearth_storage::private_postgres::{Installations, PrivatePostgres, PrivatePostgresError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, getpgid},
};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{sleep, timeout},
};

/// Set for a test that runs itself again as another process: the `data_dir` that this process is to work with.
const ROLE: &str = "HEARTH_TEST_PRIVATE_POSTGRES";

/// A directory of a test's own, in which whatever still runs at the end is killed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("hearth-pg-{}-{test}", std::process::id()));
        fs::create_dir(&path).unwrap();
        // Root's PostgreSQL has to pass through.
        fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }

    fn data_dir(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if let Some(pid) = postmaster(&entry.path()).filter(|_| std::thread::panicking()) {
                let _ = kill(pid, Signal::SIGQUIT);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The process in `postmaster.pid`.
fn postmaster(data_dir: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
}

async fn try_query(url: &str, statement: &'static str) -> sqlx::Result<String> {
    let mut connection = PgConnection::connect(url).await?;
    let value = sqlx::query_scalar::<_, String>(statement)
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(value)
}

async fn query(url: &str, statement: &'static str) -> String {
    try_query(url, statement).await.unwrap()
}

async fn execute(url: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// The first answer that is not an error, asked for again and again.
async fn eventually_query(url: &str, statement: &'static str) -> String {
    let asked = async {
        loop {
            match try_query(url, statement).await {
                Ok(value) => return value,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(30), asked).await.unwrap()
}

async fn keep_a_message(url: &str) {
    execute(url, "CREATE TABLE message (body text)").await;
    execute(url, "INSERT INTO message VALUES ('hello')").await;
}

/// This test again, as a process of its own that works with this `data_dir`.
fn this_test_again(program: &Path, test: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env(ROLE, data_dir);
    command
}

/// A server in a process of its own, and the URL of its PostgreSQL.
async fn server(test: &str, data_dir: &Path) -> (tokio::process::Child, String) {
    let mut command = this_test_again(&env::current_exe().unwrap(), test, data_dir);
    command.stdout(Stdio::piped());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        // The test harness writes to the same line.
        if let Some((_, url)) = line.split_once("running at ") {
            return (child, url.to_owned());
        }
    }
}

/// What that process does: starts, tells the URL, and runs until it is killed.
async fn be_the_server(data_dir: &str) {
    let postgres = PrivatePostgres::start(Path::new(data_dir)).await.unwrap();
    let _held = PgConnection::connect(postgres.url()).await.unwrap();
    #[expect(clippy::print_stdout, reason = "read by the process that started this one")]
    {
        println!("running at {}", postgres.url());
    }
    pending::<()>().await;
}

#[tokio::test]
async fn data_is_there_after_a_stop_and_a_start() {
    let scratch = Scratch::new("stop");
    let data_dir = scratch.data_dir("data");
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let url = postgres.url().to_owned();
    keep_a_message(&url).await;
    for (setting, expected) in [
        ("SELECT current_setting('server_encoding')", "UTF8"),
        (
            "SELECT datcollate::text FROM pg_database WHERE datname = current_database()",
            "C",
        ),
        ("SELECT current_setting('data_checksums')", "on"),
        ("SELECT current_setting('fsync')", "on"),
        ("SELECT current_setting('synchronous_commit')", "on"),
        ("SELECT current_setting('listen_addresses')", ""),
        ("SELECT current_setting('is_superuser')", "off"),
        ("SELECT current_user::text", "hearth"),
    ] {
        assert_eq!(query(&url, setting).await, expected, "{setting}");
    }
    let cluster = fs::metadata(data_dir.join("postgres")).unwrap();
    assert_ne!(cluster.uid(), 0, "PostgreSQL is not root");
    let running = postmaster(&data_dir).unwrap();
    assert_eq!(getpgid(Some(running)), Ok(running), "Ctrl-C does not reach it");
    let socket = fs::metadata(data_dir.join("postgres.socket")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (cluster.uid(), 0o700));

    postgres.stop().await;
    assert_eq!(postmaster(&data_dir), None, "it was stopped in order");
    assert!(try_query(&url, "SELECT 'still here'").await.is_err());

    let operators = "work_mem = '13MB'\nlisten_addresses = '127.0.0.1'\n";
    fs::write(data_dir.join("postgresql.local.conf"), operators).unwrap();
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_eq!(postgres.url(), url);
    assert_eq!(query(&url, "SELECT body FROM message").await, "hello");
    assert_eq!(query(&url, "SELECT current_setting('work_mem')").await, "13MB");
    assert_eq!(
        query(&url, "SELECT current_setting('listen_addresses')").await,
        "",
        "the socket is the only way"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn killed_postgres_comes_back_by_itself() {
    let scratch = Scratch::new("killed");
    let data_dir = scratch.data_dir("data");
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    keep_a_message(postgres.url()).await;
    for _ in 0..2 {
        let killed = postmaster(&data_dir).unwrap();
        kill(killed, Signal::SIGKILL).unwrap();
        assert_eq!(
            eventually_query(postgres.url(), "SELECT body FROM message").await,
            "hello"
        );
        assert_ne!(postmaster(&data_dir), Some(killed));
    }
    postgres.stop().await;
    assert_eq!(postmaster(&data_dir), None);
}

#[tokio::test]
async fn children_of_a_killed_postgres_are_waited_for() {
    let scratch = Scratch::new("children");
    let data_dir = scratch.data_dir("data");
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    keep_a_message(postgres.url()).await;
    let mut session = PgConnection::connect(postgres.url()).await.unwrap();
    let child = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()")
        .fetch_one(&mut session)
        .await
        .unwrap();
    let child = Pid::from_raw(child);
    kill(child, Signal::SIGSTOP).unwrap();
    kill(postmaster(&data_dir).unwrap(), Signal::SIGKILL).unwrap();

    let early = timeout(
        Duration::from_secs(1),
        eventually_query(postgres.url(), "SELECT body FROM message"),
    )
    .await;
    assert_eq!(early.ok(), None, "two PostgreSQLs would write to the same files");
    kill(child, Signal::SIGCONT).unwrap();
    assert_eq!(
        eventually_query(postgres.url(), "SELECT body FROM message").await,
        "hello"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn postgres_of_a_killed_server_is_taken_over() {
    if let Ok(data_dir) = env::var(ROLE) {
        return be_the_server(&data_dir).await;
    }
    let scratch = Scratch::new("orphan");
    let data_dir = scratch.data_dir("data");
    let (mut killed, url) = server("postgres_of_a_killed_server_is_taken_over", &data_dir).await;
    keep_a_message(&url).await;
    let orphan = postmaster(&data_dir).unwrap();
    killed.kill().await.unwrap();

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_eq!(postmaster(&data_dir), Some(orphan));
    assert_eq!(postgres.url(), url);
    assert_eq!(query(&url, "SELECT body FROM message").await, "hello");
    let sessions = "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'hearth'";
    assert_eq!(
        query(&url, sessions).await,
        "1",
        "the killed server's sessions are ended"
    );

    kill(orphan, Signal::SIGKILL).unwrap();
    assert_eq!(eventually_query(&url, "SELECT body FROM message").await, "hello");
    postgres.stop().await;
    assert_eq!(postmaster(&data_dir), None);
}

#[tokio::test]
async fn server_and_postgres_killed_together_recover() {
    if let Ok(data_dir) = env::var(ROLE) {
        return be_the_server(&data_dir).await;
    }
    let scratch = Scratch::new("both");
    let data_dir = scratch.data_dir("data");
    let (mut killed, url) = server("server_and_postgres_killed_together_recover", &data_dir).await;
    keep_a_message(&url).await;
    let died = postmaster(&data_dir).unwrap();
    killed.kill().await.unwrap();
    kill(died, Signal::SIGKILL).unwrap();

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_ne!(postmaster(&data_dir), Some(died));
    assert_eq!(query(&url, "SELECT body FROM message").await, "hello");
    postgres.stop().await;
}

#[tokio::test]
async fn stale_pid_file_of_a_living_stranger_is_no_obstacle() {
    let scratch = Scratch::new("stale");
    let data_dir = scratch.data_dir("data");
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let url = postgres.url().to_owned();
    keep_a_message(&url).await;
    let pid_file = data_dir.join("postgres/postmaster.pid");
    let stale = fs::read_to_string(&pid_file).unwrap();
    postgres.stop().await;

    // Of the same user: a stranger of another user does not trip PostgreSQL up to begin with.
    let owner = fs::metadata(data_dir.join("postgres")).unwrap().uid();
    let mut stranger = Command::new("sleep").arg("1000").uid(owner).spawn().unwrap();
    let (_, rest) = stale.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();
    chown(&pid_file, Some(owner), None).unwrap();

    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_eq!(query(&url, "SELECT body FROM message").await, "hello");
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger is left alone");
    postgres.stop().await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn two_servers_on_one_machine_keep_apart() {
    let scratch = Scratch::new("two");
    let (one, two) = (scratch.data_dir("one"), scratch.data_dir("two"));
    let (one, two) = tokio::join!(PrivatePostgres::start(&one), PrivatePostgres::start(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.url(), two.url());
    execute(one.url(), "CREATE TABLE name AS SELECT 'one' AS name").await;
    execute(two.url(), "CREATE TABLE name AS SELECT 'two' AS name").await;
    assert_eq!(query(one.url(), "SELECT name FROM name").await, "one");
    one.stop().await;
    assert_eq!(query(two.url(), "SELECT name FROM name").await, "two");
    two.stop().await;
}

#[tokio::test]
async fn second_server_on_one_data_dir_is_refused() {
    let scratch = Scratch::new("second");
    let data_dir = scratch.data_dir("data");
    let first = PrivatePostgres::start(&data_dir).await.unwrap();
    let error = PrivatePostgres::start(&data_dir).await.unwrap_err();
    let PrivatePostgresError::InUse { holder, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*holder, std::process::id().to_string());
    assert!(error.to_string().contains(data_dir.to_str().unwrap()), "{error}");
    assert_eq!(query(first.url(), "SELECT 'unharmed'").await, "unharmed");
    first.stop().await;
}

#[tokio::test]
async fn socket_works_however_long_and_odd_data_dir_is() {
    let scratch = Scratch::new("long");
    let data_dir = scratch.data_dir(&format!("it's a, \"long\" {}", "path".repeat(50)));
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    let url = postgres.url().to_owned();
    keep_a_message(&url).await;
    fs::write(data_dir.join("postgresql.local.conf"), "work_mem = '13MB'\n").unwrap();
    postgres.stop().await;
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_eq!(postgres.url(), url);
    assert_eq!(query(&url, "SELECT body FROM message").await, "hello");
    assert_eq!(query(&url, "SELECT current_setting('work_mem')").await, "13MB");
    postgres.stop().await;
}

#[tokio::test]
async fn missing_binaries_are_named_by_their_package() {
    let scratch = Scratch::new("missing");
    let none = Installations::find_in([scratch.0.clone()]).await;
    let error = PrivatePostgres::start_with(&scratch.data_dir("new"), &none)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PrivatePostgresError::NotInstalled { minimum: 14 }),
        "{error}"
    );
    assert!(error.to_string().contains("postgresql-15"), "{error}");

    let old = scratch.data_dir("old");
    fs::create_dir_all(old.join("postgres")).unwrap();
    fs::write(old.join("postgres/PG_VERSION"), "14\n").unwrap();
    let error = PrivatePostgres::start_with(&old, &none).await.unwrap_err();
    assert!(
        matches!(error, PrivatePostgresError::VersionNotInstalled { major: 14, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("postgresql-14"), "{error}");
}

#[tokio::test]
async fn refusal_of_postgres_is_told_with_its_log() {
    let scratch = Scratch::new("refusal");
    let data_dir = scratch.data_dir("data");
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("postgresql.local.conf"), "shared_bufers = 1GB\n").unwrap();
    let error = PrivatePostgres::start(&data_dir).await.unwrap_err();
    assert!(matches!(error, PrivatePostgresError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("shared_bufers"), "{error}");

    fs::remove_file(data_dir.join("postgresql.local.conf")).unwrap();
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    assert_eq!(query(postgres.url(), "SELECT 'well'").await, "well");
    postgres.stop().await;
}

#[tokio::test]
async fn start_given_up_leaves_nothing_running() {
    let scratch = Scratch::new("given-up");
    let data_dir = scratch.data_dir("data");
    PrivatePostgres::start(&data_dir).await.unwrap().stop().await;
    let begun = async {
        while postmaster(&data_dir).is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        // Should it be ready by then, it is dropped all the same.
        _ = PrivatePostgres::start(&data_dir) => {}
        () = begun => {}
    }
    let given_up = postmaster(&data_dir);
    let free = async {
        loop {
            match PrivatePostgres::start(&data_dir).await {
                Err(PrivatePostgresError::InUse { .. }) => sleep(Duration::from_millis(10)).await,
                other => return other.unwrap(),
            }
        }
    };
    let postgres = timeout(Duration::from_secs(30), free).await.unwrap();
    assert_ne!(postmaster(&data_dir), given_up);
    postgres.stop().await;
    assert_eq!(postmaster(&data_dir), None);
}

#[tokio::test]
async fn cluster_out_of_reach_says_who_has_to_reach_it() {
    let scratch = Scratch::new("reach");
    let closed = scratch.data_dir("closed");
    fs::create_dir(&closed).unwrap();
    let data_dir = closed.join("data");
    let expected = if Uid::effective().is_root() {
        fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        format!("chmod o+x {}", closed.display())
    } else {
        fs::create_dir(&data_dir).unwrap();
        std::os::unix::fs::symlink("/usr", data_dir.join("postgres")).unwrap();
        "belongs to user id 0".to_owned()
    };
    let error = PrivatePostgres::start(&data_dir).await.unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn unprivileged_server_runs_postgres_as_itself() {
    let scratch = Scratch::new("unprivileged");
    let role = env::var(ROLE).map(PathBuf::from);
    if role.is_err() && Uid::effective().is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let data_dir = scratch.data_dir("data");
        fs::create_dir(&data_dir).unwrap();
        chown(&data_dir, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
        // The program may lie where nobody else can go.
        let program = scratch.data_dir("program");
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        let mut again = this_test_again(&program, "unprivileged_server_runs_postgres_as_itself", &data_dir);
        again
            .uid(nobody.uid.as_raw())
            .gid(nobody.gid.as_raw())
            .current_dir("/");
        let status = tokio::process::Command::from(again).status().await.unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(
            fs::metadata(data_dir.join("postgres")).unwrap().uid(),
            nobody.uid.as_raw()
        );
        // Root goes on as whoever owns the cluster.
        let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
        assert_eq!(query(postgres.url(), "SELECT body FROM message").await, "hello");
        postgres.stop().await;
        return;
    }
    let data_dir = role.unwrap_or_else(|_| scratch.data_dir("data"));
    let postgres = PrivatePostgres::start(&data_dir).await.unwrap();
    keep_a_message(postgres.url()).await;
    let me = Uid::effective().as_raw();
    assert_eq!(
        fs::metadata(format!("/proc/{}", postmaster(&data_dir).unwrap()))
            .unwrap()
            .uid(),
        me
    );
    postgres.stop().await;
}
