//! Room creation, one at a time: many events in one request.

use serde_json::json;

use super::{Bench, ScenarioError};
use crate::{client::Client, measure::closed_loop, outcome::Outcome};

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let mut clients = bench.accounts.register(1, &bench.progress).await?;
    let mut request = bench.room("private_chat");
    request["topic"] = json!("What this room is about");
    let create = async |client: &mut Client, number| {
        let mut request = request.clone();
        request["name"] = json!(format!("Room {number}"));
        client.create_room(&request).await.map(drop)
    };
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut clients, bench.limit(), &bench.progress, create).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    Ok(vec![Outcome::of_load("create-room", "1 user", load, costs)])
}
