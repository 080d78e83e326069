//! Whether the keys of identity servers are still in use, as the URLs say that room members gave along with them.

use std::time::Duration;

use bytes::Bytes;
use hearth_endpoint::outgoing::{Limits, Outgoing};
use hearth_engine::remote::RemoteError;
use http::{Request, StatusCode, Uri, uri::Scheme};
use ruma::serde::Base64;
use serde::Deserialize;

/// The answer is one boolean.
const LIMITS: Limits = Limits {
    body_bytes: 16 << 10,
    total: Duration::from_secs(10),
    redirects: 0,
};

/// Asks `url`, which is of nobody's choice that is to be trusted: by HTTPS alone, and of the answer nothing gets on but
/// whether it is yes or no.
pub(crate) async fn is_valid(web: &Outgoing, url: &str, public_key: &Base64) -> Result<bool, RemoteError> {
    #[derive(Deserialize)]
    struct Answer {
        valid: bool,
    }
    let request = Request::get(question(url, public_key)?).body(Bytes::new());
    let request = request.map_err(|error| RemoteError::NotAllowed(error.to_string()))?;
    let response = web.send(request, &LIMITS).await;
    let response = response.map_err(|error| RemoteError::Unreachable {
        reason: error.to_string(),
        retry_after: None,
    })?;
    if response.status() != StatusCode::OK {
        return Err(RemoteError::Malformed(format!("HTTP {}", response.status())));
    }
    let answer: Answer =
        serde_json::from_slice(response.body()).map_err(|error| RemoteError::Malformed(error.to_string()))?;
    Ok(answer.valid)
}

fn question(url: &str, public_key: &Base64) -> Result<Uri, RemoteError> {
    let refused = |reason: &str| RemoteError::NotAllowed(format!("{reason} to ask about a key"));
    let uri: Uri = url.parse().map_err(|_| refused("it is no URL"))?;
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(refused("it is not by HTTPS"));
    }
    let separator = if uri.query().is_some() { '&' } else { '?' };
    let key = public_key.encode().replace('+', "%2B").replace('/', "%2F");
    format!("{url}{separator}public_key={key}")
        .parse()
        .map_err(|_| refused("it is no URL"))
}

#[cfg(test)]
mod tests {
    use super::{Base64, question};

    fn key() -> Base64 {
        Base64::parse("+/8").expect("base64")
    }

    #[test]
    fn the_key_is_added_to_what_the_url_asks() {
        let asked = |url| question(url, &key()).expect("a question").to_string();
        assert_eq!(
            asked("https://id.example/isvalid"),
            "https://id.example/isvalid?public_key=%2B%2F8"
        );
        assert_eq!(
            asked("https://id.example/is?a=b"),
            "https://id.example/is?a=b&public_key=%2B%2F8"
        );
    }

    #[test]
    fn nothing_but_https_is_asked() {
        for url in [
            "http://id.example/",
            "file:///etc/passwd",
            "/isvalid",
            "nonsense \n",
            "",
        ] {
            assert!(question(url, &key()).is_err(), "{url}");
        }
    }
}
