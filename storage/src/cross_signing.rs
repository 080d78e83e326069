//! The tables `cross_signing_keys` and `key_signatures`.

use std::sync::Arc;

use crate::{Connection, Result, UserNid, text};

/// What a cross-signing key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum Usage {
    /// Stands for the user, and signs the other two.
    Master = 0,
    /// Signs the user's devices.
    SelfSigning = 1,
    /// Signs other users' master keys.
    UserSigning = 2,
}

impl Usage {
    fn from_number(number: i16) -> Self {
        match number {
            0 => Self::Master,
            1 => Self::SelfSigning,
            _ => Self::UserSigning,
        }
    }
}

/// A stored cross-signing key.
#[derive(Debug, Clone)]
pub struct CrossSigningKey {
    /// Whose it is.
    pub user_nid: UserNid,
    /// What it is for.
    pub usage: Usage,
    /// The key object, JSON, with the signatures it came with.
    pub key: Arc<str>,
}

/// A signature of a key, uploaded after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Whose key is signed.
    pub target_nid: UserNid,
    /// A device ID, or the public part of a master key.
    pub target_key: String,
    /// Who signed.
    pub signer_nid: UserNid,
    /// The ID of the key that signed, with its algorithm.
    pub signer_key: String,
    /// Unpadded base64.
    pub signature: String,
}

/// Serialises the changes of a user's cross-signing keys until the transaction ends.
pub async fn lock(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!(
        "SELECT user_nid FROM accounts WHERE user_nid = $1 FOR NO KEY UPDATE",
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// The cross-signing keys of users.
pub async fn of_users(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<CrossSigningKey>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, usage, key FROM cross_signing_keys WHERE user_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let keys = rows.into_iter().map(|row| CrossSigningKey {
        user_nid: UserNid(row.user_nid),
        usage: Usage::from_number(row.usage),
        key: text(row.key),
    });
    Ok(keys.collect())
}

/// Stores a cross-signing key in place of the one for the same use.
pub async fn set(connection: &mut Connection, user_nid: UserNid, usage: Usage, key: &str) -> Result<()> {
    sqlx::query!(
        "INSERT INTO cross_signing_keys (user_nid, usage, key) VALUES ($1, $2, $3)
         ON CONFLICT ON CONSTRAINT cross_signing_keys_pkey DO UPDATE SET key = excluded.key",
        user_nid.0,
        usage as i16,
        key.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops a cross-signing key.
pub async fn delete(connection: &mut Connection, user_nid: UserNid, usage: Usage) -> Result<()> {
    sqlx::query!(
        "DELETE FROM cross_signing_keys WHERE user_nid = $1 AND usage = $2",
        user_nid.0,
        usage as i16
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops the signatures that a user made with a key, which is one of theirs no more, and those of that key.
pub async fn drop_signatures_of_key(
    connection: &mut Connection,
    user_nid: UserNid,
    key_id: &str,
    public_key: &str,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM key_signatures
         WHERE (signer_nid = $1 AND signer_key = $2) OR (target_nid = $1 AND target_key = $3)",
        user_nid.0,
        key_id,
        public_key
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores signatures. Gives those that are new, or other than they were.
pub async fn sign(connection: &mut Connection, signatures: &[Signature]) -> Result<Vec<(UserNid, String)>> {
    let target_nids: Vec<i64> = signatures.iter().map(|one| one.target_nid.0).collect();
    let signer_nids: Vec<i64> = signatures.iter().map(|one| one.signer_nid.0).collect();
    let target_keys: Vec<&str> = signatures.iter().map(|one| one.target_key.as_str()).collect();
    let signer_keys: Vec<&str> = signatures.iter().map(|one| one.signer_key.as_str()).collect();
    let values: Vec<&str> = signatures.iter().map(|one| one.signature.as_str()).collect();
    let rows = sqlx::query!(
        "INSERT INTO key_signatures AS old (target_nid, signer_nid, target_key, signer_key, signature)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
         ON CONFLICT ON CONSTRAINT key_signatures_pkey DO UPDATE SET signature = excluded.signature
             WHERE old.signature <> excluded.signature
         RETURNING target_nid, target_key",
        &target_nids,
        &signer_nids,
        &target_keys as &[&str],
        &signer_keys as &[&str],
        &values as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (UserNid(row.target_nid), row.target_key))
        .collect())
}

/// The signatures of users' keys that everyone may see, which are those by the users themselves, and those that
/// `viewer` made.
pub async fn signatures(
    connection: &mut Connection,
    target_nids: &[UserNid],
    viewer: Option<UserNid>,
) -> Result<Vec<Signature>> {
    let nids: Vec<i64> = target_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT target_nid, target_key, signer_nid, signer_key, signature FROM key_signatures
         WHERE target_nid = ANY($1) AND (signer_nid = target_nid OR signer_nid = $2)",
        &nids,
        viewer.map(|nid| nid.0)
    )
    .fetch_all(connection)
    .await?;
    let signatures = rows.into_iter().map(|row| Signature {
        target_nid: UserNid(row.target_nid),
        target_key: row.target_key,
        signer_nid: UserNid(row.signer_nid),
        signer_key: row.signer_key,
        signature: row.signature,
    });
    Ok(signatures.collect())
}
