-- The signing keys of other servers.

CREATE TABLE server_keys (
    server_name text NOT NULL,
    key_id text NOT NULL,
    public_key bytea NOT NULL,
    valid_until bigint NOT NULL,
    fetched_at bigint NOT NULL,
    response bytea NOT NULL,
    CONSTRAINT server_keys_pkey PRIMARY KEY (server_name, key_id)
);
COMMENT ON TABLE server_keys IS 'Public keys of other servers, verified; kept for good, since old events must be verified when their server is gone.';
COMMENT ON COLUMN server_keys.server_name IS 'Whose key it is.';
COMMENT ON COLUMN server_keys.key_id IS 'Algorithm and version, such as ed25519:a_1.';
COMMENT ON COLUMN server_keys.public_key IS 'The key itself, 32 bytes.';
COMMENT ON COLUMN server_keys.valid_until IS 'Until when the key signs, in milliseconds: what the server said, or when it stopped using the key.';
COMMENT ON COLUMN server_keys.fetched_at IS 'When this was learnt, in milliseconds.';
COMMENT ON COLUMN server_keys.response IS 'The JSON in which the server said so, signed by itself, for whom we are a notary to.';
