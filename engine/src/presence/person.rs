//! The presence of one user: of one of this server's, merged from their devices, or as another server tells it. Pure.
//! Knows no others, and no connection; times are in milliseconds since the Unix epoch.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use hearth_storage::DeviceNid;
use ruma::{OwnedServerName, presence::PresenceState};

/// How long another server is believed of a user without saying anything new. Servers repeat themselves sooner.
pub(super) const BELIEVED_MS: i64 = 30 * 60_000;
/// How far the time of the last activity of a user of another server moves before that is news.
const NEWS_OF_ACTIVITY_MS: i64 = 60_000;

/// Whether a user is there. The greater is the more present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not connected, or doesn't want to be seen.
    #[default]
    Offline,
    /// Connected, and idle.
    Unavailable,
    /// Connected.
    Online,
}

impl State {
    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Unavailable => "unavailable",
            Self::Online => "online",
        }
    }

    /// What a client or a server calls a state; nothing for what the specification doesn't have.
    pub fn of(state: &PresenceState) -> Option<Self> {
        match state {
            PresenceState::Offline => Some(Self::Offline),
            PresenceState::Unavailable => Some(Self::Unavailable),
            PresenceState::Online => Some(Self::Online),
            _ => None,
        }
    }
}

impl From<State> for PresenceState {
    fn from(state: State) -> Self {
        match state {
            State::Offline => Self::Offline,
            State::Unavailable => Self::Unavailable,
            State::Online => Self::Online,
        }
    }
}

/// What others see of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether they are there.
    pub state: State,
    /// When they were last seen; nothing for one who never was, or hides.
    pub last_active_at: Option<i64>,
    /// Nothing more will be said of the last activity while this is so (client-server API, "Last active ago").
    pub currently_active: bool,
    /// What they say of themselves.
    pub status_msg: Option<Arc<str>>,
    /// They hide: the rest says nothing.
    pub is_hidden: bool,
}

impl Shown {
    /// One who hides.
    pub(crate) fn hidden() -> Self {
        Self {
            is_hidden: true,
            ..Self::default()
        }
    }

    /// How long ago the user was last seen.
    pub fn last_active_ago(&self, now: i64) -> Option<Duration> {
        let ago = now.saturating_sub(self.last_active_at?);
        Some(Duration::from_millis(u64::try_from(ago).unwrap_or(0)))
    }

    /// Whether who was told this would learn something from `newer`.
    pub(super) fn is_outdated_by(&self, newer: &Self) -> bool {
        let is_other = self.state != newer.state
            || self.currently_active != newer.currently_active
            || self.status_msg != newer.status_msg
            || self.is_hidden != newer.is_hidden;
        let was_active_since = || {
            let [before, after] = [self, newer].map(|shown| shown.last_active_at.unwrap_or(0));
            newer.state != State::Offline
                && !newer.currently_active
                && after.saturating_sub(before) >= NEWS_OF_ACTIVITY_MS
        };
        is_other || was_active_since()
    }
}

/// After how long something is taken to be so, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Without activity a user is idle.
    pub idle_ms: i64,
    /// Without a connection a device is gone.
    pub grace_ms: i64,
}

/// One of this server's users.
#[derive(Debug, Default)]
pub(super) struct Local {
    devices: Vec<Device>,
    last_active_at: Option<i64>,
    /// When a device first connected, which counts as being seen for who never was before.
    came_at: Option<i64>,
    status_msg: Option<Arc<str>>,
    /// What is stored was read, or need not be.
    pub is_read: bool,
    /// The user doesn't want to be seen.
    pub is_hidden: bool,
    /// The user said something by a request, which their other devices are to hear. What connections say they don't: it
    /// would be news each time that one connects.
    pub is_set: bool,
}

/// A device that is there, or was just now.
#[derive(Debug)]
struct Device {
    device_nid: DeviceNid,
    connections: u32,
    /// What was said last, by a connection or by a request.
    said: State,
    /// What a connection said last.
    said_by_connection: Option<State>,
    /// When it was last seen, while it has no connection.
    seen_at: i64,
    /// Until when it is there without a connection.
    lingers_until: i64,
}

impl Device {
    fn is_there(&self, now: i64) -> bool {
        self.connections > 0 || now < self.lingers_until
    }
}

