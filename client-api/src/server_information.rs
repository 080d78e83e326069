//! What the server says about itself: versions, capabilities, and where it is.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, SupportContact, rooms::create::SUPPORTED_VERSIONS};
use http::Uri;
use ruma::api::client::discovery::{
    discover_homeserver::{self, HomeserverInfo},
    discover_support::{self, Contact},
    get_capabilities::v3::{self as get_capabilities, Capabilities, RoomVersionStability},
    get_supported_versions,
};
use serde_json::{Value, json};

/// The versions of the spec whose client-server API a client may rely on here. r0.6.1 is for clients that know no
/// other name for the endpoints that haven't changed since.
///
/// Endpoints of whole modules are still missing, and answer `M_UNRECOGNIZED`; a version is named when what it added or
/// changed in the others is here. 1.18 is not: it has servers keep invites from who blocks them, and administrators lock
/// and suspend users.
const VERSIONS: [&str; 18] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17",
];

/// What a client can find here beyond those (docs/PROTOCOL_EXTENSIONS.md).
const UNSTABLE_FEATURES: [&str; 2] = ["chat.hearth.socket", "chat.hearth.ticks"];

/// `GET /_matrix/client/versions`
pub(crate) async fn get_supported_versions(
    _: State<Arc<Engine>>,
    _: Ruma<get_supported_versions::Request>,
) -> Result<get_supported_versions::Response, MatrixError> {
    let mut response = get_supported_versions::Response::new(VERSIONS.map(str::to_owned).to_vec());
    response.unstable_features = UNSTABLE_FEATURES.map(|feature| (feature.to_owned(), true)).into();
    Ok(response)
}

/// `GET /_matrix/client/*/capabilities`
pub(crate) async fn get_capabilities(
    State(engine): State<Arc<Engine>>,
    _: Ruma<get_capabilities::Request>,
) -> Result<get_capabilities::Response, MatrixError> {
    let mut capabilities = Capabilities::new();
    let available = SUPPORTED_VERSIONS.map(|version| (version, RoomVersionStability::Stable));
    capabilities.room_versions.default = engine.config.default_room_version.clone();
    capabilities.room_versions.available = BTreeMap::from(available);
    capabilities.thirdparty_id_changes.enabled = false;
    // Every field, custom ones too.
    capabilities.profile_fields = Some(get_capabilities::ProfileFieldsCapability::new(true));
    Ok(get_capabilities::Response::new(capabilities))
}

/// `GET /.well-known/matrix/client`
pub(crate) async fn discover_homeserver(
    State(engine): State<Arc<Engine>>,
    _: Ruma<discover_homeserver::Request>,
) -> Result<discover_homeserver::Response, MatrixError> {
    let Some(base_url) = &engine.config.public_url else {
        return Err(not_told());
    };
    let base_url = base_url.trim_end_matches('/').to_owned();
    Ok(discover_homeserver::Response::new(HomeserverInfo::new(base_url)))
}

/// `GET /.well-known/matrix/server`, by which other servers find this one.
pub(crate) async fn discover_server(State(engine): State<Arc<Engine>>) -> Result<Json<Value>, MatrixError> {
    let public_url = engine.config.public_url.as_deref();
    let server = public_url.and_then(federation_address).ok_or_else(not_told)?;
    Ok(Json(json!({ "m.server": server })))
}

/// `GET /.well-known/matrix/support`
pub(crate) async fn discover_support(
    State(engine): State<Arc<Engine>>,
    _: Ruma<discover_support::Request>,
) -> Result<discover_support::Response, MatrixError> {
    let support = &engine.config.support;
    let contacts = support.contacts.iter().filter_map(contact).collect::<Vec<_>>();
    if contacts.is_empty() && support.page.is_none() {
        return Err(not_told());
    }
    let mut response = discover_support::Response::with_contacts(contacts);
    response.support_page.clone_from(&support.page);
    Ok(response)
}

fn not_told() -> MatrixError {
    MatrixError::not_found("This server does not tell.")
}

/// The host and port of an `https` URL; the port is spelled out, since its absence would mean 8448. Other servers
/// speak nothing but TLS, so an `http` URL leads to none.
fn federation_address(public_url: &str) -> Option<String> {
    let url: Uri = public_url.parse().ok()?;
    if url.scheme_str() != Some("https") {
        return None;
    }
    Some(format!("{}:{}", url.host()?, url.port_u16().unwrap_or(443)))
}

fn contact(contact: &SupportContact) -> Option<Contact> {
    let role = contact.role.as_str().into();
    let mut told = match (&contact.matrix_id, &contact.email_address) {
        (Some(matrix_id), _) => Contact::with_matrix_id(role, matrix_id.clone()),
        (None, Some(email_address)) => Contact::with_email_address(role, email_address.clone()),
        (None, None) => return None,
    };
    told.email_address.clone_from(&contact.email_address);
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::federation_address;

    #[test]
    fn other_servers_are_led_to_the_public_url() {
        let address = |url| federation_address(url);
        assert_eq!(
            address("https://chat.example.org").as_deref(),
            Some("chat.example.org:443")
        );
        assert_eq!(
            address("https://chat.example.org:8448/").as_deref(),
            Some("chat.example.org:8448")
        );
        assert_eq!(
            address("https://[2001:db8::1]/x").as_deref(),
            Some("[2001:db8::1]:443")
        );
        assert_eq!(address("http://localhost:8008"), None);
        assert_eq!(address("not a url"), None);
    }
}
