//! What this server's users published, as others may see it: devices and cross-signing keys, with the signatures that
//! were added to them.

use std::collections::{BTreeMap, HashMap};

use hearth_storage::{
    UserNid,
    cross_signing::{self, Usage},
    device_keys,
};
use ruma::CanonicalJsonObject;

use super::objects;
use crate::{Engine, Error};

/// The keys of some users.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The devices of each that have keys, by their IDs.
    pub devices: HashMap<UserNid, BTreeMap<String, CanonicalJsonObject>>,
    /// Cross-signing keys.
    pub cross_signing: HashMap<(UserNid, Usage), CanonicalJsonObject>,
}

impl Published {
    /// Adds the signatures that were uploaded after the keys: those by their owners, and by `viewer`.
    pub async fn add_signatures(&mut self, engine: &Engine, viewer: Option<UserNid>) -> Result<(), Error> {
        let mut targets: Vec<UserNid> = self.devices.keys().copied().collect();
        targets.extend(self.cross_signing.keys().map(|(user_nid, _)| *user_nid));
        targets.sort_unstable();
        targets.dedup();
        let mut connection = engine.db.acquire().await?;
        let signatures = cross_signing::signatures(&mut connection, &targets, viewer).await?;
        drop(connection);
        let signers: Vec<UserNid> = signatures.iter().map(|signature| signature.signer_nid).collect();
        let signers = engine.interner.user_ids(&signers).await?;
        for signature in signatures {
            let Some(signer) = signers.get(&signature.signer_nid) else {
                continue;
            };
            let devices = self.devices.get_mut(&signature.target_nid);
            let device = devices.and_then(|devices| devices.get_mut(&signature.target_key));
            let master = self.cross_signing.get_mut(&(signature.target_nid, Usage::Master));
            let master = master.filter(|master| {
                objects::public_key(master).is_some_and(|(_, key)| key == signature.target_key)
            });
            for object in device.into_iter().chain(master) {
                objects::add_signature(object, signer, &signature.signer_key, &signature.signature);
            }
        }
        Ok(())
    }
}

/// The keys of users of this server, as `viewer` sees them, or anybody.
pub(super) async fn of_users(
    engine: &Engine,
    user_nids: &[UserNid],
    viewer: Option<UserNid>,
) -> Result<Published, Error> {
    let mut published = Published::default();
    let (devices, keys) = {
        let mut connection = engine.db.acquire().await?;
        (
            device_keys::of_users(&mut connection, user_nids).await?,
            cross_signing::of_users(&mut connection, user_nids).await?,
        )
    };
    for device in devices {
        let mut object = stored(&device.keys)?;
        objects::add_display_name(&mut object, device.display_name.as_deref());
        published
            .devices
            .entry(device.user_nid)
            .or_default()
            .insert(device.device_id, object);
    }
    for key in keys {
        // Only its owner sees that (client-server API, "Cross-signing").
        if key.usage != Usage::UserSigning || viewer == Some(key.user_nid) {
            published
                .cross_signing
                .insert((key.user_nid, key.usage), stored(&key.key)?);
        }
    }
    published.add_signatures(engine, viewer).await?;
    Ok(published)
}

/// A stored key object.
pub(super) fn stored(json: &str) -> Result<CanonicalJsonObject, Error> {
    objects::parse(json).map_err(|error| Error::Damaged(format!("a stored key: {error}")))
}
