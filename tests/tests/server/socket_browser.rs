//! Two pages in a real browser chat over the WebSocket from JavaScript, and see sent, delivered and read on all that they
//! say: see `tests/pages/chat.html`.

use std::{path::Path, process::Stdio};

use hearth_tests::{PASSWORD, Server, encoded, public_chat, timeline};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A browser that has a page open, until it is dropped.
struct Page {
    _browser: Child,
    _profile: TempDir,
}

impl Page {
    fn open(arguments: &serde_json::Value) -> Self {
        let profile = TempDir::new().expect("a directory can be made");
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages/chat.html");
        let url = format!("file://{}#{}", page.display(), encoded(&arguments.to_string()));
        let mut command = Command::new(chromium());
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--no-first-run",
                "--disable-extensions",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        Self {
            _browser: command.spawn().expect("Chromium starts"),
            _profile: profile,
        }
    }
}

fn chromium() -> std::ffi::OsString {
    if let Some(chromium) = std::env::var_os("HEARTH_TEST_CHROMIUM") {
        return chromium;
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.exists());
    found
        .expect("Chromium is missing: ./test installs it, or HEARTH_TEST_CHROMIUM names it")
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pages_of_a_browser_chat_and_see_three_ticks() {
    let server = Server::start().await;
    let watcher = server.register("watcher").await;
    let room = watcher.create_room(public_chat()).await.room_id();
    for name in ["alice", "bob"] {
        server.register(name).await.join(&room).await.ok();
    }
    watcher.sync().await;
    let open =
        |name: &str, opens: bool| Page::open(&json!([server.url(), name, PASSWORD, room.as_str(), opens]));
    let _pages = [open("alice", true), open("bob", false)];
    let (mut said, mut done) = (Vec::new(), 0);
    while done < 2 {
        let sync = watcher.sync_until(|sync| !timeline(sync, &room).is_empty()).await;
        for event in timeline(&sync, &room) {
            let body = event["content"]["body"].as_str().unwrap_or_default().to_owned();
            assert!(!body.starts_with("failed"), "{body}");
            done += usize::from(body == "done");
            said.push(body);
        }
    }
    let rounds: Vec<String> = said.into_iter().filter(|body| body != "done").collect();
    let wanted: Vec<String> = (0..10).map(|round| format!("round {round}")).collect();
    assert_eq!(rounds, wanted);
}
