//! A client library that nobody here wrote, matrix-nio, holds a conversation: see `tests/python`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hearth_tests::{HearthProcess, Server, within};
use tokio::process::Command;

/// The Python that has matrix-nio.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("HEARTH_TEST_PYTHON") {
        return python.into();
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python");
    assert!(
        python.exists(),
        "matrix-nio is missing: ./test installs it in target/python, or HEARTH_TEST_PYTHON names a Python that has it"
    );
    python
}

async fn converse(url: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/nio_conversation.py");
    let mut command = Command::new(python());
    command
        .arg(script)
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within(
        Duration::from_secs(120),
        "the conversation ends",
        command.output(),
    )
    .await;
    let output = output.expect("Python starts");
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "the conversation failed:\n{said}\n{errors}"
    );
    assert!(
        said.contains("conversation over"),
        "it came to its end:\n{said}\n{errors}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_nio_holds_a_conversation() {
    let server = Server::start().await;
    converse(&server.url()).await;
}

#[tokio::test]
async fn matrix_nio_holds_a_conversation_on_the_binary() {
    let hearth = HearthProcess::start().await;
    converse(&format!("http://{}", hearth.name())).await;
}
