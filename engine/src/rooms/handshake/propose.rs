//! Events that are not committed yet: those another server completes, and those this server completes for another.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomId, UserId,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use crate::{
    Engine, Error,
    rooms::{
        Room,
        commit::signer,
        decide::{DecideError, Proposal, Target, propose as decide_proposal, sign},
        draft::Draft,
        gather::gather,
        load::load_head,
    },
};

/// How often state that turns out to be needed is fetched.
const ROUNDS: usize = 20;

/// What `draft` would be in the room as it stands, if the rules allow it. Nothing is changed.
pub(in crate::rooms) async fn propose(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    draft: Draft,
) -> Result<Proposal, DecideError> {
    let drafts = [draft];
    for _ in 0..ROUNDS {
        load_head(engine, room).await?;
        let Some(state) = room.head.state() else { continue };
        let mut gathered = gather(engine, room, &state, &drafts).await?;
        for _ in 0..ROUNDS {
            let target = Target {
                room_nid: room.nid,
                room_id: Some(&room.id),
                rules: &room.rules,
            };
            let proposed = room
                .head
                .look(|head| decide_proposal(head, target, signer(engine), &drafts, &gathered));
            match proposed {
                Some(Err(DecideError::Missing(missing))) => gathered.add(engine, room, &missing).await?,
                Some(proposed) => return proposed,
                None => break,
            }
        }
    }
    Err(Error::Damaged(format!("the head of room {} could not be loaded", room.id)).into())
}

/// A member event that another server began.
#[derive(Debug)]
pub(super) struct Completed {
    pub event_id: OwnedEventId,
    pub json: String,
}

/// Why a template can't be completed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("{0}")]
    Bad(&'static str),
    #[error(transparent)]
    Unsignable(#[from] DecideError),
}

/// Completes a member event of `user_id` from the template of another server: it says where in the room the event
/// comes; what the event says is ours. `content` is what the user says.
pub(super) fn complete(
    engine: &Engine,
    template: &RawValue,
    room_id: &RoomId,
    user_id: &UserId,
    mut content: CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Completed, TemplateError> {
    let Ok(CanonicalJsonValue::Object(mut template)) = serde_json::from_str(template.get()) else {
        return Err(TemplateError::Bad(
            "the template is not an object of canonical JSON",
        ));
    };
    let mut pdu = CanonicalJsonObject::new();
    for key in ["prev_events", "auth_events", "depth"] {
        let value = template.remove(key);
        let value = value.ok_or(TemplateError::Bad(
            "the template does not say where in the room it comes",
        ))?;
        pdu.insert(key.to_owned(), value);
    }
    let told = template.get("content").and_then(CanonicalJsonValue::as_object);
    let vouches = "join_authorised_via_users_server";
    if let Some(user_id) = told.and_then(|told| told.get(vouches)) {
        content.insert(vouches.to_owned(), user_id.clone());
    }
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    pdu.insert("type".to_owned(), text("m.room.member"));
    pdu.insert("room_id".to_owned(), text(room_id.as_str()));
    pdu.insert("sender".to_owned(), text(user_id.as_str()));
    pdu.insert("state_key".to_owned(), text(user_id.as_str()));
    pdu.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    let signer = signer(engine);
    pdu.insert(
        "origin_server_ts".to_owned(),
        CanonicalJsonValue::Integer(signer.now.0.into()),
    );
    let (event_id, json) = sign(pdu, signer, rules)?;
    Ok(Completed { event_id, json })
}
