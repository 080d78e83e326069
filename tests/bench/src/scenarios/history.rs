//! Paging back through a room's history, from the newest message to the first and again.

use super::{Bench, ScenarioError};
use crate::{client::Client, measure::closed_loop, outcome::Outcome};

/// Readers at once.
const READERS: usize = 4;

/// One who pages: at a token, or at the end of the room.
struct Reader {
    client: Client,
    from: Option<String>,
}

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let (messages, page) = (bench.sizes.history_messages, bench.sizes.page);
    let mut clients = bench.accounts.register(READERS, &bench.progress).await?;
    let room_id = bench.room_of(&mut clients).await?;
    bench.fill(&clients[0], &room_id, messages).await?;
    let mut readers: Vec<Reader> = clients
        .into_iter()
        .map(|client| Reader { client, from: None })
        .collect();
    let read = async |reader: &mut Reader, _| {
        let (events, end) = reader
            .client
            .messages(&room_id, reader.from.as_deref(), page)
            .await?;
        // The first page of the room may be said by an empty one or by a missing token.
        reader.from = end.filter(|_| events > 0);
        Ok(())
    };
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut readers, bench.limit(), &bench.progress, read).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    let what = format!("{READERS} readers, pages of {page}, {messages} messages");
    Ok(vec![Outcome::of_load("history", what, load, costs)])
}
