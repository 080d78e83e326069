//! The directory of published rooms.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::directory::{self, Asker, ListPage, ListRequest},
};
use ruma::{
    OwnedRoomId, UInt,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::AccessTokenOptional,
        client::{
            directory::{
                get_public_rooms::v3 as get_public_rooms_request,
                get_public_rooms_filtered::v3 as get_public_rooms_filtered_request,
                get_room_visibility::v3 as get_room_visibility_request,
                set_room_visibility::v3 as set_room_visibility_request,
            },
            room::Visibility,
        },
        error::DeserializationError,
    },
};
use serde::Deserialize;

use crate::requests::{path, served_as};

/// `GET /_matrix/client/*/publicRooms`
pub(crate) async fn get_public_rooms(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request: GetPublicRooms(request),
        requester,
        ..
    }: Ruma<GetPublicRooms>,
) -> Result<get_public_rooms_request::Response, MatrixError> {
    let asker = requester.map_or(Asker::Anyone, |_| Asker::User);
    let list = ListRequest {
        limit: limit(request.limit),
        since: request.since,
        ..ListRequest::default()
    };
    let page = directory::public_rooms(&engine, asker, request.server.as_deref(), list).await?;
    let ListPage {
        chunk,
        next_batch,
        prev_batch,
        total,
    } = page;
    let mut response = get_public_rooms_request::Response::new(chunk);
    response.next_batch = next_batch;
    response.prev_batch = prev_batch;
    response.total_room_count_estimate = total.and_then(|total| total.try_into().ok());
    Ok(response)
}

/// `POST /_matrix/client/*/publicRooms`
pub(crate) async fn get_public_rooms_filtered(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_public_rooms_filtered_request::Request>,
) -> Result<get_public_rooms_filtered_request::Response, MatrixError> {
    let list = ListRequest {
        limit: limit(request.limit),
        since: request.since,
        filter: request.filter,
        network: request.room_network,
    };
    let page = directory::public_rooms(&engine, Asker::User, request.server.as_deref(), list).await?;
    let ListPage {
        chunk,
        next_batch,
        prev_batch,
        total,
    } = page;
    let mut response = get_public_rooms_filtered_request::Response::new();
    response.chunk = chunk;
    response.next_batch = next_batch;
    response.prev_batch = prev_batch;
    response.total_room_count_estimate = total.and_then(|total| total.try_into().ok());
    Ok(response)
}

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

/// `GET /_matrix/client/*/directory/list/room/{roomId}`
pub(crate) async fn get_room_visibility(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_room_visibility_request::Request>,
) -> Result<get_room_visibility_request::Response, MatrixError> {
    let visibility = match directory::is_published(&engine, &request.room_id).await? {
        true => Visibility::Public,
        false => Visibility::Private,
    };
    Ok(get_room_visibility_request::Response::new(visibility))
}

/// `PUT /_matrix/client/*/directory/list/room/{roomId}`
pub(crate) async fn set_room_visibility(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<SetRoomVisibility>,
) -> Result<set_room_visibility_request::Response, MatrixError> {
    directory::set_published(&engine, &requester, &request.room_id, request.published).await?;
    Ok(set_room_visibility_request::Response::new())
}

/// ruma's request, by which it is known who asks, if somebody is: the operator may show the directory to users alone,
/// and other servers are asked for users alone.
#[derive(Debug)]
pub(crate) struct GetPublicRooms(get_public_rooms_request::Request);

impl Metadata for GetPublicRooms {
    type Authentication = AccessTokenOptional;
    type PathBuilder = <get_public_rooms_request::Request as Metadata>::PathBuilder;

    const METHOD: http::Method = get_public_rooms_request::Request::METHOD;
    const PATH_BUILDER: Self::PathBuilder = get_public_rooms_request::Request::PATH_BUILDER;
    const RATE_LIMITED: bool = true;
}

impl IncomingRequest for GetPublicRooms {
    type EndpointError = <get_public_rooms_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = get_public_rooms_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        get_public_rooms_request::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// ruma demands the visibility; by the specification it is `public` where nothing is said.
#[derive(Debug)]
pub(crate) struct SetRoomVisibility {
    room_id: OwnedRoomId,
    published: bool,
}

served_as!(SetRoomVisibility, set_room_visibility_request);

impl IncomingRequest for SetRoomVisibility {
    type EndpointError = <set_room_visibility_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_room_visibility_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Visible {
            #[default]
            Public,
            Private,
        }
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            visibility: Visible,
        }
        let (room_id,) = path(path_args)?;
        let body: Body = serde_json::from_slice(request.body())?;
        Ok(Self {
            room_id,
            published: matches!(body.visibility, Visible::Public),
        })
    }
}
