//! Numbers for names, given once.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    interned,
    log::{Change, Fact},
    users,
};

use super::ground::{Dice, Ground, HASTE};

#[tokio::test(flavor = "multi_thread")]
async fn many_who_intern_the_same_names_at_once_get_the_same_numbers() {
    let ground = Arc::new(Ground::new().await);
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let ground = Arc::clone(&ground);
            tokio::spawn(async move {
                let dice = Dice::new(task);
                let mut found = Vec::new();
                for _ in 0..10 {
                    // In any order, some twice.
                    let names: Vec<String> = (0..30).map(|_| format!("name\0{}", dice.roll(60))).collect();
                    let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
                    let mut transaction = ground.db.begin().await.expect("the database answers");
                    let types = interned::intern_types(&mut transaction, &borrowed)
                        .await
                        .expect("no deadlock");
                    assert_eq!(types.len(), names.len());
                    transaction.commit().await.expect("they are kept");
                    let keys: Vec<_> = types
                        .iter()
                        .copied()
                        .zip(borrowed.iter().rev().copied())
                        .collect();
                    let mut connection = ground.db.acquire().await.expect("the database answers");
                    let key_nids = interned::intern_keys(&mut connection, &keys)
                        .await
                        .expect("no deadlock");
                    assert_eq!(key_nids.len(), keys.len());
                    let user_id = format!("@user{}:example.org", dice.roll(20));
                    let user_nid = users::intern(&mut connection, &user_id)
                        .await
                        .expect("no deadlock");
                    for ((name, type_nid), (key, key_nid)) in
                        names.iter().zip(&types).zip(keys.iter().zip(key_nids))
                    {
                        found.push((format!("type {name}"), i64::from(*type_nid)));
                        found.push((format!("key {:?} {}", key.0, key.1), i64::from(key_nid)));
                    }
                    found.push((user_id, i64::from(user_nid)));
                }
                found
            })
        })
        .collect();
    let mut number_of: HashMap<String, i64> = HashMap::new();
    for task in tasks {
        for (name, number) in task.await.expect("the task ends") {
            assert_eq!(*number_of.entry(name.clone()).or_insert(number), number, "{name}");
        }
    }
    for kind in ["type ", "key ", "@user"] {
        let mut numbers: Vec<i64> = number_of
            .iter()
            .filter(|(name, _)| name.starts_with(kind))
            .map(|(_, number)| *number)
            .collect();
        let names = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), names, "no number stands for two");
    }
    Arc::into_inner(ground).expect("the tasks are gone").end().await;
}

#[tokio::test]
async fn a_transaction_that_interned_a_user_holds_up_no_commit() {
    let ground = Ground::new().await;
    let mut first = ground.db.begin().await.expect("the database answers");
    let mut second = ground.db.begin().await.expect("the database answers");
    let user_nid = users::intern(&mut first, "@carol:example.org")
        .await
        .expect("interned");
    // The second waits for the first, finds the name taken, and stays open.
    let waiting = tokio::spawn(async move {
        let found = users::intern(&mut second, "@carol:example.org")
            .await
            .expect("interned");
        (second, found)
    });
    ground
        .eventually("the second to wait", async || {
            ground.waits_for_lock("INSERT INTO users%").await
        })
        .await;
    first.commit().await.expect("it is kept");
    let (second, found) = waiting.await.expect("it is let go");
    assert_eq!(found, user_nid);
    let change = Change::of(Fact::Account(user_nid));
    let committed = tokio::time::timeout(HASTE.statement, ground.committer.commit(change)).await;
    committed
        .expect("nothing is in its way")
        .expect("it is committed");
    drop(second);
    ground.end().await;
}

#[tokio::test]
async fn names_and_numbers_translate_both_ways() {
    let ground = Ground::new().await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let types = interned::intern_types(&mut connection, &["m.room.member", "m.room.name"])
        .await
        .expect("interned");
    let [member, name] = types[..] else {
        panic!("two types have two numbers")
    };
    assert_eq!(
        interned::find_type(&mut connection, "m.room.name")
            .await
            .expect("it can be read"),
        Some(name)
    );
    assert_eq!(
        interned::find_type(&mut connection, "m.room.nam")
            .await
            .expect("it can be read"),
        None
    );
    let keys = [(member, "@a\0:example.org"), (name, ""), (member, "")];
    let key_nids = interned::intern_keys(&mut connection, &keys)
        .await
        .expect("interned");
    let asked = [(name, ""), (name, "no such"), (member, "@a\0:example.org")];
    let found = interned::find_keys(&mut connection, &asked)
        .await
        .expect("they can be read");
    assert_eq!(found, [Some(key_nids[1]), None, Some(key_nids[0])]);
    let mut back = interned::keys_by_nids(&mut connection, &key_nids)
        .await
        .expect("they can be read");
    back.sort();
    let text = |event_type: &str, key: &str| (event_type.to_owned(), key.to_owned());
    let mut expected = vec![
        (key_nids[0], text("m.room.member", "@a\0:example.org")),
        (key_nids[1], text("m.room.name", "")),
        (key_nids[2], text("m.room.member", "")),
    ];
    expected.sort();
    assert_eq!(
        back.into_iter()
            .map(|(nid, a, b)| (nid, (a, b)))
            .collect::<Vec<_>>(),
        expected
    );
    drop(connection);
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_given_twice() {
    let ground = Arc::new(Ground::new().await);
    // Two sources, as two nodes have them.
    let sources = [ground.numbers.clone(), ground.db.numbers()];
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let source = sources[task % 2].clone();
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                for count in [1, 7, 300, 4096, 5000] {
                    let given = source.events(count).await.expect("numbers are given");
                    assert_eq!(given.len(), count);
                    numbers.extend(given.into_iter().map(i64::from));
                    numbers.push(-i64::from(source.states(1).await.expect("numbers are given")[0]));
                }
                numbers
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("the task ends"));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(!all.contains(&0), "0 means nothing in a packed state");
    drop(sources);
    Arc::into_inner(ground).expect("the tasks are gone").end().await;
}
