//! One batch: from changes to rows and entries with positions, and the one statement that commits them.

use std::{collections::HashMap, sync::Arc};

use super::{
    change::{
        Change, DeviceListChange, Fact, HeadMove, Membership, MembershipChange, NewEvent, Relation,
        StateChange, ToDevice,
    },
    fence::Fence,
    rows::{
        AccountChangeRow, AccountDataRow, AliasRow, AuthRow, CompletedRoomRow, DeviceListRow, EventRow,
        GapRow, HeadRow, MembershipRow, OutgoingToDeviceRow, PartialRoomRow, ReceiptRow, RedactionRow,
        RelationRow, RestatedRow, RoomRow, StateChangeRow, StateRow, ToDeviceRequestRow, ToDeviceRow,
        TransactionRow, UnmatchedRedactionRow,
    },
    tail::{Entry, EntryKind},
};
use crate::{Connection, EventNid, Position, Result, RoomNid, event_ids};

/// A batch with its positions given, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Batch {
    from: Position,
    to: Position,
    /// The last position of each change, in their order.
    pub last_positions: Vec<Position>,
    pub entries: Vec<Entry>,
    rooms: Vec<RoomRow>,
    heads: HashMap<RoomNid, HeadRow>,
    events: Vec<EventRow>,
    /// Events that are stored already and become live.
    promoted: Vec<EventRow>,
    auth: Vec<AuthRow>,
    gaps: Vec<GapRow>,
    unmatched_redactions: Vec<UnmatchedRedactionRow>,
    states: Vec<StateRow>,
    state_changes: Vec<StateChangeRow>,
    // Facts that replace others: within one batch only the latest of each key may reach the statement, which can't
    // touch a row twice.
    memberships: HashMap<(i64, i64), MembershipRow>,
    redactions: HashMap<i64, RedactionRow>,
    receipts: HashMap<(i64, i64, Arc<str>, Arc<str>), ReceiptRow>,
    account_data: HashMap<(i64, i64, Arc<str>), AccountDataRow>,
    account_changes: HashMap<i64, AccountChangeRow>,
    transactions: Vec<TransactionRow>,
    aliases: Vec<AliasRow>,
    relations: Vec<RelationRow>,
    partial_rooms: Vec<PartialRoomRow>,
    completed_rooms: Vec<CompletedRoomRow>,
    restated: Vec<RestatedRow>,
    device_lists: HashMap<(i64, Arc<str>, i64), DeviceListRow>,
    to_device: Vec<ToDeviceRow>,
    outgoing_to_device: Vec<OutgoingToDeviceRow>,
    to_device_requests: Vec<ToDeviceRequestRow>,
}

