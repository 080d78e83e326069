//! Where an answer leads on to.

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, COOKIE, LOCATION},
};
use url::Url;

use super::OutgoingError;

/// The request to make next, where the answer to a `GET` is a redirect.
pub(super) fn next(
    request: &Request<Bytes>,
    response: &Response<Bytes>,
) -> Result<Option<Request<Bytes>>, OutgoingError> {
    use StatusCode as S;
    let redirects = [
        S::MOVED_PERMANENTLY,
        S::FOUND,
        S::SEE_OTHER,
        S::TEMPORARY_REDIRECT,
        S::PERMANENT_REDIRECT,
    ];
    if request.method() != Method::GET || !redirects.contains(&response.status()) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(None);
    };
    let nowhere = OutgoingError::Redirect("to what is no URL");
    let (Ok(here), Ok(location)) = (Url::parse(&request.uri().to_string()), location.to_str()) else {
        return Err(nowhere);
    };
    let Ok(there) = here.join(location) else {
        return Err(nowhere);
    };
    // What was asked for over TLS is not to be had in the open.
    if there.scheme() != "https" && there.scheme() != here.scheme() {
        return Err(OutgoingError::Redirect("from TLS to elsewhere"));
    }
    let Ok(uri) = there.as_str().parse::<Uri>() else {
        return Err(nowhere);
    };
    let mut next = request.clone();
    if here.origin() != there.origin() {
        for secret in [AUTHORIZATION, COOKIE] {
            next.headers_mut().remove(secret);
        }
    }
    *next.uri_mut() = uri;
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(method: Method, from: &str, to: &str) -> Result<Option<Request<Bytes>>, OutgoingError> {
        let request = Request::builder()
            .method(method)
            .uri(from)
            .header(AUTHORIZATION, "secret");
        let request = request.body(Bytes::new()).expect("a request");
        let response = Response::builder().status(302).header(LOCATION, to);
        next(&request, &response.body(Bytes::new()).expect("a response"))
    }

    #[test]
    fn a_redirect_may_be_relative() {
        let next = redirected(Method::GET, "https://a.example/x/y?q", "../z").expect("fine");
        assert_eq!(next.expect("a request").uri(), "https://a.example/z");
    }

    #[test]
    fn secrets_stay_with_whom_they_are_for() {
        let kept = redirected(Method::GET, "https://a.example/", "/b").expect("fine");
        assert!(kept.expect("a request").headers().contains_key(AUTHORIZATION));
        for elsewhere in ["https://b.example/", "https://a.example:8443/"] {
            let next = redirected(Method::GET, "https://a.example/", elsewhere).expect("fine");
            assert!(
                !next.expect("a request").headers().contains_key(AUTHORIZATION),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn tls_is_not_left() {
        for elsewhere in ["http://a.example/", "file:///etc/passwd"] {
            assert!(
                redirected(Method::GET, "https://a.example/", elsewhere).is_err(),
                "{elsewhere}"
            );
        }
        assert!(redirected(Method::GET, "http://a.example/", "https://a.example/").is_ok());
    }

    #[test]
    fn what_is_put_or_posted_is_not_carried_on() {
        for method in [Method::POST, Method::PUT] {
            let next = redirected(method, "https://a.example/", "https://b.example/").expect("fine");
            assert!(next.is_none());
        }
    }
}
