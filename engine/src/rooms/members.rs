//! Everyone with a membership in a room, counted.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{UserNid, log::Membership};

/// A member of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub membership: Membership,
    /// One of this server's users.
    pub is_local: bool,
}

/// Members by user, those who left or are banned included.
#[derive(Debug, Default)]
pub(crate) struct Members {
    by_user: HashMap<UserNid, Member>,
    joined: usize,
    invited: usize,
    local_joined: Arc<[UserNid]>,
}

impl Members {
    /// Sets the membership of a user.
    pub fn set(&mut self, user_nid: UserNid, member: Member) {
        let old = self.by_user.insert(user_nid, member);
        self.count(old.map(|old| old.membership), -1);
        self.count(Some(member.membership), 1);
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

impl FromIterator<(UserNid, Member)> for Members {
    fn from_iter<I: IntoIterator<Item = (UserNid, Member)>>(pairs: I) -> Self {
        let by_user: HashMap<UserNid, Member> = pairs.into_iter().collect();
        let having = |membership| {
            by_user
                .values()
                .filter(|member| member.membership == membership)
                .count()
        };
        let (joined, invited) = (having(Membership::Join), having(Membership::Invite));
        let is_local_joined = |member: &Member| member.is_local && member.membership == Membership::Join;
        let local_joined = by_user
            .iter()
            .filter(|(_, member)| is_local_joined(member))
            .map(|(user_nid, _)| *user_nid)
            .collect();
        Self {
            by_user,
            joined,
            invited,
            local_joined,
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{UserNid, log::Membership};

    use super::{Member, Members};

    #[test]
    fn counts_follow_every_change_of_membership() {
        let (alice, bob) = (UserNid::from(1), UserNid::from(2));
        let local = |membership| Member {
            membership,
            is_local: true,
        };
        let mut members = Members::from_iter([(alice, local(Membership::Join))]);
        members.set(bob, local(Membership::Invite));
        assert_eq!((members.joined(), members.invited()), (1, 1));
        members.set(bob, local(Membership::Join));
        members.set(bob, local(Membership::Join));
        assert_eq!((members.joined(), members.invited()), (2, 0));
        assert_eq!(*members.local_joined(), [alice, bob]);
        members.set(alice, local(Membership::Ban));
        assert_eq!((members.joined(), &*members.local_joined()), (1, &[bob][..]));
        assert_eq!(members.get(alice), Some(Membership::Ban));
    }
}
