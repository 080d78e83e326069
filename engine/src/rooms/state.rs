//! The state of a room as a map that is cheap to copy.

use hearth_storage::{EventNid, KeyNid};
use rpds::HashTrieMapSync;

/// State key to event. Copies share what they have in common.
#[derive(Debug, Clone)]
pub struct StateMap(HashTrieMapSync<KeyNid, EventNid>);

impl StateMap {
    /// The event at a key.
    pub fn get(&self, key_nid: KeyNid) -> Option<EventNid> {
        self.0.get(&key_nid).copied()
    }

    /// Sets or removes a key; the answer is what was there.
    pub fn set(&mut self, key_nid: KeyNid, event_nid: Option<EventNid>) -> Option<EventNid> {
        let old = self.get(key_nid);
        match event_nid {
            Some(event_nid) => self.0.insert_mut(key_nid, event_nid),
            None => drop(self.0.remove_mut(&key_nid)),
        }
        old
    }

    /// Every key and its event, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (KeyNid, EventNid)> + '_ {
        self.0.iter().map(|(key_nid, event_nid)| (*key_nid, *event_nid))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for StateMap {
    fn default() -> Self {
        Self(HashTrieMapSync::new_sync())
    }
}

impl FromIterator<(KeyNid, EventNid)> for StateMap {
    fn from_iter<I: IntoIterator<Item = (KeyNid, EventNid)>>(pairs: I) -> Self {
        let mut map = HashTrieMapSync::new_sync();
        for (key_nid, event_nid) in pairs {
            map.insert_mut(key_nid, event_nid);
        }
        Self(map)
    }
}
