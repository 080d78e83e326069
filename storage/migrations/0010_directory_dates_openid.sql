-- What the directory of rooms, the search for an event by its time, and OpenID look up.

CREATE INDEX rooms_published_idx ON rooms (room_nid) WHERE published;

-- Only events that have a place in their room.
CREATE INDEX events_time_idx ON events (room_nid, origin_server_ts) WHERE sequence IS NOT NULL;

CREATE TABLE openid_tokens (
    token_hash bytea NOT NULL CONSTRAINT openid_tokens_pkey PRIMARY KEY,
    user_nid bigint NOT NULL CONSTRAINT openid_tokens_user_nid_fkey REFERENCES accounts,
    expires_at bigint NOT NULL
);
CREATE INDEX openid_tokens_expires_at_idx ON openid_tokens (expires_at);
COMMENT ON TABLE openid_tokens IS 'What a user shows another service, which asks this server whose it is. Good for nothing else.';
COMMENT ON COLUMN openid_tokens.token_hash IS 'SHA-256 of the token. The token itself is nowhere.';
COMMENT ON COLUMN openid_tokens.user_nid IS 'Whose it is.';
COMMENT ON COLUMN openid_tokens.expires_at IS 'From when on it is void, in milliseconds since the Unix epoch; void rows are dropped as others are added.';
