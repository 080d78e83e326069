//! Whole servers, asked as clients ask. One program, so that the server is linked into it once.

mod accounts;
mod at_time;
mod awkward;
mod bad_input;
mod client_library;
mod daily;
mod directory;
mod ephemeral;
mod federation;
mod federation_keys;
mod federation_sending;
mod filters;
mod hierarchy;
mod history;
mod housekeeping;
mod membership;
mod model;
mod openid;
mod order;
mod races;
mod rooms;
mod sending;
mod spec_coverage;
mod synapse;
mod syncing;
