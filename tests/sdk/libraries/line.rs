//! An event as matrix-sdk understands it, as a line; `tests/python/nio_person.py` has the same for matrix-nio.

use matrix_sdk::{
    deserialized_responses::TimelineEvent,
    ruma::{
        OwnedUserId,
        events::{
            AnySyncMessageLikeEvent, AnySyncStateEvent, AnySyncTimelineEvent, RedactedUnsigned,
            SyncMessageLikeEvent, SyncStateEvent,
            room::{
                member::OriginalSyncRoomMemberEvent,
                message::{OriginalSyncRoomMessageEvent, Relation},
                redaction::SyncRoomRedactionEvent,
            },
        },
        room_version_rules::RedactionRules,
    },
};

/// The event's ID, who sent it, what it does, and what the server says of the events that relate to it.
///
/// # Panics
///
/// When the library can't make sense of it.
pub fn line(event: &TimelineEvent) -> String {
    let parsed = event.raw().deserialize();
    let parsed = parsed.unwrap_or_else(|error| panic!("{:?} is malformed: {error}", event.raw()));
    let (event_id, sender) = (parsed.event_id(), parsed.sender());
    if let Some(redacter) = redacter(event) {
        if let AnySyncTimelineEvent::MessageLike(message) = &parsed {
            let content = message.original_content();
            assert!(
                content.is_none(),
                "{event_id} was redacted, and still says something"
            );
        }
        return format!("{event_id} {sender} was redacted by {redacter}");
    }
    let deed = match &parsed {
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(
            SyncMessageLikeEvent::Original(message),
        )) => format!("{}{}", says(message), aggregated(event, message)),
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::Reaction(
            SyncMessageLikeEvent::Original(reaction),
        )) => {
            let to = &reaction.content.relates_to;
            format!("reacts {} to {}", to.key, to.event_id)
        }
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomRedaction(
            SyncRoomRedactionEvent::Original(redaction),
        )) => {
            let reason = redaction.content.reason.as_deref().unwrap_or("None");
            format!("redacts {}: {reason}", redaction.redacts(&RedactionRules::V11))
        }
        AnySyncTimelineEvent::State(AnySyncStateEvent::RoomMember(SyncStateEvent::Original(member))) => {
            makes(member)
        }
        AnySyncTimelineEvent::State(state) => format!("sets {}", state.event_type()),
        other => panic!("nobody here sends {other:?}"),
    };
    format!("{event_id} {sender} {deed}")
}

fn redacter(event: &TimelineEvent) -> Option<OwnedUserId> {
    let unsigned = event.raw().get_field::<RedactedUnsigned>("unsigned").ok()??;
    let because = unsigned.redacted_because.deserialize();
    Some(because.expect("a redaction is well-formed").sender().to_owned())
}

fn says(message: &OriginalSyncRoomMessageEvent) -> String {
    let body = message.content.body();
    match &message.content.relates_to {
        None => format!("says \"{body}\""),
        Some(Relation::Reply(reply)) => format!("says \"{body}\" to {}", reply.in_reply_to.event_id),
        Some(Relation::Replacement(edit)) => {
            format!(
                "edits {} to \"{}\"",
                edit.event_id,
                edit.new_content.msgtype.body()
            )
        }
        Some(Relation::Thread(thread)) => format!("says \"{body}\" in the thread of {}", thread.event_id),
        Some(other) => panic!("nobody here relates as {other:?}"),
    }
}

fn makes(member: &OriginalSyncRoomMemberEvent) -> String {
    let name = member.content.displayname.as_deref().unwrap_or("None");
    format!(
        "makes {} {} as {name}",
        member.state_key, member.content.membership
    )
}

/// What the server says of the events that relate to this one.
fn aggregated(event: &TimelineEvent, message: &OriginalSyncRoomMessageEvent) -> String {
    let relations = &message.unsigned.relations;
    let edited = relations.replace.as_ref().map(|edit| {
        let Some(Relation::Replacement(replacement)) = &edit.content.relates_to else {
            panic!("{} replaces nothing", edit.event_id);
        };
        let body = replacement.new_content.msgtype.body();
        format!("; reads \"{body}\" since {}", edit.event_id)
    });
    let threaded = relations.thread.as_ref().map(|thread| {
        let summary = event.thread_summary.summary();
        let latest = summary.and_then(|summary| summary.latest_reply.as_ref());
        let latest = latest.expect("the library understands a thread's summary");
        let part = if thread.current_user_participated {
            "taken part in"
        } else {
            "looked at"
        };
        format!("; a thread of {} up to {latest}, {part}", thread.count)
    });
    [edited, threaded].into_iter().flatten().collect()
}
