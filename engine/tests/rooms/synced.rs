//! What clients know after many syncs is what is true: random runs with fixed seeds.

use futures_util::future::join_all;

use super::*;
use crate::{
    client::{Client, Habits},
    dice::Dice,
    people::{Cast, NAMES, World},
};

/// What happens to the server in a run.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// Nothing: everything stays in memory.
    None,
    /// It is stopped and started now and then.
    Restarts,
    /// It keeps next to nothing in memory.
    Forgetful,
    /// Many things happen at once, and it forgets in the middle of them.
    Concurrency,
}

const STEPS: usize = 100;
const ROOMS: usize = 3;

struct Run {
    server: Server,
    dice: Dice,
    world: World,
    clients: Vec<Client>,
    trouble: Trouble,
}

impl Run {
    async fn new(cast: &Cast, seed: u64, trouble: Trouble) -> Self {
        let server = match trouble {
            Trouble::Forgetful | Trouble::Concurrency if seed.is_multiple_of(2) => {
                Server::with_memory(1).await
            }
            _ => Server::start().await,
        };
        cast.enter(&server).await;
        let mut clients = Vec::new();
        for (index, devices) in cast.devices.iter().enumerate() {
            let lazy_members = (index + seed as usize).is_multiple_of(2);
            clients.push(Client::new(
                &devices[0],
                Habits {
                    lazy_members,
                    state_after: false,
                },
            ));
            clients.push(Client::new(
                &devices[1],
                Habits {
                    lazy_members: !lazy_members,
                    state_after: index % 2 == 0,
                },
            ));
        }
        clients
            .iter_mut()
            .for_each(|client| client.is_alone = trouble != Trouble::Concurrency);
        Self {
            server,
            dice: Dice::new(seed),
            world: World::default(),
            clients,
            trouble,
        }
    }

    async fn step(&mut self, cast: &Cast, step: usize) -> Result<(), String> {
        let Self {
            server,
            dice,
            world,
            clients,
            trouble,
        } = self;
        if world.rooms.len() < ROOMS && (world.rooms.is_empty() || dice.one_in(12)) {
            world.create(&server.engine, cast, dice).await;
        }
        let at_once = if *trouble == Trouble::Concurrency {
            1 + dice.roll(6)
        } else {
            1
        };
        let deeds: Vec<_> = (0..at_once).map(|_| world.plan(dice)).collect();
        let engine = &server.engine;
        let acted = join_all(deeds.iter().map(|deed| world.act(engine, cast, deed)));
        let syncing = dice.one_in(3).then(|| dice.roll(clients.len()));
        if *trouble == Trouble::Concurrency {
            let mut own_dice = Dice::new(step as u64);
            let synced = async {
                match syncing {
                    Some(index) => clients[index].sync(engine, &mut own_dice).await,
                    None => Ok(()),
                }
            };
            if dice.one_in(5) {
                engine.drop_idle();
            }
            let (acted, synced) = tokio::join!(acted, synced);
            synced?;
            for (deed, event_id) in deeds.iter().zip(acted) {
                event_id
                    .into_iter()
                    .for_each(|event_id| world.remember(deed, event_id));
            }
            return Ok(());
        }
        for (deed, event_id) in deeds.iter().zip(acted.await) {
            event_id
                .into_iter()
                .for_each(|event_id| world.remember(deed, event_id));
        }
        match trouble {
            Trouble::Restarts if dice.one_in(20) => server.restart().await,
            Trouble::Forgetful if dice.one_in(4) => server.engine.drop_idle(),
            _ => {}
        }
        if let Some(index) = syncing {
            clients[index].sync(&server.engine, dice).await?;
        }
        Ok(())
    }

    /// Every client syncs until there is nothing more, and then knows all there is.
    async fn conclude(mut self) -> Result<Server, String> {
        let Self {
            server,
            dice,
            clients,
            ..
        } = &mut self;
        for client in clients.iter_mut() {
            // A full state may be asked for at random, which is never quiet.
            client.sync(&server.engine, dice).await?;
            client.complete(&server.engine, dice).await?;
        }
        let truth = server.truth().await;
        truth.rooms.values().for_each(truth::TrueRoom::check);
        for client in clients.iter() {
            client.check(&server.engine, &server.db, &truth, dice).await;
            let mut connection = server.db.acquire().await.unwrap();
            let user_nid = client.requester.user_nid;
            let rows = hearth_storage::account_data::of_user(
                &mut connection,
                user_nid,
                Position(0),
                Position(i64::MAX),
            );
            for (_, data) in rows.await.unwrap() {
                let content: Value = serde_json::from_str(&data.content).unwrap();
                let known = match data.room_nid {
                    None => client.account_data.get(&*data.data_type),
                    Some(room_nid) => {
                        let room = truth.rooms.values().find(|room| room.nid == room_nid).unwrap();
                        if room.membership(&client.requester.user_id).as_deref() != Some("join") {
                            continue;
                        }
                        client.rooms[&room.id].account_data.get(&*data.data_type)
                    }
                };
                assert_eq!(
                    known,
                    Some(&content),
                    "{} {}",
                    client.requester.user_id,
                    data.data_type
                );
            }
        }
        Ok(self.server)
    }
}

async fn runs(seeds: std::ops::Range<u64>, trouble: Trouble) {
    let first = Server::start().await;
    let cast = Cast::new(&first).await;
    first.end().await;
    assert_eq!(cast.devices.len(), NAMES.len());
    // Whoever looks for more than what has been found sets this to a number of seeds.
    let more = std::env::var("HEARTH_TEST_MORE_SEEDS").map_or(0, |more| more.parse().unwrap());
    for seed in seeds.start..seeds.end + more {
        let ran = async {
            let mut run = Run::new(&cast, seed, trouble).await;
            for step in 0..STEPS {
                run.step(&cast, step)
                    .await
                    .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            }
            run.conclude()
                .await
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
        };
        // A panic says which assertion failed; this says in which run.
        let server = SeedNote(seed).watch(ran).await;
        server.end().await;
    }
}

/// Tells the seed of a run that panics.
struct SeedNote(u64);

impl SeedNote {
    async fn watch<T>(self, run: impl Future<Output = T>) -> T {
        let result = run.await;
        std::mem::forget(self);
        result
    }
}

impl Drop for SeedNote {
    #[expect(
        clippy::print_stderr,
        reason = "the test has failed, and this tells how to repeat it"
    )]
    fn drop(&mut self) {
        eprintln!("this was seed {}", self.0);
    }
}

#[tokio::test]
async fn clients_know_all_there_is_of_rooms_in_memory() {
    runs(100..105, Trouble::None).await;
}

#[tokio::test]
async fn clients_know_all_there_is_across_restarts() {
    runs(200..204, Trouble::Restarts).await;
}

#[tokio::test]
async fn clients_know_all_there_is_of_a_server_that_keeps_forgetting() {
    runs(300..305, Trouble::Forgetful).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_know_all_there_is_of_what_happened_at_once() {
    runs(400..404, Trouble::Concurrency).await;
}
