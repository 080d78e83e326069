//! Which events a client's filter lets through (client-server API, "Filtering").

use ruma::api::client::filter::{RoomEventFilter, UrlFilter};
use serde::Deserialize;

use super::Event;

/// Whether `filter` lets `event` through; its `rooms` and `not_rooms` are the caller's concern.
pub(crate) fn matches(filter: &RoomEventFilter, event: &Event) -> bool {
    let event_type = event.event_type().to_string();
    let is_type = |pattern: &String| glob(pattern, &event_type);
    if filter.not_types.iter().any(is_type)
        || filter
            .types
            .as_ref()
            .is_some_and(|types| !types.iter().any(is_type))
    {
        return false;
    }
    let sender = event.sender();
    if filter.not_senders.iter().any(|other| other == sender)
        || filter
            .senders
            .as_ref()
            .is_some_and(|senders| !senders.iter().any(|other| other == sender))
    {
        return false;
    }
    match filter.url_filter {
        Some(UrlFilter::EventsWithUrl) => has_url(event),
        Some(UrlFilter::EventsWithoutUrl) => !has_url(event),
        _ => true,
    }
}

/// Whether a filter lets nothing through because of its rooms.
pub(crate) fn excludes_room(filter: &RoomEventFilter, room_id: &ruma::RoomId) -> bool {
    filter.not_rooms.iter().any(|other| other == room_id)
        || filter
            .rooms
            .as_ref()
            .is_some_and(|rooms| !rooms.iter().any(|other| other == room_id))
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

fn has_url(event: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Content>(event.content().get()).is_ok_and(|content| content.url.is_some())
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
