//! Every route of the client-server API. Methods and paths are in ruma's metadata.

use std::sync::Arc;

use axum::{Router, routing::get};
use hearth_endpoint::RumaRoutes;
use hearth_engine::Engine;
use ruma::api::client::{
    backup::{
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info,
    },
    context::get_context,
    filter::get_filter,
    keys::{claim_keys, get_keys, upload_signatures},
    push::{get_pushrules_all, get_pushrules_global_scope},
    session::login,
    sync::sync_events,
    tag::get_tags,
};

use crate::{
    account, account_data, admin_register, alias, at_time, backup, dehydrated_device, device, directory,
    filter, keys, message, openid, presence, profile, push, read_marker, receipt, register, relation,
    reporting, room, server_information, session, space, state, sync, tag, tick, to_device, typing, upgrade,
};

/// The routes, not yet finished by [`hearth_endpoint::serve`].
pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .merge(server())
        .merge(accounts())
        .merge(rooms())
        .merge(directory())
        .merge(user_data())
        .merge(push_rules())
        .merge(keys())
        .merge(to_device())
        .merge(key_backup())
}

/// Accounts, their tokens and their devices.
fn accounts() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(register::register)
        .ruma(register::get_username_availability)
        .ruma(session::get_login_types)
        .ruma_paths::<login::v3::Request, _, _>(session::login)
        .ruma(session::logout)
        .ruma(session::logout_all)
        .ruma(session::refresh_token)
        .ruma(account::whoami)
        .ruma(account::change_password)
        .ruma(account::deactivate)
        .ruma(openid::request_openid_token)
        .ruma(device::get_devices)
        .ruma(device::get_device)
        .ruma(device::update_device)
        .ruma(device::delete_device)
        .ruma(device::delete_devices)
        .route(
            admin_register::PATH,
            get(admin_register::nonce).post(admin_register::register),
        )
}

/// Rooms: who is in them, what is said in them, and their state.
fn rooms() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(room::create_room)
        .ruma(room::joined_rooms)
        .ruma(room::get_summary)
        .ruma(space::get_hierarchy)
        .ruma(at_time::get_event_by_timestamp)
        .ruma(room::join_room_by_id)
        .ruma(room::join_room_by_id_or_alias)
        .ruma(room::knock_room)
        .ruma(room::leave_room)
        .ruma(room::forget_room)
        .ruma(room::invite_user)
        .ruma(room::kick_user)
        .ruma(room::ban_user)
        .ruma(room::unban_user)
        .ruma(upgrade::upgrade_room)
        .ruma(message::send_message_event)
        .ruma(message::redact_event)
        .ruma(message::get_message_events)
        .ruma(message::get_room_event)
        .ruma_paths::<get_context::v3::Request, _, _>(message::get_context)
        .ruma(relation::get_relating_events)
        .ruma(relation::get_relating_events_with_rel_type)
        .ruma(relation::get_relating_events_with_rel_type_and_event_type)
        .ruma(relation::get_threads)
        .ruma_paths::<sync_events::v3::Request, _, _>(sync::sync_events)
        .ruma(state::send_state_event)
        .ruma(state::get_state_event_for_key)
        .ruma(state::get_state_events)
        .ruma(state::get_member_events)
        .ruma(state::joined_members)
        .ruma(reporting::report_content)
        .ruma(reporting::report_room)
        .ruma(reporting::report_user)
}

/// What leads to rooms: aliases, and the directory of those that are published.
fn directory() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(alias::get_alias)
        .ruma(alias::create_alias)
        .ruma(alias::delete_alias)
        .ruma(alias::aliases)
        .ruma(directory::get_public_rooms)
        .ruma(directory::get_public_rooms_filtered)
        .ruma(directory::get_room_visibility)
        .ruma(directory::set_room_visibility)
}

/// What users keep for themselves, and tell of themselves.
fn user_data() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(profile::get_profile)
        .ruma(profile::get_profile_field)
        .ruma(profile::set_profile_field)
        .ruma(profile::delete_profile_field)
        .ruma(account_data::get_global_account_data)
        .ruma(account_data::set_global_account_data)
        .ruma(account_data::get_room_account_data)
        .ruma(account_data::set_room_account_data)
        .ruma_paths::<get_tags::v3::Request, _, _>(tag::get_tags)
        .ruma(tag::create_tag)
        .ruma(tag::delete_tag)
        .ruma(filter::create_filter)
        .ruma_paths::<get_filter::v3::Request, _, _>(filter::get_filter)
        .ruma(presence::get_presence)
        .ruma(presence::set_presence)
        .ruma(typing::create_typing_event)
        .ruma(receipt::create_receipt)
        .ruma(tick::get_message_status)
        .ruma(read_marker::set_read_marker)
}

/// What users want to be notified of.
fn push_rules() -> Router<Arc<Engine>> {
    Router::new()
        .ruma_paths::<get_pushrules_all::v3::Request, _, _>(push::get_pushrules_all)
        .ruma_paths::<get_pushrules_global_scope::v3::Request, _, _>(push::get_pushrules_global_scope)
        .ruma(push::get_pushrule)
        .ruma(push::set_pushrule)
        .ruma(push::delete_pushrule)
        .ruma(push::get_pushrule_enabled)
        .ruma(push::set_pushrule_enabled)
        .ruma(push::get_pushrule_actions)
        .ruma(push::set_pushrule_actions)
}

/// Keys of devices and users.
fn keys() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(keys::upload_keys)
        .ruma_paths::<get_keys::v3::Request, _, _>(keys::get_keys)
        .ruma_paths::<claim_keys::v3::Request, _, _>(keys::claim_keys)
        .ruma(keys::get_key_changes)
        .ruma(keys::upload_signing_keys)
        .ruma_paths::<upload_signatures::v3::Request, _, _>(keys::upload_signatures)
}

/// What devices tell each other, whether or not somebody is logged in to them.
fn to_device() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(to_device::send_event_to_device)
        .ruma(dehydrated_device::put_dehydrated_device)
        .ruma(dehydrated_device::get_dehydrated_device)
        .ruma(dehydrated_device::delete_dehydrated_device)
        .ruma(dehydrated_device::get_events)
}

/// Backups of the keys that decrypt messages.
fn key_backup() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(backup::create_backup_version)
        .ruma_paths::<get_latest_backup_info::v3::Request, _, _>(backup::get_latest_backup_info)
        .ruma_paths::<get_backup_info::v3::Request, _, _>(backup::get_backup_info)
        .ruma(backup::update_backup_version)
        .ruma(backup::delete_backup_version)
        .ruma(backup::add_backup_keys)
        .ruma(backup::add_backup_keys_for_room)
        .ruma(backup::add_backup_keys_for_session)
        .ruma_paths::<get_backup_keys::v3::Request, _, _>(backup::get_backup_keys)
        .ruma_paths::<get_backup_keys_for_room::v3::Request, _, _>(backup::get_backup_keys_for_room)
        .ruma_paths::<get_backup_keys_for_session::v3::Request, _, _>(backup::get_backup_keys_for_session)
        .ruma(backup::delete_backup_keys)
        .ruma(backup::delete_backup_keys_for_room)
        .ruma(backup::delete_backup_keys_for_session)
}

/// What the server is.
fn server() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(server_information::get_supported_versions)
        .ruma(server_information::get_capabilities)
        .ruma(server_information::discover_homeserver)
        .ruma(server_information::discover_support)
        .route(
            "/.well-known/matrix/server",
            get(server_information::discover_server),
        )
}
