-- The log, the rooms on it, and what the committer writes.

CREATE TABLE log_head (
    id smallint CONSTRAINT log_head_pkey PRIMARY KEY CONSTRAINT log_head_one_row CHECK (id = 1),
    generation integer NOT NULL,
    epoch bigint NOT NULL,
    session bigint NOT NULL,
    position bigint NOT NULL,
    timeline text NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE log_head IS 'The fence: one row that every commit moves. A committer whose view of it is old writes nothing.';
COMMENT ON COLUMN log_head.id IS 'Always 1.';
COMMENT ON COLUMN log_head.generation IS 'Counts the times that the end of the log may have been lost: by a database failover, or a restored backup.';
COMMENT ON COLUMN log_head.epoch IS 'Counts the committers there have been; only the latest may write.';
COMMENT ON COLUMN log_head.session IS 'Counts the connections of committers; a statement still under way on an earlier one writes nothing.';
COMMENT ON COLUMN log_head.position IS 'The last position given. Positions are gap-free and in commit order.';
COMMENT ON COLUMN log_head.timeline IS 'What log_timeline() said to the last committer; another answer means a failover or a restored backup.';
INSERT INTO log_head (id, generation, epoch, session, position, timeline) VALUES (1, 1, 0, 0, 0, '');

CREATE TABLE log_generations (
    generation integer CONSTRAINT log_generations_pkey PRIMARY KEY,
    parted_at bigint NOT NULL
);
COMMENT ON TABLE log_generations IS 'Where each generation of the log parted from the one before it.';
COMMENT ON COLUMN log_generations.generation IS 'The generation that began.';
COMMENT ON COLUMN log_generations.parted_at IS 'The last position shared with the generation before; an older token beyond it is cut back to it.';

-- Which history of which database this is. A failover begins another timeline; a dump that is restored elsewhere comes
-- to another cluster or database. A hosted PostgreSQL may keep the identifier of its cluster to itself.
CREATE FUNCTION log_timeline() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    cluster text;
BEGIN
    BEGIN
        SELECT system_identifier INTO cluster FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
        cluster := '';
    END;
    RETURN format('%s/%s/%s', cluster, (SELECT oid FROM pg_database WHERE datname = current_database()),
        left(pg_walfile_name(pg_current_wal_lsn()), 8));
END
$$;

-- Numbers are taken in blocks, so that the database is seldom asked for one.
CREATE SEQUENCE event_nids INCREMENT BY 4096 MINVALUE 1;
CREATE SEQUENCE state_nids INCREMENT BY 4096 MINVALUE 1;
CREATE SEQUENCE room_nids MINVALUE 1;

CREATE TABLE users (
    user_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT users_pkey PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT users_user_id_key UNIQUE
);
COMMENT ON TABLE users IS 'Interned user IDs, of this server and of others.';
COMMENT ON COLUMN users.user_nid IS 'The number that stands for the user ID in every other table.';
COMMENT ON COLUMN users.user_id IS 'The full user ID.';

CREATE TABLE event_types (
    type_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT event_types_pkey PRIMARY KEY,
    event_type bytea NOT NULL CONSTRAINT event_types_event_type_key UNIQUE
);
COMMENT ON TABLE event_types IS 'Interned event types.';
COMMENT ON COLUMN event_types.type_nid IS 'The number that stands for the type.';
COMMENT ON COLUMN event_types.event_type IS 'The type, UTF-8; bytes because a remote server may put U+0000 in it.';

CREATE TABLE state_keys (
    key_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT state_keys_pkey PRIMARY KEY,
    type_nid bigint NOT NULL CONSTRAINT state_keys_type_nid_fkey REFERENCES event_types,
    state_key bytea NOT NULL,
    CONSTRAINT state_keys_type_nid_state_key_key UNIQUE (type_nid, state_key)
);
COMMENT ON TABLE state_keys IS 'Interned pairs of event type and state key: the keys of state maps.';
COMMENT ON COLUMN state_keys.key_nid IS 'The number that stands for the pair.';
COMMENT ON COLUMN state_keys.type_nid IS 'The event type.';
COMMENT ON COLUMN state_keys.state_key IS 'The state key, UTF-8; bytes because a remote server may put U+0000 in it.';

CREATE TABLE rooms (
    room_nid bigint CONSTRAINT rooms_pkey PRIMARY KEY,
    room_id text NOT NULL CONSTRAINT rooms_room_id_key UNIQUE,
    room_version text NOT NULL,
    published boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE rooms IS 'Rooms known here.';
COMMENT ON COLUMN rooms.published IS 'Whether the room is in the directory of published rooms.';
COMMENT ON COLUMN rooms.room_nid IS 'The number that stands for the room ID in every other table.';
COMMENT ON COLUMN rooms.room_id IS 'The room ID.';
COMMENT ON COLUMN rooms.room_version IS 'The version in the create event.';

CREATE TABLE room_heads (
    room_nid bigint CONSTRAINT room_heads_pkey PRIMARY KEY,
    sequence bigint NOT NULL,
    forward_extremities bigint[] NOT NULL,
    state_nid bigint NOT NULL
) WITH (fillfactor = 40);
COMMENT ON TABLE room_heads IS 'Where each room stands: one small row that each commit to the room rewrites in place.';
COMMENT ON COLUMN room_heads.room_nid IS 'The room.';
COMMENT ON COLUMN room_heads.sequence IS 'The sequence number of its last live event; a change decided on another number is refused.';
COMMENT ON COLUMN room_heads.forward_extremities IS 'The event_nids that no accepted event names as a predecessor yet.';
COMMENT ON COLUMN room_heads.state_nid IS 'The current state.';

CREATE TABLE events (
    event_nid bigint CONSTRAINT events_pkey PRIMARY KEY,
    room_nid bigint NOT NULL,
    sequence bigint,
    position bigint,
    type_nid bigint NOT NULL,
    key_nid bigint,
    sender_nid bigint NOT NULL,
    state_after bigint,
    origin_server_ts bigint NOT NULL,
    sub integer NOT NULL DEFAULT 0,
    status smallint NOT NULL CONSTRAINT events_status_known CHECK (status BETWEEN 0 AND 3),
    push_class smallint NOT NULL DEFAULT 0,
    event_id bytea NOT NULL CONSTRAINT events_event_id_key UNIQUE,
    pdu bytea NOT NULL,
    CONSTRAINT events_room_order_key UNIQUE (room_nid, sequence, sub)
);
CREATE UNIQUE INDEX events_position_key ON events (position) WHERE position IS NOT NULL;
COMMENT ON TABLE events IS 'Every event known here: live, fetched later, soft-failed, rejected, and outliers.';
COMMENT ON COLUMN events.event_nid IS 'The number that stands for the event ID; given before the commit, so not in commit order.';
COMMENT ON COLUMN events.room_nid IS 'The room.';
COMMENT ON COLUMN events.sequence IS 'With sub, the place in the order of the room. NULL for rejected and soft-failed events and outliers.';
COMMENT ON COLUMN events.position IS 'The position in the log; only live events have one.';
COMMENT ON COLUMN events.type_nid IS 'The event type.';
COMMENT ON COLUMN events.key_nid IS 'For a state event, its type and state key.';
COMMENT ON COLUMN events.sender_nid IS 'The sender.';
COMMENT ON COLUMN events.state_after IS 'The state of the room after this event; NULL for outliers. The state before it is the same or, for a state event, the one before that state.';
COMMENT ON COLUMN events.origin_server_ts IS 'The time claimed by the sending server, in milliseconds.';
COMMENT ON COLUMN events.sub IS '0 for live events; negative for events fetched later, which come before the live event of their sequence.';
COMMENT ON COLUMN events.status IS '0 accepted, 1 soft-failed, 2 rejected, 3 outlier.';
COMMENT ON COLUMN events.push_class IS 'What the server''s own push rules make of it. Bits: 1 notifies everyone, 2 is highlighted for everyone, 4 mentions users, 8 relates to another event, 16 is something said: no state, no reaction, no edit.';
COMMENT ON COLUMN events.event_id IS 'Packed: a byte 3 or 4 and the 32 bytes of the hash for ids of room version 3, and 4 or newer; a byte 0 and the text otherwise.';
COMMENT ON COLUMN events.pdu IS 'The event as federation carries it, JSON without event_id; redacted once its redaction is applied.';

CREATE TABLE states (
    state_nid bigint CONSTRAINT states_pkey PRIMARY KEY,
    previous_nid bigint,
    depth smallint NOT NULL,
    body bytea NOT NULL
);
COMMENT ON TABLE states IS 'States of rooms: each a delta on the one before it, or whole. Shared by all events that change no state.';
COMMENT ON COLUMN states.state_nid IS 'The number of the state.';
COMMENT ON COLUMN states.previous_nid IS 'The state that this one changed; NULL for the first of a room.';
COMMENT ON COLUMN states.depth IS 'How many deltas lead from the last whole state to this one; 0 when the body is whole.';
COMMENT ON COLUMN states.body IS 'Pairs of key_nid and event_nid (0: removed), packed as in states.rs; whole bodies are compressed.';

CREATE TABLE state_changes (
    position bigint NOT NULL,
    room_nid bigint NOT NULL,
    key_nid bigint NOT NULL,
    old_event_nid bigint,
    new_event_nid bigint,
    CONSTRAINT state_changes_pkey PRIMARY KEY (room_nid, key_nid, position)
);
CREATE INDEX state_changes_position_idx ON state_changes (position);
CREATE INDEX state_changes_room_position_idx ON state_changes (room_nid, position);
COMMENT ON TABLE state_changes IS 'Every change of a current state, whatever caused it. Never derived from the timeline.';
COMMENT ON COLUMN state_changes.position IS 'The position in the log: that of the event where an event caused it.';
COMMENT ON COLUMN state_changes.room_nid IS 'The room.';
COMMENT ON COLUMN state_changes.key_nid IS 'The type and state key that changed.';
COMMENT ON COLUMN state_changes.old_event_nid IS 'The event before, if any.';
COMMENT ON COLUMN state_changes.new_event_nid IS 'The event after, if any.';

CREATE TABLE memberships (
    room_nid bigint NOT NULL,
    user_nid bigint NOT NULL CONSTRAINT memberships_user_nid_fkey REFERENCES users,
    position bigint NOT NULL,
    event_nid bigint NOT NULL,
    joined_at bigint,
    membership smallint NOT NULL CONSTRAINT memberships_membership_known CHECK (membership BETWEEN 0 AND 4),
    forgotten boolean NOT NULL,
    stripped_state bytea,
    CONSTRAINT memberships_pkey PRIMARY KEY (room_nid, user_nid)
) WITH (fillfactor = 85);
CREATE INDEX memberships_user_idx ON memberships (user_nid);
CREATE INDEX memberships_position_idx ON memberships (position);
COMMENT ON TABLE memberships IS 'The current membership of each user in each room.';
COMMENT ON COLUMN memberships.room_nid IS 'The room.';
COMMENT ON COLUMN memberships.user_nid IS 'The user.';
COMMENT ON COLUMN memberships.position IS 'The position in the log of the last change of this row.';
COMMENT ON COLUMN memberships.event_nid IS 'The member event.';
COMMENT ON COLUMN memberships.joined_at IS 'For a joined user, the position at which this unbroken time in the room began.';
COMMENT ON COLUMN memberships.membership IS '0 leave, 1 join, 2 invite, 3 knock, 4 ban.';
COMMENT ON COLUMN memberships.forgotten IS 'The user has asked not to see this room again.';
COMMENT ON COLUMN memberships.stripped_state IS 'For an invite or knock, a JSON array of the stripped state events that came with it.';

CREATE TABLE redactions (
    event_nid bigint CONSTRAINT redactions_pkey PRIMARY KEY,
    redaction_nid bigint NOT NULL,
    position bigint NOT NULL,
    pruned boolean NOT NULL DEFAULT false
);
CREATE INDEX redactions_position_idx ON redactions (position);
CREATE INDEX redactions_unpruned_idx ON redactions (event_nid) WHERE NOT pruned;
COMMENT ON TABLE redactions IS 'Events that were redacted.';
COMMENT ON COLUMN redactions.event_nid IS 'The redacted event.';
COMMENT ON COLUMN redactions.redaction_nid IS 'The event that redacted it first.';
COMMENT ON COLUMN redactions.position IS 'The position in the log: that of the redacting event, or a later one where the redacted event came after it.';
COMMENT ON COLUMN redactions.pruned IS 'events.pdu holds the redacted form by now.';

CREATE TABLE relations (
    event_nid bigint CONSTRAINT relations_pkey PRIMARY KEY,
    room_nid bigint NOT NULL,
    sequence bigint NOT NULL,
    position bigint NOT NULL,
    sender_nid bigint NOT NULL,
    type_nid bigint NOT NULL,
    sub integer NOT NULL DEFAULT 0,
    is_edit boolean NOT NULL,
    rel_type bytea NOT NULL,
    parent_id bytea NOT NULL
);
CREATE INDEX relations_parent_idx ON relations (room_nid, parent_id, rel_type, sequence, sub) INCLUDE (position, sender_nid);
CREATE INDEX relations_threads_idx ON relations (room_nid, sequence, sub) WHERE rel_type = 'm.thread';
COMMENT ON TABLE relations IS 'Events that say by a rel_type how they relate to another of their room. A redacted event says nothing any more.';
COMMENT ON COLUMN relations.event_nid IS 'The event: the child.';
COMMENT ON COLUMN relations.room_nid IS 'The room of the child.';
COMMENT ON COLUMN relations.sequence IS 'With sub, the place of the child in the order of the room.';
COMMENT ON COLUMN relations.position IS 'The position of the child in the log; 0 for one that was fetched later.';
COMMENT ON COLUMN relations.sender_nid IS 'The sender of the child.';
COMMENT ON COLUMN relations.type_nid IS 'The event type of the child.';
COMMENT ON COLUMN relations.sub IS 'See sequence.';
COMMENT ON COLUMN relations.is_edit IS 'The child is no state event and has, or if it is encrypted may have, a new content for its parent.';
COMMENT ON COLUMN relations.rel_type IS 'm.thread, m.replace, m.reference, m.annotation, …, UTF-8; bytes because a remote server may put U+0000 in it.';
COMMENT ON COLUMN relations.parent_id IS 'The ID of the parent, packed as in events; it need not be known here, or be in the same room.';

CREATE TABLE client_transactions (
    device_nid bigint NOT NULL,
    request_key bytea NOT NULL,
    event_nid bigint NOT NULL,
    created_at bigint NOT NULL,
    txn_id bytea NOT NULL,
    CONSTRAINT client_transactions_pkey PRIMARY KEY (device_nid, request_key)
);
CREATE UNIQUE INDEX client_transactions_event_key ON client_transactions (event_nid);
CREATE INDEX client_transactions_created_at_idx ON client_transactions USING brin (created_at);
COMMENT ON TABLE client_transactions IS 'Requests that made an event, so that a retransmission finds the first answer.';
COMMENT ON COLUMN client_transactions.device_nid IS 'The device that sent the request.';
COMMENT ON COLUMN client_transactions.request_key IS 'The first 16 bytes of the SHA-256 of endpoint, room, type and transaction id.';
COMMENT ON COLUMN client_transactions.event_nid IS 'The event it made.';
COMMENT ON COLUMN client_transactions.created_at IS 'When, in milliseconds; old rows are dropped.';
COMMENT ON COLUMN client_transactions.txn_id IS 'The transaction id, for unsigned.transaction_id.';

CREATE TABLE receipts (
    room_nid bigint NOT NULL,
    user_nid bigint NOT NULL CONSTRAINT receipts_user_nid_fkey REFERENCES users,
    receipt_type text NOT NULL,
    thread bytea NOT NULL,
    event_id text NOT NULL,
    position bigint NOT NULL,
    ts bigint NOT NULL,
    CONSTRAINT receipts_pkey PRIMARY KEY (room_nid, user_nid, receipt_type, thread)
) WITH (fillfactor = 70);
CREATE INDEX receipts_position_idx ON receipts (position);
COMMENT ON TABLE receipts IS 'The latest receipt of each kind of each user in each room and thread.';
COMMENT ON COLUMN receipts.room_nid IS 'The room.';
COMMENT ON COLUMN receipts.user_nid IS 'Whose receipt it is.';
COMMENT ON COLUMN receipts.receipt_type IS 'm.read, m.read.private, …';
COMMENT ON COLUMN receipts.thread IS 'The thread: a root event ID, main, or empty for an unthreaded receipt.';
COMMENT ON COLUMN receipts.event_id IS 'The event it points to.';
COMMENT ON COLUMN receipts.position IS 'The position in the log.';
COMMENT ON COLUMN receipts.ts IS 'When, in milliseconds.';

CREATE TABLE account_data (
    user_nid bigint NOT NULL CONSTRAINT account_data_user_nid_fkey REFERENCES users,
    room_nid bigint NOT NULL,
    data_type bytea NOT NULL,
    position bigint NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT account_data_pkey PRIMARY KEY (user_nid, room_nid, data_type)
) WITH (fillfactor = 85);
CREATE INDEX account_data_position_idx ON account_data (position);
COMMENT ON TABLE account_data IS 'Account data, global and per room.';
COMMENT ON COLUMN account_data.user_nid IS 'The user.';
COMMENT ON COLUMN account_data.room_nid IS 'The room; 0 for global account data.';
COMMENT ON COLUMN account_data.data_type IS 'The type, UTF-8.';
COMMENT ON COLUMN account_data.position IS 'The position in the log.';
COMMENT ON COLUMN account_data.content IS 'The content, a JSON object.';

CREATE TABLE account_changes (
    user_nid bigint CONSTRAINT account_changes_pkey PRIMARY KEY CONSTRAINT account_changes_user_nid_fkey REFERENCES users,
    position bigint NOT NULL
);
CREATE INDEX account_changes_position_idx ON account_changes (position);
COMMENT ON TABLE account_changes IS 'Users whose tokens, devices or standing changed: caches of them are dropped when this entry is seen.';
COMMENT ON COLUMN account_changes.user_nid IS 'The user.';
COMMENT ON COLUMN account_changes.position IS 'The position in the log of the latest such change.';

CREATE TABLE aliases (
    alias text CONSTRAINT aliases_pkey PRIMARY KEY,
    room_nid bigint NOT NULL,
    creator_nid bigint NOT NULL CONSTRAINT aliases_creator_nid_fkey REFERENCES users,
    created_at bigint NOT NULL
);
CREATE INDEX aliases_room_idx ON aliases (room_nid);
COMMENT ON TABLE aliases IS 'Aliases of this server.';
COMMENT ON COLUMN aliases.alias IS 'The full alias.';
COMMENT ON COLUMN aliases.room_nid IS 'The room it points to.';
COMMENT ON COLUMN aliases.creator_nid IS 'Who made it, and may delete it.';
COMMENT ON COLUMN aliases.created_at IS 'When, in milliseconds.';

-- The sequence number of the last live event of a room at a position of the log; 0 if there was none. Both rise
-- together, and sequence numbers have no gaps: a search by halves finds it, however long the room is.
CREATE FUNCTION sequence_at(p_room_nid bigint, p_position bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
    at_middle bigint;
BEGIN
    SELECT sequence INTO high FROM room_heads WHERE room_nid = p_room_nid;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT position INTO at_middle FROM events WHERE room_nid = p_room_nid AND sequence = middle AND sub = 0;
        IF at_middle <= p_position THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- The rows of a batch, as the committer hands them over (storage/src/log/rows.rs).
CREATE TYPE batch_room AS (room_nid bigint, room_id text, room_version text, published boolean);
CREATE TYPE batch_head AS (room_nid bigint, sequence_before bigint, sequence bigint, forward_extremities bigint[], state_nid bigint);
CREATE TYPE batch_event AS (event_nid bigint, room_nid bigint, sequence bigint, "position" bigint, type_nid bigint, key_nid bigint,
    sender_nid bigint, state_after bigint, origin_server_ts bigint, sub integer, status smallint, event_id bytea, pdu bytea,
    push_class smallint);
CREATE TYPE batch_state AS (state_nid bigint, previous_nid bigint, depth smallint, body bytea);
CREATE TYPE batch_state_change AS ("position" bigint, room_nid bigint, key_nid bigint, old_event_nid bigint, new_event_nid bigint);
CREATE TYPE batch_membership AS (room_nid bigint, user_nid bigint, "position" bigint, event_nid bigint, joined_at bigint,
    membership smallint, forgotten boolean, stripped_state bytea);
CREATE TYPE batch_redaction AS (event_nid bigint, redaction_nid bigint, "position" bigint);
CREATE TYPE batch_transaction AS (device_nid bigint, request_key bytea, event_nid bigint, created_at bigint, txn_id bytea);
CREATE TYPE batch_receipt AS (room_nid bigint, user_nid bigint, receipt_type text, thread bytea, event_id text, "position" bigint, ts bigint);
CREATE TYPE batch_account_data AS (user_nid bigint, room_nid bigint, data_type bytea, "position" bigint, content bytea);
CREATE TYPE batch_account_change AS (user_nid bigint, "position" bigint);
CREATE TYPE batch_alias AS (alias text, room_nid bigint, creator_nid bigint, created_at bigint);
CREATE TYPE batch_relation AS (event_nid bigint, room_nid bigint, sequence bigint, "position" bigint, sender_nid bigint,
    type_nid bigint, is_edit boolean, rel_type bytea, parent_id bytea);

-- One batch of the committer, in one statement and so one transaction. The fence comes first: a committer that was
-- replaced, or that is behind, changes nothing.
CREATE FUNCTION commit_batch(
    p_generation integer, p_epoch bigint, p_session bigint, p_from bigint, p_to bigint,
    p_rooms batch_room[], p_heads batch_head[], p_events batch_event[], p_states batch_state[],
    p_state_changes batch_state_change[], p_memberships batch_membership[], p_redactions batch_redaction[],
    p_transactions batch_transaction[], p_receipts batch_receipt[], p_account_data batch_account_data[],
    p_account_changes batch_account_change[], p_aliases batch_alias[],
    p_relations batch_relation[]
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
        WHERE room_heads.room_nid = h.room_nid AND room_heads.sequence = h.sequence_before AND h.sequence_before > 0;
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
END
$$;
