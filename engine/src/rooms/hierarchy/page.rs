//! A page of a walk: on what terms, from where, and what has room on it.

use ruma::{OwnedRoomId, RoomId};

use super::{HierarchyError, HierarchyPage, HierarchyRoom};

/// What may not change from one page to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// How deep to go.
    pub max_depth: usize,
    /// Recommended children only.
    pub suggested_only: bool,
}

impl Terms {
    /// A token for what comes after a room.
    pub fn after(self, room_id: &RoomId) -> String {
        format!("h{}_{}_{room_id}", self.max_depth, u8::from(self.suggested_only))
    }

    /// The last room of the page before.
    pub fn read(self, token: &str) -> Result<OwnedRoomId, HierarchyError> {
        let parse = || {
            let (max_depth, rest) = token.strip_prefix('h')?.split_once('_')?;
            let (suggested_only, room_id) = rest.split_once('_')?;
            let terms = Self {
                max_depth: max_depth.parse().ok()?,
                suggested_only: suggested_only.parse::<u8>().ok()? == 1,
            };
            Some((terms, OwnedRoomId::try_from(room_id).ok()?))
        };
        let (terms, room_id) =
            parse().ok_or(HierarchyError::BadToken("`from` is not a token of this endpoint"))?;
        if terms != self {
            let changed = "`max_depth` and `suggested_only` are the same on every page";
            return Err(HierarchyError::BadToken(changed));
        }
        Ok(room_id)
    }
}

/// A page that is being filled.
pub(super) struct Filling {
    /// How many rooms it has room for.
    pub limit: usize,
    /// The room to come by before the page begins.
    pub last: Option<OwnedRoomId>,
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// There is more than has room.
    pub is_full: bool,
}

impl Filling {
    /// Puts a room on the page, if the page has begun and has room for it.
    pub fn offer(&mut self, room: HierarchyRoom) {
        match &self.last {
            Some(last) if *last == room.summary.room_id => self.last = None,
            Some(_) => {}
            // One more than has room tells that there is more.
            None if self.rooms.len() == self.limit => self.is_full = true,
            None => self.rooms.push(room),
        }
    }

    /// The page, with a token for the next one if there is more.
    pub fn finish(self, terms: Terms) -> Result<HierarchyPage, HierarchyError> {
        if self.last.is_some() {
            let gone = "the space has changed since `from` was given: begin anew";
            return Err(HierarchyError::BadToken(gone));
        }
        let last = self.rooms.last().filter(|_| self.is_full);
        Ok(HierarchyPage {
            next_batch: last.map(|room| terms.after(&room.summary.room_id)),
            rooms: self.rooms,
        })
    }
}
#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::Terms;

    #[test]
    fn a_token_says_on_what_terms_it_was_given() {
        let terms = Terms {
            max_depth: 3,
            suggested_only: true,
        };
        let room_id = room_id!("!a_b:example.org");
        let token = terms.after(room_id);
        assert_eq!(terms.read(&token).unwrap(), room_id);
        let deeper = Terms {
            max_depth: 4,
            ..terms
        };
        let all = Terms {
            suggested_only: false,
            ..terms
        };
        for (terms, token) in [
            (deeper, token.as_str()),
            (all, &token),
            (terms, "h3_1_"),
            (terms, "h3"),
            (terms, ""),
            (terms, "x3_1_!a:b"),
        ] {
            assert!(terms.read(token).is_err(), "{token}");
        }
    }
}
