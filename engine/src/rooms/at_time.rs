//! The event of a room that is nearest to a time (client-server API, `GET …/timestamp_to_event`).
//!
//! Where history is missing here that may hold a nearer one, other servers are asked which it is, and the history is
//! fetched up to there, in bounds: an event that has no place in the room could not be shown, nor what is around it.

use std::{sync::Arc, time::Duration};

use hearth_storage::{
    Position,
    event_times::{self, GapTimes, TimedEvent, Within},
    events::{self as stored_events, EventStatus},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UInt,
    api::{Direction, federation::event::get_event_by_timestamp},
};

use super::{
    Room, by_id,
    messages::ReadError,
    receive::{backfill, fetch},
    visibility::{self, Access, Sight},
};
use crate::{Engine, Error, accounts::Requester};

/// Gaps of a room that are looked at, the latest.
const MOST_GAPS: i64 = 100;
/// How often history is fetched for one answer, a hundred events each time.
const MOST_FILLS: usize = 30;
/// How long other servers are waited for, and one of them for its answer.
const PATIENCE: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);

/// An event, and the time it claims to be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearestEvent {
    /// Its ID.
    pub event_id: OwnedEventId,
    /// `origin_server_ts`.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

/// The event that `requester` may see nearest to a time: the first at or after it, or the last at or before it.
pub async fn nearest_event(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    ts: MilliSecondsSinceUnixEpoch,
    direction: Direction,
) -> Result<NearestEvent, ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotMember)?;
    if visibility::access(engine, &room, requester.user_nid).await? == Access::None {
        return Err(ReadError::NotMember);
    }
    let wanted = Wanted {
        ts: i64::from(ts.0),
        direction,
    };
    let head = engine.log.head().position;
    let sight = {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        let mut sights =
            visibility::load(engine, &mut connection, &[&room], &requester.user_id, head).await?;
        sights.remove(&room.nid).unwrap_or_default()
    };
    let ranges = sight.ranges(head);
    let mut found = find(engine, &room, wanted, &ranges).await?;
    let gaps = nearer_gaps(engine, &room, wanted, found.as_ref(), &sight).await?;
    if !gaps.is_empty() {
        let fetched = fetch_nearer(engine, &room, wanted, found.as_ref(), &gaps);
        if tokio::time::timeout(PATIENCE, fetched)
            .await
            .unwrap_or(Ok(false))?
        {
            found = find(engine, &room, wanted, &ranges).await?;
        }
    }
    found.map(nearest).transpose()?.ok_or(ReadError::NotFound)
}

/// The event of a room nearest to a time, of those that are here.
pub(crate) async fn nearest_here(
    engine: &Engine,
    room: &Room,
    ts: MilliSecondsSinceUnixEpoch,
    direction: Direction,
) -> Result<Option<NearestEvent>, Error> {
    let all = [(Position(i64::MIN), engine.log.head().position)];
    let wanted = Wanted {
        ts: i64::from(ts.0),
        direction,
    };
    find(engine, room, wanted, &all).await?.map(nearest).transpose()
}

fn nearest(event: TimedEvent) -> Result<NearestEvent, Error> {
    let damaged = |error| Error::Damaged(format!("an event ID: {error}"));
    Ok(NearestEvent {
        event_id: OwnedEventId::try_from(event.event_id).map_err(damaged)?,
        origin_server_ts: MilliSecondsSinceUnixEpoch(
            UInt::try_from(event.origin_server_ts).unwrap_or_default(),
        ),
    })
}

/// Which event is looked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ts: i64,
    direction: Direction,
}

impl Wanted {
    /// Whether an event of time `ts` is nearer than what was found.
    fn is_nearer(self, ts: i64, found: Option<&TimedEvent>) -> bool {
        let found = found.map(|event| event.origin_server_ts);
        match self.direction {
            Direction::Forward => ts >= self.ts && found.is_none_or(|found| ts < found),
            Direction::Backward => ts <= self.ts && found.is_none_or(|found| ts > found),
        }
    }

    /// Whether what is missing in a gap may be nearer: it is of some time between the events around the gap.
    fn may_be_in(self, gap: &GapTimes, found: Option<&TimedEvent>) -> bool {
        let found = found.map(|event| event.origin_server_ts);
        let (before, after) = (gap.before.unwrap_or(i64::MIN), gap.after);
        match self.direction {
            Direction::Forward => after > self.ts && found.is_none_or(|found| before < found),
            Direction::Backward => before < self.ts && found.is_none_or(|found| after > found),
        }
    }
}

async fn find(
    engine: &Engine,
    room: &Room,
    wanted: Wanted,
    ranges: &[(Position, Position)],
) -> Result<Option<TimedEvent>, Error> {
    let within = Within {
        room_nid: room.nid,
        ranges,
    };
    let mut connection = engine.db.acquire().await?;
    Ok(match wanted.direction {
        Direction::Forward => event_times::first_since(&mut connection, within, wanted.ts).await?,
        Direction::Backward => event_times::last_until(&mut connection, within, wanted.ts).await?,
    })
}

