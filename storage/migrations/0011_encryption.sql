-- Encryption: the keys of devices and users, changes of device lists, and messages from device to device.

CREATE TABLE device_keys (
    device_nid bigint CONSTRAINT device_keys_pkey PRIMARY KEY
        CONSTRAINT device_keys_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    keys bytea NOT NULL
);
COMMENT ON TABLE device_keys IS 'The identity keys of this server''s devices.';
COMMENT ON COLUMN device_keys.device_nid IS 'The device.';
COMMENT ON COLUMN device_keys.keys IS 'The device key object, JSON as it was uploaded, with the signatures it came with.';

CREATE TABLE one_time_keys (
    device_nid bigint NOT NULL CONSTRAINT one_time_keys_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    algorithm text NOT NULL,
    key_id text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT one_time_keys_pkey PRIMARY KEY (device_nid, algorithm, key_id)
);
CREATE INDEX one_time_keys_order_idx ON one_time_keys (device_nid, algorithm, ordinal);
COMMENT ON TABLE one_time_keys IS 'One-time keys that were not claimed yet. Whoever claims one deletes it.';
COMMENT ON COLUMN one_time_keys.device_nid IS 'Whose it is.';
COMMENT ON COLUMN one_time_keys.ordinal IS 'Grows in the order of upload, in which they are given out.';
COMMENT ON COLUMN one_time_keys.algorithm IS 'The algorithm: what is before the colon of the key''s name.';
COMMENT ON COLUMN one_time_keys.key_id IS 'What is after the colon.';
COMMENT ON COLUMN one_time_keys.key IS 'The key, JSON: a string or an object.';

CREATE TABLE claimed_one_time_keys (
    device_nid bigint NOT NULL CONSTRAINT claimed_one_time_keys_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    claimed_at bigint NOT NULL,
    algorithm text NOT NULL,
    key_id text NOT NULL,
    CONSTRAINT claimed_one_time_keys_pkey PRIMARY KEY (device_nid, algorithm, key_id)
);
COMMENT ON TABLE claimed_one_time_keys IS 'One-time keys that were given out lately: a retransmitted upload doesn''t bring them back.';
COMMENT ON COLUMN claimed_one_time_keys.device_nid IS 'Whose it was.';
COMMENT ON COLUMN claimed_one_time_keys.claimed_at IS 'When it was given out, in milliseconds since the Unix epoch; old rows are dropped.';
COMMENT ON COLUMN claimed_one_time_keys.algorithm IS 'The algorithm.';
COMMENT ON COLUMN claimed_one_time_keys.key_id IS 'What is after the colon of the key''s name.';

CREATE TABLE fallback_keys (
    device_nid bigint NOT NULL CONSTRAINT fallback_keys_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    used boolean NOT NULL,
    algorithm text NOT NULL,
    key_id text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT fallback_keys_pkey PRIMARY KEY (device_nid, algorithm)
);
COMMENT ON TABLE fallback_keys IS 'What is given out, any number of times, when a device has no one-time key left.';
COMMENT ON COLUMN fallback_keys.device_nid IS 'Whose it is.';
COMMENT ON COLUMN fallback_keys.used IS 'It was given out since it was uploaded.';
COMMENT ON COLUMN fallback_keys.algorithm IS 'The algorithm.';
COMMENT ON COLUMN fallback_keys.key_id IS 'What is after the colon of the key''s name.';
COMMENT ON COLUMN fallback_keys.key IS 'The key, JSON: a string or an object.';

CREATE TABLE cross_signing_keys (
    user_nid bigint NOT NULL CONSTRAINT cross_signing_keys_user_nid_fkey REFERENCES users,
    usage smallint NOT NULL CONSTRAINT cross_signing_keys_usage_known CHECK (usage BETWEEN 0 AND 2),
    key bytea NOT NULL,
    CONSTRAINT cross_signing_keys_pkey PRIMARY KEY (user_nid, usage)
);
COMMENT ON TABLE cross_signing_keys IS 'The cross-signing keys of this server''s users, and those of other servers'' users whose devices are known here.';
COMMENT ON COLUMN cross_signing_keys.user_nid IS 'The user.';
COMMENT ON COLUMN cross_signing_keys.usage IS '0: master, 1: self-signing, 2: user-signing.';
COMMENT ON COLUMN cross_signing_keys.key IS 'The key object, JSON, with the signatures it came with.';

