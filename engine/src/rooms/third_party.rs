//! Invites of people who are known by an e-mail address or a telephone number only, once an identity server says whose it
//! is (client-server API and server-server API, "Third-party invites").
//!
//! A room has such an invite as state, `m.room.third_party_invite`, by a token and the keys of the identity server. That
//! server's signed statement, with the token, that the address belongs to a user makes an invite of that user of it.
//! This server asks no identity server to keep an invite: its clients may do so themselves.

use std::sync::Arc;

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream,
};
use hearth_storage::log::Membership;
use ruma::{
    AnyKeyName, CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId,
    ServerName, SigningKeyId, UserId,
    api::{
        client::membership::ThirdPartySigned,
        federation::thirdparty::{bind_callback, exchange_invite},
    },
    serde::{Base64, Raw},
    signatures::verify_canonical_json_bytes,
    third_party_invite::IdentityServerBase64PublicKey,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Room, SendError, ServeError, by_id,
    commit::commit_one,
    decide::DecideError,
    draft::{BadContent, Draft, content_from_json, content_of},
    handshake::{HandshakeError, InviteError, invite_remote_by, propose, serve::room_for},
    membership::{MembershipError, located},
    read::current_state_event,
    receive::{fetch, inbox::judge_now, judge::Judgement},
};
use crate::{Engine, Error, accounts::Requester, outgoing, remote::RemoteError};

const THIRD_PARTY_INVITE: &str = "m.room.third_party_invite";
/// Invites that an identity server tells of at once.
const MOST_INVITES: usize = 50;
/// How many of them are worked on at once.
const AT_ONCE: usize = 4;

/// Why an invite was not made use of.
#[derive(Debug, thiserror::Error)]
pub enum ThirdPartyError {
    /// What was sent is not what this is for.
    #[error("{0}")]
    Bad(String),
    /// There is no such invite, or the proof is none.
    #[error("{0}")]
    Forbidden(String),
    /// Another server had its say.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<BadContent> for ThirdPartyError {
    fn from(error: BadContent) -> Self {
        Self::Bad(error.to_string())
    }
}

impl From<DecideError> for ThirdPartyError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Failed(error) => Self::Failed(error),
            error => Self::Forbidden(error.to_string()),
        }
    }
}

impl From<SendError> for ThirdPartyError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Decided(error) => error.into(),
            SendError::Constraint(name) => {
                Error::Damaged(format!("an invite hurts the constraint {name}")).into()
            }
        }
    }
}

impl From<InviteError> for ThirdPartyError {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::Decided(error) => error.into(),
            InviteError::Handshake(error) => error.into(),
        }
    }
}

impl From<MembershipError> for ThirdPartyError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Handshake(error) => error.into(),
            MembershipError::Send(error) => error.into(),
            error => Self::Forbidden(error.to_string()),
        }
    }
}

impl From<ThirdPartyError> for ServeError {
    fn from(error: ThirdPartyError) -> Self {
        match error {
            ThirdPartyError::Bad(reason) => Self::Bad(reason),
            ThirdPartyError::Forbidden(reason) => Self::Forbidden(reason),
            ThirdPartyError::Handshake(error) => error.into(),
            ThirdPartyError::Failed(error) => Self::Failed(error),
        }
    }
}

/// An identity server's statement that whoever was invited is a user.
#[derive(Debug, Clone)]
struct Proof {
    /// Who invited.
    sender: OwnedUserId,
    /// Who it was.
    invited: OwnedUserId,
    token: String,
    /// What the identity server signed, with its signatures.
    signed: CanonicalJsonObject,
}

impl Proof {
    fn new(sender: &UserId, invited: &UserId, signed: CanonicalJsonObject) -> Result<Self, ThirdPartyError> {
        let text = |name: &str| signed.get(name).and_then(CanonicalJsonValue::as_str);
        if text("mxid") != Some(invited.as_str()) {
            return Err(ThirdPartyError::Bad(
                "what was signed is not about who is invited".to_owned(),
            ));
        }
        let token = text("token").ok_or_else(|| ThirdPartyError::Bad("the token is missing".to_owned()))?;
        Ok(Self {
            sender: sender.to_owned(),
            invited: invited.to_owned(),
            token: token.to_owned(),
            signed,
        })
    }

