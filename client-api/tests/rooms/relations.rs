//! `GET …/relations/{eventId}`, in its three forms.

use serde_json::json;

use crate::client::{ids, server, v1};

fn path(room_id: &str, rest: &str) -> String {
    v1(&format!("/rooms/{room_id}/relations/{rest}"))
}

#[tokio::test]
async fn children_are_found_by_how_they_relate_and_by_type() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let parent = alice.say_text(&room_id, "parent").await;
    let in_thread = alice.relate(&room_id, "m.thread", &parent, "1").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": "👍" } });
    let reaction = alice.try_send(&room_id, "m.reaction", reaction).await.ok()["event_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let of_own_kind = alice.relate(&room_id, "org.example.kind", &parent, "2").await;
    // Neither of these relates by a type to it.
    alice
        .say(
            &room_id,
            json!({ "body": "", "m.relates_to": { "m.in_reply_to": { "event_id": parent } } }),
        )
        .await;
    alice
        .say(
            &room_id,
            json!({ "body": "", "m.relates_to": { "rel_type": "m.thread", "event_id": 1 } }),
        )
        .await;
    alice
        .say(
            &room_id,
            json!({ "body": "", "m.relates_to": { "rel_type": "x".repeat(300), "event_id": parent } }),
        )
        .await;
    let found = async |rest: &str| alice.get(&path(&room_id, rest)).await.ok();
    let all = found(&parent).await;
    assert_eq!(ids(&all["chunk"]), [&of_own_kind, &reaction, &in_thread]);
    assert_eq!(
        [
            all.get("next_batch"),
            all.get("prev_batch"),
            all.get("recursion_depth")
        ],
        [None; 3]
    );
    assert_eq!(all["chunk"][0]["room_id"], room_id);
    assert_eq!(
        ids(&found(&format!("{parent}?dir=f")).await["chunk"]),
        [&in_thread, &reaction, &of_own_kind]
    );
    assert_eq!(
        ids(&found(&format!("{parent}/m.thread")).await["chunk"]),
        [&in_thread]
    );
    assert_eq!(
        ids(&found(&format!("{parent}/org.example.kind")).await["chunk"]),
        [&of_own_kind]
    );
    assert_eq!(
        ids(&found(&format!("{parent}/m.annotation/m.reaction")).await["chunk"]),
        [&reaction]
    );
    for none in [
        "m.annotation/m.room.message",
        "m.annotation/org.example.never",
        "m.replace",
    ] {
        assert_eq!(
            found(&format!("{parent}/{none}")).await["chunk"],
            json!([]),
            "{none}"
        );
    }
    alice.redact(&room_id, &reaction).await;
    assert_eq!(ids(&found(&parent).await["chunk"]), [&of_own_kind, &in_thread]);
}

#[tokio::test]
async fn pages_follow_each_other_both_ways() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let parent = alice.say_text(&room_id, "parent").await;
    let mut children = Vec::new();
    for number in 0..7 {
        children.push(
            alice
                .relate(&room_id, "m.thread", &parent, &number.to_string())
                .await,
        );
        alice.say_text(&room_id, "something else").await;
    }
    for dir in ["b", "f"] {
        let mut expected = children.clone();
        if dir == "b" {
            expected.reverse();
        }
        let (mut seen, mut from, mut pages) = (Vec::<String>::new(), None::<String>, 0);
        loop {
            let token = from
                .as_ref()
                .map(|from| format!("&from={from}"))
                .unwrap_or_default();
            let page = alice
                .get(&path(
                    &room_id,
                    &format!("{parent}/m.thread?dir={dir}&limit=3{token}"),
                ))
                .await
                .ok();
            seen.extend(ids(&page["chunk"]).into_iter().map(str::to_owned));
            assert_eq!(page["prev_batch"].as_str(), from.as_deref());
            pages += 1;
            match page["next_batch"].as_str() {
                Some(next) => from = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!((seen, pages), (expected, 3));
    }
    // From one page's end to another's, and from where a sync stood.
    let page = async |rest: String| alice.get(&path(&room_id, &format!("{parent}?{rest}"))).await.ok();
    let first = page("limit=2".to_owned()).await["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = page(format!("limit=3&from={first}")).await["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    let between = page(format!("from={first}&to={second}")).await;
    assert_eq!(ids(&between["chunk"]), [&children[4], &children[3], &children[2]]);
    assert_eq!(
        page(format!("from={second}&to={first}")).await["chunk"],
        json!([])
    );
    let synced = alice.get("/sync").await.ok()["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    let late = alice.relate(&room_id, "m.thread", &parent, "late").await;
    assert_eq!(
        ids(&page(format!("limit=1&from={synced}")).await["chunk"]),
        [&children[6]]
    );
    assert_eq!(ids(&page(format!("dir=f&from={synced}")).await["chunk"]), [&late]);
}

#[tokio::test]
async fn recursion_reaches_three_levels_through_what_matches() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let root = alice.say_text(&room_id, "root").await;
    let in_thread = alice.relate(&room_id, "m.thread", &root, "1").await;
    let edit = alice.relate(&room_id, "m.replace", &in_thread, "2").await;
    let third = alice.relate(&room_id, "m.reference", &edit, "3").await;
    alice.relate(&room_id, "m.reference", &third, "4").await;
    let found = async |rest: &str| alice.get(&path(&room_id, &format!("{root}{rest}"))).await.ok();
    assert_eq!(ids(&found("").await["chunk"]), [&in_thread]);
    let all = found("?recurse=true").await;
    assert_eq!(
        (ids(&all["chunk"]), &all["recursion_depth"]),
        (vec![third.as_str(), &edit, &in_thread], &json!(3))
    );
    assert_eq!(ids(&found("/m.thread?recurse=true").await["chunk"]), [&in_thread]);
    assert_eq!(found("/m.replace?recurse=true").await["chunk"], json!([]));
    let pages = found("?recurse=true&limit=2").await;
    assert_eq!(ids(&pages["chunk"]), [&third, &edit]);
    let rest = found(&format!(
        "?recurse=true&from={}",
        pages["next_batch"].as_str().unwrap()
    ))
    .await;
    assert_eq!(ids(&rest["chunk"]), [&in_thread]);
}

#[tokio::test]
async fn only_who_sees_the_parent_sees_children() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    alice
        .set_state(
            &room_id,
            "m.room.history_visibility",
            json!({ "history_visibility": "joined" }),
        )
        .await;
    let hidden = alice.say_text(&room_id, "hidden").await;
    bob.join(&room_id).await;
    bob.get(&path(&room_id, &hidden))
        .await
        .refused(404, "M_NOT_FOUND");
    let parent = alice.say_text(&room_id, "parent").await;
    let seen = alice.relate(&room_id, "m.thread", &parent, "seen").await;
    bob.leave(&room_id).await;
    let later = alice.relate(&room_id, "m.thread", &parent, "later").await;
    assert_eq!(
        ids(&bob.get(&path(&room_id, &parent)).await.ok()["chunk"]),
        [&seen]
    );
    assert_eq!(
        ids(&alice.get(&path(&room_id, &parent)).await.ok()["chunk"]),
        [&later, &seen]
    );
    bob.get(&path(&room_id, &later)).await.refused(404, "M_NOT_FOUND");
    alice
        .get(&path(&room_id, "$nothing"))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .get(&path(&room_id, &format!("{parent}?from=nowhere")))
        .await
        .refused(400, "M_INVALID_PARAM");
    nobody
        .get(&path(&room_id, &parent))
        .await
        .refused(401, "M_MISSING_TOKEN");
}
