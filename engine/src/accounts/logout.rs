//! `logout`, `logout/all`.

use hearth_storage::devices;

use super::{Requester, changes};
use crate::{Engine, Error};

/// Ends the requester's token and deletes its device.
pub async fn logout(engine: &Engine, requester: &Requester) -> Result<(), Error> {
    let mut transaction = engine.db.begin().await?;
    devices::delete(
        &mut transaction,
        requester.user_nid,
        &[requester.device_id.to_string()],
        engine.clock.now_ms(),
    )
    .await?;
    changes::commit(engine, transaction, requester.user_nid).await
}

/// Ends all of the user's tokens and deletes all of the user's devices.
pub async fn logout_all(engine: &Engine, requester: &Requester) -> Result<(), Error> {
    let mut transaction = engine.db.begin().await?;
    devices::delete_all(&mut transaction, requester.user_nid, None, engine.clock.now_ms()).await?;
    changes::commit(engine, transaction, requester.user_nid).await
}