CREATE TABLE key_signatures (
    target_nid bigint NOT NULL CONSTRAINT key_signatures_target_nid_fkey REFERENCES users,
    signer_nid bigint NOT NULL CONSTRAINT key_signatures_signer_nid_fkey REFERENCES users,
    target_key text NOT NULL,
    signer_key text NOT NULL,
    signature text NOT NULL,
    CONSTRAINT key_signatures_pkey PRIMARY KEY (target_nid, target_key, signer_nid, signer_key)
);
CREATE INDEX key_signatures_signer_idx ON key_signatures (signer_nid, target_nid);
COMMENT ON TABLE key_signatures IS 'Signatures of keys that were uploaded after the key, by users of this server.';
COMMENT ON COLUMN key_signatures.target_nid IS 'Whose key is signed.';
COMMENT ON COLUMN key_signatures.signer_nid IS 'Who signed.';
COMMENT ON COLUMN key_signatures.target_key IS 'The signed key: a device ID, or the public part of a master key.';
COMMENT ON COLUMN key_signatures.signer_key IS 'The ID of the key that signed, with its algorithm.';
COMMENT ON COLUMN key_signatures.signature IS 'The signature, unpadded base64.';

CREATE TABLE remote_device_lists (
    user_nid bigint CONSTRAINT remote_device_lists_pkey PRIMARY KEY
        CONSTRAINT remote_device_lists_user_nid_fkey REFERENCES users,
    stream_id bigint,
    position bigint NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    stale_since bigint,
    failures integer NOT NULL DEFAULT 0,
    retry_at bigint
);
CREATE INDEX remote_device_lists_stale_idx ON remote_device_lists (retry_at) WHERE stale_since IS NOT NULL;
COMMENT ON TABLE remote_device_lists IS 'Users of other servers whose devices are known here: those who share a room with a user of this server.';
COMMENT ON COLUMN remote_device_lists.user_nid IS 'The user.';
COMMENT ON COLUMN remote_device_lists.stream_id IS 'How new what is known is, as the user''s server numbers it; NULL while it did not say.';
COMMENT ON COLUMN remote_device_lists.position IS 'Where the log was when the list was asked for: who has shared a room with the user since then was told of every change.';
COMMENT ON COLUMN remote_device_lists.revision IS 'Counts what the user''s server told by itself, so that an answer that was under way meanwhile is not taken for the latest.';
COMMENT ON COLUMN remote_device_lists.stale_since IS 'Since when it is known to be out of date, in milliseconds since the Unix epoch; NULL while it is not.';
COMMENT ON COLUMN remote_device_lists.failures IS 'How often asking for it anew failed in a row.';
COMMENT ON COLUMN remote_device_lists.retry_at IS 'When it is to be asked for again, in milliseconds since the Unix epoch.';

CREATE TABLE remote_devices (
    user_nid bigint NOT NULL CONSTRAINT remote_devices_user_nid_fkey REFERENCES users,
    device_id bytea NOT NULL,
    keys bytea NOT NULL,
    display_name bytea,
    CONSTRAINT remote_devices_pkey PRIMARY KEY (user_nid, device_id)
);
COMMENT ON TABLE remote_devices IS 'The devices of the users in remote_device_lists that have keys.';
COMMENT ON COLUMN remote_devices.user_nid IS 'The user.';
COMMENT ON COLUMN remote_devices.device_id IS 'The device ID, UTF-8.';
COMMENT ON COLUMN remote_devices.keys IS 'The device key object, JSON.';
COMMENT ON COLUMN remote_devices.display_name IS 'The name that its server tells, UTF-8.';

