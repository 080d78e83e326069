//! The one error of the HTTP edge, and its standard body.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use ruma::api::{
    client::uiaa::UiaaInfo,
    error::{ErrorKind, LimitExceededErrorData, RetryAfter, UnknownTokenErrorData},
};
use serde_json::{Map, Value, json};

type Cause = Box<dyn StdError + Send + Sync>;

/// An answer that is not a success: a status, the spec's error code and a sentence for people.
///
/// What a client may know is in the body. What only the operator may know is the cause, which is logged, once,
/// when the error becomes a response.
#[derive(Debug)]
pub struct MatrixError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    content: Content,
    cause: Option<Cause>,
}

#[derive(Debug)]
enum Content {
    Standard {
        kind: ErrorKind,
        message: Cow<'static, str>,
        fields: Map<String, Value>,
    },
    Uiaa(UiaaInfo),
}

impl MatrixError {
    /// An error of any status and code. `message` is a sentence that the client's user may read.
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let content = Content::Standard {
            kind,
            message: message.into(),
            fields: Map::new(),
        };
        Self(Box::new(Inner {
            status,
            content,
            cause: None,
        }))
    }

    /// 400 `M_BAD_JSON`: JSON, of the wrong shape.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadJson, message)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::NotJson, message)
    }

    /// 400 `M_INVALID_PARAM`: a parameter has an impossible value.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam, message)
    }

    /// 400 `M_MISSING_PARAM`: a required parameter is not there.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::MissingParam, message)
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorKind::MissingToken,
            "This request needs an access token.",
        )
    }

    /// 401 `M_UNKNOWN_TOKEN`. With `soft_logout` the client may log its device in again and keep its data.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        let message = if soft_logout {
            "This access token has expired."
        } else {
            "This access token is not known to the server."
        };
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::UnknownToken(data), message)
    }

    /// 404 `M_UNRECOGNIZED`: no such endpoint.
    pub fn unrecognized() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorKind::Unrecognized,
            "This server has no such endpoint.",
        )
    }

    /// 405 `M_UNRECOGNIZED`: the endpoint exists, not with this method.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Unrecognized,
            "This endpoint does not have this method.",
        )
    }

    /// 429 `M_LIMIT_EXCEEDED`, with `Retry-After` and `retry_after_ms`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::LimitExceeded(data),
            "Too many requests: wait a little before the next one.",
        )
    }

    /// 401 with what user-interactive authentication still asks for.
    pub fn uiaa(info: UiaaInfo) -> Self {
        Self(Box::new(Inner {
            status: StatusCode::UNAUTHORIZED,
            content: Content::Uiaa(info),
            cause: None,
        }))
    }

    /// 500 `M_UNKNOWN`: the server's fault, and not the client's business. `cause` goes to the log alone.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unknown,
            "The server failed at this request.",
        )
        .because(cause)
    }

    /// 503 `M_UNKNOWN`: the same request may succeed later. `cause` goes to the log alone.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Unknown,
            "The server cannot do this at the moment: try again.",
        )
        .because(cause)
    }

    /// The same error, caused by `cause`, which is logged and never sent.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The same error with one more field in its body, which must not be one of the standard ones.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Content::Standard { fields, .. } = &mut self.0.content {
            fields.insert(name.to_owned(), value.into());
        }
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The error's code and what belongs to it; none where the body asks for user-interactive authentication.
    pub fn kind(&self) -> Option<&ErrorKind> {
        match &self.0.content {
            Content::Standard { kind, .. } => Some(kind),
            Content::Uiaa(_) => None,
        }
    }

    /// How long the client is asked to wait.
    fn retry_after(&self) -> Option<Duration> {
        match self.kind()? {
            ErrorKind::LimitExceeded(LimitExceededErrorData {
                retry_after: Some(RetryAfter::Delay(delay)),
                ..
            }) => Some(*delay),
            _ => None,
        }
    }

    fn into_body(self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.fields()?)
    }

    /// The fields of the standard body, for an error that is not told by HTTP. The cause is logged as it would be there.
    pub fn into_fields(self) -> Map<String, Value> {
        self.log_cause();
        self.fields().unwrap_or_default()
    }

    fn fields(self) -> serde_json::Result<Map<String, Value>> {
        let (mut fields, standard) = match self.0.content {
            Content::Standard {
                kind,
                message,
                mut fields,
            } => {
                fields.insert("error".to_owned(), Value::from(message));
                (fields, serde_json::to_value(&kind)?)
            }
            Content::Uiaa(info) => (Map::new(), serde_json::to_value(&info)?),
        };
        if let Value::Object(standard) = standard {
            fields.extend(standard);
        }
        Ok(fields)
    }

    /// Tells the operator what the client is not told. The surrounding span has the request id.
    fn log_cause(&self) {
        let Some(cause) = &self.0.cause else { return };
        let mut chain = cause.to_string();
        let mut source = cause.source();
        while let Some(error) = source {
            chain.push_str(": ");
            chain.push_str(&error.to_string());
            source = error.source();
        }
        tracing::error!(status = self.0.status.as_u16(), cause = chain, "a request failed");
    }
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0.status.as_u16();
        match &self.0.content {
            Content::Standard { kind, message, .. } => write!(f, "[{status} / {}] {message}", kind.errcode()),
            Content::Uiaa(_) => write!(f, "[{status}] user-interactive authentication is needed"),
        }
    }
}

