//! The log on a real PostgreSQL: what is committed, in which order, and what followers make of it, while connections
//! are cut, answers are lost, and other committers come.

mod auth_chains;
mod committer;
mod event_times;
mod events;
mod facts;
mod faults;
mod follower;
mod ground;
mod interning;
mod partial_rooms;
mod proxy;
mod refusals;
mod states;
mod tail;
