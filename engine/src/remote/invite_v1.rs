//! `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`: an invite to a room of version 1 or 2.
//!
//! The body is the whole event, and the answer has it in an object in an array. ruma's types of it have of the event
//! what is the same in all room versions, which is nothing that could be verified, and of the answer no object.

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        IncomingRequest, IncomingResponse, Metadata, OutgoingBodyJson, OutgoingRequest, OutgoingResponse,
        error::{DeserializationError, Error, IntoHttpError},
        federation::authentication::ServerSignatures,
        metadata,
        path_builder::PathBuilder,
    },
    exports::http,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

metadata! {
    method: PUT,
    rate_limited: false,
    authentication: ServerSignatures,
    path: "/_matrix/federation/v1/invite/{room_id}/{event_id}",
}

/// The invite.
#[derive(Debug, Clone)]
pub struct Request {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event's ID.
    pub event_id: OwnedEventId,
    /// The event, with `invite_room_state` in its `unsigned`.
    pub event: Box<RawValue>,
}

/// The invite, signed by the server of the invited.
#[derive(Debug, Clone)]
pub struct Response {
    /// The event.
    pub event: Box<RawValue>,
}

/// The body of a [`Request`].
#[derive(Debug, Serialize, OutgoingBodyJson)]
#[serde(transparent)]
pub struct Sent(Box<RawValue>);

/// The body of a [`Response`].
#[derive(Debug, Serialize, Deserialize, OutgoingBodyJson)]
pub struct Answered(u16, Container);

#[derive(Debug, Serialize, Deserialize)]
struct Container {
    event: Box<RawValue>,
}

impl OutgoingRequest for Request {
    type Body = Sent;
    type EndpointError = Error;
    type IncomingResponse = Response;

    fn try_into_http_request_inner(
        self,
        base_url: &str,
        path_builder_input: <Self::PathBuilder as PathBuilder>::Input<'_>,
    ) -> Result<http::Request<Sent>, IntoHttpError> {
        let path_args: [&dyn std::fmt::Display; 2] = [&self.room_id, &self.event_id];
        let url = Self::make_endpoint_url(path_builder_input, base_url, &path_args, "")?;
        Ok(http::Request::builder()
            .method(Self::METHOD)
            .uri(url)
            .body(Sent(self.event))?)
    }
}

impl IncomingRequest for Request {
    type EndpointError = Error;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let argument = |index| path_args.get(index).copied().unwrap_or_default();
        Ok(Self {
            room_id: argument(0).try_into()?,
            event_id: argument(1).try_into()?,
            event: serde_json::from_slice(request.into_body())?,
        })
    }
}

impl OutgoingResponse for Response {
    type Body = Answered;

    fn try_into_http_response_inner(self) -> Result<http::Response<Answered>, IntoHttpError> {
        Ok(http::Response::new(Answered(
            200,
            Container { event: self.event },
        )))
    }
}

impl IncomingResponse for Response {
    type EndpointError = Error;

    fn try_from_http_response_inner(response: http::Response<&[u8]>) -> Result<Self, DeserializationError> {
        let Answered(_, Container { event }) = serde_json::from_slice(response.into_body())?;
        Ok(Self { event })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        api::{IncomingRequest as _, IncomingResponse as _, OutgoingRequest as _, OutgoingResponse as _},
        exports::http,
    };
    use serde_json::{json, value::to_raw_value};

    use super::{Request, Response};

    #[test]
    fn the_event_is_the_body_and_comes_back_in_an_array() {
        let event = to_raw_value(&json!({ "type": "m.room.member", "hashes": {} })).expect("JSON");
        let request = Request {
            room_id: "!room:a".try_into().expect("an ID"),
            event_id: "$event:a".try_into().expect("an ID"),
            event: event.clone(),
        };
        let sent = request
            .try_into_http_request_inner("https://b", ())
            .expect("a request");
        assert_eq!(
            sent.uri().path(),
            "/_matrix/federation/v1/invite/!room:a/$event:a"
        );
        let body = serde_json::to_vec(sent.body()).expect("JSON");
        let read = Request::try_from_http_request_inner(
            http::Request::new(body.as_slice()),
            &["!room:a", "$event:a"],
        );
        assert_eq!(read.expect("it can be read").event.get(), event.get());

        let answered = Response { event: event.clone() }.try_into_http_response_inner();
        let body = serde_json::to_vec(answered.expect("a response").body()).expect("JSON");
        assert_eq!(
            String::from_utf8_lossy(&body),
            format!("[200,{{\"event\":{event}}}]")
        );
        let read = Response::try_from_http_response_inner(http::Response::new(body.as_slice()));
        assert_eq!(read.expect("it can be read").event.get(), event.get());
    }
}
