//! Annotations, such as reactions: nobody annotates an event twice in the same way (client-server API, "Avoiding
//! duplicate annotations").

use hearth_storage::relations;
use ruma::{CanonicalJsonValue, EventId};
use serde::Deserialize;

use super::{Room, draft::Draft};
use crate::{Engine, Error};

const ANNOTATION: &str = "m.annotation";

/// What an annotation says, and of which event. One without either is none that could be counted.
#[derive(Debug, PartialEq)]
pub(super) struct Annotation<'a> {
    event_id: &'a EventId,
    key: &'a str,
}

impl<'a> Annotation<'a> {
    /// The annotation that a draft is.
    pub fn of(draft: &'a Draft) -> Option<Self> {
        let CanonicalJsonValue::Object(relates_to) = draft.content.get("m.relates_to")? else {
            return None;
        };
        let text = |key: &str| relates_to.get(key).and_then(CanonicalJsonValue::as_str);
        if draft.state_key.is_some() || text("rel_type") != Some(ANNOTATION) {
            return None;
        }
        Some(Self {
            event_id: <&EventId>::try_from(text("event_id")?).ok()?,
            key: text("key")?,
        })
    }

    /// Whether the sender of `draft` said so already, and did not take it back. To be asked where nothing else of theirs
    /// can come in between.
    pub async fn is_said_already(&self, engine: &Engine, room: &Room, draft: &Draft) -> Result<bool, Error> {
        let event_type = draft.event_type.to_string();
        let Some(type_nid) = engine.interner.types(&[&event_type]).await?.first().copied() else {
            return Ok(false);
        };
        let mut connection = engine.db.acquire().await?;
        let own = relations::children_by(
            &mut connection,
            room.nid,
            self.event_id.as_str(),
            ANNOTATION,
            type_nid,
            draft.sender_nid,
        )
        .await?;
        let own = engine.events.load(&mut connection, room.in_room(), own).await?;
        Ok(own
            .values()
            .any(|event| key_in(event.content().get()).as_deref() == Some(self.key)))
    }
}

fn key_in(content: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        key: String,
    }
    serde_json::from_str::<Content>(content)
        .ok()
        .map(|content| content.relates_to.key)
}
