//! Membership across servers (server-server API, "Joining Rooms", "Leaving Rooms", "Inviting to a room", "Knocking upon a
//! room"): what this server asks of others on behalf of its users, and what it does for theirs.

mod arrive;
mod ended;
mod invite;
pub(crate) mod invited;
mod join;
mod knock;
mod leave;
mod outsider;
mod propose;
pub(crate) mod serve;
mod turns;

pub(in crate::rooms) use ended::end_by_other;
pub use invite::InviteError;
pub(in crate::rooms) use invite::{invite_remote, invite_remote_by};
pub(in crate::rooms) use join::{RemoteJoin, join_through};
pub(in crate::rooms) use knock::knock_through;
pub(in crate::rooms) use leave::leave_through;
pub(crate) use outsider::inviting_servers;
pub(in crate::rooms) use propose::propose;
pub(crate) use turns::JoinTurns;

use ruma::OwnedServerName;

use crate::{Error, remote::RemoteError};

/// Why other servers did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// There is no other server to ask.
    #[error("no server is known that is in this room")]
    NoServers,
    /// A server says that the user may not.
    #[error("{0}")]
    Forbidden(String),
    /// The room is unknown to the servers that were asked.
    #[error("{0}")]
    NotFound(String),
    /// The room is of a version that isn't known here.
    #[error("the room is of version {0}, which this server does not know")]
    UnsupportedVersion(String),
    /// None of the servers asked could do it: what the last said.
    #[error("{server}: {error}")]
    Remote {
        /// The server.
        server: OwnedServerName,
        /// What went wrong.
        error: RemoteError,
    },
    /// A server answered what can't be true.
    #[error("{server} gave an answer that can't be used: {reason}")]
    BadAnswer {
        /// The server.
        server: OwnedServerName,
        /// What is wrong with it.
        reason: String,
    },
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl HandshakeError {
    /// What `server` said, as a cause.
    pub(in crate::rooms) fn said(server: &OwnedServerName, error: RemoteError) -> Self {
        match error {
            RemoteError::NotAllowed(reason) => Self::Forbidden(format!("{server}: {reason}")),
            RemoteError::Refused {
                status: 403, error, ..
            } => Self::Forbidden(error),
            RemoteError::Refused {
                status: 404, error, ..
            } => Self::NotFound(error),
            RemoteError::Refused {
                ref errcode,
                ref body,
                ..
            } if errcode == "M_INCOMPATIBLE_ROOM_VERSION" => {
                let version = body.as_ref().and_then(|body| body.get("room_version")?.as_str());
                Self::UnsupportedVersion(version.unwrap_or("unknown").to_owned())
            }
            error => Self::Remote {
                server: server.clone(),
                error,
            },
        }
    }

    fn bad(server: &OwnedServerName, reason: impl Into<String>) -> Self {
        Self::BadAnswer {
            server: server.clone(),
            reason: reason.into(),
        }
    }

    /// Whether no other server would answer otherwise.
    fn is_final(&self) -> bool {
        matches!(self, Self::UnsupportedVersion(_) | Self::Failed(_))
    }
}
