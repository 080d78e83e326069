//! Asking other servers: a typed question, signed, and its answer or why there is none.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hearth_endpoint::outgoing::{Kept, Limits, Outgoing, OutgoingError};
use hearth_engine::remote::{Large, RemoteError};
use http::{HeaderValue, Request, Response, StatusCode, header::HOST};
use metrics::counter;
use ruma::{
    ServerName,
    api::{
        IncomingResponse, IncomingResponseExt as _, OutgoingRequest, OutgoingRequestExt as _,
        auth_scheme::{AuthScheme, NoAuthentication},
        federation::authentication::{ServerSignatures, XMatrixSigningInput},
        path_builder::PathBuilder,
    },
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{discovery::Discovery, keys::OwnKeys, policy::ServerPolicy, reachability::Reachability};

/// Answers larger than this are taken apart on a thread of their own, so that other work goes on beside.
const LARGE: usize = 512 << 10;
/// The most characters of an error's words that are kept.
const MAX_WORDS: usize = 300;

/// How much another server may take, in bytes and time, to answer a question of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Allowance(Limits);

impl Allowance {
    /// Keys: a few hundred bytes each. Many may wait for them.
    pub const KEYS: Self = Self::new(256 << 10, Duration::from_secs(15));
    /// One thing: an event, a profile, an alias.
    pub const QUESTION: Self = Self::new(4 << 20, Duration::from_secs(30));
    /// A number of things, which both sides bound: some hundred events of 64 KiB, a page of rooms.
    pub const PAGE: Self = Self::new(32 << 20, Duration::from_secs(60));
    /// The state of a room, and what authorises it. The largest rooms of the public network have some 200,000 state
    /// events of half a kilobyte to a kilobyte; and servers take minutes to put that together.
    pub const STATE: Self = Self::new(256 << 20, Duration::from_secs(10 * 60));
    /// A transaction: the answer is a line for each event, but comes when they have been received.
    pub const DELIVERY: Self = Self::new(1 << 20, Duration::from_secs(60));

    const fn new(body_bytes: usize, total: Duration) -> Self {
        Self(Limits {
            body_bytes,
            total,
            redirects: 0,
        })
    }
}

/// An authentication scheme of ruma's by which this server can show who it is.
pub trait Show: AuthScheme {
    /// What the scheme needs to know.
    fn input<'a>(own: &'a OwnKeys, destination: &ServerName) -> Self::Input<'a>;
}

impl Show for ServerSignatures {
    fn input<'a>(own: &'a OwnKeys, destination: &ServerName) -> XMatrixSigningInput<'a> {
        XMatrixSigningInput::new(
            own.server_name().to_owned(),
            destination.to_owned(),
            own.signing().pair(),
        )
    }
}

impl Show for NoAuthentication {
    fn input(_: &OwnKeys, _: &ServerName) {}
}

/// Asks other servers.
#[derive(Debug)]
pub struct Client {
    /// How they did lately.
    pub reachability: Arc<Reachability>,
    /// Which of them this server has to do with.
    pub policy: ServerPolicy,
    own: Arc<OwnKeys>,
    outgoing: Outgoing,
    discovery: Discovery,
}

impl Client {
    pub(crate) fn new(
        own: Arc<OwnKeys>,
        policy: ServerPolicy,
        outgoing: &Outgoing,
        discovery: Discovery,
    ) -> Self {
        Self {
            reachability: Arc::new(Reachability::new()),
            policy,
            own,
            outgoing: outgoing.with_route(Arc::new(discovery.clone())),
            discovery,
        }
    }

    /// Asks `server`. Signed by this server's key where the endpoint demands it.
    ///
    /// A server that failed lately is left alone for a while, at most ten seconds.
    pub async fn ask<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<Authentication: Show, PathBuilder: for<'a> PathBuilder<Input<'a> = ()>>,
        R::IncomingResponse: Send + 'static,
    {
        Ok(self.ask_for_much(server, request, allowance).await?.answer)
    }