CREATE TABLE device_list_changes (
    user_nid bigint NOT NULL CONSTRAINT device_list_changes_user_nid_fkey REFERENCES users,
    only_for bigint NOT NULL,
    position bigint NOT NULL,
    previous bigint,
    device_id text NOT NULL,
    CONSTRAINT device_list_changes_pkey PRIMARY KEY (user_nid, device_id, only_for)
) WITH (fillfactor = 80);
CREATE INDEX device_list_changes_position_idx ON device_list_changes (position);
COMMENT ON TABLE device_list_changes IS 'When the devices and cross-signing keys of users changed last; of this server''s users, each device by itself.';
COMMENT ON COLUMN device_list_changes.user_nid IS 'The user, of this server or of another.';
COMMENT ON COLUMN device_list_changes.only_for IS 'The user who alone sees the difference (a signature by them), or 0.';
COMMENT ON COLUMN device_list_changes.position IS 'The position in the log of the last change. Other servers know it as stream_id.';
COMMENT ON COLUMN device_list_changes.previous IS 'For a device: the position of the change of any device of the user that came before; NULL for the first.';
COMMENT ON COLUMN device_list_changes.device_id IS 'A device of a user of this server, which may be gone; empty for cross-signing keys, and for the whole list of a user of another server.';

CREATE TABLE pending_device_list_changes (
    pending_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pending_device_list_changes_pkey PRIMARY KEY,
    user_nid bigint NOT NULL,
    only_for bigint NOT NULL,
    created_at bigint NOT NULL,
    device_id text NOT NULL
);
COMMENT ON TABLE pending_device_list_changes IS 'Changes of keys that were stored and of which the log does not tell yet: what a server that stops in between does at its next start.';
COMMENT ON COLUMN pending_device_list_changes.pending_nid IS 'Stands for the change.';
COMMENT ON COLUMN pending_device_list_changes.user_nid IS 'As in device_list_changes.';
COMMENT ON COLUMN pending_device_list_changes.only_for IS 'As in device_list_changes.';
COMMENT ON COLUMN pending_device_list_changes.created_at IS 'When, in milliseconds since the Unix epoch.';
COMMENT ON COLUMN pending_device_list_changes.device_id IS 'As in device_list_changes.';

-- No reference to devices: the committer must not wait for who deletes one. Messages of devices that are gone are
-- dropped with them, or later.
CREATE TABLE to_device_messages (
    device_nid bigint NOT NULL,
    position bigint NOT NULL,
    ordinal integer NOT NULL,
    sender text NOT NULL,
    event_type bytea NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT to_device_messages_pkey PRIMARY KEY (device_nid, position, ordinal)
);
CREATE INDEX to_device_messages_position_idx ON to_device_messages (position);
COMMENT ON TABLE to_device_messages IS 'Messages to this server''s devices, kept until the device is known to have them.';
COMMENT ON COLUMN to_device_messages.device_nid IS 'The recipient.';
COMMENT ON COLUMN to_device_messages.position IS 'The position in the log.';
COMMENT ON COLUMN to_device_messages.ordinal IS 'Orders the messages of one position.';
COMMENT ON COLUMN to_device_messages.sender IS 'The user ID of who sent it.';
COMMENT ON COLUMN to_device_messages.event_type IS 'Its type, UTF-8.';
COMMENT ON COLUMN to_device_messages.content IS 'Its content, JSON.';

CREATE TABLE outgoing_to_device (
    position bigint NOT NULL,
    ordinal integer NOT NULL,
    destination text NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT outgoing_to_device_pkey PRIMARY KEY (destination, position, ordinal)
);
CREATE INDEX outgoing_to_device_position_idx ON outgoing_to_device (position);
COMMENT ON TABLE outgoing_to_device IS 'Messages to devices of other servers, kept until that server has acknowledged them.';
COMMENT ON COLUMN outgoing_to_device.position IS 'The position in the log.';
COMMENT ON COLUMN outgoing_to_device.ordinal IS 'Orders the messages of one position.';
COMMENT ON COLUMN outgoing_to_device.destination IS 'The server.';
COMMENT ON COLUMN outgoing_to_device.content IS 'The content of the EDU m.direct_to_device, JSON.';

