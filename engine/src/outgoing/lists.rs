//! Changes of device lists that wait for one server. They are of the log, and a server that was away gets them as well:
//! of each device and each user's cross-signing keys the last change, since what is told is always the present.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    Position, UserNid,
    device_lists::{self as stored, OutgoingChange},
    memberships,
};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use crate::{Engine, Error, encryption::device_lists, rooms};

/// Changes in one transaction.
const AT_ONCE: usize = 20;
/// Changes of one server that are told one by one when it was away; of more, the last of each user, by which that server
/// sees that it missed some.
const MOST_TOLD: usize = 500;

/// A device of a user, or with an empty ID the user's cross-signing keys.
pub(super) type ListKey = (UserNid, Arc<str>);

/// What waits for one server.
#[derive(Debug, Default)]
pub(super) struct Lists {
    waiting: BTreeMap<ListKey, Position>,
    in_flight: Vec<(ListKey, Position)>,
}

impl Lists {
    /// It is owed a change.
    pub fn owe(&mut self, change: &OutgoingChange) {
        let key = (change.user_nid, Arc::clone(&change.device_id));
        let position = self.waiting.entry(key).or_insert(change.position);
        *position = change.position.max(*position);
    }

    /// It is owed changes that came while it was away.
    pub fn owe_all(&mut self, changes: &[OutgoingChange]) {
        if changes.len() <= MOST_TOLD {
            return changes.iter().for_each(|change| self.owe(change));
        }
        let mut newest: HashMap<(UserNid, bool), &OutgoingChange> = HashMap::new();
        for change in changes {
            let of_keys = change.device_id.is_empty();
            newest
                .entry((change.user_nid, of_keys))
                .and_modify(|known| {
                    if known.position < change.position {
                        *known = change;
                    }
                })
                .or_insert(change);
        }
        newest.into_values().for_each(|change| self.owe(change));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// The position of the oldest that it has not.
    pub fn oldest(&self) -> Option<Position> {
        let in_flight = self.in_flight.iter().map(|(_, position)| *position);
        self.waiting.values().copied().chain(in_flight).min()
    }

    /// Takes what one transaction may have, in the order of the log: a change names the one before it.
    pub fn take(&mut self) -> Vec<ListKey> {
        let mut oldest: Vec<(Position, ListKey)> = self
            .waiting
            .iter()
            .map(|(key, position)| (*position, key.clone()))
            .collect();
        oldest.sort_unstable();
        oldest.truncate(AT_ONCE);
        let mut taken = Vec::with_capacity(oldest.len());
        for (position, key) in oldest {
            self.waiting.remove(&key);
            self.in_flight.push((key.clone(), position));
            taken.push(key);
        }
        taken
    }

    /// It has what was taken.
    pub fn delivered(&mut self) {
        self.in_flight.clear();
    }

    /// What was taken was not sent, or not taken by the server.
    pub fn put_back(&mut self) {
        for (key, position) in std::mem::take(&mut self.in_flight) {
            let waiting = self.waiting.entry(key).or_insert(position);
            *waiting = position.max(*waiting);
        }
    }
}

/// Whether a change is one of a user of this server, of which others are told.
async fn is_ours(engine: &Engine, user_nid: UserNid) -> Result<bool, Error> {
    let ids = engine.interner.user_ids(&[user_nid]).await?;
    let own = &engine.config.server_name;
    Ok(ids
        .get(&user_nid)
        .is_some_and(|user_id| user_id.server_name() == own))
}

/// Gives a change to the servers that share a room with its user.
pub(super) async fn give(engine: &Arc<Engine>, change: &OutgoingChange) -> Result<(), Error> {
    if !is_ours(engine, change.user_nid).await? {
        return Ok(());
    }
    let servers = sharing_with(engine, change.user_nid).await?;
    engine.outgoing.each(engine, servers.iter(), |destination, now| {
        destination.owe_list(change, now);
    });
    Ok(())
}

/// The servers, perhaps this one among them, that share a room with a user of this server.
async fn sharing_with(engine: &Arc<Engine>, user_nid: UserNid) -> Result<BTreeSet<OwnedServerName>, Error> {
    let mut servers = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for room_nid in device_lists::joined_rooms(engine, user_nid).await? {
        let room = match engine.partial.get(room_nid) {
            // Who is in it is not known in the tables yet.
            Some(_) => rooms::by_nid(engine, room_nid).await?,
            None => engine.rooms.get(room_nid),
        };
        match room.and_then(|room| room.read(|view| view.members.present())) {
            Some(present) => servers.extend(present.iter().cloned()),
            None => elsewhere.push(room_nid),
        }
    }
    if !elsewhere.is_empty() {
        let mut connection = engine.db.acquire().await?;
        let names = memberships::servers_of(&mut connection, &elsewhere).await?;
        servers.extend(names.into_iter().filter_map(|name| name.try_into().ok()));
    }
    Ok(servers)
}

/// Gives what the log says after `from` up to `upto`.
pub(super) async fn read_log(engine: &Arc<Engine>, from: Position, upto: Position) -> Result<(), Error> {
    let own = engine.config.server_name.as_str();
    let changes = {
        let mut connection = engine.db.acquire().await?;
        stored::outgoing(&mut connection, own, None, (from, upto)).await?
    };
    for change in &changes {
        give(engine, change).await?;
    }
    Ok(())
}

/// Gives a server that was away what it is owed after `since`.
pub(super) async fn catch_up(engine: &Engine, server: &ServerName, since: Position) -> Result<(), Error> {
    let own = engine.config.server_name.as_str();
    let upto = engine.log.head().position;
    let changes = {
        let mut connection = engine.db.acquire().await?;
        stored::outgoing(&mut connection, own, Some(server.as_str()), (since, upto)).await?
    };
    engine
        .outgoing
        .with(server, |destination, _| destination.lists.owe_all(&changes));
    Ok(())
}

/// The EDUs of changes.
pub(super) async fn edus(engine: &Engine, taken: &[ListKey]) -> Result<Vec<Box<RawValue>>, Error> {
    match taken.is_empty() {
        true => Ok(Vec::new()),
        false => device_lists::edus(engine, taken).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(user: i64, device_id: &str, position: i64) -> OutgoingChange {
        OutgoingChange {
            position: Position(position),
            user_nid: UserNid::from(user),
            device_id: device_id.into(),
        }
    }

    #[test]
    fn of_each_device_the_last_change_is_told_in_the_order_of_the_log() {
        let mut lists = Lists::default();
        for (device_id, position) in [("A", 1), ("B", 2), ("A", 3)] {
            lists.owe(&change(1, device_id, position));
        }
        assert_eq!(lists.oldest(), Some(Position(2)));
        let taken: Vec<String> = lists.take().iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(taken, ["B", "A"]);
        assert_eq!(lists.oldest(), Some(Position(2)), "it has nothing of it yet");
        lists.put_back();
        assert_eq!(lists.take().len(), 2);
        lists.delivered();
        assert_eq!((lists.oldest(), lists.is_empty()), (None, true));
    }

    #[test]
    fn of_too_many_the_last_of_each_user_is_told() {
        let mut lists = Lists::default();
        let many = i64::try_from(MOST_TOLD).expect("it fits");
        let mut changes: Vec<_> = (0..=many)
            .map(|number| change(number % 2, &number.to_string(), number))
            .collect();
        changes.push(change(1, "", 3));
        lists.owe_all(&changes);
        let taken = lists.take();
        let told: Vec<(UserNid, &str)> = taken.iter().map(|(nid, id)| (*nid, &**id)).collect();
        let (last, before) = (many.to_string(), (many - 1).to_string());
        assert_eq!(
            told,
            [
                (UserNid::from(1), ""),
                (UserNid::from((many - 1) % 2), &*before),
                (UserNid::from(many % 2), &*last),
            ]
        );
    }
}
