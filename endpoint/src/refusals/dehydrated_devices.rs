//! What refuses dehydrated devices.

use hearth_engine::encryption::dehydrated::{DehydrateError, RehydrateError};

use crate::MatrixError;

impl From<DehydrateError> for MatrixError {
    fn from(error: DehydrateError) -> Self {
        match error {
            DehydrateError::BadData => Self::bad_json("`device_data` is an object with an `algorithm`."),
            DehydrateError::DataTooLarge => Self::too_large("`device_data` has 256 KiB at most."),
            DehydrateError::BadDeviceId => {
                Self::invalid_param("A device ID has between 1 and 255 bytes, and no NUL.")
            }
            DehydrateError::BadDisplayName => {
                Self::invalid_param("A device's name has 256 characters at most, and no NUL.")
            }
            DehydrateError::IsInUse => {
                Self::invalid_param("There is a device of this ID, to which somebody is logged in.")
            }
            DehydrateError::Keys(error) => error.into(),
            DehydrateError::Failed(error) => error.into(),
        }
    }
}

impl From<RehydrateError> for MatrixError {
    fn from(error: RehydrateError) -> Self {
        match error {
            RehydrateError::NoDevice => Self::not_found("There is no dehydrated device."),
            RehydrateError::OtherDevice => Self::forbidden("This is not your dehydrated device."),
            RehydrateError::BadToken(error) => Self::invalid_param(format!("`next_batch`: {error}.")),
            RehydrateError::Failed(error) => error.into(),
        }
    }
}
