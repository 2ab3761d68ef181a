//! Who may look.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use paceline_protocol::Hash;

/// The cookie in which a browser keeps the token that was in the page's address.
const COOKIE: &str = "paceline";

/// What a browser may do with what it gets: scripts, styles and data come from here alone.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What a request has to show.
#[derive(Clone)]
pub(super) enum Access {
    /// On loopback: one of these Host names.
    Names(Arc<[String]>),
    /// Elsewhere: this token, or a cookie of this name with it.
    Token(Arc<str>, Arc<str>),
}

impl Access {
    /// For who listens there.
    ///
    /// # Errors
    /// A token is needed, and `token` has none.
    pub(super) fn at<E>(address: SocketAddr, token: impl FnOnce() -> Result<String, E>) -> Result<Self, E> {
        let port = address.port();
        if !address.ip().is_loopback() {
            // Browsers share cookies among the ports of a host.
            return Ok(Self::Token(token()?.into(), format!("{COOKIE}-{port}").into()));
        }
        let names = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        Ok(Self::Names(names.into_iter().chain([address.to_string()]).collect()))
    }

    pub(super) fn is_loopback(&self) -> bool {
        matches!(self, Self::Names(_))
    }

    /// Lets a request through, or says why not.
    pub(super) async fn check(self, request: Request, next: Next) -> Response {
        let headers = request.headers();
        let mut cookie = None;
        match &self {
            Self::Names(own) => {
                let host = text(headers, header::HOST);
                if !own.iter().any(|name| name == host) {
                    return (StatusCode::FORBIDDEN, "this name is not mine\n").into_response();
                }
            }
            Self::Token(token, name) => {
                let given = given(headers, request.uri().query().unwrap_or_default(), name);
                // Of hashes, so that how long it takes tells nothing of the token.
                if Hash::of(given.as_bytes()) != Hash::of(token.as_bytes()) {
                    let why = "this page needs the token that `paceline join` prints on that machine: add ?token=...\n";
                    return (StatusCode::UNAUTHORIZED, why).into_response();
                }
                cookie = HeaderValue::from_str(&format!("{name}={token}; HttpOnly; SameSite=Strict; Path=/")).ok();
            }
        }
        let mut response = next.run(request).await;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        cookie.into_iter().for_each(|cookie| drop(headers.insert(header::SET_COOKIE, cookie)));
        response
    }
}

/// The token that a request brings: for scripts in a header, from people in the address, later in a cookie.
fn given<'a>(headers: &'a HeaderMap, query: &'a str, cookie: &str) -> &'a str {
    let bearer = text(headers, header::AUTHORIZATION).strip_prefix("Bearer ");
    let in_query = || query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let cookies = text(headers, header::COOKIE);
    let in_cookie = || cookies.split(';').find_map(|pair| pair.trim().strip_prefix(cookie)?.strip_prefix('='));
    bearer.or_else(in_query).or_else(in_cookie).unwrap_or_default()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn a_token_comes_in_a_header_in_the_address_or_in_a_cookie() {
        let given = |headers: &HeaderMap, query| given(headers, query, "paceline-1").to_owned();
        assert_eq!(given(&headers(header::AUTHORIZATION, "Bearer abc"), ""), "abc");
        assert_eq!(given(&HeaderMap::new(), "x=1&token=abc"), "abc");
        assert_eq!(given(&headers(header::COOKIE, "other=1; paceline-1=abc"), ""), "abc");
        assert_eq!(given(&headers(header::COOKIE, "paceline-10=abc"), "nottoken=abc"), "");
    }

    #[test]
    fn only_loopback_does_without_a_token() {
        let at = |address: &str| Access::at(address.parse().expect("an address"), || Ok::<_, ()>("abc".to_owned()));
        let is_loopback = |address| at(address).is_ok_and(|access| access.is_loopback());
        assert!(is_loopback("127.0.0.1:4100") && is_loopback("[::1]:4100"));
        assert!(!is_loopback("0.0.0.0:4100") && !is_loopback("10.0.0.1:4100"));
        let without = Access::at("0.0.0.0:4100".parse().expect("an address"), || Err("no token"));
        assert_eq!(without.err(), Some("no token"));
    }
}
