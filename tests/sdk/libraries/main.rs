//! Two client libraries that nobody here wrote, matrix-sdk and matrix-nio, talk with each other in the same rooms. Each
//! user is logged in with both, and both have to see the same: history and its order, what is unread, what is read.
//!
//! A package of its own, so that who runs the other tests need not build matrix-sdk.

mod beside_the_socket;
mod counting;
mod device;
mod group;
mod keeping;
mod line;
mod nio;
mod one_to_one;
mod person;
mod sdk;
