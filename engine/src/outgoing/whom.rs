//! Whom an event goes to: the servers that were in the room before it, and the one of whom it speaks.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    Position,
    log::Membership,
    outgoing::{self as stored, MemberChange, OutgoingEvent},
};
use ruma::{OwnedServerName, ServerName, UserId};

use crate::{
    Engine, Error,
    events::Event,
    rooms::{self, Room},
};

/// The servers that an event goes to, this one perhaps among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipients {
    /// Those with joined users in the room before it.
    present: Arc<[OwnedServerName]>,
    /// That of the user who joins, is kicked or banned, or whose invite is taken back.
    target: Option<OwnedServerName>,
    /// That of its sender, where it has it.
    sender: Option<OwnedServerName>,
}

impl Recipients {
    /// Those of an event, `present` being who was in the room before it.
    ///
    /// An invite went to the invited user's server before it came here, by a request of its own that also tells of the
    /// room: a server that isn't in the room could do nothing with the event alone. And an invite that goes out from
    /// here may be made in the name of another server's user, by a third party's proof: that server doesn't have it.
    pub fn of(event: &Event, present: Arc<[OwnedServerName]>) -> Self {
        let target = match event.membership() {
            None | Some(Membership::Invite) => None,
            Some(_) => event
                .state_key()
                .and_then(|user_id| <&UserId>::try_from(user_id).ok()),
        };
        Self {
            present,
            target: target.map(|user_id| user_id.server_name().to_owned()),
            sender: (event.membership() != Some(Membership::Invite))
                .then(|| event.sender().server_name().to_owned()),
        }
    }

    /// Each of them once.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedServerName> {
        let target = self.target.iter().filter(|target| !self.present.contains(target));
        let all = self.present.iter().chain(target);
        all.filter(|server| Some(*server) != self.sender.as_ref())
    }

    pub fn include(&self, server: &ServerName) -> bool {
        self.iter().any(|other| other == server)
    }
}

/// Which servers had joined users in a room at positions of the past.
#[derive(Debug)]
struct Presence {
    joined: HashMap<OwnedServerName, usize>,
    /// The changes not undone yet, the latest last.
    changes: Vec<Step>,
    /// Who is present as far as it was undone, until that changes.
    present: Option<Arc<[OwnedServerName]>>,
}

/// The change of one user's membership.
#[derive(Debug, Clone)]
struct Step {
    position: Position,
    server: OwnedServerName,
    was_joined: bool,
    is_joined: bool,
}

impl Presence {
    /// Who was there just before `position`, which is not after those asked for earlier.
    fn before(&mut self, position: Position) -> Arc<[OwnedServerName]> {
        while let Some(step) = self.changes.pop_if(|step| step.position >= position) {
            self.undo(&step);
        }
        let joined = &self.joined;
        let present = || joined.iter().filter(|(_, users)| **users > 0);
        let made = self
            .present
            .get_or_insert_with(|| present().map(|(server, _)| server.clone()).collect());
        Arc::clone(made)
    }

    fn undo(&mut self, step: &Step) {
        if step.was_joined == step.is_joined {
            return;
        }
        let users = self.joined.entry(step.server.clone()).or_default();
        *users = match step.was_joined {
            true => users.saturating_add(1),
            false => users.saturating_sub(1),
        };
        self.present = None;
    }
}

/// The recipients of events of one room, given in their order, whether it is in memory or not.
pub(super) async fn recipients(
    engine: &Arc<Engine>,
    room: &Room,
    outgoing: &[OutgoingEvent],
) -> Result<Vec<(OutgoingEvent, Recipients)>, Error> {
    let Some(first) = outgoing.first() else {
        return Ok(Vec::new());
    };
    let events = rooms::read::events(engine, room, outgoing.iter().map(|one| one.event_nid)).await?;
    let Some(mut presence) = presence_since(engine, room, Position(first.position.0 - 1)).await? else {
        return Ok(Vec::new());
    };
    let mut all: Vec<(OutgoingEvent, Recipients)> = Vec::with_capacity(outgoing.len());
    for one in outgoing.iter().rev() {
        let present = presence.before(one.position);
        if let Some(event) = events.get(&one.event_nid) {
            all.push((*one, Recipients::of(event, present)));
        }
    }
    all.reverse();
    Ok(all)
}

