//! Word to running servers from a process that has no committer, such as the command line: an account was changed.
//! A running server turns it into an entry of the log.

use sqlx::postgres::PgListener;

use crate::{Connection, Database, Result, UserNid};

const CHANNEL: &str = "hearth_account_changed";

/// Tells running servers that the tokens, devices or standing of a user were changed.
pub async fn account_changed(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, user_nid.0.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Hears what [`account_changed`] tells.
#[derive(Debug)]
pub struct AccountNotices(PgListener);

impl AccountNotices {
    /// Listens from now on, on a connection of its own.
    pub async fn listen(db: &Database) -> Result<Self> {
        let mut listener = PgListener::connect_with(db.pool()).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// The next user whose account was changed.
    pub async fn next(&mut self) -> Result<UserNid> {
        loop {
            let notice = self.0.recv().await?;
            if let Ok(user_nid) = notice.payload().parse() {
                return Ok(UserNid(user_nid));
            }
        }
    }
}
