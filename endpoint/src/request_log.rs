//! A line, a number and an id for every request.
//!
//! Logs the route's template and never the path or the query: these hold ids, and tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use hearth_engine::Entropy;
use http::{HeaderName, HeaderValue, Method};
use metrics::{counter, describe_counter, describe_histogram, histogram};
use tracing::{Instrument, error_span, field, info};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const REQUESTS: &str = "hearth_http_requests_total";
const DURATION: &str = "hearth_http_request_duration_seconds";

/// Gives out request ids: a prefix of this run of the server, and a count.
#[derive(Debug)]
pub(crate) struct RequestLog {
    run: String,
    count: AtomicU64,
}

impl RequestLog {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        describe_counter!(REQUESTS, "Requests answered, by method, route and status.");
        describe_histogram!(
            DURATION,
            metrics::Unit::Seconds,
            "From the request's head to the answer's."
        );
        Self {
            run: entropy.alphanumeric(6),
            count: AtomicU64::new(0),
        }
    }

    fn next_id(&self) -> String {
        format!("{}-{}", self.run, self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// Runs a request in a span of its own, then logs and counts it.
pub(crate) async fn log(State(ids): State<Arc<RequestLog>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = ids.next_id();
    let method = method_name(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    // Of the level that is always on, so that an error has its request id whatever is filtered.
    let span = error_span!("request", id, method, route, user = field::Empty);

    let mut response = next.run(request).instrument(span.clone()).await;

    let status = response.status().as_u16();
    let elapsed = start.elapsed();
    span.in_scope(|| info!(status, duration_ms = elapsed.as_secs_f64() * 1e3, "answered"));
    counter!(REQUESTS, "method" => method, "route" => route.to_owned(), "status" => status.to_string())
        .increment(1);
    histogram!(DURATION, "method" => method, "route" => route.to_owned()).record(elapsed);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

/// The method's name, where it is one of the usual: a metric's labels must not be a client's to choose.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
