//! `POST /_matrix/federation/v1/user/keys/query` and `…/claim`, as this server asks them: what is told of one user is kept
//! apart from the rest, so that nonsense about one leaves the others to be understood. With ruma's types, the answer
//! as a whole would be refused.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// What is told, by user ID.
pub type ByUser = BTreeMap<String, Box<RawValue>>;

macro_rules! question {
    ($path:literal, $field:ident: $wanted:ty => { $($answer:ident),* }) => {
        use ruma::{
            OwnedDeviceId, OwnedUserId,
            api::{
                IncomingResponse, Metadata, OutgoingBodyJson, OutgoingRequest,
                error::{DeserializationError, Error, IntoHttpError},
                federation::authentication::ServerSignatures,
                metadata,
                path_builder::PathBuilder,
            },
            exports::http,
        };
        use serde::{Deserialize, Serialize};

        use super::{BTreeMap, ByUser};

        metadata! {
            method: POST,
            rate_limited: false,
            authentication: ServerSignatures,
            path: $path,
        }

        /// What is asked for.
        #[derive(Debug, Clone, Serialize, OutgoingBodyJson)]
        pub struct Request {
            /// Of whom, and which.
            pub $field: $wanted,
        }

        /// What is told, as it came.
        #[derive(Debug, Clone, Default, Deserialize)]
        pub struct Response {
            $(
                /// By user ID.
                #[serde(default)]
                pub $answer: ByUser,
            )*
        }

        impl OutgoingRequest for Request {
            type Body = Self;
            type EndpointError = Error;
            type IncomingResponse = Response;

            fn try_into_http_request_inner(
                self,
                base_url: &str,
                path_builder_input: <Self::PathBuilder as PathBuilder>::Input<'_>,
            ) -> Result<http::Request<Self>, IntoHttpError> {
                let url = Self::make_endpoint_url(path_builder_input, base_url, &[], "")?;
                Ok(http::Request::builder()
                    .method(Self::METHOD)
                    .uri(url)
                    .body(self)?)
            }
        }

        impl IncomingResponse for Response {
            type EndpointError = Error;

            fn try_from_http_response_inner(
                response: http::Response<&[u8]>,
            ) -> Result<Self, DeserializationError> {
                Ok(serde_json::from_slice(response.into_body())?)
            }
        }
    };
}

/// The devices and cross-signing keys of users.
pub mod query {
    question! {
        "/_matrix/federation/v1/user/keys/query",
        device_keys: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> => { device_keys, master_keys, self_signing_keys }
    }
}

/// One-time keys of devices.
pub mod claim {
    use ruma::OneTimeKeyAlgorithm;

    question! {
        "/_matrix/federation/v1/user/keys/claim",
        one_time_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>> => { one_time_keys }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        api::{IncomingResponse as _, OutgoingRequest as _},
        exports::http,
        owned_device_id, owned_user_id,
    };
    use serde_json::json;

    use super::{BTreeMap, query};

    #[test]
    fn nonsense_about_one_user_leaves_the_others() {
        let request = query::Request {
            device_keys: BTreeMap::from([(owned_user_id!("@a:b"), vec![owned_device_id!("D")])]),
        };
        let sent = request
            .try_into_http_request_inner("https://b", ())
            .expect("a request");
        assert_eq!(sent.uri().path(), "/_matrix/federation/v1/user/keys/query");
        assert_eq!(
            serde_json::to_value(sent.body()).expect("JSON"),
            json!({ "device_keys": { "@a:b": ["D"] } })
        );
        let answer = json!({ "device_keys": { "@a:b": {}, "@c:b": 7, "nobody": [] } }).to_string();
        let read = query::Response::try_from_http_response_inner(http::Response::new(answer.as_bytes()));
        assert_eq!(read.expect("it can be read").device_keys["@a:b"].get(), "{}");
    }
}
