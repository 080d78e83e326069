-- What was delivered to whom, and what was passed over in delivering to other servers.

COMMENT ON COLUMN receipts.receipt_type IS 'm.read, m.read.private, chat.hearth.delivered.';
COMMENT ON COLUMN receipts.thread IS 'The thread: a root event ID, main, or empty for an unthreaded receipt. Of chat.hearth.delivered, the first event that it stands for.';
COMMENT ON COLUMN receipts.event_id IS 'The event it points to; the last one that it stands for.';

CREATE TABLE outbound_skips (
    server_name text NOT NULL,
    room_nid bigint NOT NULL,
    after_position bigint NOT NULL,
    upto_position bigint NOT NULL,
    CONSTRAINT outbound_skips_pkey PRIMARY KEY (room_nid, server_name, after_position)
);
COMMENT ON TABLE outbound_skips IS 'What other servers were not sent when they were caught up after an outage: they ask for what they want of it.';
COMMENT ON COLUMN outbound_skips.server_name IS 'The server.';
COMMENT ON COLUMN outbound_skips.room_nid IS 'The room.';
COMMENT ON COLUMN outbound_skips.after_position IS 'Events of the room after this position of the log,';
COMMENT ON COLUMN outbound_skips.upto_position IS 'up to this one.';