impl StdError for MatrixError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .cause
            .as_deref()
            .map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        self.log_cause();
        let status = self.status();
        let retry_after = self.retry_after();
        let body = self.into_body().unwrap_or_else(|error| {
            tracing::error!(%error, "an error could not be encoded");
            json!({ "errcode": ErrorKind::Unknown.errcode(), "error": "The server failed." })
                .to_string()
                .into()
        });
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(delay) = retry_after {
            // Whole seconds only, rounded up: a client that waits as told must not be refused again.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(delay.as_millis().div_ceil(1000) as u64),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use ruma::api::client::uiaa::{AuthFlow, AuthType};

    use super::*;

    async fn answer(error: MatrixError) -> (StatusCode, Option<String>, Value) {
        let response = error.into_response();
        let status = response.status();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .map(|v| v.to_str().expect("ASCII").to_owned());
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body in memory")
            .to_bytes();
        (status, retry_after, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn a_limit_says_when_to_come_back_and_rounds_up() {
        let (status, retry_after, body) =
            answer(MatrixError::limit_exceeded(Duration::from_millis(1200))).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(retry_after.as_deref(), Some("2"));
        assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
        assert_eq!(body["retry_after_ms"], 1200);
        assert!(body["error"].is_string());
    }

    #[tokio::test]
    async fn only_an_expired_token_is_a_soft_logout() {
        let (_, _, expired) = answer(MatrixError::unknown_token(true)).await;
        assert_eq!(expired["soft_logout"], true);
        let (status, _, unknown) = answer(MatrixError::unknown_token(false)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(unknown["errcode"], "M_UNKNOWN_TOKEN");
        assert_ne!(unknown["soft_logout"], true);
    }

    #[tokio::test]
    async fn the_cause_of_a_failure_is_not_told() {
        let (status, _, body) = answer(MatrixError::internal("the password is hunter2")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["errcode"], "M_UNKNOWN");
        assert!(!body.to_string().contains("hunter2"));
    }

    #[tokio::test]
    async fn further_fields_stand_beside_the_standard_ones() {
        let error = MatrixError::not_found("Nothing here.")
            .with_field("example", 7)
            .with_field("error", "no");
        let (_, _, body) = answer(error).await;
        assert_eq!(
            body,
            json!({ "errcode": "M_NOT_FOUND", "error": "Nothing here.", "example": 7 })
        );
    }

    #[tokio::test]
    async fn user_interactive_authentication_asks_in_its_own_body() {
        let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![AuthType::Dummy])]);
        info.session = Some("s".to_owned());
        let (status, _, body) = answer(MatrixError::uiaa(info)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            body,
            json!({ "flows": [{ "stages": ["m.login.dummy"] }], "session": "s" })
        );
    }
}