/// Who is in a room, and what changed about that since a position. Nothing for a room that isn't loaded.
async fn presence_since(
    engine: &Arc<Engine>,
    room: &Room,
    since: Position,
) -> Result<Option<Presence>, Error> {
    let present = room.read(|view| (view.upto, view.members.joined_by_server()));
    let Some((upto, joined)) = present else {
        return Ok(None);
    };
    let changes = {
        let mut connection = engine.db.acquire().await?;
        stored::member_changes(&mut connection, &[room.nid], since).await?
    };
    // What came after the view was read is not in it.
    let changes: Vec<MemberChange> = changes
        .into_iter()
        .filter(|change| change.position <= upto)
        .collect();
    let nids = changes
        .iter()
        .flat_map(|change| [change.old, change.new])
        .flatten();
    let events = rooms::read::events(engine, room, nids.collect::<Vec<_>>()).await?;
    let joins = |event_nid| {
        let event = events.get(&event_nid);
        event.and_then(|event| event.membership()) == Some(Membership::Join)
    };
    let steps = changes.iter().rev().filter_map(|change| {
        Some(Step {
            position: change.position,
            server: <&UserId>::try_from(change.user_id.as_str())
                .ok()?
                .server_name()
                .to_owned(),
            was_joined: change.old.is_some_and(joins),
            is_joined: change.new.is_some_and(joins),
        })
    });
    Ok(Some(Presence {
        joined,
        changes: steps.collect(),
        present: None,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ruma::{owned_server_name, server_name};

    use super::*;

    fn step(position: i64, server: &ServerName, was_joined: bool, is_joined: bool) -> Step {
        Step {
            position: Position(position),
            server: server.to_owned(),
            was_joined,
            is_joined,
        }
    }

    fn names(present: &[OwnedServerName]) -> BTreeSet<&str> {
        present.iter().map(|server| server.as_str()).collect()
    }

    #[test]
    fn who_was_there_is_found_by_undoing_what_happened_since() {
        let (a, b) = (server_name!("a"), server_name!("b"));
        let mut presence = Presence {
            joined: HashMap::from([(a.to_owned(), 2)]),
            changes: vec![
                step(10, b, false, true),
                step(20, a, false, true),
                // Another name: still joined.
                step(25, a, true, true),
                step(30, b, true, false),
            ],
            present: None,
        };
        assert_eq!(names(&presence.before(Position(31))), BTreeSet::from(["a"]));
        assert_eq!(
            names(&presence.before(Position(30))),
            BTreeSet::from(["a", "b"]),
            "it was kicked at 30"
        );
        assert_eq!(names(&presence.before(Position(11))), BTreeSet::from(["a", "b"]));
        assert_eq!(
            names(&presence.before(Position(10))),
            BTreeSet::from(["a"]),
            "it joined at 10"
        );
    }

    #[test]
    fn a_target_outside_is_a_recipient_and_the_sender_is_not() {
        let recipients = Recipients {
            present: [owned_server_name!("a"), owned_server_name!("b")].into(),
            target: Some(owned_server_name!("c")),
            sender: Some(owned_server_name!("a")),
        };
        assert_eq!(
            recipients
                .iter()
                .map(|server| server.as_str())
                .collect::<Vec<_>>(),
            ["b", "c"]
        );
        assert!(recipients.include(server_name!("c")));
        assert!(!recipients.include(server_name!("a")));
        let inside = Recipients {
            target: Some(owned_server_name!("b")),
            ..recipients
        };
        assert_eq!(inside.iter().count(), 1);
    }
}
