//! Which refusal of the engine has which of the spec's codes. Nothing else in this crate names a code.
//!
//! One `impl From<…> for MatrixError` per error enum of the engine; the sentence is for the client's user. Handlers
//! use `?`. A storage error is [`MatrixError::unavailable`] where it is transient, else [`MatrixError::internal`].
