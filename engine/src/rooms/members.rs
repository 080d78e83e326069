//! Everyone with a membership in a room, counted.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use hearth_storage::{UserNid, log::Membership};
use ruma::{OwnedServerName, OwnedUserId, ServerName};

/// A member of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub membership: Membership,
    /// One of this server's users.
    pub is_local: bool,
    server: ServerIndex,
}

/// Stands for a server among those of one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ServerIndex(u32);

/// A server with users in the room, now or once.
#[derive(Debug)]
struct Server {
    name: OwnedServerName,
    joined: usize,
}

/// Members by user, those who left or are banned included.
#[derive(Debug, Default)]
pub(crate) struct Members {
    by_user: HashMap<UserNid, Member>,
    joined: usize,
    invited: usize,
    local_joined: Arc<[UserNid]>,
    servers: Vec<Server>,
    server_indices: HashMap<OwnedServerName, ServerIndex>,
    /// [`Members::present`], until a server comes or goes.
    present: OnceLock<Arc<[OwnedServerName]>>,
    /// Servers that are in the room though none of their users is known.
    assumed: Vec<OwnedServerName>,
}

impl Members {
    /// The members of a room; `own` is this server's name.
    pub fn of(
        members: impl IntoIterator<Item = (UserNid, Membership, OwnedUserId)>,
        own: &ServerName,
    ) -> Self {
        let mut all = Self::default();
        let mut local_joined = Vec::new();
        for (user_nid, membership, user_id) in members {
            let is_local = user_id.server_name() == own;
            let member = all.member(membership, user_id.server_name(), is_local);
            all.insert(user_nid, member);
            if is_local && membership == Membership::Join {
                local_joined.push(user_nid);
            }
        }
        all.local_joined = local_joined.into();
        all
    }

    /// Sets the membership of a user of `server`.
    pub fn set(&mut self, user_nid: UserNid, membership: Membership, server: &ServerName, is_local: bool) {
        let member = self.member(membership, server, is_local);
        let old = self.insert(user_nid, member);
        let was_here = old.is_some_and(|old| old.is_local && old.membership == Membership::Join);
        let is_here = member.is_local && member.membership == Membership::Join;
        if was_here != is_here {
            self.local_joined = if is_here {
                self.local_joined.iter().copied().chain([user_nid]).collect()
            } else {
                self.local_joined
                    .iter()
                    .copied()
                    .filter(|other| *other != user_nid)
                    .collect()
            };
        }
    }

    fn member(&mut self, membership: Membership, server: &ServerName, is_local: bool) -> Member {
        let next = ServerIndex(u32::try_from(self.servers.len()).unwrap_or(u32::MAX));
        let server = *self.server_indices.entry(server.to_owned()).or_insert_with(|| {
            self.servers.push(Server {
                name: server.to_owned(),
                joined: 0,
            });
            next
        });
        Member {
            membership,
            is_local,
            server,
        }
    }

    fn insert(&mut self, user_nid: UserNid, member: Member) -> Option<Member> {
        let old = self.by_user.insert(user_nid, member);
        for (member, step) in old.iter().map(|old| (old, -1)).chain([(&member, 1)]) {
            self.count(Some(member.membership), step);
            if member.membership == Membership::Join
                && let Some(server) = self.servers.get_mut(member.server.0 as usize)
            {
                let was_present = server.joined > 0;
                server.joined = server.joined.saturating_add_signed(step);
                if was_present != (server.joined > 0) {
                    self.present.take();
                }
            }
        }
        old
    }

    /// Takes servers other than `own` to be in the room whose members are not known: a part of its state is here.
    pub fn assume(&mut self, servers: &[OwnedServerName], own: &ServerName) {
        let others = servers.iter().filter(|server| **server != *own);
        self.assumed = others.cloned().collect();
        self.assumed.sort_unstable();
        self.assumed.dedup();
        self.present.take();
    }

    /// The servers that are taken to be in the room and have no joined users that are known.
    fn assumed(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.assumed.iter().filter(|server| !self.has_known(server))
    }

    /// The servers that have joined users in the room, those with most first.
    pub fn servers(&self) -> Vec<OwnedServerName> {
        let mut present: Vec<&Server> = self.servers.iter().filter(|server| server.joined > 0).collect();
        present.sort_by(|a, b| b.joined.cmp(&a.joined).then_with(|| a.name.cmp(&b.name)));
        let present = present.into_iter().map(|server| &server.name);
        present.chain(self.assumed()).cloned().collect()
    }

    /// The servers that have joined users in the room, in no order; made once until one comes or goes.
    pub fn present(&self) -> Arc<[OwnedServerName]> {
        let known = || self.servers.iter().filter(|server| server.joined > 0);
        let present = || known().map(|server| &server.name).chain(self.assumed());
        Arc::clone(self.present.get_or_init(|| present().cloned().collect()))
    }