impl Local {
    /// One who was there when the server ended, and has a while to come back.
    pub fn returning(last_active_at: i64, status_msg: Option<Arc<str>>, now: i64, times: Times) -> Self {
        Self {
            devices: vec![Device {
                // None of a user's: whichever returns takes its place.
                device_nid: DeviceNid::from(0),
                connections: 0,
                said: State::Online,
                said_by_connection: None,
                seen_at: last_active_at,
                lingers_until: now.saturating_add(times.grace_ms),
            }],
            last_active_at: Some(last_active_at),
            came_at: None,
            status_msg,
            is_read: true,
            is_hidden: false,
            is_set: false,
        }
    }

    /// Adds what was stored, if what was said since doesn't replace it.
    pub fn read(&mut self, stored: Option<(i64, Option<Arc<str>>)>) {
        if let Some((last_active_at, status_msg)) = stored {
            self.last_active_at = self.last_active_at.max(Some(last_active_at));
            if !self.is_read {
                self.status_msg = status_msg;
            }
        }
        self.last_active_at = self.last_active_at.or(self.came_at);
        self.is_read = true;
    }

    /// A device connects, or a connection says something new, by which it is counted from now on: see
    /// [`Local::disconnect`].
    ///
    /// A connection that says what the one before said is no news: who said otherwise by a request meanwhile is
    /// believed. But `unavailable` is never what a client says without meaning it.
    pub fn connect(&mut self, device_nid: DeviceNid, said: State, now: i64) {
        // Who isn't to be seen leaves no trace in what is stored from before.
        match self.is_read {
            true => self.last_active_at.get_or_insert(now),
            false => self.came_at.get_or_insert(now),
        };
        let device = self.device(device_nid, now);
        let before = device.said_by_connection.replace(said);
        device.connections += 1;
        let is_news = before != Some(said);
        match said {
            State::Online if is_news => device.said = State::Online,
            State::Unavailable => device.said = State::Unavailable,
            // Nothing is to be seen of this one. What a request said stands, unless it was for another connection.
            State::Offline if is_news && before.is_some() => device.said = State::Offline,
            _ => return,
        }
        if said != State::Unavailable {
            self.seen(now);
        }
    }

    /// A connection of a device ends.
    pub fn disconnect(&mut self, device_nid: DeviceNid, now: i64, times: Times) {
        let device = self.devices.iter_mut().find(|one| one.device_nid == device_nid);
        if let Some(device) = device {
            device.connections = device.connections.saturating_sub(1);
            if device.connections == 0 {
                device.seen_at = now;
                device.lingers_until = now.saturating_add(times.grace_ms);
            }
        }
    }

    /// The user says so by a request.
    pub fn set(
        &mut self,
        device_nid: DeviceNid,
        state: State,
        status_msg: Option<Arc<str>>,
        now: i64,
        times: Times,
    ) {
        let device = self.device(device_nid, now);
        device.said = state;
        device.seen_at = now;
        device.lingers_until = device.lingers_until.max(now.saturating_add(times.grace_ms));
        self.status_msg = status_msg;
        // Whatever is stored is older.
        self.is_read = true;
        self.is_set = true;
        self.seen(now);
    }

    /// The user does something on a device. Nobody is told of one who does it without being seen.
    pub fn act(&mut self, device_nid: DeviceNid, now: i64) {
        let there = self.devices.iter_mut().filter(|device| device.is_there(now));
        let mut is_unseen = false;
        for device in there {
            match device.said {
                State::Offline => is_unseen |= device.device_nid == device_nid,
                State::Unavailable => device.said = State::Online,
                State::Online => {}
            }
        }
        if !is_unseen {
            self.seen(now);
        }
    }

    /// Lets go of the devices that are gone, of which the user was seen until then.
    pub fn settle(&mut self, now: i64) {
        let mut seen_at = self.last_active_at;
        self.devices.retain(|device| {
            let is_there = device.is_there(now);
            if !is_there && device.said != State::Offline {
                seen_at = seen_at.max(Some(device.seen_at));
            }
            is_there
        });
        self.last_active_at = seen_at;
    }

