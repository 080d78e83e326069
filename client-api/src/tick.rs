//! What became of a message.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, ticks};
use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// `GET /_matrix/client/unstable/chat.hearth/rooms/{roomId}/status/{eventId}`
pub(crate) async fn get_message_status(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_message_status::Request>,
) -> Result<get_message_status::Response, MatrixError> {
    let status = ticks::of_message(&engine, &requester, &request.room_id, &request.event_id).await?;
    Ok(get_message_status::Response {
        received: times(status.received),
        delivered: times(status.delivered),
        read: times(status.read),
    })
}

fn times<K: Ord>(times: BTreeMap<K, i64>) -> BTreeMap<K, get_message_status::Since> {
    let since = |ts: i64| get_message_status::Since {
        ts: MilliSecondsSinceUnixEpoch(UInt::try_from(ts).unwrap_or_default()),
    };
    times.into_iter().map(|(key, ts)| (key, since(ts))).collect()
}

/// The endpoint, which is Hearth's own: docs/websocket.md, "Ticks".
pub(crate) mod get_message_status {
    use std::collections::BTreeMap;

    use ruma::{
        MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
        api::{
            IncomingRequest, OutgoingBodyJson, OutgoingResponse,
            auth_scheme::AccessToken,
            error::{DeserializationError, Error, IntoHttpError},
        },
        metadata,
    };
    use serde::Serialize;

    use crate::requests::path;

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            unstable => "/_matrix/client/unstable/chat.hearth/rooms/{room_id}/status/{event_id}",
        }
    }

    /// Asks what became of one's own message.
    #[derive(Debug)]
    pub(crate) struct Request {
        pub room_id: OwnedRoomId,
        pub event_id: OwnedEventId,
    }

    /// Tells it.
    #[derive(Debug, Serialize, OutgoingBodyJson)]
    pub(crate) struct Response {
        /// The servers that have it.
        pub received: BTreeMap<OwnedServerName, Since>,
        /// The users to one of whose devices it was delivered.
        pub delivered: BTreeMap<OwnedUserId, Since>,
        /// The users who have read it.
        pub read: BTreeMap<OwnedUserId, Since>,
    }

    /// A time by which something was so.
    #[derive(Debug, Serialize)]
    pub(crate) struct Since {
        pub ts: MilliSecondsSinceUnixEpoch,
    }

    impl IncomingRequest for Request {
        type EndpointError = Error;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            _: http::Request<&[u8]>,
            path_args: &[&str],
        ) -> Result<Self, DeserializationError> {
            let (room_id, event_id) = path(path_args)?;
            Ok(Self { room_id, event_id })
        }
    }

    impl OutgoingResponse for Response {
        type Body = Self;

        fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
            Ok(http::Response::new(self))
        }
    }
}
