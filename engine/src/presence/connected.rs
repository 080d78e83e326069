//! A connection of a client, for as long as it lasts: a sync that waits, or a WebSocket.

use hearth_storage::{DeviceNid, UserNid};

use super::State;
use crate::{Engine, accounts::Requester};

/// A device is connected, until this is dropped.
#[derive(Debug)]
pub struct Connected<'a> {
    engine: &'a Engine,
    user_nid: UserNid,
    device_nid: DeviceNid,
    /// What the connection says the user is. Nothing while it said nothing, and nobody is to be seen by that.
    said: Option<State>,
}

/// A device of `requester` has connected. With `said`, its user is seen to be that.
pub fn connected<'a>(engine: &'a Engine, requester: &Requester, said: Option<State>) -> Connected<'a> {
    let (user_nid, device_nid) = (requester.user_nid, requester.device_nid);
    engine
        .presence
        .change(|book| book.listen(user_nid, device_nid, said, engine.clock.now_ms()));
    Connected {
        engine,
        user_nid,
        device_nid,
        said,
    }
}

impl Connected<'_> {
    /// What the user is from now on.
    pub fn say(&mut self, state: State) {
        let (user_nid, device_nid) = (self.user_nid, self.device_nid);
        let before = self.said.replace(state);
        self.engine.presence.change(|book| {
            let now = self.engine.clock.now_ms();
            // First the new, so that the user is never without.
            book.listen(user_nid, device_nid, Some(state), now);
            book.leave(user_nid, device_nid, before, now);
        });
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let (user_nid, device_nid, said) = (self.user_nid, self.device_nid, self.said);
        let now = self.engine.clock.now_ms();
        self.engine
            .presence
            .change(|book| book.leave(user_nid, device_nid, said, now));
    }
}
