//! `register`, `register/available`.

use hearth_storage::accounts;
use ruma::{
    OwnedUserId,
    api::client::{account::register::RegistrationKind, uiaa::AuthData},
};

use super::{
    Password,
    credentials::CredentialsError,
    logins::{self, DeviceRequest, InvalidDeviceId, Login},
    secrets,
    uia::{self, Grant, Operation, UiaError},
    usernames::{self, UsernameError},
};
use crate::{Engine, Error};

/// Why nobody was registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Registration is closed.
    #[error("registration is closed")]
    Closed,
    /// Guests are not let in.
    #[error("guests are not let in")]
    GuestsRefused,
    /// Neither a user nor a guest was to be registered.
    #[error("there is no such kind of account")]
    UnknownKind,
    /// The name cannot be a user's.
    #[error(transparent)]
    InvalidUsername(#[from] UsernameError),
    /// Somebody has the name, or had it once.
    #[error("the user name is taken")]
    UsernameTaken,
    /// No password was given.
    #[error("a password is needed")]
    NoPassword,
    /// The password is empty.
    #[error("a password must not be empty")]
    EmptyPassword,
    /// The device cannot have this ID.
    #[error(transparent)]
    InvalidDeviceId(#[from] InvalidDeviceId),
    /// The client has yet to complete a flow.
    #[error(transparent)]
    Uia(#[from] UiaError),
    /// The password could not be hashed.
    #[error(transparent)]
    Hashing(CredentialsError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(RegisterError);

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// A user, or a guest.
    pub kind: RegistrationKind,
    /// The name; `None` has one made up.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Password>,
    /// The device to log in.
    pub device: DeviceRequest,
    /// Log no device in.
    pub inhibit_login: bool,
}

/// A new account.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device, unless that was inhibited.
    pub login: Option<Login>,
}

/// Registers whoever asks, if the server is open to them.
pub async fn register(
    engine: &Engine,
    registration: Registration,
    auth: Option<&AuthData>,
) -> Result<Registered, RegisterError> {
    match registration.kind {
        RegistrationKind::User => register_user(engine, registration, auth).await,
        RegistrationKind::Guest => register_guest(engine, registration.device).await,
        _ => Err(RegisterError::UnknownKind),
    }
}

async fn register_user(
    engine: &Engine,
    registration: Registration,
    auth: Option<&AuthData>,
) -> Result<Registered, RegisterError> {
    if !engine.config.registration.open {
        return Err(RegisterError::Closed);
    }
    // The specification has names checked before anyone authenticates.
    if let Some(username) = &registration.username {
        check_available(engine, username).await?;
    }
    let operation = Operation::register();
    let grant = uia::authorise(engine, &operation, None, auth).await?;
    let password = registration.password.ok_or(RegisterError::NoPassword)?;
    let new = NewUser {
        username: registration.username,
        password: Some(password),
        is_admin: false,
        is_guest: false,
        device: (!registration.inhibit_login).then_some(registration.device),
    };
    create(engine, new, Some((grant, &operation))).await
}

/// A guest has a name and a device of the server's choosing, and no password. Of what the client sends, only the
/// device's name counts.
async fn register_guest(engine: &Engine, device: DeviceRequest) -> Result<Registered, RegisterError> {
    if !engine.config.registration.guests {
        return Err(RegisterError::GuestsRefused);
    }
    let device = DeviceRequest {
        device_id: None,
        refreshes: false,
        ..device
    };
    let new = NewUser {
        username: None,
        password: None,
        is_admin: false,
        is_guest: true,
        device: Some(device),
    };
    create(engine, new, None).await
}

/// Whether a new user may have this name: succeeds if so.
pub async fn check_username(engine: &Engine, username: &str) -> Result<(), RegisterError> {
    // Where nobody may register, names are nobody's business.
    if !engine.config.registration.open {
        return Err(RegisterError::Closed);
    }
    check_available(engine, username).await
}

async fn check_available(engine: &Engine, username: &str) -> Result<(), RegisterError> {
    let user_id = usernames::new_user_id(username, &engine.config.server_name)?;
    let taken = accounts::find(&mut *engine.db.acquire().await?, &[user_id.to_string()]).await?;
    if taken.is_empty() {
        Ok(())
    } else {
        Err(RegisterError::UsernameTaken)
    }
}

/// An account to be made, whoever decided that it may be.
pub(super) struct NewUser {
    pub(super) username: Option<String>,
    pub(super) password: Option<Password>,
    pub(super) is_admin: bool,
    pub(super) is_guest: bool,
    /// `None`: log no device in.
    pub(super) device: Option<DeviceRequest>,
}

/// Makes an account. The one place where accounts begin.
pub(super) async fn create(
    engine: &Engine,
    new: NewUser,
    grant: Option<(Grant, &Operation)>,
) -> Result<Registered, RegisterError> {
    if new.password.as_ref().is_some_and(Password::is_empty) {
        return Err(RegisterError::EmptyPassword);
    }
    let user_id = match &new.username {
        Some(username) => usernames::new_user_id(username, &engine.config.server_name)?,
        None => made_up_user_id(engine, new.is_guest)?,
    };
    let device = new
        .device
        .map(|device| device.with_device_id(engine))
        .transpose()?;
    let password_hash = match &new.password {
        Some(password) => {
            let hash = engine.accounts.hashing.hash(&*engine.entropy, password).await;
            Some(hash.map_err(|error| RegisterError::Hashing(error.into()))?)
        }
        None => None,
    };
    let mut transaction = engine.db.begin().await?;
    if let Some((grant, operation)) = grant {
        grant.spend(engine, operation, &mut transaction).await?;
    }
    let numbers = engine.interner.new_user(&mut transaction, &user_id).await?;
    let user_nid = numbers.0;
    let account = accounts::NewAccount {
        user_nid,
        password_hash: password_hash.as_deref(),
        is_admin: new.is_admin,
        is_guest: new.is_guest,
        created_at: engine.clock.now_ms(),
    };
    if !accounts::insert(&mut transaction, account).await? {
        return Err(RegisterError::UsernameTaken);
    }
    let login = match device {
        Some((device_id, device)) => {
            let user = (&*user_id, user_nid);
            Some(
                logins::open(engine, &mut transaction, user, device_id, &device)
                    .await?
                    .0,
            )
        }
        None => None,
    };
    // Nothing else about a new account is cached.
    transaction.commit().await?;
    engine.interner.remember_new_user(numbers, &user_id);
    Ok(Registered { user_id, login })
}

/// A name nobody asked for: twelve random letters, 56 bits, which will not meet another such name.
fn made_up_user_id(engine: &Engine, is_guest: bool) -> Result<OwnedUserId, UsernameError> {
    let letters = secrets::letters(&*engine.entropy, 12, false);
    let localpart = if is_guest {
        format!("guest-{letters}")
    } else {
        letters
    };
    usernames::new_user_id(&localpart, &engine.config.server_name)
}
