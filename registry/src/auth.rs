//! Answers to `401 Unauthorized`: Basic, and Docker's token protocol
//! (distribution specification, "Token Authentication").

use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use shoal_types::registry_auth::RegistryAuth;

/// Longest answer of a token server, in bytes.
pub(super) const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// The best challenge of an answer; Bearer is preferred as it keeps the password from being sent
/// with each request.
pub(super) fn challenge(headers: &HeaderMap) -> Result<Challenge, String> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in ChallengeParser::new(text) {
            let Ok(challenge) = challenge else { break };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let param = |name: &str| {
                challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            let realm = param("realm").ok_or("it names no token server")?;
            let realm = realm
                .parse()
                .map_err(|_| format!("its token server {realm:?} is not an address"))?;
            return Ok(Challenge::Bearer { realm, service: param("service") });
        }
    }
    if basic { Ok(Challenge::Basic) } else { Err("it asks for no known authentication".into()) }
}

/// The header for user and password.
pub(super) fn basic(username: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let encoded =
        base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {encoded}"))
}

/// The header for a token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn secret(text: &str) -> HeaderValue {
    // Base64 is always a valid header value.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The header to show a token server.
pub(super) fn for_token_server(auth: Option<&RegistryAuth>) -> Option<HeaderValue> {
    match auth {
        Some(RegistryAuth::Basic { username, password }) => Some(basic(username, password)),
        Some(RegistryAuth::Identity(_) | RegistryAuth::Token(_)) | None => None,
    }
}

/// The answer of a token server; either name may carry the token.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl TokenAnswer {
    /// The token for the registry, and the identity token if there is one.
    pub(super) fn into_tokens(self) -> (Option<String>, Option<String>) {
        let said = |token: &String| !token.is_empty();
        (self.token.or(self.access_token).filter(said), self.refresh_token.filter(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_str(value).unwrap());
        values.map(|value| (WWW_AUTHENTICATE, value)).collect()
    }

    #[test]
    fn challenges_are_read_and_bearer_is_preferred() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".parse().unwrap(),
            service: Some("registry.docker.io".into()),
        };
        let text = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                    scope=\"repository:library/nginx:pull\"";
        assert_eq!(challenge(&headers(&[text])).unwrap(), bearer);
        assert_eq!(challenge(&headers(&["Basic realm=\"r\"", text])).unwrap(), bearer);
        assert_eq!(challenge(&headers(&["basic realm=r"])).unwrap(), Challenge::Basic);
    }

    #[test]
    fn unusable_challenges_are_errors() {
        for values in [
            &[][..],
            &["Digest realm=\"x\""],
            &["Bearer service=\"x\""],
            &["Bearer realm=\"x\""],
            &["\""],
        ] {
            assert!(challenge(&headers(values)).is_err(), "{values:?}");
        }
    }
}