    /// How many joined users each server has that has any; one more where some are not known.
    pub fn joined_by_server(&self) -> HashMap<OwnedServerName, usize> {
        let present = self.servers.iter().filter(|server| server.joined > 0);
        let mut joined: HashMap<OwnedServerName, usize> = present
            .map(|server| (server.name.clone(), server.joined))
            .collect();
        for server in &self.assumed {
            *joined.entry(server.clone()).or_default() += 1;
        }
        joined
    }

    /// Whether a user is one of this server's; false for one the room never heard of.
    pub fn is_local(&self, user_nid: UserNid) -> bool {
        self.by_user.get(&user_nid).is_some_and(|member| member.is_local)
    }

    /// The server of a joined user of another server than this, if nobody else of it is in the room.
    pub fn only_one_of(&self, user_nid: UserNid) -> Option<&OwnedServerName> {
        let member = self.by_user.get(&user_nid)?;
        let is_other = member.membership == Membership::Join && !member.is_local;
        let server = self.servers.get(member.server.0 as usize).filter(|_| is_other)?;
        (server.joined == 1).then_some(&server.name)
    }

    /// The users of a server that have any membership.
    pub fn of_server(&self, server: &ServerName) -> Vec<UserNid> {
        let Some(index) = self.server_indices.get(server) else {
            return Vec::new();
        };
        let of_it = self.by_user.iter().filter(|(_, member)| member.server == *index);
        of_it.map(|(user_nid, _)| *user_nid).collect()
    }

    /// Whether a server has joined users in the room.
    pub fn has_server(&self, server: &ServerName) -> bool {
        let is_assumed = |server| {
            self.assumed
                .binary_search_by(|other| (**other).cmp(server))
                .is_ok()
        };
        self.has_known(server) || is_assumed(server)
    }

    fn has_known(&self, server: &ServerName) -> bool {
        let index = self.server_indices.get(server);
        index.is_some_and(|index| {
            self.servers
                .get(index.0 as usize)
                .is_some_and(|server| server.joined > 0)
        })
    }

    fn count(&mut self, membership: Option<Membership>, step: isize) {
        let counter = match membership {
            Some(Membership::Join) => &mut self.joined,
            Some(Membership::Invite) => &mut self.invited,
            _ => return,
        };
        *counter = counter.saturating_add_signed(step);
    }

    /// The membership of a user; nothing for one the room never heard of.
    pub fn get(&self, user_nid: UserNid) -> Option<Membership> {
        self.by_user.get(&user_nid).map(|member| member.membership)
    }

    /// Everyone, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (UserNid, Member)> + '_ {
        self.by_user.iter().map(|(user_nid, member)| (*user_nid, *member))
    }

    /// How many have joined.
    pub fn joined(&self) -> usize {
        self.joined
    }

    /// How many are invited.
    pub fn invited(&self) -> usize {
        self.invited
    }

    /// How many have any membership.
    pub fn len(&self) -> usize {
        self.by_user.len()
    }

    /// The joined users of this server.
    pub fn local_joined(&self) -> Arc<[UserNid]> {
        Arc::clone(&self.local_joined)
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{UserNid, log::Membership};
    use ruma::{server_name, user_id};

    use super::Members;

    #[test]
    fn counts_follow_every_change_of_membership() {
        let (alice, bob) = (UserNid::from(1), UserNid::from(2));
        let here = server_name!("here");
        let alice_id = user_id!("@alice:here").to_owned();
        let mut members = Members::of([(alice, Membership::Join, alice_id)], here);
        members.set(bob, Membership::Invite, here, true);
        assert_eq!((members.joined(), members.invited()), (1, 1));
        members.set(bob, Membership::Join, here, true);
        members.set(bob, Membership::Join, here, true);
        assert_eq!((members.joined(), members.invited()), (2, 0));
        assert_eq!(*members.local_joined(), [alice, bob]);
        members.set(alice, Membership::Ban, here, true);
        assert_eq!((members.joined(), &*members.local_joined()), (1, &[bob][..]));
        assert_eq!(members.get(alice), Some(Membership::Ban));
    }

    #[test]
    fn a_server_is_present_while_it_has_a_joined_user() {
        let (alice, bob, carol) = (UserNid::from(1), UserNid::from(2), UserNid::from(3));
        let (here, there) = (server_name!("here"), server_name!("there"));
        let alice_id = user_id!("@alice:here").to_owned();
        let mut members = Members::of([(alice, Membership::Join, alice_id)], here);
        members.set(bob, Membership::Invite, there, false);
        assert!(!members.has_server(there));
        assert_eq!(*members.present(), [here]);
        members.set(bob, Membership::Join, there, false);
        assert_eq!(*members.present(), [here, there]);
        members.set(carol, Membership::Join, there, false);
        assert_eq!(members.servers(), [there, here]);
        members.set(bob, Membership::Leave, there, false);
        assert!(members.has_server(there));
        members.set(carol, Membership::Ban, there, false);
        assert_eq!(members.servers(), [here]);
        assert_eq!(*members.present(), [here]);
    }
}
