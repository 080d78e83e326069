//! What refuses the rooms of a space.

use hearth_engine::rooms::hierarchy::HierarchyError;

use crate::MatrixError;

impl From<HierarchyError> for MatrixError {
    fn from(error: HierarchyError) -> Self {
        match error {
            HierarchyError::NotAllowed => {
                Self::forbidden("You may not see this room, or there is no such room.")
            }
            HierarchyError::NoLimit => Self::invalid_param("`limit` is greater than zero."),
            error @ HierarchyError::BadToken(_) => Self::invalid_param(format!("{error}.")),
            HierarchyError::Failed(error) => error.into(),
        }
    }
}
