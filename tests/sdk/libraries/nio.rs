//! A device through matrix-nio: a process of its own, which is told what to do by `tests/python/nio_puppet.py`.

use std::process::Stdio;

use hearth_tests::{PATIENCE, python_script, within};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    sync::Mutex,
};

use crate::device::{Device, Receipt, View};

/// A device that was logged in by matrix-nio.
#[derive(Debug)]
pub struct Nio {
    user_id: String,
    talk: Mutex<Talk>,
    // Ends with it.
    _puppet: Child,
}

/// A line each way.
#[derive(Debug)]
struct Talk {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Nio {
    /// Logs another device of that user's in.
    pub async fn login(url: &str, user_id: &str) -> Self {
        let mut command = python_script("nio_puppet.py");
        command.args([url, user_id]);
        let mut puppet = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let commands = puppet.stdin.take().expect("it is piped");
        let answers = BufReader::new(puppet.stdout.take().expect("it is piped")).lines();
        Self {
            user_id: user_id.to_owned(),
            talk: Mutex::new(Talk { commands, answers }),
            _puppet: puppet,
        }
    }

    /// What the puppet answers; the test fails when it could not do it.
    async fn order<T: DeserializeOwned>(&self, verb: &str, with: Value) -> T {
        let command = json!({ "do": verb, "with": with }).to_string();
        let answer = within(PATIENCE * 2, verb, self.exchange(command)).await;
        let answer = answer.unwrap_or_else(|| panic!("{}'s puppet ended at {verb}", self.user_id));
        if let Some(error) = answer["error"].as_str() {
            panic!("{} could not {verb}: {error}", self.user_id);
        }
        serde_json::from_value(answer["ok"].clone()).expect("the puppet answers as it should")
    }

    async fn exchange(&self, command: String) -> Option<Value> {
        let mut talk = self.talk.lock().await;
        talk.commands
            .write_all(format!("{command}\n").as_bytes())
            .await
            .ok()?;
        let line = talk.answers.next_line().await.ok()??;
        Some(serde_json::from_str(&line).expect("the puppet speaks JSON"))
    }
}

impl Device for Nio {
    fn user_id(&self) -> &str {
        &self.user_id
    }

    async fn catch_up(&self) {
        self.order("catch_up", json!({})).await
    }

    async fn meet(&self, room_id: &str, event_id: &str) {
        self.order("meet", json!({ "room_id": room_id, "event_id": event_id }))
            .await
    }

    async fn await_typing(&self, room_id: &str, user_id: &str, on: bool) {
        let with = json!({ "room_id": room_id, "user_id": user_id, "on": on });
        self.order("await_typing", with).await
    }

    async fn create_direct_room(&self, invite: &str) -> String {
        self.order("create_direct_room", json!({ "invite": invite }))
            .await
    }

    async fn create_public_room(&self, alias: &str, name: &str, topic: &str) -> String {
        let with = json!({ "alias": alias, "name": name, "topic": topic });
        self.order("create_public_room", with).await
    }

    async fn join(&self, room: &str) -> String {
        self.order("join", json!({ "room": room })).await
    }

    async fn accept(&self, room_id: &str) {
        self.order("accept", json!({ "room_id": room_id })).await
    }

    async fn invite(&self, room_id: &str, user_id: &str) {
        self.order("invite", json!({ "room_id": room_id, "user_id": user_id }))
            .await
    }

    async fn kick(&self, room_id: &str, user_id: &str, reason: &str) {
        let with = json!({ "room_id": room_id, "user_id": user_id, "reason": reason });
        self.order("kick", with).await
    }

    async fn leave(&self, room_id: &str) {
        self.order("leave", json!({ "room_id": room_id })).await
    }

    async fn forget(&self, room_id: &str) {
        self.order("forget", json!({ "room_id": room_id })).await
    }

    async fn say_to(&self, room_id: &str, body: &str, mentions: &[&str]) -> String {
        let with = json!({ "room_id": room_id, "body": body, "mentions": mentions });
        self.order("say", with).await
    }

    async fn answer(&self, room_id: &str, event_id: &str, body: &str) -> String {
        let with = json!({ "room_id": room_id, "event_id": event_id, "body": body });
        self.order("answer", with).await
    }

    async fn say_in_thread(&self, room_id: &str, root: &str, body: &str) -> String {
        let with = json!({ "room_id": room_id, "root": root, "body": body });
        self.order("say_in_thread", with).await
    }

    async fn edit(&self, room_id: &str, event_id: &str, body: &str) -> String {
        let with = json!({ "room_id": room_id, "event_id": event_id, "body": body });
        self.order("edit", with).await
    }

    async fn react(&self, room_id: &str, event_id: &str, key: &str) -> String {
        let with = json!({ "room_id": room_id, "event_id": event_id, "key": key });
        self.order("react", with).await
    }

    async fn redact(&self, room_id: &str, event_id: &str, reason: &str) -> String {
        let with = json!({ "room_id": room_id, "event_id": event_id, "reason": reason });
        self.order("redact", with).await
    }

    async fn set_topic(&self, room_id: &str, topic: &str) -> String {
        self.order("set_topic", json!({ "room_id": room_id, "topic": topic }))
            .await
    }

    async fn set_typing(&self, room_id: &str, on: bool) {
        self.order("set_typing", json!({ "room_id": room_id, "on": on }))
            .await
    }

    async fn read(&self, room_id: &str, event_id: &str, thread: &str, receipt: Receipt) {
        let kind = receipt.name();
        let with = json!({ "room_id": room_id, "event_id": event_id, "thread": thread, "kind": kind });
        self.order("read", with).await
    }

    async fn mark(&self, room_id: &str, event_id: &str, receipt: Receipt) {
        let mut with = json!({ "room_id": room_id, "fully_read": event_id });
        match receipt {
            Receipt::Public => with["read"] = event_id.into(),
            Receipt::Private => with["read_private"] = event_id.into(),
        }
        self.order("mark", with).await
    }

    async fn set_displayname(&self, name: &str) {
        self.order("set_displayname", json!({ "name": name })).await
    }

    async fn displayname_of(&self, user_id: &str) -> String {
        self.order("displayname_of", json!({ "user_id": user_id })).await
    }

    async fn refusal_to_say(&self, room_id: &str, body: &str) -> String {
        self.order("refusal_to_say", json!({ "room_id": room_id, "body": body }))
            .await
    }

    async fn membership(&self, room_id: &str) -> String {
        self.order("membership", json!({ "room_id": room_id })).await
    }

    async fn relations(&self, room_id: &str, event_id: &str, rel_type: &str) -> Vec<String> {
        let with = json!({ "room_id": room_id, "event_id": event_id, "rel_type": rel_type });
        self.order("relations", with).await
    }

    async fn view(&self, room_id: &str) -> View {
        self.order("view", json!({ "room_id": room_id })).await
    }
}
