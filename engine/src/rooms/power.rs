//! Who may do what goes by power (client-server API, "m.room.power_levels"). By two state events of a room, wherever
//! they were found.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    Int, OwnedUserId, UserId,
    events::room::power_levels::UserPowerLevel,
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::{events::Event, unread::class};

/// A state event that power goes by isn't what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadPower(String);

/// The power of the users of a room.
#[derive(Debug)]
pub(super) struct Power<'a> {
    levels: Option<RoomPowerLevelsEvent<Arc<Event>>>,
    creators: HashSet<OwnedUserId>,
    rules: &'a AuthorizationRules,
}

impl<'a> Power<'a> {
    /// By the room's create event, and its power levels if it has any.
    pub fn by(
        create: Arc<Event>,
        levels: Option<Arc<Event>>,
        rules: &'a AuthorizationRules,
    ) -> Result<Self, BadPower> {
        Ok(Self {
            levels: levels.map(RoomPowerLevelsEvent::new),
            creators: RoomCreateEvent::new(create).creators(rules).map_err(BadPower)?,
            rules,
        })
    }

    /// That of a user.
    pub fn of(&self, user_id: &UserId) -> Result<UserPowerLevel, BadPower> {
        let is_creator = self.creators.contains(user_id);
        if self.rules.explicitly_privilege_room_creators && is_creator {
            return Ok(UserPowerLevel::Infinite);
        }
        match &self.levels {
            Some(levels) => levels
                .user_power_level(user_id, self.rules)
                .map(Into::into)
                .map_err(BadPower),
            // Without power levels a room's creator has 100, everyone else 0.
            None => Ok(UserPowerLevel::Int(if is_creator {
                100.into()
            } else {
                0.into()
            })),
        }
    }

    /// Whether a user has the power that something takes.
    pub fn may(&self, user_id: &UserId, what: RoomPowerLevelsIntField) -> Result<bool, BadPower> {
        let needed = match &self.levels {
            Some(levels) => levels.get_as_int_or_default(what, self.rules).map_err(BadPower)?,
            None => what.default_value(),
        };
        Ok(self.of(user_id)? >= UserPowerLevel::Int(needed))
    }

    /// Whether a user has the power to notify the whole room (`sender_notification_permission`).
    pub fn may_notify_room(&self, user_id: &UserId) -> Result<bool, BadPower> {
        let levels = self.levels.as_ref().map_or("{}", |levels| levels.content().get());
        let needed = class::level_to_notify_room(levels);
        Ok(self.of(user_id)? >= UserPowerLevel::Int(needed.try_into().unwrap_or(Int::MAX)))
    }
}
