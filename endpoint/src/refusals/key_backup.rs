//! What refuses backups of room keys.

use hearth_engine::encryption::backup::{BackupError, DescribeError, StoreError};
use http::StatusCode;
use ruma::api::error::{ErrorKind, WrongRoomKeysVersionErrorData};

use crate::MatrixError;

const NO_BACKUP: &str = "There is no such backup.";

impl From<BackupError> for MatrixError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::NoBackup => Self::not_found(NO_BACKUP),
            BackupError::NoKey => Self::not_found("The backup has no such key."),
            BackupError::Failed(error) => error.into(),
        }
    }
}

impl From<DescribeError> for MatrixError {
    fn from(error: DescribeError) -> Self {
        match error {
            DescribeError::Malformed => {
                Self::bad_json("`algorithm` is the name of one, and `auth_data` an object.")
            }
            DescribeError::BadAlgorithm => {
                Self::invalid_param("The name of an algorithm has between 1 and 255 bytes.")
            }
            DescribeError::TooLarge => Self::too_large("`auth_data` has 64 KiB at most."),
            DescribeError::TooMany => Self::forbidden("You have too many backups: delete old ones first."),
            DescribeError::NoBackup => Self::not_found(NO_BACKUP),
            DescribeError::OtherAlgorithm => {
                Self::invalid_param("The algorithm of a backup can't be changed.")
            }
            DescribeError::OtherVersion => {
                Self::invalid_param("The version in the body is another than that in the path.")
            }
            DescribeError::Failed(error) => error.into(),
        }
    }
}

impl From<StoreError> for MatrixError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoBackup => Self::not_found("There is no backup to store keys in."),
            StoreError::NotCurrent(current) => Self::new(
                StatusCode::FORBIDDEN,
                ErrorKind::WrongRoomKeysVersion(WrongRoomKeysVersionErrorData::new(current.to_string())),
                "Keys go to another backup by now.",
            ),
            error @ StoreError::Malformed { .. } => Self::bad_json(error.to_string()),
            StoreError::TooLarge => Self::too_large("A key has 16 KiB at most."),
            StoreError::TooMany => Self::too_large("The backup is full."),
            StoreError::Failed(error) => error.into(),
        }
    }
}
