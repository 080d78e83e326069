//! Whole servers, asked as clients ask. One program, so that the server is linked into it once.

mod accounts;
mod ephemeral;
mod history;
mod membership;
mod rooms;
mod sending;
mod syncing;