    /// The same for an answer that may be large.
    pub async fn ask_for_much<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<Large<R::IncomingResponse>, RemoteError>
    where
        R: OutgoingRequest<Authentication: Show, PathBuilder: for<'a> PathBuilder<Input<'a> = ()>>,
        R::IncomingResponse: Send + 'static,
    {
        let asked = self.exchange::<R>(server, request, allowance).await;
        let outcome = match &asked {
            Ok(_) => "answered",
            Err(RemoteError::Refused { .. }) => "refused",
            Err(RemoteError::Malformed(_)) => "malformed",
            Err(RemoteError::Unreachable { .. }) => "unreachable",
            Err(RemoteError::NotAllowed(_)) => "not_allowed",
            Err(RemoteError::Crowded(_)) => "crowded",
        };
        counter!("hearth_federation_requests_sent_total", "outcome" => outcome).increment(1);
        asked
    }

    async fn exchange<R>(
        &self,
        server: &ServerName,
        request: R,
        Allowance(limits): Allowance,
    ) -> Result<Large<R::IncomingResponse>, RemoteError>
    where
        R: OutgoingRequest<Authentication: Show, PathBuilder: for<'a> PathBuilder<Input<'a> = ()>>,
        R::IncomingResponse: Send + 'static,
    {
        self.may_ask(server)?;
        let began = Instant::now();
        let host = self.discovery.delegate(server).await;
        let request = self.encode(server, &host, request)?;
        match self.outgoing.send(request, &limits).await {
            Ok(response) => {
                if let Some(problem) = problem_of_a_proxy(&response) {
                    return Err(self.unreachable(server, began, problem));
                }
                self.reachability.succeeded(server);
                let kept = response.extensions().get::<Kept>().cloned();
                Ok(Large {
                    answer: read::<R::IncomingResponse>(response).await?,
                    place: kept.map(|kept| Box::new(kept) as _),
                })
            }
            Err(OutgoingError::Denied) => Err(RemoteError::NotAllowed(OutgoingError::Denied.to_string())),
            Err(error @ OutgoingError::Crowded) => Err(RemoteError::Crowded(error.to_string())),
            Err(error @ OutgoingError::TooLarge(_)) => Err(RemoteError::Malformed(error.to_string())),
            Err(error) => Err(self.unreachable(server, began, error.to_string())),
        }
    }

    /// Whether this server asks that one at all.
    pub fn is_allowed(&self, server: &ServerName) -> bool {
        *server != *self.own.server_name() && self.policy.allows(server)
    }

    fn may_ask(&self, server: &ServerName) -> Result<(), RemoteError> {
        if !self.is_allowed(server) {
            let reason = format!("this server does not federate with {server}");
            return Err(RemoteError::NotAllowed(reason));
        }
        match self.reachability.short_wait(server) {
            None => Ok(()),
            Some(wait) => {
                let standing = self.reachability.standing(server);
                let reason = standing.and_then(|standing| standing.last_error);
                Err(RemoteError::Unreachable {
                    reason: format!("{server} failed just now: {}", reason.unwrap_or_default()),
                    retry_after: Some(wait),
                })
            }
        }
    }

    fn encode<R>(
        &self,
        server: &ServerName,
        host: &ServerName,
        request: R,
    ) -> Result<Request<Bytes>, RemoteError>
    where
        R: OutgoingRequest<Authentication: Show, PathBuilder: for<'a> PathBuilder<Input<'a> = ()>>,
    {
        // Nothing of the other server's fault, nor likely: an ID that makes no URI.
        let failed =
            |error: &dyn std::fmt::Display| RemoteError::NotAllowed(format!("not a request: {error}"));
        let input = <R::Authentication as Show>::input(&self.own, server);
        let request = request.try_into_http_request::<BytesMut>(&format!("https://{host}"), input, ());
        let mut request = request.map_err(|error| failed(&error))?.map(BytesMut::freeze);
        // As it was found: left to HTTP, port 443 would be dropped.
        let host = HeaderValue::from_str(host.as_str()).map_err(|error| failed(&error))?;
        request.headers_mut().insert(HOST, host);
        Ok(request)
    }

    fn unreachable(&self, server: &ServerName, began: Instant, reason: String) -> RemoteError {
        tracing::debug!(%server, reason, "a server can't be reached");
        self.reachability.failed(server, began, &reason);
        RemoteError::Unreachable {
            reason: format!("{server} can't be reached: {reason}"),
            retry_after: self.reachability.wait(server),
        }
    }
}