    /// The key of those that `pending` has by which this is signed.
    fn signed_by<'a>(&self, pending: &'a Pending) -> Option<(Base64, Option<&'a str>)> {
        let mut unsigned = self.signed.clone();
        unsigned.remove("signatures");
        let unsigned = serde_json::to_string(&unsigned).ok()?;
        let signatures = self.signed.get("signatures")?.as_object()?;
        let signatures = signatures
            .values()
            .filter_map(CanonicalJsonValue::as_object)
            .flatten();
        for (key_id, signature) in signatures {
            let algorithm = <&SigningKeyId<AnyKeyName>>::try_from(key_id.as_str());
            let signature = signature
                .as_str()
                .map(Base64::<ruma::serde::base64::Standard>::parse);
            let (Ok(key_id), Some(Ok(signature))) = (algorithm, signature) else {
                continue;
            };
            for (key, url) in pending.keys() {
                let Ok(key) = key.decode() else { continue };
                let verified = verify_canonical_json_bytes(
                    &key_id.algorithm(),
                    &key,
                    signature.as_bytes(),
                    unsigned.as_bytes(),
                );
                if verified.is_ok() {
                    return Some((Base64::new(key), url));
                }
            }
        }
        None
    }
}

/// The content of `m.room.third_party_invite`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Pending {
    #[serde(default)]
    display_name: String,
    #[serde(flatten)]
    key: Option<Key>,
    #[serde(default)]
    public_keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    public_key: IdentityServerBase64PublicKey,
    #[serde(default)]
    key_validity_url: Option<String>,
}

