//! What a member event says of its user.

use std::borrow::Cow;

use hearth_storage::log::Membership;
use ruma::events::TimelineEventType;
use serde::Deserialize;

use super::Event;

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    membership: Cow<'a, str>,
}

impl Event {
    /// The membership that it gives its user, if it is a member event.
    pub(crate) fn membership(&self) -> Option<Membership> {
        if *self.event_type() != TimelineEventType::RoomMember {
            return None;
        }
        let content: Content<'_> = serde_json::from_str(self.content().get()).ok()?;
        membership_named(&content.membership)
    }
}

/// The membership of that name.
pub(crate) fn membership_named(name: &str) -> Option<Membership> {
    Some(match name {
        "join" => Membership::Join,
        "invite" => Membership::Invite,
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        "knock" => Membership::Knock,
        _ => return None,
    })
}
