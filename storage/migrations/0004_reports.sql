-- What users report to the administrator.

CREATE TABLE reports (
    report_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT reports_pkey PRIMARY KEY,
    reporter_nid bigint NOT NULL CONSTRAINT reports_reporter_nid_fkey REFERENCES users,
    room_nid bigint,
    event_nid bigint,
    user_nid bigint CONSTRAINT reports_user_nid_fkey REFERENCES users,
    pdu bytea,
    reason bytea NOT NULL,
    received_at bigint NOT NULL,
    CONSTRAINT reports_of_something CHECK (
        CASE WHEN user_nid IS NULL
            THEN room_nid IS NOT NULL AND (event_nid IS NULL) = (pdu IS NULL)
            ELSE room_nid IS NULL AND event_nid IS NULL AND pdu IS NULL
        END
    )
);
COMMENT ON TABLE reports IS 'Events, rooms and users that users reported, for the administrator.';
COMMENT ON COLUMN reports.report_nid IS 'The number of the report; later ones have higher numbers.';
COMMENT ON COLUMN reports.reporter_nid IS 'Who reported.';
COMMENT ON COLUMN reports.room_nid IS 'The reported room, or that of the reported event.';
COMMENT ON COLUMN reports.event_nid IS 'The reported event.';
COMMENT ON COLUMN reports.user_nid IS 'The reported user.';
COMMENT ON COLUMN reports.pdu IS 'The reported event as it was then, JSON: a later redaction does not hide it from who has to judge it.';
COMMENT ON COLUMN reports.reason IS 'What the reporter said, UTF-8; empty if nothing.';
COMMENT ON COLUMN reports.received_at IS 'When, in milliseconds.';
