//! Registering ruma endpoints with axum.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    handler::Handler,
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytes::BytesMut;
use hearth_engine::Engine;
use http::{Method, header::CONTENT_LENGTH};
use ruma::api::{IncomingRequest, OutgoingResponse, OutgoingResponseExt, path_builder::PathBuilder};

use crate::{Identify, MatrixError, Ruma, bulk};

/// An answer of more bytes goes out piece by piece.
const LARGE: usize = 1 << 20;

/// Routes by what ruma knows about an endpoint: its method, and all of its paths, stable and unstable.
pub trait RumaRoutes: Sized {
    /// Serves an endpoint by a handler that gets its request and gives its response.
    #[must_use]
    fn ruma<R, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest<Authentication: Identify> + Send + 'static,
        F: Fn(State<Arc<Engine>>, Ruma<R>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send;

    /// Serves the endpoint of `R` by any axum handler, for answers that aren't ruma's types.
    #[must_use]
    fn ruma_paths<R, H, T>(self, handler: H) -> Self
    where
        R: IncomingRequest,
        H: Handler<T, Arc<Engine>>,
        T: 'static;
}

impl RumaRoutes for Router<Arc<Engine>> {
    fn ruma<R, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest<Authentication: Identify> + Send + 'static,
        F: Fn(State<Arc<Engine>>, Ruma<R>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send,
    {
        self.ruma_paths::<R, _, _>(move |engine: State<Arc<Engine>>, request: Ruma<R>| {
            let answer = handler(engine, request);
            async move {
                match answer.await {
                    Ok(response) => encode(response),
                    Err(error) => error.into_response(),
                }
            }
        })
    }

    fn ruma_paths<R, H, T>(mut self, handler: H) -> Self
    where
        R: IncomingRequest,
        H: Handler<T, Arc<Engine>>,
        T: 'static,
    {
        let filter = method_filter(&R::METHOD);
        for path in R::PATH_BUILDER.all_paths() {
            self = self.route(path, on(filter, handler.clone()));
            // The spec lets an empty state key go without its slash, and with it.
            if let Some(without_key) = path.strip_suffix("/{state_key}") {
                self = self.route(without_key, on(filter, handler.clone()));
                self = self.route(&format!("{without_key}/"), on(filter, handler.clone()));
            }
        }
        self
    }
}

/// The newest of an endpoint's paths, as ruma writes them: with `{name}` for arguments.
pub(crate) fn latest_path<R: IncomingRequest>() -> &'static str {
    R::PATH_BUILDER.all_paths().last().unwrap_or_default()
}

/// The HTTP form of a ruma response.
pub fn encode(response: impl OutgoingResponse) -> Response {
    match response.try_into_http_response::<BytesMut>() {
        Ok(response) => response.map(|body| Body::from(body.freeze())),
        Err(error) => MatrixError::internal(error).into_response(),
    }
}

/// The HTTP form of a ruma response that may be large. What is `held` for it is kept until it is on its way to the
/// other side.
pub fn encode_held(response: impl OutgoingResponse, held: impl Send + 'static) -> Response {
    match response.try_into_http_response::<BytesMut>() {
        Ok(response) if response.body().len() > LARGE => {
            let length = response.body().len();
            let mut response = response.map(|body| bulk::in_pieces(body.freeze(), held));
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
            response
        }
        Ok(response) => response.map(|body| Body::from(body.freeze())),
        Err(error) => MatrixError::internal(error).into_response(),
    }
}

/// `GET` includes `HEAD`.
fn method_filter(method: &Method) -> MethodFilter {
    match *method {
        Method::GET => MethodFilter::GET,
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::DELETE => MethodFilter::DELETE,
        Method::PATCH => MethodFilter::PATCH,
        // A constant of ruma's, met when the server starts: no such endpoint exists.
        _ => panic!("ruma has an endpoint with the method {method}"),
    }
}
