-- Backups of room keys, and devices that wait for a login of their user.

CREATE TABLE key_backups (
    backup_nid bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT key_backups_pkey PRIMARY KEY,
    user_nid bigint NOT NULL CONSTRAINT key_backups_user_nid_fkey REFERENCES accounts,
    version bigint NOT NULL,
    algorithm bytea NOT NULL,
    auth_data bytea,
    etag bigint NOT NULL,
    key_count bigint NOT NULL,
    CONSTRAINT key_backups_user_nid_version_key UNIQUE (user_nid, version)
) WITH (fillfactor = 70);
COMMENT ON TABLE key_backups IS 'The backups of room keys that a user made; the newest that is not deleted is the one that keys go to. One that was deleted keeps its row, without its content: its version is never given again.';
COMMENT ON COLUMN key_backups.backup_nid IS 'Stands for the backup.';
COMMENT ON COLUMN key_backups.user_nid IS 'Whose it is.';
COMMENT ON COLUMN key_backups.version IS 'Its version: 1 for the first of a user, and so on.';
COMMENT ON COLUMN key_backups.algorithm IS 'How the keys are encrypted, UTF-8.';
COMMENT ON COLUMN key_backups.auth_data IS 'What clients keep with it, a JSON object; NULL in a backup that was deleted.';
COMMENT ON COLUMN key_backups.etag IS 'Moves on whenever the keys in it change.';
COMMENT ON COLUMN key_backups.key_count IS 'How many keys are in it.';

CREATE TABLE key_backup_keys (
    backup_nid bigint NOT NULL CONSTRAINT key_backup_keys_backup_nid_fkey REFERENCES key_backups,
    room_id bytea NOT NULL,
    session_id bytea NOT NULL,
    is_verified boolean NOT NULL,
    first_message_index bigint NOT NULL,
    forwarded_count bigint NOT NULL,
    session_data bytea NOT NULL,
    CONSTRAINT key_backup_keys_pkey PRIMARY KEY (backup_nid, room_id, session_id)
);
COMMENT ON TABLE key_backup_keys IS 'The keys in backups.';
COMMENT ON COLUMN key_backup_keys.backup_nid IS 'The backup.';
COMMENT ON COLUMN key_backup_keys.room_id IS 'The room whose messages it decrypts, UTF-8. The server need not know the room.';
COMMENT ON COLUMN key_backup_keys.session_id IS 'The Megolm session that it is of, UTF-8.';
COMMENT ON COLUMN key_backup_keys.is_verified IS 'Whether the device that stored it had verified the device that it came from.';
COMMENT ON COLUMN key_backup_keys.first_message_index IS 'The first message of the session that it decrypts.';
COMMENT ON COLUMN key_backup_keys.forwarded_count IS 'How many devices handed it on.';
COMMENT ON COLUMN key_backup_keys.session_data IS 'The key itself, encrypted by a client, a JSON object.';

CREATE TABLE dehydrated_devices (
    user_nid bigint CONSTRAINT dehydrated_devices_pkey PRIMARY KEY,
    device_nid bigint NOT NULL CONSTRAINT dehydrated_devices_device_nid_key UNIQUE
        CONSTRAINT dehydrated_devices_device_nid_fkey REFERENCES devices ON DELETE CASCADE,
    device_data bytea NOT NULL
);
COMMENT ON TABLE dehydrated_devices IS 'Devices that nobody is logged in to: they take messages for a user who has no other until they are revived. One for a user at most.';
COMMENT ON COLUMN dehydrated_devices.user_nid IS 'The user.';
COMMENT ON COLUMN dehydrated_devices.device_nid IS 'The device.';
COMMENT ON COLUMN dehydrated_devices.device_data IS 'Its private keys, encrypted by a client, a JSON object.';
