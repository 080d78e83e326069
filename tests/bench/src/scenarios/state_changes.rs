//! State changes in a room with many members, one at a time: what is stored of the state at each.

use serde_json::json;

use super::{Bench, ScenarioError};
use crate::{
    client::Client,
    measure::{Limit, closed_loop},
    outcome::Outcome,
};

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let (members, changes) = (bench.sizes.state_members, bench.sizes.state_changes);
    let mut clients = bench.accounts.register(members as usize, &bench.progress).await?;
    let room_id = bench.room_of(&mut clients).await?;
    clients.truncate(1);
    let change = async |client: &mut Client, number: u64| {
        let content = json!({"number": number});
        client
            .set_state(
                &room_id,
                "chat.hearth.bench",
                &format!("key{}", number % 10),
                &content,
            )
            .await
    };
    // Bounded by the count first: bytes per change are compared over the same number of them.
    let limit = Limit {
        operations: changes,
        time: bench.limit().time * 10,
    };
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut clients, limit, &bench.progress, change).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    let name = format!("state-changes-{members}");
    Ok(vec![Outcome::of_load(
        name,
        format!("a room of {members} members"),
        load,
        costs,
    )])
}
