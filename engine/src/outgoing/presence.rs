//! Presence that waits for one server: the last of each user, gathered in one EDU. Who can't be reached never gets it,
//! and is told anew once it can.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::UserNid;
use ruma::{OwnedUserId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::presence::{Shown, State};

/// Users that wait for one server; of others it hears when they are repeated.
const MOST_USERS: usize = 2_000;
/// Users of whom one EDU tells.
const AT_ONCE: usize = 100;

/// What a server is told of a user.
#[derive(Debug)]
pub struct PresenceUpdate {
    /// The user.
    pub user_id: OwnedUserId,
    /// What is shown of them.
    pub shown: Shown,
}

#[derive(Debug, Default)]
pub(super) struct PendingPresence(BTreeMap<UserNid, Arc<PresenceUpdate>>);

impl PendingPresence {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn add(&mut self, user_nid: UserNid, update: Arc<PresenceUpdate>) {
        if self.0.len() < MOST_USERS || self.0.contains_key(&user_nid) {
            self.0.insert(user_nid, update);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn take(&mut self) -> Vec<Arc<PresenceUpdate>> {
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE
            && let Some((_, update)) = self.0.pop_first()
        {
            taken.push(update);
        }
        taken
    }
}

#[derive(Serialize)]
struct Edu<'a> {
    edu_type: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
struct Content<'a> {
    push: Vec<Update<'a>>,
}

#[derive(Serialize)]
struct Update<'a> {
    user_id: &'a UserId,
    presence: &'static str,
    last_active_ago: u64,
    currently_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
    /// Others know `last_active_ago` only, which has to be there.
    #[serde(rename = "chat.hearth.hidden", skip_serializing_if = "std::ops::Not::not")]
    is_hidden: bool,
}

/// `m.presence` of users; nothing of nobody. `now` is in milliseconds.
pub(super) fn edu(taken: &[Arc<PresenceUpdate>], now: i64) -> Option<Box<RawValue>> {
    if taken.is_empty() {
        return None;
    }
    let push = taken.iter().map(|update| {
        let shown = &update.shown;
        let ago = shown.last_active_ago(now).unwrap_or_default();
        Update {
            user_id: &update.user_id,
            presence: shown.state.as_str(),
            last_active_ago: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
            currently_active: shown.currently_active && shown.state == State::Online,
            status_msg: shown.status_msg.as_deref(),
            is_hidden: shown.is_hidden,
        }
    });
    to_raw_value(&Edu {
        edu_type: "m.presence",
        content: Content { push: push.collect() },
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(number: i64, shown: Shown) -> (UserNid, Arc<PresenceUpdate>) {
        let update = PresenceUpdate {
            user_id: format!("@u{number}:here").try_into().expect("a user ID"),
            shown,
        };
        (UserNid::from(number), Arc::new(update))
    }

    fn told(taken: &[Arc<PresenceUpdate>]) -> serde_json::Value {
        let edu = edu(taken, 10_000).expect("there is something to tell");
        serde_json::from_str(edu.get()).expect("JSON")
    }

    #[test]
    fn the_last_of_each_user_is_told_all_in_one() {
        let mut pending = PendingPresence::default();
        let online = Shown {
            state: State::Online,
            last_active_at: Some(9_000),
            currently_active: true,
            status_msg: Some("here".into()),
            is_hidden: false,
        };
        let (user_nid, first) = update(1, Shown::default());
        pending.add(user_nid, first);
        let (user_nid, second) = update(1, online);
        pending.add(user_nid, second);
        let (user_nid, hidden) = update(2, Shown::hidden());
        pending.add(user_nid, hidden);
        let taken = pending.take();
        assert!(pending.is_empty());
        let expected = json!({ "edu_type": "m.presence", "content": { "push": [
            { "user_id": "@u1:here", "presence": "online", "last_active_ago": 1_000, "currently_active": true,
                "status_msg": "here" },
            { "user_id": "@u2:here", "presence": "offline", "last_active_ago": 0, "currently_active": false,
                "chat.hearth.hidden": true },
        ] } });
        assert_eq!(told(&taken), expected);
        assert!(edu(&[], 0).is_none());
    }

    #[test]
    fn no_more_wait_than_have_their_place() {
        let mut pending = PendingPresence::default();
        for number in 0..=i64::try_from(MOST_USERS).expect("it fits") {
            let (user_nid, update) = update(number, Shown::default());
            pending.add(user_nid, update);
        }
        assert_eq!((pending.len(), pending.take().len()), (MOST_USERS, AT_ONCE));
    }
}
