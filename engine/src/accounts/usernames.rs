//! Which names new users may have, and which user a typed name means.
//!
//! New user IDs follow today's grammar ([user identifiers]); capitals are made small, as the specification asks of
//! servers. Users of other servers, and accounts brought over from elsewhere, may have [historical] IDs: those are
//! ruma's business, and nothing here looks at them.
//!
//! [user identifiers]: https://spec.matrix.org/v1.19/appendices/#user-identifiers
//! [historical]: https://spec.matrix.org/v1.19/appendices/#historical-user-ids

use ruma::{OwnedUserId, ServerName, UserId};

/// A user ID's greatest length, with sigil and server name.
const MAX_USER_ID_BYTES: usize = 255;

/// Why a name cannot be a new user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsernameError {
    /// Nothing was given.
    #[error("a user name must not be empty")]
    Empty,
    /// It has a character that user IDs must not have.
    #[error("a user name may contain only a-z, 0-9, and the characters . _ = - / +")]
    Character,
    /// It begins with an underscore: such names are left to bridges.
    #[error("a user name must not begin with an underscore")]
    Reserved,
    /// The user ID would exceed 255 bytes.
    #[error("the user name is too long")]
    TooLong,
}

/// The ID that a new user of this name would get.
pub fn new_user_id(username: &str, server_name: &ServerName) -> Result<OwnedUserId, UsernameError> {
    let localpart = username.to_ascii_lowercase();
    if localpart.is_empty() {
        return Err(UsernameError::Empty);
    }
    let allowed =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
    if !localpart.bytes().all(allowed) {
        return Err(UsernameError::Character);
    }
    if localpart.starts_with('_') {
        return Err(UsernameError::Reserved);
    }
    let user_id = format!("@{localpart}:{server_name}");
    if user_id.len() > MAX_USER_ID_BYTES {
        return Err(UsernameError::TooLong);
    }
    UserId::parse(user_id).map_err(|_| UsernameError::Character)
}

/// The IDs that someone who types `name` may mean, the likeliest first: a localpart or a full user ID, as typed
/// and, since users do not differ in case alone, in small letters. Empty for other servers' users.
pub(crate) fn meant_by(name: &str, server_name: &ServerName) -> Vec<String> {
    let typed = if name.starts_with('@') {
        name.to_owned()
    } else {
        format!("@{name}:{server_name}")
    };
    let Ok(user_id) = UserId::parse(typed) else {
        return Vec::new();
    };
    if user_id.server_name() != server_name {
        return Vec::new();
    }
    let small = format!("@{}:{server_name}", user_id.localpart().to_ascii_lowercase());
    let mut meant = vec![user_id.to_string()];
    if meant[0] != small {
        meant.push(small);
    }
    meant
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn new(username: &str) -> Result<String, UsernameError> {
        new_user_id(username, server_name!("example.org")).map(|user_id| user_id.to_string())
    }

    #[test]
    fn new_names_follow_the_grammar() {
        assert_eq!(new("alice").unwrap(), "@alice:example.org");
        assert_eq!(new("a.b_c=d-e/f+0").unwrap(), "@a.b_c=d-e/f+0:example.org");
        for bad in [
            "a:b",
            "a b",
            "é",
            "a@b",
            "@alice:example.org",
            "a\0",
            "a\n",
            "\u{212a}elvin",
        ] {
            assert_eq!(new(bad), Err(UsernameError::Character), "{bad}");
        }
        assert_eq!(new(""), Err(UsernameError::Empty));
        assert_eq!(new("_bridge_bot"), Err(UsernameError::Reserved));
    }

    #[test]
    fn capitals_are_made_small() {
        assert_eq!(new("User-UPPER").unwrap(), "@user-upper:example.org");
    }

    #[test]
    fn user_id_has_255_bytes_at_most() {
        let room = 255 - "@:example.org".len();
        assert_eq!(new(&"a".repeat(room)).unwrap().len(), 255);
        assert_eq!(new(&"a".repeat(room + 1)), Err(UsernameError::TooLong));
    }

    #[test]
    fn localpart_and_user_id_mean_the_same() {
        let meant = |name| meant_by(name, server_name!("example.org"));
        assert_eq!(meant("alice"), ["@alice:example.org"]);
        assert_eq!(meant("@alice:example.org"), ["@alice:example.org"]);
        assert_eq!(meant("Alice"), ["@Alice:example.org", "@alice:example.org"]);
        assert!(meant("@alice:elsewhere.org").is_empty());
        assert!(meant("@alice").is_empty());
        assert!(meant("a\0").is_empty());
    }
}
