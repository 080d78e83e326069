-- The accounts of this server's users: passwords, devices, tokens, and authentications under way.

CREATE TABLE accounts (
    user_nid bigint NOT NULL
        CONSTRAINT accounts_pkey PRIMARY KEY
        CONSTRAINT accounts_user_nid_fkey REFERENCES users,
    password_hash text,
    is_admin boolean NOT NULL,
    is_guest boolean NOT NULL,
    created_at bigint NOT NULL,
    deactivated_at bigint,
    erase_requested boolean NOT NULL DEFAULT false,
    leaves_rooms boolean NOT NULL DEFAULT false
);
CREATE INDEX accounts_leaves_rooms ON accounts (user_nid) WHERE leaves_rooms;
COMMENT ON TABLE accounts IS 'The users who were registered here. A row is never deleted, so that a name is never given out twice.';
COMMENT ON COLUMN accounts.user_nid IS 'The user.';
COMMENT ON COLUMN accounts.password_hash IS 'PHC string (argon2id); null when no password opens the account.';
COMMENT ON COLUMN accounts.is_admin IS 'May use the administration API.';
COMMENT ON COLUMN accounts.is_guest IS 'Registered as a guest: no password, and only what the specification grants guests.';
COMMENT ON COLUMN accounts.created_at IS 'When it was registered, in milliseconds since the Unix epoch.';
COMMENT ON COLUMN accounts.deactivated_at IS 'When it was deactivated, in milliseconds since the Unix epoch; null while it is in use.';
COMMENT ON COLUMN accounts.erase_requested IS 'The user asked, when deactivating, that their content be erased.';
COMMENT ON COLUMN accounts.leaves_rooms IS 'It was deactivated, and may still be in rooms.';

CREATE TABLE devices (
    device_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT devices_pkey PRIMARY KEY,
    user_nid bigint NOT NULL CONSTRAINT devices_user_nid_fkey REFERENCES accounts,
    device_id text NOT NULL,
    display_name text,
    created_at bigint NOT NULL,
    last_seen_at bigint,
    last_seen_address text,
    last_seen_user_agent text,
    CONSTRAINT devices_user_nid_device_id_key UNIQUE (user_nid, device_id)
) WITH (fillfactor = 80); -- Last seen is rewritten all the time; room on the page keeps that off the indexes.
COMMENT ON TABLE devices IS 'The devices (logins) of this server''s users.';
COMMENT ON COLUMN devices.device_nid IS 'Stands for the device; a device that is deleted and made anew gets a new one.';
COMMENT ON COLUMN devices.user_nid IS 'Whose it is.';
COMMENT ON COLUMN devices.device_id IS 'The device ID, unique within the user.';
COMMENT ON COLUMN devices.display_name IS 'The name that the user knows it by.';
COMMENT ON COLUMN devices.created_at IS 'When it first logged in, in milliseconds since the Unix epoch.';
COMMENT ON COLUMN devices.last_seen_at IS 'When it last made a request, to about a minute, in milliseconds since the Unix epoch.';
COMMENT ON COLUMN devices.last_seen_address IS 'The IP address of that request.';
COMMENT ON COLUMN devices.last_seen_user_agent IS 'The User-Agent of that request, shortened.';

CREATE TABLE access_tokens (
    token_hash bytea NOT NULL CONSTRAINT access_tokens_pkey PRIMARY KEY,
    device_nid bigint NOT NULL CONSTRAINT access_tokens_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    issue integer NOT NULL,
    expires_at bigint
);
CREATE INDEX access_tokens_device_nid_issue ON access_tokens (device_nid, issue);
COMMENT ON TABLE access_tokens IS 'What lets a device make requests.';
COMMENT ON COLUMN access_tokens.token_hash IS 'SHA-256 of the token. The token itself is nowhere.';
COMMENT ON COLUMN access_tokens.device_nid IS 'The device that it speaks for.';
COMMENT ON COLUMN access_tokens.issue IS 'Counts the refreshes of the device since its login; tokens of one issue were given out together.';
COMMENT ON COLUMN access_tokens.expires_at IS 'From when on it means a soft logout, in milliseconds since the Unix epoch; null for never.';

CREATE TABLE refresh_tokens (
    token_hash bytea NOT NULL CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
    device_nid bigint NOT NULL CONSTRAINT refresh_tokens_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    issue integer NOT NULL
);
CREATE INDEX refresh_tokens_device_nid_issue ON refresh_tokens (device_nid, issue);
COMMENT ON TABLE refresh_tokens IS 'What is exchanged for the next pair of tokens. The old one stays until something of the next pair is used.';
COMMENT ON COLUMN refresh_tokens.token_hash IS 'SHA-256 of the token. The token itself is nowhere.';
COMMENT ON COLUMN refresh_tokens.device_nid IS 'The device that it belongs to.';
COMMENT ON COLUMN refresh_tokens.issue IS 'As in access_tokens.';

-- Unlogged: losing these in a crash makes a client start a dialogue anew, and costs no write-ahead log otherwise.
-- In the database rather than in memory, because any node may get the next request of a dialogue.
CREATE UNLOGGED TABLE uia_sessions (
    session_hash bytea NOT NULL CONSTRAINT uia_sessions_pkey PRIMARY KEY,
    operation bytea NOT NULL,
    completed text[] NOT NULL,
    failures integer NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX uia_sessions_expires_at ON uia_sessions (expires_at);
COMMENT ON TABLE uia_sessions IS 'User-interactive authentications under way.';
COMMENT ON COLUMN uia_sessions.session_hash IS 'SHA-256 of the session ID.';
COMMENT ON COLUMN uia_sessions.operation IS 'SHA-256 of what is being authorised: the operation, whose it is, and what it would do.';
COMMENT ON COLUMN uia_sessions.completed IS 'The stages completed so far, in order.';
COMMENT ON COLUMN uia_sessions.failures IS 'How many attempts at a stage failed.';
COMMENT ON COLUMN uia_sessions.expires_at IS 'From when on the session is void, in milliseconds since the Unix epoch.';

CREATE UNLOGGED TABLE registration_nonces (
    nonce_hash bytea NOT NULL CONSTRAINT registration_nonces_pkey PRIMARY KEY,
    expires_at bigint NOT NULL
);
CREATE INDEX registration_nonces_expires_at ON registration_nonces (expires_at);
COMMENT ON TABLE registration_nonces IS 'What a registration by shared secret must include, once each.';
COMMENT ON COLUMN registration_nonces.nonce_hash IS 'SHA-256 of the nonce.';
COMMENT ON COLUMN registration_nonces.expires_at IS 'From when on it is void, in milliseconds since the Unix epoch.';
