-- Rooms that were joined before all of their state was told ("faster joins").

CREATE TABLE partial_rooms (
    room_nid bigint CONSTRAINT partial_rooms_pkey PRIMARY KEY,
    join_nid bigint NOT NULL,
    state_before bigint NOT NULL,
    since bigint NOT NULL,
    via text NOT NULL,
    servers text[] NOT NULL,
    whole_at bigint
);
COMMENT ON TABLE partial_rooms IS 'Rooms of whose state this server was told a part when it joined, and those whose state became whole since.';
COMMENT ON COLUMN partial_rooms.room_nid IS 'The room.';
COMMENT ON COLUMN partial_rooms.join_nid IS 'The join: the state before it is to be asked for.';
COMMENT ON COLUMN partial_rooms.state_before IS 'The part of the state before the join that was told with it.';
COMMENT ON COLUMN partial_rooms.since IS 'When the room was joined, in milliseconds.';
COMMENT ON COLUMN partial_rooms.via IS 'The server through which it was joined.';
COMMENT ON COLUMN partial_rooms.servers IS 'The servers that are in the room, as that one told.';
COMMENT ON COLUMN partial_rooms.whole_at IS 'The position in the log from which on the state here is whole; NULL until then. Who was told nothing of the room before is told then.';
CREATE INDEX partial_rooms_waiting_idx ON partial_rooms (room_nid) WHERE whole_at IS NULL;

ALTER TYPE batch_head ADD ATTRIBUTE state_before bigint;
CREATE TYPE batch_partial_room AS (room_nid bigint, join_nid bigint, state_before bigint, since bigint, via text, servers text[]);
CREATE TYPE batch_completed_room AS (room_nid bigint, position bigint);
CREATE TYPE batch_restated AS (event_nid bigint, state_after bigint, status smallint);

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
    p_restated batch_restated[]
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
END
$$;
