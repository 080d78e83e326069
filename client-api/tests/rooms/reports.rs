//! Reports to the administrator.

use serde_json::json;

use crate::client::{Client, server};

/// What the administrator finds: reporter, room, event, user, and whether the PDU is there.
async fn reports(of: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' ', reporter.user_id, room.room_id, event.sequence::text, reported.user_id,
            '\"' || convert_from(reason, 'UTF8') || '\"', convert_from(report.pdu, 'UTF8')::jsonb #>> '{content,body}')
        FROM reports report JOIN users reporter ON reporter.user_nid = reporter_nid
        LEFT JOIN rooms room ON room.room_nid = report.room_nid
        LEFT JOIN events event ON event.event_nid = report.event_nid
        LEFT JOIN users reported ON reported.user_nid = report.user_nid ORDER BY report_nid";
    of.database.texts(query).await
}

#[tokio::test]
async fn events_rooms_and_users_are_reported() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    let event_id = alice.say_text(&room_id, "rude").await;
    let reason = json!({ "reason": "this makes me sad" });
    assert_eq!(
        bob.post(&format!("/rooms/{room_id}/report/{event_id}"), reason.clone())
            .await
            .ok(),
        json!({})
    );
    bob.post(
        &format!("/rooms/{room_id}/report/{event_id}"),
        json!({ "score": -100 }),
    )
    .await
    .ok();
    // A redaction doesn't hide what was reported.
    alice.redact(&room_id, &event_id).await;
    let carol = nobody.register("carol").await;
    assert_eq!(
        carol
            .post(&format!("/rooms/{room_id}/report"), reason.clone())
            .await
            .ok(),
        json!({})
    );
    assert_eq!(
        carol
            .post(
                &format!("/users/{}/report", alice.user_id),
                json!({ "reason": "" })
            )
            .await
            .ok(),
        json!({})
    );
    let kept = reports(&alice).await;
    let [first, second, third, fourth] = &kept[..] else {
        panic!("{kept:?}")
    };
    assert!(
        first.starts_with(&format!("@bob:example.org {room_id} ")),
        "{first}"
    );
    assert!(first.ends_with(r#""this makes me sad" rude"#), "{first}");
    assert!(second.ends_with(r#""" rude"#), "{second}");
    assert_eq!(
        *third,
        format!(r#"@carol:example.org {room_id} "this makes me sad""#)
    );
    assert_eq!(fourth, r#"@carol:example.org @alice:example.org """#);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_reported() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    let event_id = alice.say_text(&room_id, "rude").await;
    let reason = json!({ "reason": "bad" });
    let of_event = format!("/rooms/{room_id}/report/{event_id}");
    bob.post(&of_event, reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    bob.join(&room_id).await;
    bob.leave(&room_id).await;
    bob.post(&of_event, reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post(&format!("/rooms/{room_id}/report/$nothing"), reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post("/rooms/!nowhere:example.org/report", reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post("/users/@nobody:example.org/report", reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post("/users/@nobody:elsewhere.org/report", reason.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post(&format!("/rooms/{room_id}/report"), json!({ "reason": 1 }))
        .await
        .refused(400, "M_BAD_JSON");
    let long = json!({ "reason": "x".repeat((16 << 10) + 1) });
    alice.post(&of_event, long).await.refused(413, "M_TOO_LARGE");
    nobody
        .post(&of_event, reason)
        .await
        .refused(401, "M_MISSING_TOKEN");
    assert_eq!(reports(&alice).await, [""; 0]);
}
