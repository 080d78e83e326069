//! A device of a user, whatever the client library behind it: what it does, and what it sees of a room.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Whose receipt it is to see.
#[derive(Debug, Clone, Copy)]
pub enum Receipt {
    /// `m.read`: everybody's.
    Public,
    /// `m.read.private`: one's own.
    Private,
}

impl Receipt {
    /// The type, by the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "m.read",
            Self::Private => "m.read.private",
        }
    }
}

/// A device. Everything fails the test that does not succeed. Rooms, events and users are named by their IDs.
pub trait Device {
    /// The user.
    fn user_id(&self) -> &str;

    /// Syncs once, without waiting: what was answered to anybody before has come by then.
    async fn catch_up(&self);

    /// Syncs, waiting, until the event comes.
    async fn meet(&self, room_id: &str, event_id: &str);

    /// Syncs, waiting, until that user types, or doesn't.
    async fn await_typing(&self, room_id: &str, user_id: &str, on: bool);

    /// Makes a room for two.
    async fn create_direct_room(&self, invite: &str) -> String;

    /// Makes a room that anyone may join.
    async fn create_public_room(&self, alias: &str, name: &str, topic: &str) -> String;

    /// Joins by ID or alias.
    async fn join(&self, room: &str) -> String;

    /// Syncs, waiting, until an invite comes, and accepts it.
    async fn accept(&self, room_id: &str);

    /// Invites.
    async fn invite(&self, room_id: &str, user_id: &str);

    /// Kicks.
    async fn kick(&self, room_id: &str, user_id: &str, reason: &str);

    /// Leaves.
    async fn leave(&self, room_id: &str);

    /// Forgets.
    async fn forget(&self, room_id: &str);

    /// Says something.
    async fn say(&self, room_id: &str, body: &str) -> String {
        self.say_to(room_id, body, &[]).await
    }

    /// Says something that mentions users.
    async fn say_to(&self, room_id: &str, body: &str, mentions: &[&str]) -> String;

    /// Answers a message.
    async fn answer(&self, room_id: &str, event_id: &str, body: &str) -> String;

    /// Says something in the thread of that root.
    async fn say_in_thread(&self, room_id: &str, root: &str, body: &str) -> String;

    /// Edits a message of one's own.
    async fn edit(&self, room_id: &str, event_id: &str, body: &str) -> String;

    /// Reacts.
    async fn react(&self, room_id: &str, event_id: &str, key: &str) -> String;

    /// Redacts.
    async fn redact(&self, room_id: &str, event_id: &str, reason: &str) -> String;

    /// Sets the topic.
    async fn set_topic(&self, room_id: &str, topic: &str) -> String;

    /// Types, or stops.
    async fn set_typing(&self, room_id: &str, on: bool);

    /// Sends a receipt for the room's own timeline, which is the thread `"main"`, or for the thread of that root.
    async fn read(&self, room_id: &str, event_id: &str, thread: &str, receipt: Receipt);

    /// Sets the fully read marker, and reads everything up to there, whatever its thread.
    async fn mark(&self, room_id: &str, event_id: &str, receipt: Receipt);

    /// Sets the display name.
    async fn set_displayname(&self, name: &str);

    /// The display name in somebody's profile.
    async fn displayname_of(&self, user_id: &str) -> String;

    /// The code with which a message is refused.
    async fn refusal_to_say(&self, room_id: &str, body: &str) -> String;

    /// What syncs have said of one's own membership: `join`, `invite` or `leave`.
    async fn membership(&self, room_id: &str) -> String;

    /// The events that relate to one in that way, newest first, as [`View::history`] has them.
    async fn relations(&self, room_id: &str, event_id: &str, rel_type: &str) -> Vec<String>;

    /// What there is to be seen of a room that one is in.
    async fn view(&self, room_id: &str) -> View;
}

/// What a device sees of a room. Lines about events are the same for all libraries: the event's ID, its sender, what
/// it does, and what the server says of the events that relate to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct View {
    /// The room's name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Who is in it, and with what display name.
    pub members: BTreeMap<String, Option<String>>,
    /// Who is invited to it.
    pub invited: Vec<String>,
    /// Lines about all events that paging back reaches, oldest first.
    pub history: Vec<String>,
    /// The events that came by sync, in the order of their coming.
    pub heard: Vec<String>,
    /// Lines about the roots of threads, the thread with the newest event first.
    pub threads: Vec<String>,
    /// Who is typing.
    pub typing: Vec<String>,
    /// The event that each receipt is for, by user, type and thread: `@a:b m.read main`. No thread is `everywhere`.
    pub receipts: BTreeMap<String, String>,
    /// The fully read marker.
    pub fully_read: Option<String>,
    /// How much is unread, threads included.
    pub notifications: u64,
    /// How much of it is to be highlighted.
    pub highlights: u64,
}

impl View {
    /// The receipt of a user's for the thread, `everywhere` for none.
    pub fn receipt(&self, user_id: &str, receipt: Receipt, thread: &str) -> Option<&str> {
        let key = format!("{user_id} {} {thread}", receipt.name());
        self.receipts.get(&key).map(String::as_str)
    }

    /// The line about an event.
    #[track_caller]
    pub fn line(&self, event_id: &str) -> &str {
        let mut lines = self.history.iter();
        let line = lines.find(|line| line.split(' ').next() == Some(event_id));
        line.unwrap_or_else(|| panic!("{event_id} is not in {:#?}", self.history))
    }

    /// Fails where another view of the same user's is not the same.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, who: &str) {
        assert_same_list(
            &self.history,
            &other.history,
            &format!("the history that {who} sees"),
        );
        assert_same_list(&self.heard, &other.heard, &format!("the events that {who} heard"));
        self.assert_same_but_heard(other, who);
    }

    /// Likewise, but for what came by sync: a device that came later has heard less, and of nobody who types.
    #[track_caller]
    pub fn assert_same_to_a_new_device(&self, other: &Self, who: &str) {
        assert_same_list(
            &self.history,
            &other.history,
            &format!("the history that {who} sees"),
        );
        self.assert_same_but_heard(other, who);
    }

    #[track_caller]
    fn assert_same_but_heard(&self, other: &Self, who: &str) {
        assert_eq!(self.receipts, other.receipts, "the receipts that {who} sees");
        let other = Self {
            heard: self.heard.clone(),
            ..other.clone()
        };
        assert_eq!(self, &other, "what {who} sees");
    }

    /// Fails where somebody else's view is not the same in what is the same for all members.
    #[track_caller]
    pub fn assert_same_to_another(&self, other: &Self, who: &str) {
        let of_all = |view: &Self| Self {
            history: view.history.iter().map(|line| of_everybody(line)).collect(),
            threads: view.threads.iter().map(|line| of_everybody(line)).collect(),
            receipts: view
                .receipts
                .iter()
                .filter(|(key, _)| !key.contains(" m.read.private "))
                .map(|(key, event_id)| (key.clone(), event_id.clone()))
                .collect(),
            fully_read: None,
            notifications: 0,
            highlights: 0,
            ..view.clone()
        };
        of_all(self).assert_same(&of_all(other), who);
    }
}

/// Shows where two lists part.
#[track_caller]
fn assert_same_list(left: &[String], right: &[String], what: &str) {
    let common = left
        .iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count();
    assert_eq!(left[common..], right[common..], "{what}, from the {common}th on");
}

/// A line without what it says of the reader's part in a thread.
fn of_everybody(line: &str) -> String {
    line.replace(", taken part in", "").replace(", looked at", "")
}
