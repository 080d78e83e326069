-- The graph of events, as federation needs it: events that are known but not live, who authorised whom, where history
-- is missing, and what came in and waits its turn.

CREATE TABLE event_auth (
    event_nid bigint CONSTRAINT event_auth_pkey PRIMARY KEY,
    auth_nids bigint[] NOT NULL
);
COMMENT ON TABLE event_auth IS 'For every stored state event, whatever its status: the events that authorise it. Auth chains are walked here.';
COMMENT ON COLUMN event_auth.event_nid IS 'The state event.';
COMMENT ON COLUMN event_auth.auth_nids IS 'Its auth_events; those that were never had are left out.';

-- Events of this server's rooms before federation: all are stored with what authorises them. json, unlike jsonb, takes
-- an escaped U+0000 where it need not read it.
INSERT INTO event_auth (event_nid, auth_nids)
SELECT e.event_nid, coalesce(array_agg(a.event_nid) FILTER (WHERE a.event_nid IS NOT NULL), '{}')
FROM events e
LEFT JOIN LATERAL json_array_elements_text(convert_from(e.pdu, 'UTF8')::json -> 'auth_events') auth (event_id) ON true
LEFT JOIN events a ON a.event_id = '\x04'::bytea || decode(translate(substr(auth.event_id, 2), '-_', '+/') || '=', 'base64')
WHERE e.key_nid IS NOT NULL
GROUP BY e.event_nid;

CREATE TABLE gaps (
    room_nid bigint NOT NULL,
    sequence bigint NOT NULL,
    min_sub integer NOT NULL DEFAULT 0,
    missing bytea[] NOT NULL,
    CONSTRAINT gaps_pkey PRIMARY KEY (room_nid, sequence)
);
COMMENT ON TABLE gaps IS 'Live events before which history is missing here. What is fetched of it takes their sequence number and a negative sub.';
COMMENT ON COLUMN gaps.room_nid IS 'The room.';
COMMENT ON COLUMN gaps.sequence IS 'The sequence number of the live event.';
COMMENT ON COLUMN gaps.min_sub IS 'The least sub given so far to an event fetched for this gap; 0 before the first.';
COMMENT ON COLUMN gaps.missing IS 'The IDs of the events to ask for next, packed as in events.';

CREATE TABLE unmatched_redactions (
    redacts bytea NOT NULL,
    redaction_nid bigint NOT NULL,
    CONSTRAINT unmatched_redactions_pkey PRIMARY KEY (redacts, redaction_nid)
);
COMMENT ON TABLE unmatched_redactions IS 'Accepted redactions of events that are not known yet: they take effect when those come.';
COMMENT ON COLUMN unmatched_redactions.redacts IS 'The ID of the redacted event, packed as in events.';
COMMENT ON COLUMN unmatched_redactions.redaction_nid IS 'The redaction.';

CREATE TABLE inbound_pdus (
    inbound_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT inbound_pdus_pkey PRIMARY KEY,
    room_nid bigint NOT NULL,
    received_at bigint NOT NULL,
    origin text NOT NULL,
    event_id bytea NOT NULL,
    pdu bytea NOT NULL
);
CREATE INDEX inbound_pdus_room_idx ON inbound_pdus (room_nid, inbound_nid);
COMMENT ON TABLE inbound_pdus IS 'Events that other servers sent, acknowledged and not judged yet. Taken in order, room by room.';
COMMENT ON COLUMN inbound_pdus.inbound_nid IS 'The order in which they came.';
COMMENT ON COLUMN inbound_pdus.room_nid IS 'The room, which is known here.';
COMMENT ON COLUMN inbound_pdus.received_at IS 'When, in milliseconds.';
COMMENT ON COLUMN inbound_pdus.origin IS 'The server that sent it: the first to be asked for what is missing.';
COMMENT ON COLUMN inbound_pdus.event_id IS 'The event ID, packed as in events.';
COMMENT ON COLUMN inbound_pdus.pdu IS 'The event as it came in, its signatures verified; redacted where its hash did not fit.';

CREATE TABLE inbound_transactions (
    origin text NOT NULL,
    txn_id bytea NOT NULL,
    received_at bigint NOT NULL,
    response bytea NOT NULL,
    CONSTRAINT inbound_transactions_pkey PRIMARY KEY (origin, txn_id)
);
CREATE INDEX inbound_transactions_received_at_idx ON inbound_transactions USING brin (received_at);
COMMENT ON TABLE inbound_transactions IS 'Transactions of other servers that were answered, so that a repetition gets the first answer.';
COMMENT ON COLUMN inbound_transactions.origin IS 'The server that sent it.';
COMMENT ON COLUMN inbound_transactions.txn_id IS 'Its transaction ID, UTF-8.';
COMMENT ON COLUMN inbound_transactions.received_at IS 'When, in milliseconds; old rows are dropped.';
COMMENT ON COLUMN inbound_transactions.response IS 'The answer that was given, JSON.';

CREATE TYPE batch_auth AS (event_nid bigint, auth_nids bigint[]);
CREATE TYPE batch_gap AS (room_nid bigint, sequence bigint, missing bytea[]);
CREATE TYPE batch_unmatched_redaction AS (redacts bytea, redaction_nid bigint);

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
    p_unmatched batch_unmatched_redaction[]
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
END
$$;