/// The gaps that may hold a nearer event which the user may see, nearest to the time first.
async fn nearer_gaps(
    engine: &Engine,
    room: &Room,
    wanted: Wanted,
    found: Option<&TimedEvent>,
    sight: &Sight,
) -> Result<Vec<i64>, Error> {
    if room.read(|view| view.gaps.is_empty()).unwrap_or(true) {
        return Ok(Vec::new());
    }
    let mut gaps = {
        let mut connection = engine.db.acquire().await?;
        event_times::gaps(&mut connection, room.nid, MOST_GAPS).await?
    };
    gaps.retain(|gap| wanted.may_be_in(gap, found) && sight.sees(Position(gap.position.0 - 1)));
    gaps.sort_by_key(|gap| match wanted.direction {
        Direction::Forward => gap.after,
        Direction::Backward => gap.before.unwrap_or(i64::MIN).saturating_neg(),
    });
    Ok(gaps.into_iter().map(|gap| gap.sequence).collect())
}

/// Asks other servers for a nearer event than what was found, and fetches history up to it. Whether there is more
/// history than before.
async fn fetch_nearer(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    wanted: Wanted,
    found: Option<&TimedEvent>,
    gaps: &[i64],
) -> Result<bool, Error> {
    let Some(event_id) = ask(engine, room, wanted, found).await else {
        return Ok(false);
    };
    let mut has_more = false;
    for gap in gaps {
        for _ in 0..MOST_FILLS {
            if !is_missing(engine, &event_id).await? {
                return Ok(has_more);
            }
            let is_open = room.read(|view| view.gaps.contains(gap)).unwrap_or(false);
            if !is_open || !backfill::fill(engine, room, *gap).await? {
                break;
            }
            has_more = true;
        }
    }
    Ok(has_more)
}

/// The event that the first server tells of which knows a nearer one.
async fn ask(
    engine: &Engine,
    room: &Room,
    wanted: Wanted,
    found: Option<&TimedEvent>,
) -> Option<OwnedEventId> {
    let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(wanted.ts).ok()?);
    for server in fetch::servers(engine, room, &[]) {
        let request = get_event_by_timestamp::v1::Request::new(room.id.clone(), ts, wanted.direction);
        let asked = engine.remote.event_by_timestamp(&server, request);
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(told)) if wanted.is_nearer(i64::from(told.origin_server_ts.0), found) => {
                return Some(told.event_id);
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, %server, room_id = %room.id, "a server told of no event at a time");
            }
        }
    }
    None
}

/// Whether an event has no place here, and may get one.
async fn is_missing(engine: &Engine, event_id: &OwnedEventId) -> Result<bool, Error> {
    let mut connection = engine.db.acquire().await?;
    let known = stored_events::known(&mut connection, &[event_id.as_str()]).await?;
    Ok(known.iter().all(|known| known.status == EventStatus::Outlier))
}

#[cfg(test)]
mod tests {
    use hearth_storage::{
        Position,
        event_times::{GapTimes, TimedEvent},
    };
    use ruma::api::Direction;

    use super::Wanted;

    fn gap(before: Option<i64>, after: i64) -> GapTimes {
        GapTimes {
            sequence: 1,
            position: Position(1),
            before,
            after,
        }
    }

    fn found(ts: i64) -> Option<TimedEvent> {
        Some(TimedEvent {
            event_id: "$event".to_owned(),
            origin_server_ts: ts,
        })
    }

    #[test]
    fn a_gap_counts_where_its_times_reach_between_the_time_and_what_was_found() {
        let back = Wanted {
            ts: 50,
            direction: Direction::Backward,
        };
        assert!(back.may_be_in(&gap(None, 60), None.as_ref()));
        assert!(back.may_be_in(&gap(Some(30), 60), found(30).as_ref()));
        // Before what was found, or after the time.
        assert!(!back.may_be_in(&gap(Some(10), 30), found(40).as_ref()));
        assert!(!back.may_be_in(&gap(Some(55), 70), found(40).as_ref()));

        let forward = Wanted {
            ts: 50,
            direction: Direction::Forward,
        };
        assert!(forward.may_be_in(&gap(None, 60), found(60).as_ref()));
        assert!(!forward.may_be_in(&gap(None, 50), found(60).as_ref()));
        assert!(!forward.may_be_in(&gap(Some(60), 90), found(60).as_ref()));
    }

    #[test]
    fn a_nearer_event_is_on_the_right_side_of_the_time() {
        let back = Wanted {
            ts: 50,
            direction: Direction::Backward,
        };
        assert!(back.is_nearer(50, found(40).as_ref()));
        assert!(!back.is_nearer(51, found(40).as_ref()));
        assert!(!back.is_nearer(40, found(40).as_ref()));
        let forward = Wanted {
            ts: 50,
            direction: Direction::Forward,
        };
        assert!(forward.is_nearer(55, found(60).as_ref()));
        assert!(!forward.is_nearer(49, None));
    }
}
