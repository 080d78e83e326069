//! `keys/signatures/upload`: signatures of devices and master keys, each judged by itself.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{
    UserNid,
    cross_signing::{self as stored, Signature, Usage},
    device_keys, device_lists,
};
use ruma::{CanonicalJsonObject, OwnedUserId, api::client::keys::upload_signatures::v3::SignedKeys};

use super::{
    announce,
    objects::{self, MAX_ID_BYTES},
    published, query,
};
use crate::{Engine, Error, accounts::Requester};

/// Signed keys of one request.
const MAX_SIGNED: usize = 1_000;
/// Signatures of one signed key that are looked at.
const MAX_SIGNATURES: usize = 50;

/// Why signatures were not looked at.
#[derive(Debug, thiserror::Error)]
pub enum UploadSignaturesError {
    /// There are more keys than one may sign at once.
    #[error("{MAX_SIGNED} signed keys at most at once")]
    TooMany,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(UploadSignaturesError);

/// Why the signatures of a key were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    /// There is no such key, or none that could have signed it.
    #[error("there is no such key, or no key of yours that could sign it")]
    NotFound,
    /// What is signed is not the key as it was published.
    #[error("the key is not the one that was published")]
    Mismatch,
    /// A signature is not by the key that it names.
    #[error("the signature is not valid")]
    InvalidSignature,
}

/// What failed, by user and key.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// Keys that the requester may sign with, and have signed.
struct Own {
    /// The devices, by ID.
    devices: BTreeMap<String, CanonicalJsonObject>,
    master: Option<CanonicalJsonObject>,
    self_signing: Option<CanonicalJsonObject>,
    user_signing: Option<CanonicalJsonObject>,
}

/// Adds signatures by the requester to keys of theirs and of others. Tells which were not taken.
pub async fn upload(
    engine: &Arc<Engine>,
    requester: &Requester,
    signed: &BTreeMap<OwnedUserId, SignedKeys>,
) -> Result<Failures, UploadSignaturesError> {
    if signed.values().map(|keys| keys.iter().count()).sum::<usize>() > MAX_SIGNED {
        return Err(UploadSignaturesError::TooMany);
    }
    // Nobody is asked about a user none of whose keys is signed.
    let signed = signed.iter().filter(|(_, keys)| keys.iter().next().is_some());
    let own = own(engine, requester).await?;
    let mut failures = Failures::new();
    let mut taken = Vec::new();
    for (user_id, keys) in signed {
        let of_self = *user_id == requester.user_id;
        let (master, user_nid) = match of_self {
            true => (own.master.clone(), Some(requester.user_nid)),
            false => (
                query::master_key(engine, requester, user_id).await?,
                engine.interner.find_user(user_id).await?,
            ),
        };
        for (key, json) in keys.iter() {
            let judged = objects::parse(json.get())
                .map_err(|_| SignatureFailure::Mismatch)
                .and_then(|object| {
                    let target = (user_nid.ok_or(SignatureFailure::NotFound)?, key);
                    own.judge(requester, of_self, target, master.as_ref(), &object)
                });
            match judged {
                Ok(signatures) => taken.extend(signatures),
                Err(failure) => {
                    let of_user = failures.entry(user_id.clone()).or_default();
                    of_user.insert(key.to_owned(), failure);
                }
            }
        }
    }
    if !taken.is_empty() {
        store(engine, requester, &own, &taken).await?;
    }
    Ok(failures)
}

