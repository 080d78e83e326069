//! What an event that is allowed makes true besides the room's state, whoever made it.

use std::sync::Arc;

use hearth_storage::{
    UserNid,
    log::{Membership, MembershipChange, Redaction, Relation},
};
use ruma::state_res::events::RoomPowerLevelsIntField;

use crate::{
    events::Event,
    rooms::power::{BadPower, Power},
};

/// The membership that a member event gives `user_nid`, who had `before`. An invite goes with stripped state.
pub(super) fn membership(
    event: &Event,
    user_nid: UserNid,
    before: Option<Membership>,
    stripped_state: Option<Arc<str>>,
) -> Option<MembershipChange> {
    let membership = event.membership()?;
    let continues = membership == Membership::Join && before == Some(Membership::Join);
    Some(MembershipChange {
        room_nid: event.room_nid,
        user_nid,
        event_nid: event.nid,
        membership,
        continues,
        joined_at: None,
        forgotten: false,
        stripped_state,
    })
}

/// The redaction that an event is of another of its room.
pub(super) fn redaction(event: &Event, redacted: &Event) -> Redaction {
    Redaction {
        room_nid: event.room_nid,
        event_nid: redacted.nid,
        redaction_nid: event.nid,
    }
}

/// Whether an event may redact what it names. Room versions since 3 let such an event pass by their rules; who may send
/// one is said by the client-server API, "Redactions": the sender of the redacted event, or who has the power.
pub(in crate::rooms) fn may_redact(
    event: &Event,
    redacted: &Event,
    power: &Power<'_>,
) -> Result<bool, BadPower> {
    Ok(redacted.sender() == event.sender() || power.may(event.sender(), RoomPowerLevelsIntField::Redact)?)
}

/// How an event relates to another.
pub(super) fn relation(event: &Event) -> Option<Relation> {
    let relation = event.relation()?;
    Some(Relation {
        event_nid: event.nid,
        rel_type: relation.rel_type.into(),
        parent_id: relation.parent_id.as_str().into(),
        is_edit: relation.is_edit,
    })
}
