//! Which events a client's filter lets through (client-server API, "Filtering").

use ruma::{
    RoomId, UserId,
    api::client::filter::{Filter, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Event;

/// Whether `filter` lets `event` through; its `rooms` and `not_rooms` are the caller's concern.
pub(crate) fn matches(filter: &RoomEventFilter, event: &Event) -> bool {
    is_of_type(filter.types.as_deref(), &filter.not_types, || {
        event.event_type().to_string()
    }) && is_by(
        filter.senders.as_deref(),
        &filter.not_senders,
        Some(event.sender()),
    ) && has_url_as_wanted(filter.url_filter, event.content())
}

/// Whether `filter` lets through what nobody sent in `room_id`: an ephemeral event, or the user's account data.
pub(crate) fn matches_in_room(
    filter: &RoomEventFilter,
    room_id: &RoomId,
    event_type: &str,
    content: &RawValue,
) -> bool {
    !excludes_room(filter, room_id)
        && is_of_type(filter.types.as_deref(), &filter.not_types, || {
            event_type.to_owned()
        })
        && is_by(filter.senders.as_deref(), &filter.not_senders, None)
        && has_url_as_wanted(filter.url_filter, content)
}

/// Whether `filter` lets the user's global account data of a type through. Nobody sent it.
pub(crate) fn matches_global(filter: &Filter, event_type: &str) -> bool {
    is_of_type(filter.types.as_deref(), &filter.not_types, || {
        event_type.to_owned()
    }) && is_by(filter.senders.as_deref(), &filter.not_senders, None)
}

/// Whether `filter` lets a user's presence through.
pub(crate) fn matches_presence(filter: &Filter, user_id: &UserId) -> bool {
    is_of_type(filter.types.as_deref(), &filter.not_types, || {
        "m.presence".to_owned()
    }) && is_by(filter.senders.as_deref(), &filter.not_senders, Some(user_id))
}

/// Whether a filter lets nothing through because of its rooms.
pub(crate) fn excludes_room(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    filter.not_rooms.iter().any(|other| other == room_id)
        || filter
            .rooms
            .as_ref()
            .is_some_and(|rooms| !rooms.iter().any(|other| other == room_id))
}

/// Whether a filter, whatever it says of rooms, lets every event of a room through.
pub(crate) fn lets_all_through(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.senders.is_none()
        && filter.not_types.is_empty()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
}

/// Whether a filter can be seen to let nothing of a room through.
pub(crate) fn lets_nothing_through(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    excludes_room(filter, room_id)
        || filter.types.as_ref().is_some_and(Vec::is_empty)
        || filter.senders.as_ref().is_some_and(Vec::is_empty)
        || filter.not_types.iter().any(|pattern| pattern == "*")
}

fn is_of_type(types: Option<&[String]>, not_types: &[String], event_type: impl FnOnce() -> String) -> bool {
    if types.is_none() && not_types.is_empty() {
        return true;
    }
    let event_type = event_type();
    let is_named = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern, &event_type));
    !is_named(not_types) && types.is_none_or(is_named)
}

/// What nobody sent is by none of the senders that are asked for.
fn is_by<U: PartialEq<UserId>>(senders: Option<&[U]>, not_senders: &[U], sender: Option<&UserId>) -> bool {
    let is_among = |users: &[U]| sender.is_some_and(|sender| users.iter().any(|user| user == sender));
    !is_among(not_senders) && senders.is_none_or(is_among)
}

fn has_url_as_wanted(wanted: Option<UrlFilter>, content: &RawValue) -> bool {
    match wanted {
        Some(UrlFilter::EventsWithUrl) => has_url(content),
        Some(UrlFilter::EventsWithoutUrl) => !has_url(content),
        _ => true,
    }
}

/// `*` in a pattern stands for any number of characters.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    // `rest` splits into one part at least, and the last one must end the text.
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(found) => text = &text[found + part.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

fn has_url(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Content>(content.get()).is_ok_and(|content| content.url.is_some())
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.message2", false),
            ("m.*", "m.room.message", true),
            ("m.*", "x.m.", false),
            ("*", "", true),
            ("*.name", "m.room.name", true),
            ("m.*.name", "m.name", false),
            ("a*b*a", "aba", true),
            ("a*a", "a", false),
            ("**", "x", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
