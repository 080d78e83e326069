//! Tokens end at once, whatever is in flight.

use super::*;

#[tokio::test]
async fn tokens_that_were_never_given_out_are_unknown() {
    let server = server().await;
    assert!(server.is_unknown("").await);
    assert!(server.is_unknown("hat_0").await);
    assert!(server.is_unknown(&"x".repeat(10_000)).await);
    assert!(server.is_unknown("\0").await);
}

#[tokio::test]
async fn logout_ends_one_device_at_once() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    assert!(server.works(&first.access_token).await);
    let requester = server.requester(&second).await;
    logout::logout(&server.engine, &requester).await.unwrap();
    assert!(server.is_unknown(&second.access_token).await);
    let requester = server.requester(&first).await;
    let devices = devices::list(&server.engine, &requester).await.unwrap();
    assert_eq!(device_ids(&devices), [first.device_id.to_string()].into());
}

#[tokio::test]
async fn logout_all_ends_every_device_of_the_user_at_once() {
    let server = server().await;
    let bob = server.register("bob").await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    let requester = server.requester(&first).await;
    assert!(server.works(&second.access_token).await);
    logout::logout_all(&server.engine, &requester).await.unwrap();
    assert!(server.is_unknown(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    assert!(server.works(&bob.access_token).await);
    let again = server.login("alice").await;
    let requester = server.requester(&again).await;
    assert_eq!(devices::list(&server.engine, &requester).await.unwrap().len(), 1);
}

/// Whatever lookups are in flight: one that starts after the logout was answered fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_gets_in_after_logout_was_answered() {
    let server = server().await;
    server.register("alice").await;
    for _ in 0..20 {
        let login = server.login("alice").await;
        let requester = server.requester(&login).await;
        let answered = Arc::new(AtomicBool::new(false));
        let askers: Vec<_> = (0..8)
            .map(|_| {
                let (engine, answered) = (Arc::clone(&server.engine), Arc::clone(&answered));
                let token = login.access_token.clone();
                tokio::spawn(async move {
                    loop {
                        let was_answered = answered.load(SeqCst);
                        let got_in = authenticate(&engine, &token).await.is_ok();
                        assert!(!(was_answered && got_in), "a request got in after the logout");
                        if was_answered {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        // Others' changes of the same user keep the lookups going to the database.
        hearth_engine::accounts::invalidate(&server.engine.accounts, requester.user_nid);
        logout::logout(&server.engine, &requester).await.unwrap();
        answered.store(true, SeqCst);
        for asker in askers {
            asker.await.unwrap();
        }
    }
}

#[tokio::test]
async fn logout_whose_caller_went_away_still_ends_the_token() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = Arc::clone(&server.engine);
    let logout = tokio::spawn(async move { logout::logout(&engine, &requester).await });
    // Wherever the abort falls, what is cached must agree with what is stored.
    tokio::task::yield_now().await;
    logout.abort();
    let _ = logout.await;
    let engine = &server.engine;
    let hash = {
        use sha2::Digest;
        sha2::Sha256::digest(alice.access_token.as_bytes()).into()
    };
    // A transaction that the abort rolled back, or a commit that it did not stop, is done with when the device can
    // be locked.
    let mut transaction = engine.db.begin().await.unwrap();
    let nid = hearth_storage::tokens::find_access(&mut transaction, &hash)
        .await
        .unwrap();
    let stored = match nid {
        Some(token) => hearth_storage::devices::lock(&mut transaction, token.device_nid)
            .await
            .unwrap(),
        None => false,
    };
    transaction.commit().await.unwrap();
    let agree = async {
        while server.works(&alice.access_token).await != stored {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), agree)
        .await
        .expect("cache and database agree");
}
