//! `keys/device_signing/upload`: a user's cross-signing keys.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    cross_signing::{self as stored, Usage},
    device_lists, devices,
};
use ruma::{
    CanonicalJsonObject, UserId,
    api::client::{keys::upload_signing_keys::v3::Request, uiaa::AuthData},
};

use super::{
    announce,
    objects::{self, BadKey},
    published,
};
use crate::{
    Engine, Error,
    accounts::{
        Requester,
        uia::{self, Operation, UiaError},
    },
};

/// Why keys were not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadSigningKeysError {
    /// A key is not one.
    #[error(transparent)]
    BadKey(#[from] BadKey),
    /// There is no master key that could have signed the others.
    #[error("there is no master key")]
    NoMasterKey,
    /// The master key did not sign another.
    #[error("the key is not signed by the master key")]
    InvalidSignature,
    /// A key is the same as the ID of one of the user's devices.
    #[error("the key is the ID of a device")]
    KeyInUse,
    /// The user has yet to show that it is them.
    #[error(transparent)]
    Uia(#[from] UiaError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(UploadSigningKeysError);

type Keys = HashMap<Usage, CanonicalJsonObject>;

/// Publishes the requester's cross-signing keys. To replace keys, the user shows first that it is them; the first keys,
/// and the same again, need nothing.
pub async fn upload(
    engine: &Arc<Engine>,
    requester: &Requester,
    request: &Request,
) -> Result<(), UploadSigningKeysError> {
    let mut given = Keys::new();
    for (usage, key) in [
        (Usage::Master, &request.master_key),
        (Usage::SelfSigning, &request.self_signing_key),
        (Usage::UserSigning, &request.user_signing_key),
    ] {
        if let Some(key) = key {
            let object = objects::cross_signing_key(key.json().get(), &requester.user_id, usage)?;
            given.insert(usage, object);
        }
    }
    if given.is_empty() {
        return Ok(());
    }
    let known = known(engine, requester).await?;
    check(&requester.user_id, &given, &known)?;
    are_no_devices(engine, requester, &given).await?;
    let changes = changed(&given, &known);
    if changes.is_empty() {
        return Ok(());
    }
    store(engine, requester, given, &known, request.auth.as_ref()).await
}

async fn known(engine: &Engine, requester: &Requester) -> Result<Keys, Error> {
    let mut connection = engine.db.acquire().await?;
    let keys = stored::of_users(&mut connection, &[requester.user_nid]).await?;
    keys.into_iter()
        .map(|key| Ok((key.usage, published::stored(&key.key)?)))
        .collect()
}

/// Pure: whether the master key, given or known, signed the others.
fn check(user_id: &UserId, given: &Keys, known: &Keys) -> Result<(), UploadSigningKeysError> {
    let master = given.get(&Usage::Master).or_else(|| known.get(&Usage::Master));
    let master = master.ok_or(UploadSigningKeysError::NoMasterKey)?;
    let (master_id, master_key) = objects::public_key(master).ok_or(BadKey::Property("keys"))?;
    for (_, object) in given.iter().filter(|(usage, _)| **usage != Usage::Master) {
        let mut signatures = objects::signatures_by(object, user_id);
        let signature = signatures.find(|(key_id, _)| *key_id == master_id);
        if !signature.is_some_and(|(_, signature)| objects::is_signed(object, signature, master_key)) {
            return Err(UploadSigningKeysError::InvalidSignature);
        }
    }
    Ok(())
}

/// The given keys that are not known.
fn changed(given: &Keys, known: &Keys) -> Vec<Usage> {
    let is_known = |usage: &Usage, object: &CanonicalJsonObject| {
        known
            .get(usage)
            .is_some_and(|known| objects::say_the_same(known, object))
    };
    let changed = given.iter().filter(|(usage, object)| !is_known(usage, object));
    changed.map(|(usage, _)| *usage).collect()
}

/// Signatures are found by the name of what is signed: a device or a key.
async fn are_no_devices(
    engine: &Engine,
    requester: &Requester,
    given: &Keys,
) -> Result<(), UploadSigningKeysError> {
    let mut connection = engine.db.acquire().await?;
    for object in given.values() {
        let Some((_, key)) = objects::public_key(object) else {
            continue;
        };
        if devices::find(&mut connection, requester.user_nid, key)
            .await?
            .is_some()
        {
            return Err(UploadSigningKeysError::KeyInUse);
        }
    }
    Ok(())
}

async fn store(
    engine: &Arc<Engine>,
    requester: &Requester,
    given: Keys,
    known: &Keys,
    auth: Option<&AuthData>,
) -> Result<(), UploadSigningKeysError> {
    let mut parts: Vec<(i16, Arc<str>)> = given
        .iter()
        .map(|(usage, object)| (*usage as i16, objects::to_json(object.clone())))
        .collect();
    parts.sort_unstable();
    let parts: Vec<&[u8]> = parts.iter().map(|(_, json)| json.as_bytes()).collect();
    let operation = Operation::of_owner("upload_signing_keys", requester, &parts);
    let mut grant = None;
    if known.contains_key(&Usage::Master) {
        grant = Some(uia::authorise(engine, &operation, Some(requester), auth).await?);
    }
    let now = engine.clock.now_ms();
    let user_nid = requester.user_nid;
    let mut transaction = engine.db.begin().await?;
    stored::lock(&mut transaction, user_nid).await?;
    let present = stored::of_users(&mut transaction, &[user_nid]).await?;
    let present: Keys = present
        .into_iter()
        .map(|key| Ok((key.usage, published::stored(&key.key)?)))
        .collect::<Result<_, Error>>()?;
    if grant.is_none() && present.contains_key(&Usage::Master) {
        // Another request was first: now these would replace its keys.
        drop(transaction);
        return match changed(&given, &present).is_empty() {
            true => Ok(()),
            false => {
                let refused = uia::authorise(engine, &operation, Some(requester), None).await;
                refused.map(drop).map_err(Into::into)
            }
        };
    }
    check(&requester.user_id, &given, &present)?;
    if let Some(grant) = grant {
        grant.spend(engine, &operation, &mut transaction).await?;
    }
    let changes = changed(&given, &present);
    for usage in &changes {
        let Some(object) = given.get(usage) else { continue };
        if let Some((key_id, key)) = present.get(usage).and_then(objects::public_key) {
            stored::drop_signatures_of_key(&mut transaction, user_nid, key_id, key).await?;
        }
        let json = objects::to_json(object.clone());
        stored::set(&mut transaction, user_nid, *usage, &json).await?;
    }
    // Nobody else sees the user-signing key.
    let is_private = changes.iter().all(|usage| *usage == Usage::UserSigning);
    let only_for = is_private.then_some(user_nid);
    device_lists::announce(&mut transaction, user_nid, "", only_for, now).await?;
    announce::commit(engine, transaction, user_nid).await?;
    Ok(())
}
