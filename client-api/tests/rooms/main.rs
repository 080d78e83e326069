//! The routes by which clients read rooms beyond their timelines: what they answer and how they refuse.

mod aggregations;
mod client;
mod context;
mod relations;
mod reports;
mod summaries;
mod tags;
mod threads;
