//! What a stretch of load cost: the clock, the processes' CPU time, and what PostgreSQL counted.

mod database;
mod latencies;
mod load;
mod meter;
mod processes;

pub use database::{Database, DatabaseError};
pub use latencies::{Latencies, Percentiles};
pub use load::{Limit, Load, closed_loop};
pub use meter::{Costs, Meter};
pub use processes::Processes;
