//! Writes the keys of a backup as they are read, so that a large backup takes no more memory than a small one.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use hearth_engine::{
    Error,
    encryption::backup::{NamedKey, Pages},
};
use serde::Serialize;

/// `{"rooms": {…: {"sessions": {…}}}}`. The first page is read before this returns: what fails until then can be
/// answered by an error.
pub(super) async fn of_rooms(pages: Pages) -> Result<Body, Error> {
    body(pages, Listing::of_rooms()).await
}

/// `{"sessions": {…}}`, of keys that are all of one room.
pub(super) async fn of_sessions(pages: Pages) -> Result<Body, Error> {
    body(pages, Listing::of_sessions()).await
}

async fn body(mut pages: Pages, listing: Listing) -> Result<Body, Error> {
    let first = pages.next().await?;
    let state = Some((pages, listing, Some(first)));
    let chunks = stream::try_unfold(state, |state| async move {
        let Some((mut pages, mut listing, first)) = state else {
            return Ok(None);
        };
        let page = match first {
            Some(first) => first,
            None => pages.next().await?,
        };
        if page.is_empty() {
            return Ok::<_, Error>(Some((Bytes::from(listing.end()?), None)));
        }
        let chunk = listing.page(&page)?;
        Ok(Some((Bytes::from(chunk), Some((pages, listing, None)))))
    });
    Ok(Body::from_stream(chunks))
}

/// The JSON of a list of keys, written a page at a time.
struct Listing {
    /// The room whose sessions are being listed, where rooms are.
    room_id: Option<Arc<str>>,
    lists_rooms: bool,
    has_begun: bool,
    has_keys: bool,
}

impl Listing {
    fn of_rooms() -> Self {
        Self {
            room_id: None,
            lists_rooms: true,
            has_begun: false,
            has_keys: false,
        }
    }

    fn of_sessions() -> Self {
        Self {
            lists_rooms: false,
            ..Self::of_rooms()
        }
    }

    /// What the next keys add; there is at least one.
    fn page(&mut self, keys: &[NamedKey]) -> Result<Vec<u8>, Error> {
        let mut json = Vec::new();
        self.begin(&mut json);
        for key in keys {
            if self.lists_rooms && self.room_id.as_ref() != Some(&key.room_id) {
                let before: &[u8] = if self.room_id.is_some() { b"}}," } else { b"" };
                json.extend_from_slice(before);
                write(&mut json, &key.room_id)?;
                json.extend_from_slice(br#":{"sessions":{"#);
                self.room_id = Some(Arc::clone(&key.room_id));
            } else if self.has_keys {
                json.push(b',');
            }
            self.has_keys = true;
            write(&mut json, &key.session_id)?;
            json.push(b':');
            write(&mut json, &key.data)?;
        }
        Ok(json)
    }

    /// What comes after the last key.
    fn end(&mut self) -> Result<Vec<u8>, Error> {
        let mut json = Vec::new();
        self.begin(&mut json);
        if self.room_id.is_some() {
            json.extend_from_slice(b"}}");
        }
        json.extend_from_slice(b"}}");
        Ok(json)
    }

    fn begin(&mut self, json: &mut Vec<u8>) {
        if !self.has_begun {
            let name = if self.lists_rooms { "rooms" } else { "sessions" };
            json.extend_from_slice(format!(r#"{{"{name}":{{"#).as_bytes());
            self.has_begun = true;
        }
    }
}

fn write(json: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Error> {
    serde_json::to_writer(json, value).map_err(|error| Error::Damaged(format!("a key backup: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(room_id: &str, session_id: &str) -> NamedKey {
        let data = json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": {} });
        NamedKey {
            room_id: room_id.into(),
            session_id: session_id.into(),
            data: serde_json::from_value(data).expect("a key"),
        }
    }

    fn written(mut listing: Listing, pages: &[Vec<NamedKey>]) -> Value {
        let mut json = Vec::new();
        for page in pages {
            json.extend(listing.page(page).expect("it can be written"));
        }
        json.extend(listing.end().expect("it can be written"));
        serde_json::from_slice(&json).unwrap_or_else(|error| {
            panic!("{error} in {}", String::from_utf8_lossy(&json));
        })
    }

    #[test]
    fn pages_of_keys_become_one_object_wherever_they_are_cut() {
        let all = [("!a", "1"), ("!a", "2"), ("!b", "1"), ("!c", "\"\0"), ("!c", "2")];
        let keys = |range: std::ops::Range<usize>| {
            all[range]
                .iter()
                .map(|(room, session)| key(room, session))
                .collect::<Vec<_>>()
        };
        let whole = written(Listing::of_rooms(), &[keys(0..5)]);
        assert_eq!(whole["rooms"].as_object().expect("rooms").len(), 3);
        assert_eq!(whole["rooms"]["!c"]["sessions"]["\"\0"]["first_message_index"], 1);
        for cut in 1..5 {
            assert_eq!(written(Listing::of_rooms(), &[keys(0..cut), keys(cut..5)]), whole);
        }
        let room = written(Listing::of_sessions(), &[keys(0..1), keys(1..2)]);
        assert_eq!(room, json!({ "sessions": whole["rooms"]["!a"]["sessions"] }));
    }

    #[test]
    fn no_keys_are_an_empty_object() {
        assert_eq!(written(Listing::of_rooms(), &[]), json!({ "rooms": {} }));
        assert_eq!(written(Listing::of_sessions(), &[]), json!({ "sessions": {} }));
    }
}
