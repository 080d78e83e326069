//! One keep-alive HTTP/1.1 connection, as lean as it gets: the load generator shares its cores with the server, so
//! what it spends on a request is taken from what it measures. Knows nothing of Matrix.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// How long an answer may take. Long polls ask for less.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there was no answer to a request.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("cannot connect to {authority}")]
    Connect {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    #[error("the request is malformed")]
    Malformed(#[from] hyper::http::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
}

/// Where the server is.
#[derive(Debug)]
pub struct Origin {
    authority: String,
    host: HeaderValue,
}

impl Origin {
    /// Of an `http://host:port` URL; a path is not allowed. The error says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("expected http://HOST:PORT; TLS would be measured instead of the server".to_owned());
        }
        if !matches!(uri.path(), "" | "/") {
            return Err("expected a URL without a path".to_owned());
        }
        let host = uri.host().ok_or("expected a host")?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let host = HeaderValue::from_str(&authority).map_err(|error| error.to_string())?;
        Ok(Self { authority, host })
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// A connection that is made at the first request, and anew when the server has closed it in between.
pub struct Connection {
    origin: Rc<Origin>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub fn new(origin: Rc<Origin>) -> Self {
        Self { origin, sender: None }
    }

    /// A second connection to the same server.
    pub fn sibling(&self) -> Self {
        Self::new(self.origin.clone())
    }

    /// Where it leads: `host:port`.
    pub fn authority(&self) -> &str {
        &self.origin.authority
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn call(
        &mut self,
        method: Method,
        path_and_query: &str,
        authorization: Option<&HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Answer, ConnectionError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(HOST, &self.origin.host);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(body.unwrap_or_default()))?;
        let answer = timeout(PATIENCE, self.exchange(request)).await;
        answer.unwrap_or_else(|_| {
            // What is still to come on it would be taken for the answer to the next request.
            self.sender = None;
            Err(ConnectionError::TimedOut)
        })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, ConnectionError> {
        let response = self.ready().await?.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    }

    async fn ready(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, ConnectionError> {
        let kept = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        Ok(self.sender.insert(sender))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ConnectionError> {
        let refused = |source| ConnectionError::Connect {
            authority: self.origin.authority.clone(),
            source,
        };
        let stream = TcpStream::connect(&self.origin.authority)
            .await
            .map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped or the server closes.
        tokio::spawn(driver);
        sender.ready().await?;
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_plain_http_without_a_path() {
        assert_eq!(
            Origin::parse("http://127.0.0.1:8008").unwrap().authority,
            "127.0.0.1:8008"
        );
        assert_eq!(
            Origin::parse("http://localhost/").unwrap().authority,
            "localhost:80"
        );
        assert_eq!(
            Origin::parse("http://[::1]:8008").unwrap().authority,
            "[::1]:8008"
        );
        for bad in [
            "https://localhost",
            "localhost:8008",
            "http://localhost/_matrix",
            "",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
