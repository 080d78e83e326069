//! Creating rooms, and who is in them.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::{create, membership, summary, third_party},
    users,
};
use ruma::api::client::{
    knock::knock_room::v3 as knock_room_request,
    membership::{
        ban_user::v3 as ban_user_request,
        forget_room::v3 as forget_room_request,
        invite_user::v3::{self as invite_user_request, InvitationRecipient},
        join_room_by_id::v3 as join_room_by_id_request,
        join_room_by_id_or_alias::v3 as join_room_by_id_or_alias_request,
        joined_rooms::v3 as joined_rooms_request,
        kick_user::v3 as kick_user_request,
        leave_room::v3 as leave_room_request,
        unban_user::v3 as unban_user_request,
    },
    room::{create_room::v3 as create_room_request, get_summary::v1 as get_summary_request},
};

/// `POST /_matrix/client/*/createRoom`
pub(crate) async fn create_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<create_room_request::Request>,
) -> Result<create_room_request::Response, MatrixError> {
    let room_id = create::create_room(&engine, &requester, request).await?;
    Ok(create_room_request::Response::new(room_id))
}

/// `GET /_matrix/client/*/joined_rooms`
pub(crate) async fn joined_rooms(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<joined_rooms_request::Request>,
) -> Result<joined_rooms_request::Response, MatrixError> {
    let rooms = users::joined_rooms(&engine, requester.user_nid).await?;
    Ok(joined_rooms_request::Response::new(rooms))
}

/// `POST /_matrix/client/*/rooms/{roomId}/join`
pub(crate) async fn join_room_by_id(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<join_room_by_id_request::Request>,
) -> Result<join_room_by_id_request::Response, MatrixError> {
    if let Some(signed) = &request.third_party_signed {
        third_party::claim(&engine, &requester, (&*request.room_id).into(), &[], signed).await?;
    }
    let room_id = membership::join(&engine, &requester, &request.room_id, &[], request.reason).await?;
    Ok(join_room_by_id_request::Response::new(room_id))
}

/// `POST /_matrix/client/*/join/{roomIdOrAlias}`
pub(crate) async fn join_room_by_id_or_alias(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<join_room_by_id_or_alias_request::Request>,
) -> Result<join_room_by_id_or_alias_request::Response, MatrixError> {
    let (room, via) = (&request.room_id_or_alias, &request.via);
    if let Some(signed) = &request.third_party_signed {
        third_party::claim(&engine, &requester, room, via, signed).await?;
    }
    let room_id = membership::join_by_id_or_alias(&engine, &requester, room, via, request.reason).await?;
    Ok(join_room_by_id_or_alias_request::Response::new(room_id))
}

/// `POST /_matrix/client/*/knock/{roomIdOrAlias}`
pub(crate) async fn knock_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<knock_room_request::Request>,
) -> Result<knock_room_request::Response, MatrixError> {
    let (room, via) = (&request.room_id_or_alias, &request.via);
    let room_id = membership::knock(&engine, &requester, room, via, request.reason).await?;
    Ok(knock_room_request::Response::new(room_id))
}

/// `POST /_matrix/client/*/rooms/{roomId}/leave`
pub(crate) async fn leave_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<leave_room_request::Request>,
) -> Result<leave_room_request::Response, MatrixError> {
    membership::leave(&engine, &requester, &request.room_id, request.reason).await?;
    Ok(leave_room_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/forget`
pub(crate) async fn forget_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<forget_room_request::Request>,
) -> Result<forget_room_request::Response, MatrixError> {
    membership::forget(&engine, &requester, &request.room_id).await?;
    Ok(forget_room_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/invite`
pub(crate) async fn invite_user(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<invite_user_request::Request>,
) -> Result<invite_user_request::Response, MatrixError> {
    let InvitationRecipient::UserId(invited) = request.recipient else {
        return Err(create::CreateRoomError::NoThirdPartyInvites.into());
    };
    let (room_id, user_id) = (&request.room_id, &invited.user_id);
    membership::invite(&engine, &requester, room_id, user_id, invited.reason).await?;
    Ok(invite_user_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/kick`
pub(crate) async fn kick_user(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<kick_user_request::Request>,
) -> Result<kick_user_request::Response, MatrixError> {
    let kick_user_request::Request {
        room_id,
        user_id,
        reason,
        ..
    } = request;
    membership::kick(&engine, &requester, &room_id, &user_id, reason).await?;
    Ok(kick_user_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/ban`
pub(crate) async fn ban_user(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<ban_user_request::Request>,
) -> Result<ban_user_request::Response, MatrixError> {
    let ban_user_request::Request {
        room_id,
        user_id,
        reason,
        ..
    } = request;
    membership::ban(&engine, &requester, &room_id, &user_id, reason).await?;
    Ok(ban_user_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/unban`
pub(crate) async fn unban_user(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<unban_user_request::Request>,
) -> Result<unban_user_request::Response, MatrixError> {
    let unban_user_request::Request {
        room_id,
        user_id,
        reason,
        ..
    } = request;
    membership::unban(&engine, &requester, &room_id, &user_id, reason).await?;
    Ok(unban_user_request::Response::new())
}

/// `GET /_matrix/client/*/room_summary/{roomIdOrAlias}`
pub(crate) async fn get_summary(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_summary_request::Request>,
) -> Result<get_summary_request::Response, MatrixError> {
    let (room, via) = (&request.room_id_or_alias, &request.via);
    let summary = summary::summary(&engine, requester.as_ref(), room, via).await?;
    let mut response = get_summary_request::Response::new(summary.room);
    response.membership = summary.membership.map(Into::into);
    Ok(response)
}
