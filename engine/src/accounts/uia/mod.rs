//! User-interactive authentication: a dialogue in which whoever asks for an [`Operation`] completes the stages of
//! one of its flows ([specification]).
//!
//! A session belongs to one operation, with what it would do and whose it is, and authorises it once. Sessions are
//! stored, since any node may get a dialogue's next request. A single stage that completes a flow needs none, as
//! clients of today send it at once.
//!
//! A new kind of authentication is a variant of [`Stage`], its attempt in `stages.rs`, and its place in the flows of
//! an operation.
//!
//! [specification]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api

mod operation;
mod stages;

use hearth_storage::{Connection, uia_sessions};
use ruma::api::client::uiaa::{AuthData, AuthType};

pub use operation::{Flow, Operation};
pub use stages::{Stage, StageFailure};

use super::{
    Requester,
    credentials::CredentialsError,
    secrets::{self, SecretHash},
};
use crate::{Engine, Error};

/// How long a dialogue may take.
const SESSION_LIFETIME_MS: i64 = 15 * 60 * 1000;

/// How many attempts may fail in one dialogue.
const MAX_FAILURES: i32 = 10;

/// Why an operation is not authorised.
#[derive(Debug, thiserror::Error)]
pub enum UiaError {
    /// Stages are missing.
    #[error("further authentication is needed")]
    Challenge(Box<Challenge>),
    /// The session is another operation's.
    #[error("the session belongs to another operation")]
    OtherOperation,
    /// The credentials may be right, but the operation is another user's.
    #[error("the credentials are not those of the user whose operation it is")]
    OtherUser,
    /// The credentials could not be checked.
    #[error(transparent)]
    Credentials(CredentialsError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(UiaError);

/// What the client has yet to do.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// The flows, any of which will do.
    pub flows: Vec<Vec<AuthType>>,
    /// The stages completed so far, in order.
    pub completed: Vec<AuthType>,
    /// The session's ID, to be sent along from now on.
    pub session: String,
    /// Why the attempt that this answers failed.
    pub failure: Option<StageFailure>,
}

/// An operation may be done, once: [`spend`](Self::spend) this in the transaction that does it.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    session: Option<SecretHash>,
}

/// A session as a request finds it.
struct Session {
    id: String,
    hash: SecretHash,
    completed: Vec<Stage>,
}

/// Lets an operation be done if `auth` completes one of its flows. `requester` is whose operation it is; nobody's
/// for a registration.
pub async fn authorise(
    engine: &Engine,
    operation: &Operation,
    requester: Option<&Requester>,
    auth: Option<&AuthData>,
) -> Result<Grant, UiaError> {
    let Some(auth) = auth else {
        return Err(challenge(engine, operation, None, Vec::new(), None).await?);
    };
    // A session that is unknown or expired is no obstacle: what was sent with it counts as the beginning of another.
    let session = match auth.session() {
        Some(id) => find_session(engine, operation, id).await?,
        None => None,
    };
    let mut completed = session
        .as_ref()
        .map_or_else(Vec::new, |session| session.completed.clone());
    let failure = match auth
        .auth_type()
        .map(|auth_type| Stage::from_auth_type(&auth_type))
    {
        // A stage was completed elsewhere, says the client.
        None => None,
        Some(None) => Some(StageFailure::UnknownStage),
        Some(Some(stage)) if completed.contains(&stage) => None,
        Some(Some(stage)) if !operation.continues(&completed, stage) => Some(StageFailure::NotNext),
        Some(Some(stage)) => {
            let failure = stages::attempt(engine, requester, auth).await?;
            if failure.is_none() {
                completed.push(stage);
            }
            failure
        }
    };
    if failure.is_none() && operation.is_complete(&completed) {
        if let (Some(session), Some(stage)) = (&session, completed.last()) {
            // If the operation fails for another reason, the client need not authenticate again.
            uia_sessions::complete(&mut *engine.db.acquire().await?, &session.hash, stage.name()).await?;
        }
        return Ok(Grant {
            session: session.map(|session| session.hash),
        });
    }
    Err(challenge(engine, operation, session, completed, failure).await?)
}

impl Grant {
    /// Uses the session up. Fails with a new challenge where another request has used it meanwhile.
    pub async fn spend(
        self,
        engine: &Engine,
        operation: &Operation,
        connection: &mut Connection,
    ) -> Result<(), UiaError> {
        match &self.session {
            Some(hash) if !uia_sessions::delete(connection, hash).await? => {
                Err(challenge(engine, operation, None, Vec::new(), None).await?)
            }
            _ => Ok(()),
        }
    }
}

async fn find_session(engine: &Engine, operation: &Operation, id: &str) -> Result<Option<Session>, UiaError> {
    let hash = secrets::hash(id);
    let now = engine.clock.now_ms();
    let Some(found) = uia_sessions::find(&mut *engine.db.acquire().await?, &hash, now).await? else {
        return Ok(None);
    };
    if found.operation != operation.digest() {
        return Err(UiaError::OtherOperation);
    }
    let completed = found
        .completed
        .iter()
        .filter_map(|name| Stage::from_auth_type(&name.as_str().into()))
        .collect();
    Ok(Some(Session {
        id: id.to_owned(),
        hash,
        completed,
    }))
}

/// What to answer while stages are missing: in the session, or in a new one if there is none or it failed too often.
async fn challenge(
    engine: &Engine,
    operation: &Operation,
    session: Option<Session>,
    mut completed: Vec<Stage>,
    failure: Option<StageFailure>,
) -> Result<UiaError, Error> {
    let mut connection = engine.db.acquire().await?;
    let mut session = session;
    if let (Some(open), Some(_)) = (&session, failure) {
        let failures = uia_sessions::count_failure(&mut connection, &open.hash).await?;
        if failures.is_none_or(|failures| failures >= MAX_FAILURES) {
            uia_sessions::delete(&mut connection, &open.hash).await?;
            session = None;
            completed.clear();
        }
    }
    let (id, hash) = match session {
        Some(session) => (session.id, session.hash),
        None => {
            let id = engine.entropy.alphanumeric(24);
            let (hash, now) = (secrets::hash(&id), engine.clock.now_ms());
            uia_sessions::insert(
                &mut connection,
                &hash,
                operation.digest(),
                now,
                now + SESSION_LIFETIME_MS,
            )
            .await?;
            (id, hash)
        }
    };
    for stage in &completed {
        uia_sessions::complete(&mut connection, &hash, stage.name()).await?;
    }
    let flows = operation
        .flows()
        .iter()
        .map(|flow| flow.iter().map(|stage| stage.auth_type()).collect())
        .collect();
    let completed = completed.into_iter().map(Stage::auth_type).collect();
    Ok(UiaError::Challenge(Box::new(Challenge {
        flows,
        completed,
        session: id,
        failure,
    })))
}
