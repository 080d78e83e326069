//! States of rooms: deltas on the state before, with a whole one every so often. Packing is here; what a state
//! means is the engine's.

use std::{collections::BTreeMap, io::Read as _};

use crate::{Connection, EventNid, KeyNid, Result, StateNid, StorageError, log::NewState};

/// A state is stored whole when this many deltas would precede it.
const MAX_DEPTH: i16 = 64;
/// No state of a room unpacks to more than this.
const MAX_WHOLE_BYTES: u64 = 256 << 20;
const COMPRESSION_LEVEL: i32 = 3;

/// A loaded state: what it maps, and how it is stored.
#[derive(Debug, Clone)]
pub struct LoadedState {
    /// Its number.
    pub state_nid: StateNid,
    /// Deltas since the last whole state.
    pub depth: i16,
    /// The map.
    pub map: BTreeMap<KeyNid, EventNid>,
}

/// Packs the state that follows `previous` by `delta` (nothing: removed). `whole` is asked for the full map when it
/// is time to store one; it yields in any order.
pub fn pack<W>(
    state_nid: StateNid,
    previous: Option<(StateNid, i16)>,
    delta: &[(KeyNid, Option<EventNid>)],
    whole: impl FnOnce() -> W,
) -> Result<NewState>
where
    W: IntoIterator<Item = (KeyNid, EventNid)>,
{
    match previous {
        Some((previous_nid, depth)) if depth + 1 < MAX_DEPTH => {
            let mut pairs: Vec<(i64, i64)> = delta
                .iter()
                .map(|(key, event)| (key.0, event.map_or(0, |nid| nid.0)))
                .collect();
            Ok(NewState {
                state_nid,
                previous_nid: Some(previous_nid),
                depth: depth + 1,
                body: pack_pairs(&mut pairs),
            })
        }
        previous => {
            let mut pairs: Vec<(i64, i64)> =
                whole().into_iter().map(|(key, event)| (key.0, event.0)).collect();
            let body = zstd::bulk::compress(&pack_pairs(&mut pairs), COMPRESSION_LEVEL)
                .map_err(|error| StorageError::Damaged(format!("a state can't be compressed: {error}")))?;
            Ok(NewState {
                state_nid,
                previous_nid: previous.map(|(nid, _)| nid),
                depth: 0,
                body,
            })
        }
    }
}

/// Stores a state outside the log: it counts when an event, or the head of a room, refers to it.
pub async fn insert(connection: &mut Connection, state: &NewState) -> Result<()> {
    sqlx::query!(
        "INSERT INTO states (state_nid, previous_nid, depth, body) VALUES ($1, $2, $3, $4)",
        state.state_nid.0,
        state.previous_nid.map(|nid| nid.0),
        state.depth,
        &state.body
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Loads states, each by its chain of deltas, with one query for all of them.
pub async fn load(connection: &mut Connection, state_nids: &[StateNid]) -> Result<Vec<LoadedState>> {
    let nids: Vec<i64> = state_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"WITH RECURSIVE chain (wanted, previous_nid, depth, body) AS (
               SELECT s.state_nid, s.previous_nid, s.depth, s.body FROM states s WHERE s.state_nid = ANY($1)
               UNION ALL
               SELECT c.wanted, s.previous_nid, s.depth, s.body
               FROM chain c JOIN states s ON s.state_nid = c.previous_nid WHERE c.depth > 0
           )
           SELECT wanted AS "wanted!", depth AS "depth!", body AS "body!" FROM chain ORDER BY wanted, depth"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let mut states: Vec<LoadedState> = Vec::new();
    for row in rows {
        if row.depth == 0 {
            let whole = decompress(&row.body)
                .map_err(|error| StorageError::Damaged(format!("state {}: {error}", row.wanted)))?;
            let map = unpack_pairs(&whole)?
                .into_iter()
                .map(|(key, event)| (KeyNid(key), EventNid(event)))
                .collect();
            states.push(LoadedState {
                state_nid: StateNid(row.wanted),
                depth: 0,
                map,
            });
            continue;
        }
        let Some(state) = states.last_mut().filter(|state| state.state_nid.0 == row.wanted) else {
            return Err(StorageError::Damaged(format!(
                "state {} has no whole state before it",
                row.wanted
            )));
        };
        state.depth = row.depth;
        for (key, event) in unpack_pairs(&row.body)? {
            match event {
                0 => state.map.remove(&KeyNid(key)),
                _ => state.map.insert(KeyNid(key), EventNid(event)),
            };
        }
    }
    Ok(states)
}

/// As a stream: memory is taken as it is filled, not for the largest state there could be.
fn decompress(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::with_capacity(body.len() * 2);
    zstd::Decoder::with_buffer(body)?
        .take(MAX_WHOLE_BYTES)
        .read_to_end(&mut whole)?;
    Ok(whole)
}

/// Ascending by key; both numbers as differences to the pair before, in a variable number of bytes: neighbours in a
/// state are near each other in both.
fn pack_pairs(pairs: &mut [(i64, i64)]) -> Vec<u8> {
    pairs.sort_unstable();
    let mut out = Vec::with_capacity(pairs.len() * 4);
    let (mut last_key, mut last_event) = (0, 0);
    for (key, event) in pairs {
        put_varint(&mut out, zigzag(*key - last_key));
        put_varint(&mut out, zigzag(*event - last_event));
        (last_key, last_event) = (*key, *event);
    }
    out
}

fn unpack_pairs(mut bytes: &[u8]) -> Result<Vec<(i64, i64)>> {
    let mut pairs = Vec::new();
    let (mut key, mut event) = (0i64, 0i64);
    while !bytes.is_empty() {
        let step = take_varint(&mut bytes).zip(take_varint(&mut bytes));
        let (key_step, event_step) =
            step.ok_or_else(|| StorageError::Damaged("a state ends short".to_owned()))?;
        key = key.wrapping_add(unzigzag(key_step));
        event = event.wrapping_add(unzigzag(event_step));
        pairs.push((key, event));
    }
    Ok(pairs)
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{pack_pairs, unpack_pairs};

    #[test]
    fn pairs_come_back_sorted_whatever_their_size() {
        let mut pairs = vec![(9, 1), (1, i64::MAX), (2, 0), (i64::MAX, 7), (300, 299)];
        let packed = pack_pairs(&mut pairs);
        assert_eq!(unpack_pairs(&packed).expect("they unpack"), pairs);
        assert_eq!(pairs[0], (1, i64::MAX));
    }

    #[test]
    fn a_state_that_ends_short_is_damaged() {
        let packed = pack_pairs(&mut [(1, 2), (3000, 4000)]);
        assert!(unpack_pairs(&packed[..packed.len() - 1]).is_err());
    }
}
