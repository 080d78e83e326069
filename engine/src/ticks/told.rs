//! What each device was told and has not confirmed. In memory, bounded: what is lost here counts as not delivered.

use std::collections::{HashMap, VecDeque};

use hearth_storage::{DeviceNid, RoomNid};
use parking_lot::Mutex;

use super::Stretch;
use crate::tokens::SyncToken;

/// Responses of a device that are remembered.
const MOST_TELLINGS: usize = 16;
/// Rooms in the responses of all devices that are remembered; about 100 bytes each.
const MOST_ROOMS: usize = 500_000;

/// What a response told of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomTold {
    pub room_nid: RoomNid,
    pub stretches: Vec<Stretch>,
}

/// What a response told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Telling {
    /// Its token.
    pub token: SyncToken,
    /// The token of the response before it, for one that is only sent after that: who has the one has the other.
    pub follows: Option<SyncToken>,
    pub rooms: Vec<RoomTold>,
}

/// What devices were told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    devices: HashMap<DeviceNid, Device>,
    rooms: usize,
    now: u64,
}

#[derive(Debug, Default)]
struct Device {
    tellings: VecDeque<Telling>,
    /// When it was last told something.
    told_at: u64,
}

impl Told {
    pub fn clear(&self) {
        *self.0.lock() = State::default();
    }

    pub fn add(&self, device_nid: DeviceNid, telling: Telling) {
        let mut state = self.0.lock();
        let State {
            devices, rooms, now, ..
        } = &mut *state;
        if telling.rooms.is_empty()
            && !devices
                .get(&device_nid)
                .is_some_and(|device| device.is_followed_by(&telling))
        {
            return;
        }
        *now += 1;
        let device = devices.entry(device_nid).or_default();
        device.told_at = *now;
        *rooms += telling.rooms.len();
        *rooms -= device.add(telling);
        if state.rooms > MOST_ROOMS {
            state.forget_half();
        }
    }

    /// What a device was told by the response with this token, and by those before it.
    pub fn confirm(&self, device_nid: DeviceNid, token: &SyncToken) -> Vec<RoomTold> {
        let mut state = self.0.lock();
        let Some(device) = state.devices.get_mut(&device_nid) else {
            return Vec::new();
        };
        let confirmed = device.confirm(token);
        if device.tellings.is_empty() {
            state.devices.remove(&device_nid);
        }
        state.rooms -= confirmed.len();
        confirmed
    }
}

impl State {
    /// Forgets the devices that were told nothing for longest.
    fn forget_half(&mut self) {
        let mut times: Vec<u64> = self.devices.values().map(|device| device.told_at).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.devices.retain(|_, device| device.told_at > median);
        let rooms = self.devices.values().flat_map(|device| &device.tellings);
        self.rooms = rooms.map(|telling| telling.rooms.len()).sum();
    }
}

impl Device {
    fn is_followed_by(&self, telling: &Telling) -> bool {
        telling
            .follows
            .is_some_and(|token| self.tellings.iter().any(|known| known.token == token))
    }

    /// How many rooms are gone for it.
    fn add(&mut self, mut telling: Telling) -> usize {
        let mut gone = 0;
        if let Some(index) = self
            .tellings
            .iter()
            .position(|known| known.token == telling.token)
            && let Some(known) = self.tellings.remove(index)
        {
            // Two responses of one token: nobody can tell which of them is confirmed. What both told is.
            gone += known.rooms.len() + telling.rooms.len();
            telling.rooms.retain(|room| known.rooms.contains(room));
            gone -= telling.rooms.len();
            if telling.follows != known.follows {
                telling.follows = None;
            }
        }
        self.tellings.push_back(telling);
        if self.tellings.len() > MOST_TELLINGS
            && let Some(oldest) = self.tellings.pop_front()
        {
            gone += oldest.rooms.len();
        }
        gone
    }

    fn confirm(&mut self, token: &SyncToken) -> Vec<RoomTold> {
        let mut confirmed = Vec::new();
        let mut next = Some(*token);
        while let Some(token) = next
            && let Some(index) = self.tellings.iter().position(|known| known.token == token)
            && let Some(telling) = self.tellings.remove(index)
        {
            confirmed.extend(telling.rooms);
            next = telling.follows;
        }
        confirmed
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::EventNid;

    use super::*;
    use crate::ticks::Message;

    fn token(position: i64) -> SyncToken {
        format!("h1_{position}").parse().unwrap()
    }

    fn telling(position: i64, follows: Option<i64>, rooms: &[i64]) -> Telling {
        let message = Message {
            sequence: position,
            event_nid: EventNid::from(position),
        };
        let stretch = Stretch {
            after: position - 1,
            first: message,
            last: message,
            upto: position,
        };
        let rooms = rooms.iter().map(|room| RoomTold {
            room_nid: RoomNid::from(*room),
            stretches: vec![stretch],
        });
        Telling {
            token: token(position),
            follows: follows.map(token),
            rooms: rooms.collect(),
        }
    }

    fn rooms(confirmed: &[RoomTold]) -> Vec<i64> {
        let mut rooms: Vec<i64> = confirmed.iter().map(|room| room.room_nid.into()).collect();
        rooms.sort_unstable();
        rooms
    }

    #[test]
    fn a_token_confirms_its_response_and_those_that_it_follows() {
        let (told, device) = (Told::default(), DeviceNid::from(1));
        told.add(device, telling(1, None, &[1]));
        told.add(device, telling(2, Some(1), &[2]));
        told.add(device, telling(3, Some(2), &[]));
        told.add(device, telling(4, Some(3), &[4]));
        told.add(device, telling(9, None, &[9]));
        assert!(told.confirm(device, &token(5)).is_empty(), "it was never given");
        assert!(
            told.confirm(DeviceNid::from(2), &token(4)).is_empty(),
            "another's"
        );
        assert_eq!(rooms(&told.confirm(device, &token(4))), [1, 2, 4]);
        assert!(told.confirm(device, &token(4)).is_empty(), "once is enough");
        assert_eq!(rooms(&told.confirm(device, &token(9))), [9]);
        assert!(told.0.lock().devices.is_empty());
        assert_eq!(told.0.lock().rooms, 0);
    }

    #[test]
    fn of_two_responses_of_one_token_what_both_told_is_confirmed() {
        let (told, device) = (Told::default(), DeviceNid::from(1));
        told.add(device, telling(5, None, &[1, 2]));
        told.add(device, telling(5, None, &[2, 3]));
        assert_eq!(rooms(&told.confirm(device, &token(5))), [2]);
        assert_eq!(told.0.lock().rooms, 0);
    }

    #[test]
    fn no_more_is_remembered_than_has_its_place() {
        let (told, device) = (Told::default(), DeviceNid::from(1));
        let most = i64::try_from(MOST_TELLINGS).unwrap();
        for position in 0..=most {
            told.add(device, telling(position, None, &[position]));
        }
        assert!(told.confirm(device, &token(0)).is_empty());
        assert_eq!(rooms(&told.confirm(device, &token(1))), [1]);
        assert_eq!(told.0.lock().rooms, MOST_TELLINGS - 1);

        told.clear();
        let many: Vec<i64> = (0..1_000).collect();
        for device in 1..=600 {
            told.add(DeviceNid::from(device), telling(1, None, &many));
        }
        let kept = told.0.lock().rooms;
        assert!(kept <= MOST_ROOMS && kept > MOST_ROOMS / 3, "{kept}");
        assert!(told.confirm(DeviceNid::from(1), &token(1)).is_empty());
        assert_eq!(told.confirm(DeviceNid::from(600), &token(1)).len(), 1_000);
    }
}