impl Batch {
    /// Gives each fact of `changes` its position after `from`.
    pub fn build<'a>(from: Position, changes: impl Iterator<Item = &'a Change>) -> Self {
        let mut batch = Self {
            from,
            to: from,
            ..Self::default()
        };
        for change in changes {
            batch.add(change);
            batch.last_positions.push(batch.to);
        }
        batch
    }

    /// The position before the batch.
    pub fn from(&self) -> Position {
        self.from
    }

    /// The last position of the batch; that before it, when it has no fact.
    pub fn to(&self) -> Position {
        self.to
    }

    fn add(&mut self, change: &Change) {
        self.rooms.extend(change.new_rooms.iter().map(|room| RoomRow {
            room_nid: room.room_nid.0,
            room_id: room.room_id.clone(),
            room_version: room.room_version.clone(),
            published: room.published,
        }));
        for head in &change.heads {
            self.move_head(head);
        }
        self.states.extend(change.states.iter().map(|state| StateRow {
            state_nid: state.state_nid.0,
            previous_nid: state.previous_nid.map(|nid| nid.0),
            depth: state.depth,
            body: state.body.clone(),
        }));
        let (mut cause, first_event, first_promoted) = (None, self.events.len(), self.promoted.len());
        for fact in &change.facts {
            cause = self.add_fact(fact, cause);
        }
        let relations = change.relations.iter().filter_map(|relation| {
            let event = self.events[first_event..]
                .iter()
                .chain(&self.promoted[first_promoted..])
                .find(|event| event.event_nid == relation.event_nid.0)?;
            Some(relation_row(relation, event))
        });
        self.relations.extend(relations);
        self.gaps.extend(change.gaps.iter().map(|gap| {
            GapRow {
                room_nid: gap.room_nid.0,
                sequence: gap.sequence,
                missing: gap
                    .missing
                    .iter()
                    .map(|event_id| event_ids::pack(event_id))
                    .collect(),
            }
        }));
        let unmatched = change.unmatched_redactions.iter();
        self.unmatched_redactions
            .extend(unmatched.map(|unmatched| UnmatchedRedactionRow {
                redacts: event_ids::pack(&unmatched.redacts),
                redaction_nid: unmatched.redaction_nid.0,
            }));
        self.aliases.extend(change.aliases.iter().map(|alias| AliasRow {
            alias: alias.alias.clone(),
            room_nid: alias.room_nid.0,
            creator_nid: alias.creator_nid.0,
            created_at: alias.created_at,
        }));
        self.transactions
            .extend(change.transactions.iter().map(|transaction| TransactionRow {
                device_nid: transaction.device_nid.0,
                request_key: transaction.request_key.to_vec(),
                event_nid: transaction.event_nid.0,
                created_at: transaction.created_at,
                txn_id: transaction.txn_id.as_bytes().to_vec(),
            }));
        self.to_device_requests.extend(
            change
                .to_device_requests
                .iter()
                .map(|request| ToDeviceRequestRow {
                    request_key: request.request_key.to_vec(),
                    created_at: request.created_at,
                }),
        );
        self.add_partial_rooms(change);
    }

    fn add_partial_rooms(&mut self, change: &Change) {
        let partial = change.partial_rooms.iter().map(|room| PartialRoomRow {
            room_nid: room.room_nid.0,
            join_nid: room.join_nid.0,
            state_before: room.state_before.0,
            since: room.since,
            via: room.via.clone(),
            servers: room.servers.clone(),
        });
        self.partial_rooms.extend(partial);
        let position = self.to.0;
        let completed = change.completed_rooms.iter().map(|room_nid| CompletedRoomRow {
            room_nid: room_nid.0,
            position,
        });
        self.completed_rooms.extend(completed);
        self.restated
            .extend(change.restated.iter().map(|restated| RestatedRow {
                event_nid: restated.event_nid.0,
                state_after: restated.state_after.0,
                status: restated.status as i16,
            }));
    }

    /// Several moves of one head within a batch are one move of its row.
    fn move_head(&mut self, head: &HeadMove) {
        let row = self.heads.entry(head.room_nid).or_insert_with(|| HeadRow {
            room_nid: head.room_nid.0,
            sequence_before: head.sequence_before,
            sequence: 0,
            forward_extremities: Vec::new(),
            state_nid: 0,
            state_before: head.state_before.map(|nid| nid.0),
        });
        row.sequence = head.sequence;
        row.forward_extremities = head.forward_extremities.iter().map(|nid| nid.0).collect();
        row.state_nid = head.state_nid.0;
    }

    fn next_position(&mut self) -> Position {
        self.to.0 += 1;
        self.to
    }

    /// Adds a fact; the answer is the event that a following membership or redaction may be the effect of.
    fn add_fact(&mut self, fact: &Fact, cause: Option<EventNid>) -> Option<EventNid> {
        let (position, kind, cause) = match fact {
            Fact::Event(event, state_changes) => {
                let position = self.next_position();
                self.add_event(position, event);
                self.add_state_changes(position, event.room_nid, state_changes);
                let kind = EntryKind::Event(Arc::clone(event), state_changes.as_slice().into());
                (position, kind, Some(event.event_nid))
            }
            Fact::State(room_nid, state_changes) => {
                let position = self.next_position();
                self.add_state_changes(position, *room_nid, state_changes);
                (
                    position,
                    EntryKind::State(*room_nid, state_changes.as_slice().into()),
                    None,
                )
            }
            Fact::Membership(membership) => {
                let position = if cause == Some(membership.event_nid) {
                    self.to
                } else {
                    self.next_position()
                };
                (
                    position,
                    EntryKind::Membership(self.add_membership(position, membership)),
                    cause,
                )
            }
            Fact::Redaction(redaction) => {
                let position = if cause == Some(redaction.redaction_nid) {
                    self.to
                } else {
                    self.next_position()
                };
                let row = RedactionRow {
                    event_nid: redaction.event_nid.0,
                    redaction_nid: redaction.redaction_nid.0,
                    position: position.0,
                };
                // The first redaction of an event is the one that counts.
                self.redactions.entry(row.event_nid).or_insert(row);
                (position, EntryKind::Redaction(*redaction), cause)
            }
            Fact::Receipt(receipt) => {
                let position = self.next_position();
                let row = ReceiptRow {
                    room_nid: receipt.room_nid.0,
                    user_nid: receipt.user_nid.0,
                    receipt_type: receipt.receipt_type.as_ref().to_owned(),
                    thread: receipt.thread.as_bytes().to_vec(),
                    event_id: receipt.event_id.as_ref().to_owned(),
                    position: position.0,
                    ts: receipt.ts,
                };
                let (kind, thread) = (Arc::clone(&receipt.receipt_type), Arc::clone(&receipt.thread));
                self.receipts
                    .insert((row.room_nid, row.user_nid, kind, thread), row);
                (position, EntryKind::Receipt(receipt.clone()), None)
            }
            Fact::AccountData(data) => {
                let position = self.next_position();
                let row = AccountDataRow {
                    user_nid: data.user_nid.0,
                    room_nid: data.room_nid.map_or(0, |nid| nid.0),
                    data_type: data.data_type.as_bytes().to_vec(),
                    position: position.0,
                    content: data.content.as_bytes().to_vec(),
                };
                self.account_data
                    .insert((row.user_nid, row.room_nid, Arc::clone(&data.data_type)), row);
                (position, EntryKind::AccountData(data.clone()), None)
            }
            Fact::Account(user_nid) => {
                let position = self.next_position();
                let row = AccountChangeRow {
                    user_nid: user_nid.0,
                    position: position.0,
                };
                self.account_changes.insert(user_nid.0, row);
                (position, EntryKind::Account(*user_nid), None)
            }
            Fact::DeviceList(change) => {
                let position = self.next_position();
                self.add_device_list(position, change);
                (position, EntryKind::DeviceList(change.clone()), None)
            }
            Fact::ToDevice(sent) => {
                let position = self.next_position();
                self.add_to_device(position, sent);
                (position, EntryKind::ToDevice(Arc::clone(sent)), None)
            }
        };
        self.entries.push(Entry { position, kind });
        cause
    }

    fn add_event(&mut self, position: Position, event: &NewEvent) {
        if event.key_nid.is_some() && !event.is_stored {
            self.auth.push(AuthRow {
                event_nid: event.event_nid.0,
                auth_nids: event.auth_nids.iter().map(|nid| nid.0).collect(),
            });
        }
        let rows = if event.is_stored {
            &mut self.promoted
        } else {
            &mut self.events
        };
        rows.push(EventRow {
            event_nid: event.event_nid.0,
            room_nid: event.room_nid.0,
            sequence: Some(event.sequence),
            position: Some(position.0),
            type_nid: event.type_nid.0,
            key_nid: event.key_nid.map(|nid| nid.0),
            sender_nid: event.sender_nid.0,
            state_after: Some(event.state_after.0),
            origin_server_ts: event.origin_server_ts,
            sub: 0,
            status: 0,
            event_id: event_ids::pack(&event.event_id),
            pdu: event.pdu.as_bytes().to_vec(),
            push_class: event.push_class,
        });
    }

    fn add_state_changes(&mut self, position: Position, room_nid: RoomNid, changes: &[StateChange]) {
        self.state_changes
            .extend(changes.iter().map(|change| StateChangeRow {
                position: position.0,
                room_nid: room_nid.0,
                key_nid: change.key_nid.0,
                old_event_nid: change.old.map(|nid| nid.0),
                new_event_nid: change.new.map(|nid| nid.0),
            }));
    }

    /// Adds a membership; the answer has `joined_at` filled in for a join that begins here, or in this batch.
    fn add_membership(&mut self, position: Position, membership: &MembershipChange) -> MembershipChange {
        let key = (membership.room_nid.0, membership.user_nid.0);
        let joined_at = match membership.membership {
            Membership::Join if membership.continues => {
                let before = self
                    .memberships
                    .get(&key)
                    .and_then(|row| row.joined_at)
                    .map(Position);
                membership.joined_at.or(before)
            }
            Membership::Join => Some(position),
            _ => None,
        };
        let row = MembershipRow {
            room_nid: membership.room_nid.0,
            user_nid: membership.user_nid.0,
            position: position.0,
            event_nid: membership.event_nid.0,
            joined_at: joined_at.map(|position| position.0),
            membership: membership.membership as i16,
            forgotten: membership.forgotten,
            stripped_state: membership
                .stripped_state
                .as_ref()
                .map(|json| json.as_bytes().to_vec()),
        };
        self.memberships.insert(key, row);
        MembershipChange {
            joined_at,
            ..membership.clone()
        }
    }

    fn add_device_list(&mut self, position: Position, change: &DeviceListChange) {
        let only_for = change.only_for.map_or(0, |nid| nid.0);
        let key = (change.user_nid.0, Arc::clone(&change.device_id), only_for);
        let row = self.device_lists.entry(key).or_insert_with(|| DeviceListRow {
            user_nid: change.user_nid.0,
            only_for,
            position: position.0,
            pending: Vec::new(),
            device_id: change.device_id.as_ref().to_owned(),
        });
        row.position = position.0;
        row.pending.extend(&change.pending);
    }

    fn add_to_device(&mut self, position: Position, sent: &ToDevice) {
        let messages = sent.messages.iter().zip(0..);
        self.to_device
            .extend(messages.map(|(message, ordinal)| ToDeviceRow {
                device_nid: message.device_nid.0,
                position: position.0,
                ordinal,
                sender: message.sender.as_ref().to_owned(),
                event_type: message.event_type.as_bytes().to_vec(),
                content: message.content.as_bytes().to_vec(),
            }));
        let outgoing = sent.outgoing.iter().zip(0..);
        self.outgoing_to_device
            .extend(outgoing.map(|(message, ordinal)| OutgoingToDeviceRow {
                destination: message.destination.as_ref().to_owned(),
                position: position.0,
                ordinal,
                content: message.content.as_bytes().to_vec(),
            }));
    }

    /// Commits the batch: one statement, one round trip, its own transaction.
    pub async fn execute(&self, connection: &mut Connection, fence: &Fence) -> Result<()> {
        let heads: Vec<&HeadRow> = self.heads.values().collect();
        let memberships: Vec<&MembershipRow> = self.memberships.values().collect();
        let redactions: Vec<&RedactionRow> = self.redactions.values().collect();
        let receipts: Vec<&ReceiptRow> = self.receipts.values().collect();
        let account_data: Vec<&AccountDataRow> = self.account_data.values().collect();
        let account_changes: Vec<&AccountChangeRow> = self.account_changes.values().collect();
        let device_lists: Vec<&DeviceListRow> = self.device_lists.values().collect();
        sqlx::query!(
            "SELECT commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)",
            fence.generation,
            fence.epoch,
            fence.session,
            self.from.0,
            self.to.0,
            &self.rooms as _,
            &heads as _,
            &self.events as _,
            &self.states as _,
            &self.state_changes as _,
            &memberships as _,
            &redactions as _,
            &self.transactions as _,
            &receipts as _,
            &account_data as _,
            &account_changes as _,
            &self.aliases as _,
            &self.relations as _,
            &self.promoted as _,
            &self.auth as _,
            &self.gaps as _,
            &self.unmatched_redactions as _,
            &self.partial_rooms as _,
            &self.completed_rooms as _,
            &self.restated as _,
            &device_lists as _,
            &self.to_device as _,
            &self.outgoing_to_device as _,
            &self.to_device_requests as _,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

fn relation_row(relation: &Relation, event: &EventRow) -> RelationRow {
    RelationRow {
        event_nid: event.event_nid,
        room_nid: event.room_nid,
        sequence: event.sequence.unwrap_or(0),
        position: event.position.unwrap_or(0),
        sender_nid: event.sender_nid,
        type_nid: event.type_nid,
        is_edit: relation.is_edit,
        rel_type: relation.rel_type.as_bytes().to_vec(),
        parent_id: event_ids::pack(&relation.parent_id),
    }
}
