//! Where resolution reads from: the database, or in tests a graph in memory.

use hearth_storage::{
    EventNid, KeyNid, TypeNid,
    event_auth::{self, AuthEdges},
    interned,
};

use super::event::StateEvent;
use crate::{Engine, Error, rooms::Room};

/// No room has so many changes of its power levels.
const MAX_LINEAGE: usize = 1_000_000;

/// What resolution asks about the events of one room.
pub(super) trait Source: Sync {
    /// The edges of `from`, and of up to `ahead` more events of their auth chains that aren't below `floor`.
    fn edges(
        &self,
        from: &[EventNid],
        floor: EventNid,
        ahead: usize,
    ) -> impl Future<Output = Result<Vec<AuthEdges>, Error>> + Send;

    /// The lowest event below `floor` that is authorised by one at or above it.
    fn reaching_across(
        &self,
        floor: EventNid,
    ) -> impl Future<Output = Result<Option<EventNid>, Error>> + Send;

    /// The power levels that `heads`, which are such, go back to, each with the one that authorises it.
    fn power_levels(
        &self,
        heads: &[EventNid],
        power_levels_key: KeyNid,
    ) -> impl Future<Output = Result<Vec<(EventNid, Option<EventNid>)>, Error>> + Send;

    /// State events by number.
    fn events(&self, event_nids: &[EventNid]) -> impl Future<Output = Result<Vec<StateEvent>, Error>> + Send;

    /// The numbers of state keys, in their order; nothing for a key that no event has.
    fn keys(
        &self,
        keys: &[(String, String)],
    ) -> impl Future<Output = Result<Vec<Option<KeyNid>>, Error>> + Send;
}

/// A room as it is stored.
pub(super) struct StoredRoom<'a> {
    pub engine: &'a Engine,
    pub room: &'a Room,
}

impl Source for StoredRoom<'_> {
    async fn edges(&self, from: &[EventNid], floor: EventNid, ahead: usize) -> Result<Vec<AuthEdges>, Error> {
        let mut connection = self.engine.db.acquire().await?;
        Ok(event_auth::chain(&mut connection, from, floor, ahead).await?)
    }

    async fn reaching_across(&self, floor: EventNid) -> Result<Option<EventNid>, Error> {
        let mut connection = self.engine.db.acquire().await?;
        Ok(event_auth::reaching_across(&mut connection, self.room.nid, floor).await?)
    }

    async fn power_levels(
        &self,
        heads: &[EventNid],
        power_levels_key: KeyNid,
    ) -> Result<Vec<(EventNid, Option<EventNid>)>, Error> {
        let mut connection = self.engine.db.acquire().await?;
        let limit = i64::try_from(MAX_LINEAGE).unwrap_or(i64::MAX);
        let lineage = event_auth::lineage(&mut connection, heads, power_levels_key, limit).await?;
        if lineage.len() >= MAX_LINEAGE {
            return Err(Error::Damaged(format!(
                "the power levels of room {} go back too far",
                self.room.id
            )));
        }
        Ok(lineage)
    }

    async fn events(&self, event_nids: &[EventNid]) -> Result<Vec<StateEvent>, Error> {
        let mut connection = self.engine.db.acquire().await?;
        let stored = event_auth::events(&mut connection, event_nids).await?;
        stored.into_iter().map(StateEvent::parse).collect()
    }

    async fn keys(&self, keys: &[(String, String)]) -> Result<Vec<Option<KeyNid>>, Error> {
        let types: Vec<&str> = keys.iter().map(|(event_type, _)| event_type.as_str()).collect();
        let type_nids = self.engine.interner.types(&types).await?;
        let wanted: Vec<(TypeNid, &str)> = type_nids
            .into_iter()
            .zip(keys.iter().map(|(_, state_key)| state_key.as_str()))
            .collect();
        let mut connection = self.engine.db.acquire().await?;
        Ok(interned::find_keys(&mut connection, &wanted).await?)
    }
}
