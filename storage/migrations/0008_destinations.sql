-- How far the log has been served to other servers. No row per event and server: what a server is owed is read off the
-- log.

CREATE TABLE outbound (
    id smallint CONSTRAINT outbound_pkey PRIMARY KEY CONSTRAINT outbound_one_row CHECK (id = 1),
    served bigint NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE outbound IS 'How far in the log all other servers have been served, but for those in destinations. One row, moved on from time to time: what it lags behind is sent again after a crash.';
COMMENT ON COLUMN outbound.id IS 'Always 1.';
COMMENT ON COLUMN outbound.served IS 'A position in the log.';
-- Until now nothing was sent to anybody, and there was nobody to send it to.
INSERT INTO outbound (id, served) SELECT 1, position FROM log_head;

CREATE TABLE destinations (
    server_name text CONSTRAINT destinations_pkey PRIMARY KEY,
    behind_since bigint,
    failing_since bigint,
    retry_at bigint,
    last_success bigint,
    failures integer NOT NULL,
    last_error bytea
);
COMMENT ON TABLE destinations IS 'Other servers that are behind what outbound says, or that fail. All others have no row.';
COMMENT ON COLUMN destinations.server_name IS 'The server.';
COMMENT ON COLUMN destinations.behind_since IS 'How far in the log it has been served; NULL where it is owed nothing.';
COMMENT ON COLUMN destinations.failing_since IS 'Since when deliveries fail, in milliseconds; NULL where they do not.';
COMMENT ON COLUMN destinations.retry_at IS 'When it is tried again, in milliseconds.';
COMMENT ON COLUMN destinations.last_success IS 'When it last took something, in milliseconds, as far as that is remembered.';
COMMENT ON COLUMN destinations.failures IS 'Failures in a row.';
COMMENT ON COLUMN destinations.last_error IS 'Why the last delivery failed, UTF-8; bytes because another server may put U+0000 in it.';

CREATE TABLE relayed_events (
    event_id bytea CONSTRAINT relayed_events_pkey PRIMARY KEY
);
COMMENT ON TABLE relayed_events IS 'Events of other servers that this one sends on to the servers in the room, because it let their sender in or out.';
COMMENT ON COLUMN relayed_events.event_id IS 'The event ID, packed as in events. It may never have been accepted.';

-- The server in a user ID.
CREATE FUNCTION server_of(user_id text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substr(user_id, strpos(user_id, ':') + 1);
CREATE INDEX users_server_idx ON users (server_of(user_id));

-- The sequence number of the first live event of a room after a position. Sequence numbers are contiguous, and in the
-- order of positions: twenty steps find one in a million, where an index on the position would cost every event.
CREATE FUNCTION sequence_after(p_room_nid bigint, p_position bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 1;
    high bigint;
    middle bigint;
BEGIN
    SELECT sequence + 1 INTO high FROM room_heads WHERE room_nid = p_room_nid;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        IF (SELECT e.position > p_position FROM events e
            WHERE e.room_nid = p_room_nid AND e.sequence = middle AND e.sub = 0) THEN
            high := middle;
        ELSE
            low := middle + 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