    /// Whether the user is there, of all devices.
    pub fn state(&self, now: i64, times: Times) -> State {
        let is_idle = self.idle_at(times).is_none_or(|idle_at| idle_at <= now);
        let there = self.devices.iter().filter(|device| device.is_there(now));
        let states = there.map(|device| match device.said {
            State::Online if is_idle => State::Unavailable,
            said => said,
        });
        states.max().unwrap_or_default()
    }

    /// What others see; `now` is their time.
    pub fn shown(&self, now: i64, times: Times) -> Shown {
        match self.is_hidden {
            true => Shown::hidden(),
            false => self.shown_to_self(now, times),
        }
    }

    /// What the user themselves sees.
    pub fn shown_to_self(&self, now: i64, times: Times) -> Shown {
        let state = self.state(now, times);
        Shown {
            state,
            last_active_at: self.last_active_at,
            // Idle comes after minutes: who isn't idle is active, and nothing need be told until then.
            currently_active: state == State::Online,
            status_msg: self.status_msg.clone(),
            is_hidden: false,
        }
    }

    /// When the state changes by itself next, if nothing happens until then.
    pub fn due(&self, now: i64, times: Times) -> Option<i64> {
        let lingering = self.devices.iter().filter(|device| device.connections == 0);
        let idle_at = self.idle_at(times).filter(|at| *at > now);
        let idle_at = idle_at.filter(|_| self.state(now, times) == State::Online);
        lingering.map(|device| device.lingers_until).chain(idle_at).min()
    }

    /// What is to be stored: when the user was last seen, their message, and whether they are there.
    pub fn to_store(&self, now: i64, times: Times) -> Option<(i64, Option<Arc<str>>, bool)> {
        let is_present = self.state(now, times) != State::Offline;
        Some((self.last_active_at?, self.status_msg.clone(), is_present))
    }

    /// The same where the server ends: whoever is connected was seen until now.
    pub fn take_to_store_at_end(&mut self, now: i64, times: Times) -> Option<(i64, Option<Arc<str>>, bool)> {
        let seen = self.devices.iter().filter(|device| device.said != State::Offline);
        let seen = seen.map(|device| match device.connections {
            0 => device.seen_at,
            _ => now,
        });
        self.last_active_at = self.last_active_at.max(seen.max());
        self.to_store(now, times)
    }

    /// Whether nothing is connected, and nothing was just now.
    pub fn is_gone(&self) -> bool {
        self.devices.is_empty()
    }

    fn idle_at(&self, times: Times) -> Option<i64> {
        Some(self.last_active_at?.saturating_add(times.idle_ms))
    }

    fn seen(&mut self, now: i64) {
        self.last_active_at = self.last_active_at.max(Some(now));
    }

    /// The device; anew if it was gone.
    fn device(&mut self, device_nid: DeviceNid, now: i64) -> &mut Device {
        self.settle(now);
        let index = self
            .devices
            .iter()
            .position(|device| device.device_nid == device_nid);
        let index = index.unwrap_or_else(|| {
            self.devices.push(Device {
                device_nid,
                connections: 0,
                said: State::Offline,
                said_by_connection: None,
                seen_at: now,
                lingers_until: now,
            });
            self.devices.len() - 1
        });
        &mut self.devices[index]
    }
}

/// A user of another server.
#[derive(Debug)]
pub(super) struct Remote {
    pub server: OwnedServerName,
    said: Shown,
    heard_at: i64,
}

impl Remote {
    pub fn new(server: OwnedServerName, said: Shown, heard_at: i64) -> Self {
        Self {
            server,
            said,
            heard_at,
        }
    }

    /// When the server spoke of the user last.
    pub fn heard_at(&self) -> i64 {
        self.heard_at
    }

    /// The server can't be reached.
    pub fn lose(&mut self) {
        self.said.state = State::Offline;
        self.said.currently_active = false;
    }

    /// What is known, as far as it is still believed.
    pub fn shown(&self, now: i64) -> Shown {
        let mut shown = self.said.clone();
        if self.due().is_some_and(|due| due <= now) {
            shown.state = State::Offline;
            shown.currently_active = false;
        }
        shown
    }

    /// Until when the server is believed.
    pub fn due(&self) -> Option<i64> {
        (self.said.state != State::Offline).then(|| self.heard_at.saturating_add(BELIEVED_MS))
    }
}
