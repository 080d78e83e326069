//! A device of a user, or someone without an account: sends requests, with its token where it has one.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use serde_json::Value;

use crate::Answer;

/// No request takes longer, a long poll included.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Someone who speaks to a server. Its path arguments begin behind `/_matrix/client`, as in `/v3/sync`.
pub struct Client {
    /// `http://127.0.0.1:PORT`
    base: String,
    http: reqwest::Client,
    /// The user; empty for nobody.
    pub user_id: String,
    /// The device; empty for nobody.
    pub device_id: String,
    /// The access token, if any.
    pub token: Option<String>,
    since: Mutex<Option<String>>,
    transactions: AtomicU64,
}

impl Client {
    /// Nobody in particular, at the server that listens there.
    pub fn anonymous(base: &str) -> Self {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build();
        Self {
            base: base.to_owned(),
            http: http.expect("a client without TLS can be built"),
            user_id: String::new(),
            device_id: String::new(),
            token: None,
            since: Mutex::default(),
            transactions: AtomicU64::new(0),
        }
    }

    /// The device that the answer to a login or a registration speaks of.
    #[track_caller]
    pub fn session_of(&self, login: &Value) -> Self {
        let text = |key: &str| {
            login[key]
                .as_str()
                .unwrap_or_else(|| panic!("no `{key}` in {login}"))
                .to_owned()
        };
        Self {
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: Some(text("access_token")),
            ..self.with_token(None)
        }
    }

    /// The same device with another token, and nothing synced yet.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self {
            base: self.base.clone(),
            http: self.http.clone(),
            user_id: self.user_id.clone(),
            device_id: self.device_id.clone(),
            token: token.map(ToOwned::to_owned),
            since: Mutex::default(),
            transactions: AtomicU64::new(0),
        }
    }

    /// Where the server is: `http://127.0.0.1:PORT`
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token that the next sync starts from.
    pub fn since(&self) -> Option<String> {
        self.locked_since().clone()
    }

    /// Has the next sync start from `since`, or from nothing.
    pub fn set_since(&self, since: Option<&str>) {
        *self.locked_since() = since.map(ToOwned::to_owned);
    }

    fn locked_since(&self) -> MutexGuard<'_, Option<String>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction id that this device has not used.
    pub fn new_txn_id(&self) -> String {
        format!("txn{}", self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, None).await
    }

    /// `POST`
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// `PUT`
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, Some(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str, body: Option<Value>) -> Answer {
        self.ask(Method::DELETE, path, body).await
    }

    /// Sends JSON.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ask_bytes(method, path, body.map(|body| body.to_string().into_bytes()))
            .await
    }

    /// Sends whatever `body` is, as if it were JSON.
    ///
    /// # Panics
    ///
    /// When no answer comes.
    pub async fn ask_bytes(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Answer {
        let request = format!("{method} {path}");
        self.try_ask(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{request} got no answer: {error:?}"))
    }

    /// Sends whatever `body` is, as if it were JSON, to a server that may not answer.
    pub async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> reqwest::Result<Answer> {
        let named = format!("{method} {path}");
        let mut request = self.request(method, &format!("/_matrix/client{path}"));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        answer_to(named, request).await
    }

    /// A request to be finished by hand; `path` is whole.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET` of a whole path, outside `/_matrix/client`.
    ///
    /// # Panics
    ///
    /// When no answer comes.
    pub async fn get_whole(&self, path: &str) -> Answer {
        let answer = answer_to(format!("GET {path}"), self.request(Method::GET, path)).await;
        answer.unwrap_or_else(|error| panic!("GET {path} got no answer: {error:?}"))
    }

    /// Sends a request made by [`Client::request`].
    ///
    /// # Panics
    ///
    /// When no answer comes.
    pub async fn send_request(&self, request: RequestBuilder) -> Answer {
        let answer = answer_to("a request".to_owned(), request).await;
        answer.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }
}

async fn answer_to(request: String, builder: RequestBuilder) -> reqwest::Result<Answer> {
    let response = builder.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Answer {
        request,
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("user_id", &self.user_id)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}