CREATE TABLE to_device_requests (
    request_key bytea CONSTRAINT to_device_requests_pkey PRIMARY KEY,
    created_at bigint NOT NULL
);
CREATE INDEX to_device_requests_created_at_idx ON to_device_requests USING brin (created_at);
COMMENT ON TABLE to_device_requests IS 'What was accepted, of clients and of servers, so that a retransmission does nothing.';
COMMENT ON COLUMN to_device_requests.request_key IS 'A hash of who sent it, and how they named it.';
COMMENT ON COLUMN to_device_requests.created_at IS 'When, in milliseconds since the Unix epoch; old rows are dropped.';

CREATE TYPE batch_device_list AS (user_nid bigint, only_for bigint, position bigint, pending bigint[], device_id text);
CREATE TYPE batch_to_device AS (device_nid bigint, position bigint, ordinal integer, sender text, event_type bytea,
    content bytea);
CREATE TYPE batch_outgoing_to_device AS (destination text, position bigint, ordinal integer, content bytea);
CREATE TYPE batch_to_device_request AS (request_key bytea, created_at bigint);

DROP FUNCTION commit_batch;

-- One batch of the committer, in one statement and so one transaction. The fence comes first: a committer that was
-- replaced, or that is behind, changes nothing.
CREATE FUNCTION commit_batch(
    p_generation integer, p_epoch bigint, p_session bigint, p_from bigint, p_to bigint,
    p_rooms batch_room[], p_heads batch_head[], p_events batch_event[], p_states batch_state[],
    p_state_changes batch_state_change[], p_memberships batch_membership[], p_redactions batch_redaction[],
    p_transactions batch_transaction[], p_receipts batch_receipt[], p_account_data batch_account_data[],
    p_account_changes batch_account_change[], p_aliases batch_alias[],
    p_relations batch_relation[], p_promoted batch_event[], p_auth batch_auth[], p_gaps batch_gap[],
    p_unmatched batch_unmatched_redaction[], p_partial batch_partial_room[], p_completed batch_completed_room[],
    p_restated batch_restated[], p_device_lists batch_device_list[], p_to_device batch_to_device[],
    p_outgoing_to_device batch_outgoing_to_device[], p_to_device_requests batch_to_device_request[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    begun bigint;
    moved bigint;
BEGIN
    UPDATE log_head SET position = p_to
    WHERE id = 1 AND generation = p_generation AND epoch = p_epoch AND session = p_session AND position = p_from;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the log has moved on without this committer' USING ERRCODE = 'HE001';
    END IF;
    IF cardinality(p_rooms) > 0 THEN
        INSERT INTO rooms (room_nid, room_id, room_version, published) SELECT r.* FROM unnest(p_rooms) r;
    END IF;
    IF cardinality(p_heads) > 0 THEN
        -- A room that has no head yet stands at 0.
        INSERT INTO room_heads AS old (room_nid, sequence, forward_extremities, state_nid)
        SELECT h.room_nid, h.sequence, h.forward_extremities, h.state_nid
        FROM unnest(p_heads) h WHERE h.sequence_before = 0
        ON CONFLICT ON CONSTRAINT room_heads_pkey DO UPDATE SET sequence = excluded.sequence,
            forward_extremities = excluded.forward_extremities, state_nid = excluded.state_nid
            WHERE old.sequence = 0;
        GET DIAGNOSTICS begun = ROW_COUNT;
        UPDATE room_heads SET sequence = h.sequence, forward_extremities = h.forward_extremities, state_nid = h.state_nid
        FROM unnest(p_heads) h
        WHERE room_heads.room_nid = h.room_nid AND room_heads.sequence = h.sequence_before AND h.sequence_before > 0
            -- The state of a room changes without an event when the rest of it comes.
            AND (h.state_before IS NULL OR room_heads.state_nid = h.state_before);
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF begun + moved <> cardinality(p_heads) THEN
            RAISE EXCEPTION 'a room has moved on' USING ERRCODE = 'HE002', CONSTRAINT = 'room_heads_follow';
        END IF;
    END IF;
    IF cardinality(p_states) > 0 THEN
        INSERT INTO states (state_nid, previous_nid, depth, body) SELECT s.* FROM unnest(p_states) s;
    END IF;
    IF cardinality(p_events) > 0 THEN
        INSERT INTO events (event_nid, room_nid, sequence, position, type_nid, key_nid, sender_nid, state_after,
            origin_server_ts, sub, status, event_id, pdu, push_class)
        SELECT e.* FROM unnest(p_events) e;
    END IF;
    IF cardinality(p_promoted) > 0 THEN
        UPDATE events SET sequence = e.sequence, position = e.position, state_after = e.state_after, status = 0,
            push_class = e.push_class, sub = e.sub
        FROM unnest(p_promoted) e WHERE events.event_nid = e.event_nid AND events.status <> 0;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved <> cardinality(p_promoted) THEN
            RAISE EXCEPTION 'an event was promoted meanwhile' USING ERRCODE = 'HE002', CONSTRAINT = 'events_promoted_once';
        END IF;
    END IF;
    IF cardinality(p_auth) > 0 THEN
        INSERT INTO event_auth (event_nid, auth_nids) SELECT a.* FROM unnest(p_auth) a
        ON CONFLICT ON CONSTRAINT event_auth_pkey DO NOTHING;
    END IF;
    IF cardinality(p_gaps) > 0 THEN
        INSERT INTO gaps (room_nid, sequence, missing) SELECT g.* FROM unnest(p_gaps) g;
    END IF;
    IF cardinality(p_unmatched) > 0 THEN
        INSERT INTO unmatched_redactions (redacts, redaction_nid) SELECT u.* FROM unnest(p_unmatched) u
        ON CONFLICT ON CONSTRAINT unmatched_redactions_pkey DO NOTHING;
    END IF;
    IF cardinality(p_transactions) > 0 THEN
        INSERT INTO client_transactions (device_nid, request_key, event_nid, created_at, txn_id)
        SELECT t.* FROM unnest(p_transactions) t;
    END IF;
    IF cardinality(p_state_changes) > 0 THEN
        INSERT INTO state_changes (position, room_nid, key_nid, old_event_nid, new_event_nid)
        SELECT c.* FROM unnest(p_state_changes) c;
    END IF;
    IF cardinality(p_memberships) > 0 THEN
        INSERT INTO memberships AS old (room_nid, user_nid, position, event_nid, joined_at, membership, forgotten, stripped_state)
        SELECT m.* FROM unnest(p_memberships) m
        ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE SET position = excluded.position,
            event_nid = excluded.event_nid, membership = excluded.membership,
            -- A join that continues another says no position: the one there stays.
            joined_at = CASE WHEN excluded.membership = 1
                THEN coalesce(excluded.joined_at, old.joined_at, excluded.position) END,
            forgotten = excluded.forgotten, stripped_state = excluded.stripped_state;
    END IF;
    IF cardinality(p_relations) > 0 THEN
        INSERT INTO relations (event_nid, room_nid, sequence, position, sender_nid, type_nid, is_edit, rel_type, parent_id)
        SELECT r.* FROM unnest(p_relations) r;
    END IF;
    IF cardinality(p_redactions) > 0 THEN
        INSERT INTO redactions (event_nid, redaction_nid, position) SELECT r.* FROM unnest(p_redactions) r
        ON CONFLICT ON CONSTRAINT redactions_pkey DO NOTHING;
        -- After the relations, which may be of the same batch.
        DELETE FROM relations USING unnest(p_redactions) r WHERE relations.event_nid = r.event_nid;
    END IF;
    IF cardinality(p_receipts) > 0 THEN
        INSERT INTO receipts (room_nid, user_nid, receipt_type, thread, event_id, position, ts)
        SELECT r.* FROM unnest(p_receipts) r
        ON CONFLICT ON CONSTRAINT receipts_pkey DO UPDATE SET event_id = excluded.event_id,
            position = excluded.position, ts = excluded.ts;
    END IF;
    IF cardinality(p_account_data) > 0 THEN
        INSERT INTO account_data (user_nid, room_nid, data_type, position, content)
        SELECT a.* FROM unnest(p_account_data) a
        ON CONFLICT ON CONSTRAINT account_data_pkey DO UPDATE SET position = excluded.position, content = excluded.content;
    END IF;
    IF cardinality(p_account_changes) > 0 THEN
        INSERT INTO account_changes (user_nid, position) SELECT a.* FROM unnest(p_account_changes) a
        ON CONFLICT ON CONSTRAINT account_changes_pkey DO UPDATE SET position = excluded.position;
    END IF;
    IF cardinality(p_aliases) > 0 THEN
        INSERT INTO aliases (alias, room_nid, creator_nid, created_at) SELECT a.* FROM unnest(p_aliases) a;
    END IF;
    IF cardinality(p_partial) > 0 THEN
        INSERT INTO partial_rooms AS old (room_nid, join_nid, state_before, since, via, servers)
        SELECT p.* FROM unnest(p_partial) p
        ON CONFLICT ON CONSTRAINT partial_rooms_pkey DO UPDATE SET join_nid = excluded.join_nid,
            state_before = excluded.state_before, since = excluded.since, via = excluded.via,
            servers = excluded.servers, whole_at = NULL;
    END IF;
    IF cardinality(p_completed) > 0 THEN
        UPDATE partial_rooms SET whole_at = c.position FROM unnest(p_completed) c
        WHERE partial_rooms.room_nid = c.room_nid AND partial_rooms.whole_at IS NULL;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved <> cardinality(p_completed) THEN
            RAISE EXCEPTION 'a room is whole already' USING ERRCODE = 'HE002', CONSTRAINT = 'partial_rooms_completed_once';
        END IF;
    END IF;
    IF cardinality(p_restated) > 0 THEN
        UPDATE events SET state_after = r.state_after, status = r.status
        FROM unnest(p_restated) r WHERE events.event_nid = r.event_nid;
    END IF;
    IF cardinality(p_device_lists) > 0 THEN
        -- What was the user's newest device change before is what the next names as its predecessor.
        INSERT INTO device_list_changes (user_nid, device_id, only_for, position, previous)
        SELECT d.user_nid, d.device_id, d.only_for, d.position, CASE WHEN d.device_id <> '' THEN coalesce(
                lag(d.position) OVER (PARTITION BY d.user_nid, d.device_id <> '' ORDER BY d.position),
                (SELECT max(c.position) FROM device_list_changes c
                 WHERE c.user_nid = d.user_nid AND c.device_id <> '')) END
        FROM unnest(p_device_lists) d
        ON CONFLICT ON CONSTRAINT device_list_changes_pkey DO UPDATE SET position = excluded.position,
            previous = excluded.previous;
        DELETE FROM pending_device_list_changes p USING unnest(p_device_lists) d WHERE p.pending_nid = ANY (d.pending);
    END IF;
    IF cardinality(p_to_device) > 0 THEN
        -- A device that is gone gets nothing.
        INSERT INTO to_device_messages (device_nid, position, ordinal, sender, event_type, content)
        SELECT m.* FROM unnest(p_to_device) m
        WHERE EXISTS (SELECT FROM devices d WHERE d.device_nid = m.device_nid);
    END IF;
    IF cardinality(p_outgoing_to_device) > 0 THEN
        INSERT INTO outgoing_to_device (destination, position, ordinal, content)
        SELECT m.* FROM unnest(p_outgoing_to_device) m;
    END IF;
    IF cardinality(p_to_device_requests) > 0 THEN
        INSERT INTO to_device_requests (request_key, created_at) SELECT r.* FROM unnest(p_to_device_requests) r;
    END IF;
END
$$;
