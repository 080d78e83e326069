//! What refuses messages from device to device.

use hearth_engine::encryption::to_device::send::SendToDeviceError;

use crate::MatrixError;

impl From<SendToDeviceError> for MatrixError {
    fn from(error: SendToDeviceError) -> Self {
        match error {
            SendToDeviceError::BadContent => Self::bad_json("A message to a device is an object."),
            SendToDeviceError::BadType => {
                Self::invalid_param("The type of a message has between 1 and 255 bytes.")
            }
            SendToDeviceError::ContentTooLarge => {
                Self::too_large("A message to a device has 64 KiB at most.")
            }
            SendToDeviceError::TooLarge => {
                Self::too_large("These messages come to more than 8 MiB, once for each device.")
            }
            SendToDeviceError::Failed(error) => error.into(),
        }
    }
}
