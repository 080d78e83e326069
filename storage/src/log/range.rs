//! Reading the log from its tables: what a tail has dropped, or never carried.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    change::{AccountData, DeviceListChange, Membership, MembershipChange, Receipt, Redaction, StateChange},
    tail::{Entry, EntryKind},
};
use crate::{
    Connection, EventNid, Position, Result, RoomNid, UserNid, events, state_changes, text, to_device,
};

/// The entries of the log after `from` up to `to`, in order. Facts that were replaced since are at their new
/// positions only. Run it in a read transaction whose view of the log reaches `to`.
pub async fn read_range(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let mut changes = state_changes(connection, from, to).await?;
    let mut entries = Vec::new();
    let mut stored = events::by_position(connection, from, to).await?;
    events::add_transactions(connection, &mut stored).await?;
    let after_gaps = after_gaps(connection, from, to).await?;
    for mut event in stored {
        event.event.after_gap = after_gaps.contains(&event.position);
        let caused = changes
            .remove(&event.position)
            .map(|(_, changes)| changes)
            .unwrap_or_default();
        entries.push(Entry {
            position: event.position,
            kind: EntryKind::Event(Arc::new(event.event), caused.into()),
        });
    }
    entries.extend(changes.into_iter().map(|(position, (room_nid, changes))| Entry {
        position,
        kind: EntryKind::State(room_nid, changes.into()),
    }));
    entries.extend(memberships(connection, from, to).await?);
    entries.extend(redactions(connection, from, to).await?);
    entries.extend(receipts(connection, from, to).await?);
    entries.extend(account_data(connection, from, to).await?);
    entries.extend(account_changes(connection, from, to).await?);
    entries.extend(device_list_changes(connection, from, to).await?);
    let sent = to_device::by_position(connection, from, to).await?;
    entries.extend(sent.into_iter().map(|(position, sent)| Entry {
        position,
        kind: EntryKind::ToDevice(Arc::new(sent)),
    }));
    // Stable: an event stays before the membership and redaction at its position.
    entries.sort_by_key(|entry| entry.position);
    Ok(entries)
}

/// The generation and the last position of the log.
pub async fn head(connection: &mut Connection) -> Result<(i32, Position)> {
    let row = sqlx::query!("SELECT generation, position FROM log_head WHERE id = 1")
        .fetch_one(connection)
        .await?;
    Ok((row.generation, Position(row.position)))
}

/// Where generation `since` of the log parted from those after it: the position to which its tokens are cut back,
/// if the log has had a later generation.
pub async fn parted_at(connection: &mut Connection, since: i32) -> Result<Option<Position>> {
    let row = sqlx::query_scalar!(
        "SELECT min(parted_at) FROM log_generations WHERE generation > $1",
        since
    )
    .fetch_one(connection)
    .await?;
    Ok(row.map(Position))
}

async fn after_gaps(connection: &mut Connection, from: Position, to: Position) -> Result<HashSet<Position>> {
    let positions = sqlx::query_scalar!(
        r#"SELECT e.position AS "position!" FROM gaps g
           JOIN events e ON e.room_nid = g.room_nid AND e.sequence = g.sequence AND e.sub = 0
           WHERE e.position > $1 AND e.position <= $2"#,
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    Ok(positions.into_iter().map(Position).collect())
}

type StateChanges = HashMap<Position, (RoomNid, Vec<StateChange>)>;

async fn state_changes(connection: &mut Connection, from: Position, to: Position) -> Result<StateChanges> {
    let mut changes = StateChanges::new();
    for (room_nid, position, change) in state_changes::in_range(connection, from, to).await? {
        let at = changes.entry(position).or_insert_with(|| (room_nid, Vec::new()));
        at.1.push(change);
    }
    Ok(changes)
}

async fn memberships(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT room_nid, user_nid, position, event_nid, joined_at, membership, forgotten, stripped_state
         FROM memberships WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::Membership(MembershipChange {
            room_nid: RoomNid(row.room_nid),
            user_nid: UserNid(row.user_nid),
            event_nid: EventNid(row.event_nid),
            membership: Membership::from_number(row.membership),
            continues: row.joined_at.is_some_and(|joined_at| joined_at != row.position),
            joined_at: row.joined_at.map(Position),
            forgotten: row.forgotten,
            stripped_state: row.stripped_state.map(text),
        }),
    });
    Ok(entries.collect())
}

async fn redactions(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT r.position, e.room_nid, r.event_nid, r.redaction_nid
         FROM redactions r JOIN events e USING (event_nid) WHERE r.position > $1 AND r.position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::Redaction(Redaction {
            room_nid: RoomNid(row.room_nid),
            event_nid: EventNid(row.event_nid),
            redaction_nid: EventNid(row.redaction_nid),
        }),
    });
    Ok(entries.collect())
}

async fn receipts(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT room_nid, user_nid, receipt_type, thread, event_id, position, ts FROM receipts
         WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::Receipt(Receipt {
            room_nid: RoomNid(row.room_nid),
            user_nid: UserNid(row.user_nid),
            receipt_type: row.receipt_type.into(),
            thread: text(row.thread),
            event_id: row.event_id.into(),
            ts: row.ts,
        }),
    });
    Ok(entries.collect())
}

async fn account_data(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT user_nid, room_nid, data_type, position, content FROM account_data
         WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::AccountData(AccountData {
            user_nid: UserNid(row.user_nid),
            room_nid: (row.room_nid != 0).then_some(RoomNid(row.room_nid)),
            data_type: text(row.data_type),
            content: text(row.content),
        }),
    });
    Ok(entries.collect())
}

async fn account_changes(connection: &mut Connection, from: Position, to: Position) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT user_nid, position FROM account_changes WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::Account(UserNid(row.user_nid)),
    });
    Ok(entries.collect())
}

async fn device_list_changes(
    connection: &mut Connection,
    from: Position,
    to: Position,
) -> Result<Vec<Entry>> {
    let rows = sqlx::query!(
        "SELECT user_nid, only_for, position, device_id FROM device_list_changes
         WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    let entries = rows.into_iter().map(|row| Entry {
        position: Position(row.position),
        kind: EntryKind::DeviceList(DeviceListChange {
            user_nid: UserNid(row.user_nid),
            device_id: row.device_id.into(),
            only_for: (row.only_for != 0).then_some(UserNid(row.only_for)),
            pending: Vec::new(),
        }),
    });
    Ok(entries.collect())
}
