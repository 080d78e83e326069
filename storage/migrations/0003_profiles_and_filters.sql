-- What users say of themselves, and the filters of their clients.

CREATE TABLE profile_fields (
    user_nid bigint NOT NULL CONSTRAINT profile_fields_user_nid_fkey REFERENCES users,
    field text NOT NULL,
    value bytea NOT NULL,
    CONSTRAINT profile_fields_pkey PRIMARY KEY (user_nid, field)
);
COMMENT ON TABLE profile_fields IS 'The profiles of this server''s users. A user who said nothing has no rows.';
COMMENT ON COLUMN profile_fields.user_nid IS 'The user.';
COMMENT ON COLUMN profile_fields.field IS 'The name of the field: displayname, avatar_url, m.tz, or a namespaced one.';
COMMENT ON COLUMN profile_fields.value IS 'The value, JSON.';

CREATE SEQUENCE profile_versions MINVALUE 1;

CREATE TABLE profile_propagations (
    user_nid bigint NOT NULL
        CONSTRAINT profile_propagations_pkey PRIMARY KEY
        CONSTRAINT profile_propagations_user_nid_fkey REFERENCES users,
    version bigint NOT NULL
);
COMMENT ON TABLE profile_propagations IS 'Users whose name or avatar changed and may not stand in all of their rooms yet. Few at any time.';
COMMENT ON COLUMN profile_propagations.user_nid IS 'The user.';
COMMENT ON COLUMN profile_propagations.version IS 'From profile_versions, anew with each change: the end of one propagation must not hide a later change.';

CREATE TABLE filters (
    user_nid bigint NOT NULL CONSTRAINT filters_user_nid_fkey REFERENCES users,
    filter_hash bytea NOT NULL,
    definition bytea NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT filters_pkey PRIMARY KEY (user_nid, filter_hash)
);
COMMENT ON TABLE filters IS 'Filters that clients have stored.';
COMMENT ON COLUMN filters.user_nid IS 'Whose it is.';
COMMENT ON COLUMN filters.filter_hash IS 'The first 16 bytes of the SHA-256 of the definition; the filter ID is these in base64.';
COMMENT ON COLUMN filters.definition IS 'The filter, a JSON object without white space and with sorted keys.';
COMMENT ON COLUMN filters.created_at IS 'When it was last stored, in milliseconds since the Unix epoch; the oldest go when a user has too many.';
