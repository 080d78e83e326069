-- When users were last seen, and what they say of themselves.

CREATE TABLE presence (
    user_nid bigint NOT NULL CONSTRAINT presence_pkey PRIMARY KEY
        CONSTRAINT presence_user_nid_fkey REFERENCES accounts,
    last_active_at bigint NOT NULL,
    status_msg bytea,
    is_present boolean NOT NULL
) WITH (fillfactor = 80); -- Rewritten all the time: room on the page keeps that off the index.
COMMENT ON TABLE presence IS 'What is kept of the presence of this server''s users while the server is not running; behind by a minute while it is.';
COMMENT ON COLUMN presence.user_nid IS 'Whose it is.';
COMMENT ON COLUMN presence.last_active_at IS 'When the user was last seen: did something, connected, or was connected for the last time; in milliseconds since the Unix epoch.';
COMMENT ON COLUMN presence.status_msg IS 'What the user says of themselves; text, which may hold U+0000.';
COMMENT ON COLUMN presence.is_present IS 'The user was not offline. After a restart, they have a while to connect again before others are told that they are.';

-- Whoever has an account was seen on their devices.
INSERT INTO presence (user_nid, last_active_at, is_present)
    SELECT user_nid, max(last_seen_at), false FROM devices WHERE last_seen_at IS NOT NULL GROUP BY user_nid;