async fn own(engine: &Engine, requester: &Requester) -> Result<Own, Error> {
    let (devices, keys) = {
        let mut connection = engine.db.acquire().await?;
        let user_nids = [requester.user_nid];
        (
            device_keys::of_users(&mut connection, &user_nids).await?,
            stored::of_users(&mut connection, &user_nids).await?,
        )
    };
    let devices = devices
        .into_iter()
        .map(|device| Ok((device.device_id, published::stored(&device.keys)?)));
    let mut own = Own {
        devices: devices.collect::<Result<_, Error>>()?,
        master: None,
        self_signing: None,
        user_signing: None,
    };
    for key in keys {
        let place = match key.usage {
            Usage::Master => &mut own.master,
            Usage::SelfSigning => &mut own.self_signing,
            Usage::UserSigning => &mut own.user_signing,
        };
        *place = Some(published::stored(&key.key)?);
    }
    Ok(own)
}

impl Own {
    /// The signatures of a key that are taken, which is all of the requester's or none. Pure.
    fn judge(
        &self,
        requester: &Requester,
        of_self: bool,
        (target_nid, target_key): (UserNid, &str),
        master: Option<&CanonicalJsonObject>,
        signed: &CanonicalJsonObject,
    ) -> Result<Vec<Signature>, SignatureFailure> {
        let device = self.devices.get(target_key).filter(|_| of_self);
        let master =
            master.filter(|master| objects::public_key(master).is_some_and(|(_, key)| key == target_key));
        let published = device.or(master).ok_or(SignatureFailure::NotFound)?;
        if !objects::say_the_same(published, signed) {
            return Err(SignatureFailure::Mismatch);
        }
        let signing = match (of_self, device) {
            (true, Some(_)) => self.self_signing.as_ref(),
            (true, None) => None,
            (false, _) => self.user_signing.as_ref(),
        };
        let signing = signing.and_then(objects::public_key);
        let mut signatures = Vec::new();
        for (key_id, signature) in objects::signatures_by(signed, &requester.user_id).take(MAX_SIGNATURES) {
            // A device signs its own keys when it uploads them.
            let is_known = device.is_some() && {
                let mut known = objects::signatures_by(published, &requester.user_id);
                known.any(|known| known == (key_id, signature))
            };
            if is_known {
                continue;
            }
            let key = match signing {
                Some((id, key)) if id == key_id => Some(key),
                _ if of_self && device.is_none() => self.device_key(key_id),
                _ => None,
            };
            let key = key.ok_or(SignatureFailure::NotFound)?;
            if key_id.len() > 2 * MAX_ID_BYTES || !objects::is_signed(signed, signature, key) {
                return Err(SignatureFailure::InvalidSignature);
            }
            signatures.push(Signature {
                target_nid,
                target_key: target_key.to_owned(),
                signer_nid: requester.user_nid,
                signer_key: key_id.to_owned(),
                signature: signature.to_owned(),
            });
        }
        Ok(signatures)
    }

    /// The signing key of one of the user's devices, by the key's ID.
    fn device_key(&self, key_id: &str) -> Option<&str> {
        let (_, device_id) = key_id.split_once(':')?;
        let (id, key) = objects::device_signing_key(self.devices.get(device_id)?, device_id)?;
        (id == key_id).then_some(key)
    }
}

async fn store(
    engine: &Arc<Engine>,
    requester: &Requester,
    own: &Own,
    signatures: &[Signature],
) -> Result<(), Error> {
    let now = engine.clock.now_ms();
    let user_nid = requester.user_nid;
    let mut transaction = engine.db.begin().await?;
    stored::lock(&mut transaction, user_nid).await?;
    let mut news = stored::sign(&mut transaction, signatures).await?;
    news.sort_unstable();
    news.dedup();
    for (target_nid, key) in &news {
        let (device_id, only_for) = match *target_nid == user_nid {
            true if own.devices.contains_key(key) => (key.as_str(), None),
            true => ("", None),
            // Only who signed another's key is told of it.
            false => ("", Some(user_nid)),
        };
        device_lists::announce(&mut transaction, *target_nid, device_id, only_for, now).await?;
    }
    let targets: std::collections::BTreeSet<UserNid> = news.iter().map(|(nid, _)| *nid).collect();
    announce::commit_all(engine, transaction, targets.into_iter().collect()).await
}
