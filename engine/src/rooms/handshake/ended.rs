//! How this server hears, of a room that it is not in, that an invite of one of its users was taken back, or a knock
//! refused: by the event itself, which is sent to it like those of its rooms. Whether the room allows it can't be known
//! from outside.

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{OwnedUserId, UserId};

use super::outsider::set_membership;
use crate::{
    Engine, Error,
    rooms::{
        Room, read,
        receive::{fetch, outliers, pdu::ReceivedPdu},
    },
    users,
};

/// Ends an invite or a knock of a user of this server by the leave or the ban of another server's user. It is believed
/// if it is properly signed and authorised by the very invite or knock, which few others know of. False when it isn't,
/// or ends nothing.
pub(in crate::rooms) async fn end_by_other(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    pdu: ReceivedPdu,
) -> Result<bool, Error> {
    let Some((user_id, membership)) = ended(engine, &pdu) else {
        return Ok(false);
    };
    let Some(user_nid) = engine.interner.find_user(&user_id).await? else {
        return Ok(false);
    };
    let user = users::load(engine, user_nid).await?;
    let is_outside = |membership| matches!(membership, Membership::Invite | Membership::Knock);
    let Some(known) = user
        .rooms
        .get(&room.nid)
        .filter(|known| is_outside(known.membership))
    else {
        return Ok(false);
    };
    let begun = read::events(engine, room, [known.event_nid]).await?;
    let names_it = begun
        .get(&known.event_nid)
        .is_some_and(|begun| pdu.auth_events.contains(&begun.event_id));
    if !names_it {
        return Ok(false);
    }
    let Some(pdu) = fetch::verify_all(engine, room, vec![pdu]).await.pop() else {
        return Ok(false);
    };
    let Some(event) = outliers::unjudged(engine, room, vec![pdu]).await?.pop() else {
        return Ok(false);
    };
    set_membership(engine, room, &event, (&user_id, membership), None).await?;
    Ok(true)
}

/// Whom an event sends off, and how.
fn ended(engine: &Engine, pdu: &ReceivedPdu) -> Option<(OwnedUserId, Membership)> {
    let membership = match pdu.membership()? {
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        _ => return None,
    };
    let user_id = <&UserId>::try_from(pdu.state_key.as_deref()?).ok()?;
    let own = &engine.config.server_name;
    let is_it =
        pdu.event_type == "m.room.member" && user_id.server_name() == own && pdu.sender.server_name() != own;
    is_it.then(|| (user_id.to_owned(), membership))
}