/// A proxy without a server behind it answers for itself, and without a Matrix error code.
fn problem_of_a_proxy(response: &Response<Bytes>) -> Option<String> {
    use StatusCode as S;
    let status = response.status();
    let is_gateway = [S::BAD_GATEWAY, S::SERVICE_UNAVAILABLE, S::GATEWAY_TIMEOUT].contains(&status);
    (is_gateway && errcode(response.body()).is_none()).then(|| format!("HTTP {status}"))
}

fn errcode(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body.get("errcode")?.as_str()?.to_owned())
}

/// Decodes an answer.
///
/// How deep JSON nests is not checked as a whole: an event stays as it came until it is judged by itself, and one that
/// can't be read then must not take the others with it. All else is read into types, where serde_json bounds it.
async fn read<T>(response: Response<Bytes>) -> Result<T, RemoteError>
where
    T: IncomingResponse + Send + 'static,
{
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(&response));
    }
    if response.body().len() < LARGE {
        return decode(&response);
    }
    match tokio::task::spawn_blocking(move || decode(&response)).await {
        Ok(decoded) => decoded,
        Err(_) => Err(RemoteError::Malformed("reading it failed".to_owned())),
    }
}

fn decode<T: IncomingResponse>(response: &Response<Bytes>) -> Result<T, RemoteError> {
    let mut borrowed = Response::new(response.body().as_ref());
    *borrowed.status_mut() = response.status();
    *borrowed.headers_mut() = response.headers().clone();
    // ruma may panic on what it did not expect.
    match catch_unwind(AssertUnwindSafe(|| T::try_from_http_response(borrowed))) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(RemoteError::Malformed(error.to_string())),
        Err(_) => Err(RemoteError::Malformed("it can't be read".to_owned())),
    }
}

fn refusal(response: &Response<Bytes>) -> RemoteError {
    let body: Option<Value> = serde_json::from_slice(response.body()).ok();
    let text = |field: &str| {
        let text = body.as_ref().and_then(|body| body.get(field)?.as_str());
        text.unwrap_or_default()
            .chars()
            .take(MAX_WORDS)
            .collect::<String>()
    };
    RemoteError::Refused {
        status: response.status().as_u16(),
        errcode: text("errcode"),
        error: text("error"),
        body,
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::federation::discovery::get_server_version::v1::Response as Version;

    use super::*;

    fn response(status: u16, body: &str) -> Response<Bytes> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Response::builder().status(status).body(body).expect("a response")
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_other_servers_words() {
        let body = r#"{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"no","room_version":"12"}"#;
        let refused = read::<Version>(response(400, body))
            .await
            .expect_err("it is refused");
        let RemoteError::Refused {
            status: 400,
            errcode,
            error,
            body,
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(
            (errcode.as_str(), error.as_str()),
            ("M_INCOMPATIBLE_ROOM_VERSION", "no")
        );
        assert_eq!(body.expect("JSON")["room_version"], "12");
    }

    #[tokio::test]
    async fn what_is_not_json_is_malformed_or_a_refusal_without_code() {
        let malformed = read::<Version>(response(200, "<html>")).await;
        assert!(
            matches!(malformed, Err(RemoteError::Malformed(_))),
            "{malformed:?}"
        );
        let moved = read::<Version>(response(302, "")).await;
        assert!(
            matches!(moved, Err(RemoteError::Refused { status: 302, .. })),
            "{moved:?}"
        );
        let gone = read::<Version>(response(404, "<html>")).await;
        assert!(
            matches!(gone, Err(RemoteError::Refused { ref errcode, .. }) if errcode.is_empty()),
            "{gone:?}"
        );
    }

    #[test]
    fn a_proxy_without_a_server_is_told_from_a_server_that_refuses() {
        assert!(problem_of_a_proxy(&response(502, "<html>")).is_some());
        assert!(problem_of_a_proxy(&response(503, r#"{"errcode":"M_UNKNOWN"}"#)).is_none());
        assert!(problem_of_a_proxy(&response(500, "")).is_none());
    }
}
