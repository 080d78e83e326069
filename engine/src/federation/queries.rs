//! What other servers ask about this one's users and aliases.

use std::sync::Arc;

use ruma::{
    ServerName,
    api::federation::query::{get_profile_information, get_room_information},
};

use crate::{
    Engine,
    aliases::{self, AliasError},
    profiles::{self, ProfileError},
};

/// `GET /_matrix/federation/v1/query/directory`
pub async fn directory(
    engine: &Arc<Engine>,
    _origin: &ServerName,
    request: get_room_information::v1::Request,
) -> Result<get_room_information::v1::Response, AliasError> {
    let alias = request.room_alias;
    // Of others' aliases they are to be asked themselves.
    if alias.server_name() != engine.config.server_name {
        return Err(AliasError::Unknown(alias));
    }
    let (room_id, servers) = aliases::get(engine, &alias).await?;
    Ok(get_room_information::v1::Response::new(room_id, servers))
}

/// `GET /_matrix/federation/v1/query/profile`
pub async fn profile(
    engine: &Arc<Engine>,
    _origin: &ServerName,
    request: get_profile_information::v1::Request,
) -> Result<get_profile_information::v1::Response, ProfileError> {
    let user_id = &request.user_id;
    if user_id.server_name() != engine.config.server_name {
        return Err(ProfileError::UnknownUser);
    }
    Ok(match request.field {
        Some(field) => {
            let value = profiles::get_field(engine, user_id, field.as_str()).await?;
            [(field.to_string(), value)].into_iter().collect()
        }
        None => profiles::get(engine, user_id).await?.into_iter().collect(),
    })
}
