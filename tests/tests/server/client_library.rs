//! A client library that nobody here wrote, matrix-nio, holds a conversation: see `tests/python`. Another one, and
//! both in one room, are in `tests/sdk`.

use std::{process::Stdio, time::Duration};

use hearth_tests::{HearthProcess, Server, python_script, within};

async fn converse(url: &str) {
    let mut command = python_script("nio_conversation.py");
    command.arg(url).stdin(Stdio::null());
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
