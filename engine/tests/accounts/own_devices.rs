//! One's devices.

use super::*;

#[tokio::test]
async fn devices_are_listed_renamed_and_deleted() {
    let server = server().await;
    let alice = server.register("alice").await;
    let device = |id: &str| DeviceRequest {
        device_id: Some(id.into()),
        initial_display_name: Some(format!("{id}'s name")),
        ..DeviceRequest::default()
    };
    let phone = server
        .login_with("alice", "password", device("PHONE"))
        .await
        .unwrap();
    let tablet = server
        .login_with("alice", "password", device("TABLET"))
        .await
        .unwrap();
    assert!(server.works(&phone.access_token).await && server.works(&tablet.access_token).await);
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    let listed = devices::list(engine, &requester).await.unwrap();
    assert_eq!(
        device_ids(&listed),
        [alice.device_id.as_str(), "PHONE", "TABLET"]
            .map(str::to_owned)
            .into()
    );

    devices::rename(engine, &requester, "PHONE".into(), Some("Old phone"))
        .await
        .unwrap();
    devices::rename(engine, &requester, "PHONE".into(), None)
        .await
        .unwrap();
    let phone_device = devices::get(engine, &requester, "PHONE".into()).await.unwrap();
    assert_eq!(phone_device.display_name.as_deref(), Some("Old phone"));
    for name in [Some("x"), None] {
        let error = devices::rename(engine, &requester, "NONE".into(), name)
            .await
            .unwrap_err();
        assert!(matches!(error, devices::DeviceError::NotFound), "{error}");
    }
    for name in ["x".repeat(257), "\0".to_owned()] {
        let error = devices::rename(engine, &requester, "PHONE".into(), Some(&name))
            .await
            .unwrap_err();
        assert!(
            matches!(error, devices::DeviceError::InvalidDisplayName),
            "{error}"
        );
    }
    for device_id in ["NONE", "\0"] {
        let error = devices::get(engine, &requester, device_id.into())
            .await
            .unwrap_err();
        assert!(matches!(error, devices::DeviceError::NotFound), "{error}");
    }

    let gone: Vec<OwnedDeviceId> = vec!["PHONE".into(), "TABLET".into(), "NONE".into(), "\0".into()];
    let auth = password_auth("alice", "password");
    devices::delete(engine, &requester, &gone, Some(&auth))
        .await
        .unwrap();
    assert!(server.is_unknown(&phone.access_token).await);
    assert!(server.is_unknown(&tablet.access_token).await);
    let left = devices::list(engine, &requester).await.unwrap();
    assert_eq!(device_ids(&left), [alice.device_id.to_string()].into());
}

#[tokio::test]
async fn users_do_not_see_or_delete_each_others_devices() {
    let server = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let requester = server.requester(&bob).await;
    let seen = devices::get(&server.engine, &requester, &alice.device_id).await;
    assert!(matches!(seen, Err(devices::DeviceError::NotFound)));
    let auth = password_auth("bob", "password");
    devices::delete(
        &server.engine,
        &requester,
        std::slice::from_ref(&alice.device_id),
        Some(&auth),
    )
    .await
    .unwrap();
    assert!(server.works(&alice.access_token).await);
}

#[tokio::test]
async fn last_seen_is_written_at_most_once_a_minute() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    let start = engine.clock.now_ms();
    let see = async |address: &str| {
        let requester = server.requester(&alice).await;
        last_seen::note(
            engine,
            &requester,
            Some(address.parse().unwrap()),
            Some("Test/1.0"),
        );
        last_seen::settle(engine).await;
        let device = devices::get(engine, &requester, &requester.device_id)
            .await
            .unwrap();
        (device.last_seen_at, device.last_seen_address.unwrap())
    };
    assert_eq!(see("192.0.2.1").await, (Some(start), "192.0.2.1".to_owned()));
    server.advance(59_999);
    assert_eq!(see("192.0.2.2").await, (Some(start), "192.0.2.1".to_owned()));
    server.advance(1);
    assert_eq!(
        see("::ffff:192.0.2.3").await,
        (Some(start + 60_000), "192.0.2.3".to_owned())
    );
    // What is cached anew knows when the device was last written about.
    hearth_engine::accounts::invalidate(&engine.accounts, requester.user_nid);
    server.advance(1);
    assert_eq!(
        see("192.0.2.4").await,
        (Some(start + 60_000), "192.0.2.3".to_owned())
    );
}
