//! The tables `access_tokens` and `refresh_tokens`.
//!
//! Tokens of a device come in issues, counted by its refreshes. Of a device that refreshes there are at most two:
//! the one in use, and the next one until something of it is used.

use crate::{Connection, DeviceNid, Result, UserNid};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// An access token and whom it speaks for.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The user.
    pub user_nid: UserNid,
    /// The user's ID.
    pub user_id: String,
    /// May use the administration API.
    pub is_admin: bool,
    /// Registered as a guest.
    pub is_guest: bool,
    /// The device.
    pub device_nid: DeviceNid,
    /// The device's ID.
    pub device_id: String,
    /// When the device was last seen, in milliseconds since the Unix epoch.
    pub last_seen_at: Option<i64>,
    /// The issue that the token belongs to.
    pub issue: i32,
    /// From when on it means a soft logout, in milliseconds since the Unix epoch; `None` for never.
    pub expires_at: Option<i64>,
    /// An earlier issue can still be refreshed: the first use of this token is to end that.
    pub supersedes: bool,
}

/// A refresh token and what it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct RefreshToken {
    /// The user.
    pub user_nid: UserNid,
    /// The device.
    pub device_nid: DeviceNid,
    /// The issue that the token belongs to.
    pub issue: i32,
}

/// Adds an access token.
pub async fn insert_access(
    connection: &mut Connection,
    hash: &TokenHash,
    device_nid: DeviceNid,
    issue: i32,
    expires_at: Option<i64>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO access_tokens (token_hash, device_nid, issue, expires_at) VALUES ($1, $2, $3, $4)",
        hash.as_slice(),
        device_nid.0,
        issue,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a refresh token.
pub async fn insert_refresh(
    connection: &mut Connection,
    hash: &TokenHash,
    device_nid: DeviceNid,
    issue: i32,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, device_nid, issue) VALUES ($1, $2, $3)",
        hash.as_slice(),
        device_nid.0,
        issue
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The access token with this hash.
pub async fn find_access(connection: &mut Connection, hash: &TokenHash) -> Result<Option<AccessToken>> {
    let token = sqlx::query_as!(
        AccessToken,
        r#"SELECT user_nid, user_id, is_admin, is_guest, device_nid, device_id, last_seen_at, issue, expires_at,
               EXISTS (
                   SELECT FROM refresh_tokens AS earlier
                   WHERE earlier.device_nid = access_tokens.device_nid AND earlier.issue < access_tokens.issue
               ) AS "supersedes!"
           FROM access_tokens
           JOIN devices USING (device_nid) JOIN accounts USING (user_nid) JOIN users USING (user_nid)
           WHERE token_hash = $1"#,
        hash.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(token)
}

/// The refresh token with this hash.
pub async fn find_refresh(connection: &mut Connection, hash: &TokenHash) -> Result<Option<RefreshToken>> {
    let token = sqlx::query_as!(
        RefreshToken,
        "SELECT user_nid, device_nid, issue FROM refresh_tokens JOIN devices USING (device_nid) WHERE token_hash = $1",
        hash.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(token)
}

/// Ends the issues before `issue`: their refresh tokens are deleted, and their access tokens expire at `now`. These
/// stay until [`delete_before`], so that a request still under way is told to refresh rather than logged out.
pub async fn expire_before(
    connection: &mut Connection,
    device_nid: DeviceNid,
    issue: i32,
    now: i64,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM refresh_tokens WHERE device_nid = $1 AND issue < $2",
        device_nid.0,
        issue
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE access_tokens SET expires_at = least(expires_at, $3) WHERE device_nid = $1 AND issue < $2",
        device_nid.0,
        issue,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the tokens of the issues before `issue`.
pub async fn delete_before(connection: &mut Connection, device_nid: DeviceNid, issue: i32) -> Result<()> {
    sqlx::query!(
        "DELETE FROM refresh_tokens WHERE device_nid = $1 AND issue < $2",
        device_nid.0,
        issue
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM access_tokens WHERE device_nid = $1 AND issue < $2",
        device_nid.0,
        issue
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the tokens of the issues after `issue`.
pub async fn delete_after(connection: &mut Connection, device_nid: DeviceNid, issue: i32) -> Result<()> {
    sqlx::query!(
        "DELETE FROM refresh_tokens WHERE device_nid = $1 AND issue > $2",
        device_nid.0,
        issue
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM access_tokens WHERE device_nid = $1 AND issue > $2",
        device_nid.0,
        issue
    )
    .execute(connection)
    .await?;
    Ok(())
}
