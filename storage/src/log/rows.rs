//! The rows of a batch, as `commit_batch` (migrations 1, 5, 9 and 11) takes them. Field order is that of the SQL types.

macro_rules! row {
    ($name:ident = $sql:literal { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Clone, sqlx::Type)]
        #[sqlx(type_name = $sql)]
        pub(super) struct $name { $(pub(super) $field: $type),* }
    };
}

row!(RoomRow = "batch_room" {
    room_nid: i64, room_id: String, room_version: String, published: bool,
});
row!(HeadRow = "batch_head" {
    room_nid: i64, sequence_before: i64, sequence: i64, forward_extremities: Vec<i64>, state_nid: i64,
    state_before: Option<i64>,
});
row!(EventRow = "batch_event" {
    event_nid: i64, room_nid: i64, sequence: Option<i64>, position: Option<i64>, type_nid: i64, key_nid: Option<i64>,
    sender_nid: i64, state_after: Option<i64>, origin_server_ts: i64, sub: i32, status: i16, event_id: Vec<u8>,
    pdu: Vec<u8>, push_class: i16,
});
row!(StateRow = "batch_state" { state_nid: i64, previous_nid: Option<i64>, depth: i16, body: Vec<u8> });
row!(StateChangeRow = "batch_state_change" {
    position: i64, room_nid: i64, key_nid: i64, old_event_nid: Option<i64>, new_event_nid: Option<i64>,
});
row!(MembershipRow = "batch_membership" {
    room_nid: i64, user_nid: i64, position: i64, event_nid: i64, joined_at: Option<i64>, membership: i16,
    forgotten: bool, stripped_state: Option<Vec<u8>>,
});
row!(RedactionRow = "batch_redaction" { event_nid: i64, redaction_nid: i64, position: i64 });
row!(TransactionRow = "batch_transaction" {
    device_nid: i64, request_key: Vec<u8>, event_nid: i64, created_at: i64, txn_id: Vec<u8>,
});
row!(ReceiptRow = "batch_receipt" {
    room_nid: i64, user_nid: i64, receipt_type: String, thread: Vec<u8>, event_id: String, position: i64, ts: i64,
});
row!(AccountDataRow = "batch_account_data" {
    user_nid: i64, room_nid: i64, data_type: Vec<u8>, position: i64, content: Vec<u8>,
});
row!(AccountChangeRow = "batch_account_change" { user_nid: i64, position: i64 });
row!(RelationRow = "batch_relation" {
    event_nid: i64, room_nid: i64, sequence: i64, position: i64, sender_nid: i64, type_nid: i64, is_edit: bool,
    rel_type: Vec<u8>, parent_id: Vec<u8>,
});
row!(AuthRow = "batch_auth" { event_nid: i64, auth_nids: Vec<i64> });
row!(GapRow = "batch_gap" { room_nid: i64, sequence: i64, missing: Vec<Vec<u8>> });
row!(UnmatchedRedactionRow = "batch_unmatched_redaction" { redacts: Vec<u8>, redaction_nid: i64 });
row!(AliasRow = "batch_alias" { alias: String, room_nid: i64, creator_nid: i64, created_at: i64 });
row!(PartialRoomRow = "batch_partial_room" {
    room_nid: i64, join_nid: i64, state_before: i64, since: i64, via: String, servers: Vec<String>,
});
row!(CompletedRoomRow = "batch_completed_room" { room_nid: i64, position: i64 });
row!(RestatedRow = "batch_restated" { event_nid: i64, state_after: i64, status: i16 });
row!(DeviceListRow = "batch_device_list" {
    user_nid: i64, only_for: i64, position: i64, pending: Vec<i64>, device_id: String,
});
row!(ToDeviceRow = "batch_to_device" {
    device_nid: i64, position: i64, ordinal: i32, sender: String, event_type: Vec<u8>, content: Vec<u8>,
});
row!(OutgoingToDeviceRow = "batch_outgoing_to_device" {
    destination: String, position: i64, ordinal: i32, content: Vec<u8>,
});
row!(ToDeviceRequestRow = "batch_to_device_request" { request_key: Vec<u8>, created_at: i64 });
