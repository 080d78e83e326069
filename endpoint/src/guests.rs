//! What guests may ask for at all. Whether a room lets them is the engine's to say.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>

use http::Method;

/// The spec's list, by the last parts of ruma's paths, and what a guest's client cannot do without: joining by
/// alias, asking for capabilities, logging out.
const READS: [&str; 16] = [
    "/rooms/{room_id}/state",
    "/rooms/{room_id}/state/{event_type}/{state_key}",
    "/rooms/{room_id}/context/{event_id}",
    "/rooms/{room_id}/event/{event_id}",
    "/rooms/{room_id}/messages",
    "/rooms/{room_id}/members",
    "/rooms/{room_id}/initialSync",
    "/sync",
    "/events",
    "/media/download/{server_name}/{media_id}",
    "/media/download/{server_name}/{media_id}/{filename}",
    "/media/thumbnail/{server_name}/{media_id}",
    "/devices",
    "/devices/{device_id}",
    "/account/whoami",
    "/capabilities",
];

const POSTS: [&str; 8] = [
    "/rooms/{room_id}/join",
    "/rooms/{room_id}/leave",
    "/join/{room_id_or_alias}",
    "/keys/upload",
    "/keys/query",
    "/keys/claim",
    "/logout",
    "/logout/all",
];

const PUTS: [&str; 5] = [
    "/rooms/{room_id}/send/{event_type}/{txn_id}",
    "/rooms/{room_id}/state/{event_type}/{state_key}",
    "/sendToDevice/{event_type}/{txn_id}",
    "/profile/{user_id}/displayname",
    "/devices/{device_id}",
];

const DELETES: [&str; 1] = ["/profile/{user_id}/displayname"];

/// Whether a guest may use the endpoint with this method and path, the path as ruma writes it. `last_arg` is the
/// last of the path's arguments.
pub(crate) fn may_use(method: &Method, path: &str, last_arg: Option<&str>) -> bool {
    let allowed: &[&str] = match *method {
        Method::GET | Method::HEAD => &READS,
        Method::POST => &POSTS,
        Method::PUT => &PUTS,
        Method::DELETE => &DELETES,
        _ => &[],
    };
    // One of ruma's endpoints stands for all profile fields.
    let path = match path.strip_suffix("/{field}") {
        Some(profile) if last_arg == Some("displayname") => &format!("{profile}/displayname"),
        _ => path,
    };
    allowed.iter().any(|ending| path.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::may_use;
    use http::Method;

    #[test]
    fn guests_may_do_what_the_spec_lists_and_no_more() {
        let may = |method: Method, path: &str| may_use(&method, path, None);
        assert!(may(Method::GET, "/_matrix/client/v3/sync"));
        assert!(may(
            Method::PUT,
            "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}"
        ));
        assert!(may(Method::GET, "/_matrix/client/v3/account/whoami"));
        assert!(!may(Method::POST, "/_matrix/client/v3/createRoom"));
        assert!(!may(Method::POST, "/_matrix/client/v3/account/password"));
        assert!(!may(Method::DELETE, "/_matrix/client/v3/devices/{device_id}"));
        assert!(!may(
            Method::PUT,
            "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/{txn_id}"
        ));
    }

    #[test]
    fn guests_may_change_their_display_name_alone() {
        let field = "/_matrix/client/v3/profile/{user_id}/{field}";
        assert!(may_use(&Method::PUT, field, Some("displayname")));
        assert!(!may_use(&Method::PUT, field, Some("avatar_url")));
    }
}