impl Pending {
    /// The keys of the identity server, each with the URL that says whether it is still in use.
    fn keys(&self) -> impl Iterator<Item = (&IdentityServerBase64PublicKey, Option<&str>)> {
        let keys = self.key.iter().chain(&self.public_keys);
        keys.map(|key| (&key.public_key, key.key_validity_url.as_deref()))
    }
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`: invites a user of another server, who was invited
/// by one of this server's as somebody with an address.
pub async fn exchange_third_party_invite(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: exchange_invite::v1::Request,
) -> Result<exchange_invite::v1::Response, ServeError> {
    let room = room_for(engine, origin, &request.room_id).await?;
    let bad = |reason: &str| ServeError::Bad(reason.to_owned());
    if request.kind.to_string() != "m.room.member" {
        return Err(bad("the event is no member event"));
    }
    if request.sender.server_name() != engine.config.server_name {
        return Err(bad("the invite is not by a user of this server"));
    }
    if request.state_key.server_name() != origin {
        return Err(ServeError::Forbidden(
            "the invited is not a user of yours".to_owned(),
        ));
    }
    let content = content_from_json(request.content.json().get())
        .map_err(|error| ServeError::Bad(error.to_string()))?;
    if content.get("membership").and_then(CanonicalJsonValue::as_str) != Some("invite") {
        return Err(bad("the event is no invite"));
    }
    let third_party = content
        .get("third_party_invite")
        .and_then(CanonicalJsonValue::as_object);
    let signed = third_party
        .and_then(|third_party| third_party.get("signed")?.as_object())
        .ok_or_else(|| bad("`third_party_invite` has nothing that is signed"))?;
    let proof = Proof::new(&request.sender, &request.state_key, signed.clone())?;
    invite(engine, &room, proof).await?;
    Ok(exchange_invite::v1::Response::new())
}

/// `PUT /_matrix/federation/v1/3pid/onbind`: an identity server tells that an address belongs to a user of this server, and
/// of the invites of that address. Who asks is not known: what can be made use of is what is signed.
pub async fn bind_third_party_id(
    engine: &Arc<Engine>,
    request: bind_callback::v1::Request,
) -> Result<bind_callback::v1::Response, ThirdPartyError> {
    let bad = |reason: &str| ThirdPartyError::Bad(reason.to_owned());
    if request.invites.len() > MOST_INVITES {
        return Err(bad("these are more invites than are taken at once"));
    }
    let is_own = request.mxid.server_name() == engine.config.server_name;
    if !is_own || !crate::accounts::is_active(engine, &request.mxid).await? {
        return Err(bad("there is no such user here"));
    }
    if request.invites.iter().any(|invite| invite.mxid != request.mxid) {
        return Err(bad("an invite is of another user"));
    }
    // A task of its own: an identity server that goes away doesn't tell twice.
    let redeemed = request.invites.into_iter();
    let redeemed: Vec<BoxFuture<'static, ()>> = redeemed
        .map(|invite| bound(Arc::clone(engine), invite).boxed())
        .collect();
    let task = tokio::spawn(stream::iter(redeemed).buffer_unordered(AT_ONCE).collect::<()>());
    task.await
        .map_err(|error| Error::Damaged(format!("third-party invites: {error}")))?;
    Ok(bind_callback::v1::Response::new())
}

async fn bound(engine: Arc<Engine>, invite: bind_callback::v1::ThirdPartyInvite) {
    let (room_id, user_id) = (invite.room_id.clone(), invite.mxid.clone());
    if let Err(error) = redeem_bound(&engine, invite).await {
        tracing::info!(%error, %room_id, %user_id, "a third-party invite was not made use of");
    }
}

async fn redeem_bound(
    engine: &Arc<Engine>,
    invite: bind_callback::v1::ThirdPartyInvite,
) -> Result<(), ThirdPartyError> {
    let signed = content_from_json(invite.signed.json().get())?;
    let proof = Proof::new(&invite.sender, &invite.mxid, signed)?;
    redeem(engine, &invite.room_id, &[], proof).await
}

/// Makes an invite of the requester of one that they have the proof of: `third_party_signed` of a join.
pub async fn claim(
    engine: &Arc<Engine>,
    requester: &Requester,
    room: &RoomOrAliasId,
    via: &[OwnedServerName],
    signed: &ThirdPartySigned,
) -> Result<(), ThirdPartyError> {
    if signed.mxid != requester.user_id {
        return Err(ThirdPartyError::Forbidden(
            "`third_party_signed` is about somebody else".to_owned(),
        ));
    }
    let (room_id, via) = located(engine, room, via).await?;
    let proof = Proof::new(&signed.sender, &signed.mxid, content_of(signed)?)?;
    redeem(engine, &room_id, &via, proof).await
}

/// Has a user of this server invited: by this server where it is in the room, else by the server of who invited them.
async fn redeem(
    engine: &Arc<Engine>,
    room_id: &RoomId,
    via: &[OwnedServerName],
    proof: Proof,
) -> Result<(), ThirdPartyError> {
    let own = &engine.config.server_name;
    if let Some(room) = by_id(engine, room_id).await?.filter(|room| room.has_server(own)) {
        return invite(engine, &room, proof).await;
    }
    let sender = proof.sender.server_name().to_owned();
    let servers = [sender.as_ref()].into_iter().chain(room_id.server_name());
    let mut servers: Vec<OwnedServerName> = servers
        .map(ToOwned::to_owned)
        .chain(via.iter().cloned())
        .collect();
    servers.dedup();
    servers.retain(|server| server != own);
    servers.truncate(AT_ONCE);
    let content = content_of(&json!({
        "membership": "invite",
        "third_party_invite": { "display_name": "", "signed": proof.signed },
    }))?;
    let content = Raw::new(&content).map_err(|error| Error::Damaged(format!("an invite: {error}")))?;
    let mut last = ThirdPartyError::Handshake(HandshakeError::NoServers);
    for server in servers {
        let (sender, invited) = (proof.sender.clone(), proof.invited.clone());
        let content = content.clone().cast_unchecked();
        let request = exchange_invite::v1::Request::new(room_id.to_owned(), sender, invited, content);
        match engine.remote.exchange_invite(&server, request).await {
            Ok(_) => return Ok(()),
            Err(error) => last = HandshakeError::said(&server, error).into(),
        }
    }
    Err(last)
}

/// Invites who `proof` is of to a room that this server is in.
async fn invite(engine: &Arc<Engine>, room: &Arc<Room>, proof: Proof) -> Result<(), ThirdPartyError> {
    let forbidden = |reason: &str| ThirdPartyError::Forbidden(reason.to_owned());
    let event = current_state_event(engine, room, THIRD_PARTY_INVITE, &proof.token).await?;
    let event = event.ok_or_else(|| forbidden("the room has no invite with this token"))?;
    let pending: Pending = serde_json::from_str(event.content().get())
        .map_err(|_| forbidden("the invite with this token was taken back"))?;
    let (key, url) = proof
        .signed_by(&pending)
        .ok_or_else(|| forbidden("it is not signed by the identity server of the invite"))?;
    let invited_nid = engine.interner.user(&proof.invited).await.map_err(Error::from)?;
    let membership = room.read(|view| view.members.get(invited_nid)).flatten();
    // The rules of a room would make one who is invited of one who is in it.
    if matches!(membership, Some(Membership::Join | Membership::Invite)) {
        return Ok(());
    }
    if let Some(url) = url {
        check_key(engine, url, &key).await?;
    }
    let content = content_of(&json!({
        "membership": "invite",
        "third_party_invite": { "display_name": pending.display_name, "signed": proof.signed },
    }))?;
    let sender_nid = engine.interner.user(&proof.sender).await.map_err(Error::from)?;
    let sender = (proof.sender.clone(), sender_nid);
    let own = &engine.config.server_name;
    match (
        proof.sender.server_name() == own,
        proof.invited.server_name() == own,
    ) {
        (true, false) => {
            invite_remote_by(engine, room, sender, &proof.invited, content).await?;
        }
        (true, true) => {
            let draft = Draft::state(sender, "m.room.member", proof.invited.as_str(), content);
            commit_one(engine, room, draft).await?;
        }
        (false, true) => {
            let draft = Draft::state(sender, "m.room.member", proof.invited.as_str(), content);
            invite_for_another(engine, room, draft).await?;
        }
        (false, false) => return Err(forbidden("neither user is of this server")),
    }
    Ok(())
}

/// Invites a user of this server in the name of another server's user: the proof stands in for that server's signature,
/// and the event goes out from here.
async fn invite_for_another(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    draft: Draft,
) -> Result<(), ThirdPartyError> {
    let proposal = propose(engine, room, draft).await?;
    let event_id = proposal.event.event_id.clone();
    let pdu = serde_json::value::RawValue::from_string(proposal.event.pdu.to_string())
        .map_err(|error| Error::Damaged(format!("an event of ours: {error}")))?;
    let pdus = fetch::verified(engine, room, &[pdu]).await;
    outgoing::relay(engine, &event_id).await?;
    let judged = judge_now(engine, room, &engine.config.server_name, pdus).await?;
    if matches!(judged.first(), Some((_, Judgement::Accepted))) {
        return Ok(());
    }
    outgoing::do_not_relay(engine, &event_id);
    Err(ThirdPartyError::Forbidden(
        "the room's rules do not allow it".to_owned(),
    ))
}

/// The key is still in use, as its owner says: asked by the server that lets somebody in, and by no other (client-server
/// API, "Third-party invites", "Server behaviour").
async fn check_key(engine: &Engine, url: &str, key: &Base64) -> Result<(), ThirdPartyError> {
    match engine.remote.identity_key_is_valid(url, key).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ThirdPartyError::Forbidden(
            "the identity server no longer uses the key of the invite".to_owned(),
        )),
        Err(error @ (RemoteError::NotAllowed(_) | RemoteError::Malformed(_))) => {
            Err(ThirdPartyError::Forbidden(error.to_string()))
        }
        Err(error) => Err(ThirdPartyError::Forbidden(format!(
            "the identity server does not say whether it still uses the key of the invite: {error}"
        ))),
    }
}
