//! Who may know what was delivered to whom. The user's own switch counts, both ways; who hides their presence gives
//! nothing; who ignores another neither tells them nor is told of them; and nobody is told of themselves.

use std::collections::HashSet;

use hearth_storage::{UserNid, log::Receipt};

use super::DELIVERED;
use crate::{
    Engine, Error,
    accounts::Requester,
    rooms::{Room, View},
    users::{self, Preferences},
};

/// Whether it is counted what a user with these preferences is told of a room, as things are now.
pub(crate) fn may_count(engine: &Engine, preferences: &Preferences, room: &Room) -> bool {
    let is_small = |view: &View| view.members.joined() <= engine.config.ticks.max_room_members;
    preferences.gives_delivery_receipts() && room.read(is_small) == Some(true)
}

/// Takes out of receipts of several rooms those of [`DELIVERED`] that are not for `viewer`, whose preferences these are.
pub(crate) async fn withhold(
    engine: &Engine,
    viewer: &Requester,
    preferences: &Preferences,
    rooms: &mut [&mut Vec<Receipt>],
) -> Result<(), Error> {
    let is_delivered = |receipt: &Receipt| &*receipt.receipt_type == DELIVERED;
    let is_mine = |receipt: &Receipt| receipt.user_nid == viewer.user_nid;
    let others: HashSet<UserNid> = rooms
        .iter()
        .flat_map(|receipts| receipts.iter())
        .filter(|receipt| is_delivered(receipt) && !is_mine(receipt))
        .map(|receipt| receipt.user_nid)
        .collect();
    let wants = preferences.wants_delivery_receipts();
    let silent = match wants && !others.is_empty() {
        true => silent(engine, viewer, preferences, others).await?,
        false => HashSet::new(),
    };
    for receipts in rooms {
        receipts.retain(|receipt| {
            !is_delivered(receipt) || (wants && !is_mine(receipt) && !silent.contains(&receipt.user_nid))
        });
    }
    Ok(())
}

/// Those among `others` of whom `viewer` is not to know. Users of other servers give what their server says.
async fn silent(
    engine: &Engine,
    viewer: &Requester,
    preferences: &Preferences,
    others: HashSet<UserNid>,
) -> Result<HashSet<UserNid>, Error> {
    let others: Vec<UserNid> = others.into_iter().collect();
    let user_ids = engine.interner.user_ids(&others).await?;
    let own = &engine.config.server_name;
    let local: Vec<UserNid> = user_ids
        .iter()
        .filter(|(_, user_id)| user_id.server_name() == own)
        .map(|(user_nid, _)| *user_nid)
        .collect();
    let theirs = users::preferences(engine, &local).await?;
    let silent = others.into_iter().filter(|user_nid| {
        let gives = theirs
            .get(user_nid)
            .is_none_or(|theirs| theirs.gives_delivery_receipts() && !theirs.ignores(&viewer.user_id));
        let is_ignored = user_ids
            .get(user_nid)
            .is_some_and(|user_id| preferences.ignores(user_id));
        !gives || is_ignored
    });
    Ok(silent.collect())
}
