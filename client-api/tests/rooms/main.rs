//! The routes by which clients read rooms beyond their timelines: what they answer and how they refuse.

mod client;
mod context;
mod reports;
mod summaries;
mod tags;
