//! Profiles: what this server's users say of themselves (client-server API, "Profiles").
//!
//! The name and the avatar are also in the member events of the user's rooms, where [`propagate`] takes them.

pub(crate) mod elsewhere;
pub(crate) mod propagate;

use std::sync::Arc;

use hearth_storage::{UserNid, accounts, profiles};
use ruma::{MxcUri, OwnedServerName, UserId};
use serde_json::Value;
use tokio::sync::watch;

use crate::{Engine, Error, accounts::Requester, remote::RemoteError};

/// `displayname`
const NAME: &str = "displayname";
/// `avatar_url`
const AVATAR: &str = "avatar_url";
/// `m.tz`
const TIME_ZONE: &str = "m.tz";

/// A profile is smaller than this, in bytes of JSON.
const MAX_PROFILE_BYTES: usize = 64 << 10;
/// The name of a field is at most this long, in bytes.
const MAX_FIELD_BYTES: usize = 255;
/// A display name or the URL of an avatar is at most this long, in bytes: it goes into every member event of the user,
/// and into whatever shows a list of members.
const MAX_MEMBER_FIELD_BYTES: usize = 1024;

/// What goes into member events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar, an `mxc` URI.
    pub avatar_url: Option<String>,
}

/// Why a profile was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// This server has no such user.
    #[error("this server has no such user")]
    UnknownUser,
    /// The user's profile has no such field.
    #[error("the profile has no such field")]
    UnknownField,
    /// It is another user's.
    #[error("you can change your own profile only")]
    NotYours,
    /// No field may have this name.
    #[error("no field of a profile may have this name")]
    BadField,
    /// The name of a field is too long.
    #[error("the name of a field is at most {MAX_FIELD_BYTES} bytes long")]
    FieldTooLong,
    /// The request has no value for the field that it sets.
    #[error("the body has no `{0}`")]
    NoValue(String),
    /// The field can't have a value of this kind.
    #[error("{0}")]
    BadValue(&'static str),
    /// The field can't have this value.
    #[error("{0}")]
    InvalidValue(String),
    /// The profile would become too large.
    #[error("a profile is smaller than {MAX_PROFILE_BYTES} bytes")]
    TooLarge,
    /// The user's server gave no answer.
    #[error("{0}: {1}")]
    Elsewhere(OwnedServerName, RemoteError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for ProfileError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// What goes into the member events of a user. Empty for one who said nothing, and for users of other servers.
pub async fn of(engine: &Engine, user_nid: UserNid) -> Result<Profile, Error> {
    let mut connection = engine.db.acquire().await?;
    let (displayname, avatar_url) = profiles::name_and_avatar(&mut connection, user_nid).await?;
    Ok(Profile {
        displayname: as_string(displayname),
        avatar_url: as_string(avatar_url),
    })
}

fn as_string(json: Option<Arc<str>>) -> Option<String> {
    serde_json::from_str(&json?).ok()
}

/// Follows how many users have a name or an avatar that is on its way to their rooms.
pub fn watch_propagations(engine: &Engine) -> watch::Receiver<usize> {
    engine.propagations.watch()
}

/// The whole profile of a user, by field. A user who said nothing has an empty one.
pub async fn get(engine: &Engine, user_id: &UserId) -> Result<Vec<(String, Value)>, ProfileError> {
    if user_id.server_name() != engine.config.server_name {
        let fields = elsewhere::get(engine, user_id).await?;
        return Ok(fields
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect());
    }
    let user_nid = known_user(engine, user_id).await?;
    let mut connection = engine.db.acquire().await?;
    let fields = profiles::fields(&mut connection, user_nid).await?;
    Ok(fields
        .into_iter()
        .filter_map(|(field, json)| Some((field, serde_json::from_str(&json).ok()?)))
        .collect())
}

/// The value of one field of a user's profile.
pub async fn get_field(engine: &Engine, user_id: &UserId, field: &str) -> Result<Value, ProfileError> {
    if user_id.server_name() != engine.config.server_name {
        return elsewhere::get_field(engine, user_id, field).await;
    }
    let user_nid = known_user(engine, user_id).await?;
    let mut connection = engine.db.acquire().await?;
    let json = profiles::field(&mut connection, user_nid, field)
        .await?
        .ok_or(ProfileError::UnknownField)?;
    serde_json::from_str(&json).map_err(|error| Error::Damaged(format!("a profile field: {error}")).into())
}

/// Sets a field of the requester's own profile. `value` is nothing when the request forgot it. A name or avatar that is
/// an empty string is one that is deleted, which is how clients do it that know no other way.
pub async fn set_field(
    engine: &Arc<Engine>,
    requester: &Requester,
    user_id: &UserId,
    field: &str,
    value: Option<Value>,
) -> Result<(), ProfileError> {
    check_access(requester, user_id, field)?;
    let value = value.ok_or_else(|| ProfileError::NoValue(field.to_owned()))?;
    check_value(field, &value)?;
    let deletes = is_in_member_events(field) && value == "";
    change(engine, requester.user_nid, field, (!deletes).then_some(&value)).await
}

/// Deletes a field of the requester's own profile. It is no error if it isn't there.
pub async fn delete_field(
    engine: &Arc<Engine>,
    requester: &Requester,
    user_id: &UserId,
    field: &str,
) -> Result<(), ProfileError> {
    check_access(requester, user_id, field)?;
    change(engine, requester.user_nid, field, None).await
}

async fn change(
    engine: &Arc<Engine>,
    user_nid: UserNid,
    field: &str,
    value: Option<&Value>,
) -> Result<(), ProfileError> {
    let json = value.map(ToString::to_string);
    let mut transaction = engine.db.begin().await?;
    profiles::lock(&mut transaction, user_nid).await?;
    let mut fields = profiles::fields(&mut transaction, user_nid).await?;
    let before = fields
        .iter()
        .position(|(name, _)| name == field)
        .map(|index| fields.swap_remove(index).1);
    if before.as_deref() == json.as_deref() {
        return Ok(());
    }
    match &json {
        Some(json) => {
            let others = fields
                .iter()
                .map(|(name, value)| size(name, value))
                .sum::<usize>();
            if "{}".len() + others + size(field, json) >= MAX_PROFILE_BYTES {
                return Err(ProfileError::TooLarge);
            }
            profiles::set_field(&mut transaction, user_nid, field, json).await?;
        }
        None => drop(profiles::delete_field(&mut transaction, user_nid, field).await?),
    }
    let propagates = is_in_member_events(field);
    if propagates {
        profiles::note_propagation(&mut transaction, user_nid).await?;
    }
    transaction.commit().await?;
    if propagates {
        propagate::start(engine, user_nid);
    }
    Ok(())
}

/// What a field takes of the profile's JSON: the name in quotes, a colon, the value, a comma.
fn size(field: &str, json: &str) -> usize {
    field.len() + json.len() + 4
}

fn is_in_member_events(field: &str) -> bool {
    [NAME, AVATAR].contains(&field)
}

async fn known_user(engine: &Engine, user_id: &UserId) -> Result<UserNid, ProfileError> {
    if user_id.server_name() != engine.config.server_name {
        return Err(ProfileError::UnknownUser);
    }
    let mut connection = engine.db.acquire().await?;
    let account = accounts::find(&mut connection, &[user_id.to_string()])
        .await?
        .pop();
    account
        .map(|account| account.user_nid)
        .ok_or(ProfileError::UnknownUser)
}

fn check_access(requester: &Requester, user_id: &UserId, field: &str) -> Result<(), ProfileError> {
    if requester.user_id != user_id {
        return Err(ProfileError::NotYours);
    }
    if field.len() > MAX_FIELD_BYTES {
        return Err(ProfileError::FieldTooLong);
    }
    if [NAME, AVATAR, TIME_ZONE].contains(&field) || is_namespaced(field) {
        return Ok(());
    }
    Err(ProfileError::BadField)
}

/// The Common Namespaced Identifier Grammar (appendices), of which a custom field has at least two parts.
fn is_namespaced(field: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase())
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    field.contains('.') && field.split('.').all(is_part)
}

fn check_value(field: &str, value: &Value) -> Result<(), ProfileError> {
    let text = || value.as_str();
    match field {
        NAME | AVATAR => {
            let text = text().ok_or(ProfileError::BadValue("a name or an avatar is a string"))?;
            if text.len() > MAX_MEMBER_FIELD_BYTES {
                let reason = format!("a name or an avatar is at most {MAX_MEMBER_FIELD_BYTES} bytes long");
                return Err(ProfileError::InvalidValue(reason));
            }
            if field == AVATAR && !text.is_empty() && <&MxcUri>::from(text).validate().is_err() {
                return Err(ProfileError::InvalidValue("an avatar is an mxc URI".to_owned()));
            }
            Ok(())
        }
        TIME_ZONE if text().is_none() => Err(ProfileError::BadValue("a time zone is a string")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{AVATAR, NAME, ProfileError, check_value, is_namespaced};

    #[test]
    fn custom_fields_have_a_namespace() {
        for good in [
            "org.example.pronouns",
            "m.status",
            "us.cloke.msc4175.tz",
            "com.example.with-dash_and_2",
        ] {
            assert!(is_namespaced(good), "{good}");
        }
        for bad in [
            "pronouns",
            "",
            ".",
            "org.",
            ".org",
            "Org.example",
            "org..example",
            "org.exämple",
            "org.1a",
            "a b.c",
        ] {
            assert!(!is_namespaced(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_short_strings_and_avatars_are_mxc_uris() {
        assert!(check_value(NAME, &json!("Alice")).is_ok());
        assert!(check_value(AVATAR, &json!("mxc://example.org/abc")).is_ok());
        assert!(check_value(AVATAR, &json!("")).is_ok());
        assert!(matches!(
            check_value(NAME, &json!(null)),
            Err(ProfileError::BadValue(_))
        ));
        assert!(matches!(
            check_value(AVATAR, &json!(["mxc://a/b"])),
            Err(ProfileError::BadValue(_))
        ));
        assert!(matches!(
            check_value(AVATAR, &json!("https://a/b")),
            Err(ProfileError::InvalidValue(_))
        ));
        assert!(matches!(
            check_value(NAME, &json!("x".repeat(1025))),
            Err(ProfileError::InvalidValue(_))
        ));
        assert!(check_value("org.example.anything", &json!(null)).is_ok());
    }
}
