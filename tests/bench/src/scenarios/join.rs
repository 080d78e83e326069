//! Joins of rooms that have many members already, one at a time.

use std::cell::RefCell;

use super::{Bench, ScenarioError};
use crate::{
    measure::{Limit, closed_loop},
    outcome::Outcome,
};

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let mut outcomes = Vec::new();
    for members in &bench.sizes.join_members {
        outcomes.push(of_size(bench, *members).await?);
    }
    Ok(outcomes)
}

async fn of_size(bench: &Bench, members: u64) -> Result<Outcome, ScenarioError> {
    let joins = bench.sizes.joins;
    let mut clients = bench
        .accounts
        .register((members + joins) as usize, &bench.progress)
        .await?;
    let newcomers = clients.split_off(members as usize);
    let room_id = bench.room_of(&mut clients).await?;
    let newcomers = RefCell::new(newcomers);
    let join = async |_: &mut (), _| {
        let newcomer = newcomers.borrow_mut().pop();
        match newcomer {
            Some(mut client) => client.join(&room_id).await,
            None => Ok(()),
        }
    };
    let limit = Limit {
        operations: joins,
        ..bench.limit()
    };
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut [()], limit, &bench.progress, join).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    Ok(Outcome::of_load(
        format!("join-{members}"),
        format!("a room of {members} members"),
        load,
        costs,
    ))
}
