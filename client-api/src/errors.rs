//! MOVED: `impl From<EngineError> for MatrixError` is only legal in the crate of MatrixError (orphan rule, E0117).
//! Put your `impl`s in `endpoint/src/refusals/<area>.rs` (add `mod <area>;` in `endpoint/src/refusals.rs`);
//! `hearth_engine::Error` has its `From` there already, so `?` works on it. This file goes away.
