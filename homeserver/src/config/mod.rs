//! The configuration: `hearth.toml`, overridden key by key by `HEARTH_SECTION__KEY`.
//!
//! [`settings`] says what can be set and what it defaults to; [`values`] owns the kinds of value that need
//! checking; [`tree`] keeps where each key was written, so that an error can name the place; [`environment`]
//! lays the variables over the file. Nothing here opens a socket or a database.

mod environment;
mod error;
mod settings;
mod tree;
mod values;

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;

pub use error::{ConfigError, Origin};
pub use settings::{
    ApplicationServices, Audience, Contact, DatabaseSettings, FederationSettings, Listener, LogFormat,
    LogSettings, Outbound, RateLimitSettings, RegistrationSettings, RoomSettings, Service, Settings,
    SupportSettings,
};
pub use values::{ByteSize, NameServer, Network, Secret, ServerPattern};

/// The file that is read when neither `--config` nor `HEARTH_CONFIG` names one, and that `hearth init` writes.
pub const DEFAULT_FILE: &str = "./hearth.toml";

/// A configuration that holds together, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What was configured.
    pub settings: Settings,
    /// The file that was read; `None` when there was none, and the defaults of a local trial hold.
    pub file: Option<PathBuf>,
}

/// Reads the configuration: the file `named` on the command line, else the one that `HEARTH_CONFIG` names,
/// else `./hearth.toml` where it exists, else the defaults of a local trial; then `HEARTH_*` from `variables`
/// over it.
pub fn load(
    named: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let environment = environment::Environment::read(variables)?;
    let asked = named.map(Path::to_owned).or_else(|| environment.config_file());
    let file = match asked {
        Some(file) => Some((read(&file)?, file)),
        None => {
            let file = PathBuf::from(DEFAULT_FILE);
            match fs::read_to_string(&file) {
                Ok(text) => Some((text, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(ConfigError::unreadable(&file, &error)),
            }
        }
    };
    let (text, file) = match file {
        Some((text, file)) => (text, Some(file)),
        None => (String::new(), None),
    };
    let in_file = |error: ConfigError| error.in_file(file.as_deref());

    let mut root = tree::parse(&text).map_err(in_file)?;
    environment.lay_over(&mut root).map_err(in_file)?;
    if file.is_some() && root.find(&["server_name"]).is_none() {
        // A server named by accident could not be renamed later: its name is part of every identifier.
        return Err(in_file(ConfigError::missing(
            "server_name",
            values::EXPECTED_SERVER_NAME,
        )));
    }
    let settings = Settings::deserialize(root.clone()).map_err(|fault| in_file(fault.into()))?;
    settings.check(&root).map_err(in_file)?;
    Ok(Loaded { settings, file })
}

fn read(file: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))
}
