//! The table `accounts`: the users who were registered here.

use crate::{Connection, Result, UserNid};

/// A row to insert.
#[derive(Debug, Clone, Copy)]
pub struct NewAccount<'a> {
    /// The user.
    pub user_nid: UserNid,
    /// PHC string; `None` when no password is to open the account.
    pub password_hash: Option<&'a str>,
    /// May use the administration API.
    pub is_admin: bool,
    /// Registered as a guest.
    pub is_guest: bool,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A stored account.
#[derive(Clone)]
pub struct Account {
    /// The user.
    pub user_nid: UserNid,
    /// The user's ID.
    pub user_id: String,
    /// PHC string; `None` when no password opens the account.
    pub password_hash: Option<String>,
    /// May use the administration API.
    pub is_admin: bool,
    /// Registered as a guest.
    pub is_guest: bool,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Milliseconds since the Unix epoch; `None` while the account is in use.
    pub deactivated_at: Option<i64>,
}

impl std::fmt::Debug for Account {
    /// Leaves the password hash out: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("user_id", &self.user_id)
            .finish_non_exhaustive()
    }
}

/// Adds an account. `false`: the user has one, perhaps a deactivated one.
pub async fn insert(connection: &mut Connection, account: NewAccount<'_>) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO accounts (user_nid, password_hash, is_admin, is_guest, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT ON CONSTRAINT accounts_pkey DO NOTHING",
        account.user_nid.0,
        account.password_hash,
        account.is_admin,
        account.is_guest,
        account.created_at
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The accounts among `user_ids`, in no order.
pub async fn find(connection: &mut Connection, user_ids: &[String]) -> Result<Vec<Account>> {
    let accounts = sqlx::query_as!(
        Account,
        "SELECT user_nid, user_id, password_hash, is_admin, is_guest, created_at, deactivated_at
         FROM accounts JOIN users USING (user_nid) WHERE user_id = ANY($1)",
        user_ids
    )
    .fetch_all(connection)
    .await?;
    Ok(accounts)
}

/// Up to `limit` accounts whose user IDs sort after `after`, in that order.
pub async fn list(connection: &mut Connection, after: &str, limit: i64) -> Result<Vec<Account>> {
    let accounts = sqlx::query_as!(
        Account,
        r#"SELECT user_nid, user_id, password_hash, is_admin, is_guest, created_at, deactivated_at
           FROM accounts JOIN users USING (user_nid)
           WHERE user_id COLLATE "C" > $1 ORDER BY user_id COLLATE "C" LIMIT $2"#,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(accounts)
}

/// Holds the account as it is until the transaction ends, if its password hash is still this one and it is not
/// deactivated. `false`: it changed.
pub async fn hold_unchanged(
    connection: &mut Connection,
    user_nid: UserNid,
    password_hash: Option<&str>,
) -> Result<bool> {
    let row = sqlx::query!(
        "SELECT user_nid FROM accounts
         WHERE user_nid = $1 AND password_hash IS NOT DISTINCT FROM $2 AND deactivated_at IS NULL FOR SHARE",
        user_nid.0,
        password_hash
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

/// Gives an account in use another password hash. `false`: there is none, or it is deactivated.
pub async fn set_password_hash(
    connection: &mut Connection,
    user_nid: UserNid,
    password_hash: &str,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE accounts SET password_hash = $2 WHERE user_nid = $1 AND deactivated_at IS NULL",
        user_nid.0,
        password_hash
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Replaces one password hash by another of the same password. `false`: the hash was no longer `old`.
pub async fn replace_password_hash(
    connection: &mut Connection,
    user_nid: UserNid,
    old: &str,
    new: &str,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE accounts SET password_hash = $3 WHERE user_nid = $1 AND password_hash = $2",
        user_nid.0,
        old,
        new
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deactivates an account, forgets its password, and notes that it has rooms to leave. `false`: it is deactivated
/// already, or there is none.
pub async fn deactivate(
    connection: &mut Connection,
    user_nid: UserNid,
    deactivated_at: i64,
    erase_requested: bool,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE accounts SET password_hash = NULL, deactivated_at = $2, erase_requested = $3, leaves_rooms = true
         WHERE user_nid = $1 AND deactivated_at IS NULL",
        user_nid.0,
        deactivated_at,
        erase_requested
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The deactivated accounts that may still be in rooms.
pub async fn leaving_rooms(connection: &mut Connection) -> Result<Vec<(UserNid, String)>> {
    let rows =
        sqlx::query!("SELECT user_nid, user_id FROM accounts JOIN users USING (user_nid) WHERE leaves_rooms")
            .fetch_all(connection)
            .await?;
    Ok(rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), row.user_id))
        .collect())
}

/// Notes that a deactivated account has left its rooms.
pub async fn has_left_rooms(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!(
        "UPDATE accounts SET leaves_rooms = false WHERE user_nid = $1",
        user_nid.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
