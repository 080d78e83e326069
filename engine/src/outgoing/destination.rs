//! One server that is sent to: what it is owed, in order, and how it does. Pure.
//!
//! What is owed is in memory while it is little. What is more, or from before this process, is in the log alone, and a
//! plan reads it off: room by room, up to where memory begins.

use std::{collections::VecDeque, sync::Arc};

use hearth_storage::{
    Position, RoomNid, UserNid, destinations::Destination as Stored, device_lists::OutgoingChange,
    outgoing::OutgoingEvent, to_device::OutgoingMessage,
};

use super::{
    edus::{EphemeralEdu, PendingEdus, PendingReceipt, ReceiptKey, TakenEdus},
    lists::{ListKey, Lists},
    messages::Messages,
    presence::PresenceUpdate,
};

/// Events in one transaction, by the specification.
const AT_ONCE: usize = 50;
/// Answers of one server that are remembered; at most one a second.
const MOST_ANSWERS: usize = 256;
/// Events that wait in memory for one server, 24 bytes each; beyond them it is read off the log what it is owed.
const MOST_QUEUED: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Destination {
    /// What is owed after the plan, or after all that was delivered; nothing while it is `behind` without a plan.
    queue: VecDeque<OutgoingEvent>,
    /// The last that it was ever owed.
    latest: Position,
    /// What it is owed after this position is in the log, as far as it isn't in the queue.
    behind: Option<Position>,
    plan: Option<Plan>,
    edus: PendingEdus,
    /// Messages to devices.
    pub messages: Messages,
    /// Changes of device lists.
    pub lists: Lists,
    in_flight: Vec<OutgoingEvent>,
    /// Somebody sends to it.
    pub attended: bool,
    pub failing: Option<Failing>,
    /// Milliseconds.
    pub last_success: Option<i64>,
    pub last_error: Option<String>,
    /// Since when it has been owed something without a break, in milliseconds.
    owed_since: Option<i64>,
    /// The row that stands for it.
    pub stored: Option<Stored>,
    /// Up to which positions it had everything, and since when (milliseconds); the latest, in order.
    answers: VecDeque<(Position, i64)>,
}

/// Reads off the log what a server that fell behind is owed.
#[derive(Debug)]
struct Plan {
    /// Up to here; what comes after it is in the queue.
    upto: Position,
    /// The rooms not looked at yet; nothing while they aren't known.
    rooms: Option<VecDeque<RoomNid>>,
    events: VecDeque<OutgoingEvent>,
    /// The queue ran over: it continues after `upto` in the log.
    ran_over: bool,
}

impl Plan {
    fn is_exhausted(&self) -> bool {
        self.events.is_empty() && self.rooms.as_ref().is_some_and(VecDeque::is_empty)
    }
}

/// How deliveries fail. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failing {
    pub since: i64,
    pub failures: u32,
    pub retry_at: i64,
}

/// What was taken to be sent.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub events: Vec<OutgoingEvent>,
    /// How many of the events are of a plan.
    planned: usize,
    pub edus: TakenEdus,
    /// Messages to devices.
    pub messages: Vec<OutgoingMessage>,
    /// Changes of device lists.
    pub lists: Vec<ListKey>,
}

/// What is to be read off the log next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ToRead {
    /// The rooms that the server shares, with changes after this position.
    Rooms { since: Position },
    /// What it is owed of these rooms, after and up to these positions.
    Events {
        rooms: Vec<RoomNid>,
        since: Position,
        upto: Position,
    },
}

impl Destination {
    /// A server as it was stored.
    pub fn of_stored(stored: Stored, now: i64) -> Self {
        let failing = stored.failing_since.map(|since| Failing {
            since,
            failures: u32::try_from(stored.failures).unwrap_or(0),
            retry_at: stored.retry_at.unwrap_or(now),
        });
        Self {
            behind: stored.behind_since,
            owed_since: stored.behind_since.map(|_| now),
            failing,
            last_success: stored.last_success,
            last_error: stored.last_error.clone(),
            stored: Some(stored),
            ..Self::default()
        }
    }

    /// An event that it is to get. Each comes in order; one that came before is passed over.
    pub fn owe(&mut self, event: OutgoingEvent, now: i64) {
        if event.position <= self.latest {
            return;
        }
        let reads_log = self.reads_log();
        self.latest = event.position;
        self.owed_since.get_or_insert(now);
        if reads_log {
            return;
        }
        self.queue.push_back(event);
        if self.queue.len() > MOST_QUEUED {
            self.run_over();
        }
    }

    /// A receipt that it is to get.
    pub fn owe_receipt(&mut self, key: ReceiptKey, receipt: PendingReceipt, now: i64) {
        let reads_log = self.reads_log();
        self.latest = self.latest.max(receipt.position);
        self.owed_since.get_or_insert(now);
        if !reads_log && self.edus.add_receipt(key, receipt).is_err() {
            self.run_over();
        }
    }

    /// A change of a device list that it is to get.
    pub fn owe_list(&mut self, change: &OutgoingChange, now: i64) {
        self.owed_since.get_or_insert(now);
        self.lists.owe(change);
    }

    /// An EDU that it gets if it can be reached now.
    pub fn add_ephemeral(&mut self, edu: EphemeralEdu, now: i64) {
        if self.failing.is_none_or(|failing| failing.retry_at <= now) {
            self.edus.add_ephemeral(edu);
        }
    }

    /// What it is told of a user's presence, if it can be reached now.
    pub fn add_presence(&mut self, user_nid: UserNid, update: Arc<PresenceUpdate>, now: i64) {
        if self.failing.is_none_or(|failing| failing.retry_at <= now) {
            self.edus.presence.add(user_nid, update);
        }
    }

    /// It was heard from, and may take something again.
    pub fn heard_from(&mut self) {
        if !self.attended {
            // Whoever attends it hears as well, and tries.
            self.failing = None;
        }
    }

    /// Whether what it is to get is not kept in memory: it is in the log.
    fn reads_log(&self) -> bool {
        match &self.plan {
            Some(plan) => plan.ran_over,
            None => self.behind.is_some(),
        }
    }

    fn run_over(&mut self) {
        match &mut self.plan {
            Some(plan) => plan.ran_over = true,
            None => self.behind = self.served(),
        }
        self.queue.clear();
        self.edus.drop_receipts();
    }

    /// The last position up to which it has everything; nothing where it is owed nothing.
    pub fn served(&self) -> Option<Position> {
        // Of device lists all that it is owed is in memory.
        let lists = self.lists.oldest().map(|oldest| Position(oldest.0 - 1));
        if let Some(behind) = self.behind {
            return lists.map_or(Some(behind), |lists| Some(behind.min(lists)));
        }
        let in_flight = self.in_flight.first().map(|event| event.position);
        let queued = self.queue.front().map(|event| event.position);
        let oldest = [in_flight, queued, self.edus.oldest(), self.lists.oldest()]
            .into_iter()
            .flatten()
            .min()?;
        Some(Position(oldest.0 - 1))
    }

    pub fn has_work(&self) -> bool {
        self.has_events() || !self.edus.is_empty() || self.messages.has_work()
    }

    /// Whether it is owed more than fleeting EDUs, which may wait a moment for others.
    pub fn has_events(&self) -> bool {
        !self.queue.is_empty() || self.behind.is_some() || self.messages.is_owed() || !self.lists.is_empty()
    }

    /// Events and EDUs that wait in memory, and whether more are to be read off the log.
    pub fn waiting(&self) -> (usize, bool) {
        let planned = self.plan.as_ref().map_or(0, |plan| plan.events.len());
        let events = self.queue.len() + self.in_flight.len() + planned;
        (events + self.edus.len() + self.lists.len(), self.behind.is_some())
    }

    /// What must be read off the log before something can be taken. `dispatched` is how far all servers' queues have
    /// come; `rooms` how many rooms may be looked at at once.
    pub fn read_next(&mut self, dispatched: Position, rooms: usize) -> Option<ToRead> {
        let since = self.behind?;
        let upto = dispatched.max(self.latest);
        let plan = self.plan.get_or_insert_with(|| Plan {
            upto,
            rooms: None,
            events: VecDeque::new(),
            ran_over: false,
        });
        let Some(unread) = &mut plan.rooms else {
            return Some(ToRead::Rooms { since });
        };
        if plan.events.len() >= AT_ONCE || unread.is_empty() {
            return None;
        }
        Some(ToRead::Events {
            rooms: unread.drain(..unread.len().min(rooms)).collect(),
            since,
            upto: plan.upto,
        })
    }

    /// Answers [`ToRead::Rooms`].
    pub fn read_rooms(&mut self, rooms: Vec<RoomNid>) {
        if let Some(plan) = &mut self.plan {
            plan.rooms = Some(rooms.into());
        }
    }

    /// Answers [`ToRead::Events`].
    pub fn read_events(&mut self, events: Vec<OutgoingEvent>, receipts: Vec<(ReceiptKey, PendingReceipt)>) {
        let Some(plan) = &mut self.plan else { return };
        plan.events.extend(events);
        for (key, receipt) in receipts {
            // Those beyond what is kept are the price of a long outage.
            let _ = self.edus.add_receipt(key, receipt);
        }
    }

    /// The plan could not be read: it is made anew.
    pub fn drop_plan(&mut self) {
        if self.plan.take().is_some() {
            self.queue.clear();
            self.edus.drop_receipts();
        }
    }

    /// Takes what one transaction may have.
    pub fn take(&mut self) -> Taken {
        let (messages, before) = self.messages.take();
        let mut taken = Taken {
            messages,
            lists: self.lists.take(),
            ..Taken::default()
        };
        // What was said after messages that are still to go waits for them.
        let most = |events: &VecDeque<OutgoingEvent>, most: usize| {
            let first = events.iter().take(most);
            first
                .take_while(|event| before.is_none_or(|before| event.position < before))
                .count()
        };
        if let Some(plan) = &mut self.plan {
            let count = most(&plan.events, AT_ONCE);
            taken.events.extend(plan.events.drain(..count));
            taken.planned = count;
            if count == 0 {
                self.end_plan();
            }
        }
        let follows = self.plan.as_ref().is_none_or(|plan| plan.is_exhausted());
        if follows {
            let count = most(&self.queue, AT_ONCE - taken.events.len());
            taken.events.extend(self.queue.drain(..count));
        }
        taken.edus = self.edus.take();
        self.in_flight.clone_from(&taken.events);
        taken
    }

    fn end_plan(&mut self) {
        if let Some(plan) = self.plan.take_if(|plan| plan.is_exhausted()) {
            self.behind = plan.ran_over.then_some(plan.upto);
        }
    }

    /// It has what was taken.
    pub fn delivered(&mut self, taken: &Taken, now: i64) {
        self.in_flight.clear();
        self.messages.delivered();
        self.lists.delivered();
        self.failing = None;
        self.last_success = Some(now);
        if self.plan.is_some() {
            self.end_plan();
        } else if let (Some(behind), Some(last)) = (self.behind, taken.events.last()) {
            self.behind = Some(behind.max(last.position));
        }
        self.owed_since = self.served().is_some().then_some(now);
        self.remember_answer(now);
    }

    fn remember_answer(&mut self, now: i64) {
        let upto = self.served().unwrap_or(self.latest);
        match self.answers.back() {
            Some((known, _)) if *known >= upto => return,
            // Said to be later than it was, within a second.
            Some((_, at)) if at.div_euclid(1_000) == now.div_euclid(1_000) => {
                self.answers.pop_back();
            }
            _ => {}
        }
        self.answers.push_back((upto, now));
        if self.answers.len() > MOST_ANSWERS {
            self.answers.pop_front();
        }
    }

    /// Whether it has everything up to a position, and since when at the latest, in milliseconds; `began` is when this
    /// run did, before which nothing is known of when.
    pub fn has_since(&self, position: Position, began: i64) -> Option<i64> {
        if self.served().is_some_and(|served| served < position) {
            return None;
        }
        let answer = self.answers.iter().find(|(upto, _)| *upto >= position);
        Some(answer.map_or(began, |(_, at)| *at))
    }

    /// It has not. What was taken waits again, but for what nobody misses.
    pub fn failed(&mut self, taken: Taken, failing: Failing, reason: String) {
        self.failing = Some(failing);
        self.last_error = Some(reason);
        self.put_back(taken);
        self.edus.drop_ephemeral();
    }

    /// What was taken was not sent: it waits again, but for what nobody misses.
    pub fn put_back(&mut self, taken: Taken) {
        self.in_flight.clear();
        self.messages.put_back();
        self.lists.put_back();
        if self.plan.is_some() {
            self.drop_plan();
            return;
        }
        if self.behind.is_some() {
            return;
        }
        for event in taken.events.into_iter().rev() {
            self.queue.push_front(event);
        }
        let ran_over = taken
            .edus
            .receipts
            .into_iter()
            .any(|(key, receipt)| self.edus.add_receipt(key, receipt).is_err());
        if ran_over || self.queue.len() > MOST_QUEUED {
            self.run_over();
        }
    }

    /// This server has nothing more to do with it.
    pub fn drop_all(&mut self) {
        self.queue.clear();
        self.in_flight.clear();
        (self.behind, self.plan, self.owed_since, self.failing) = (None, None, None, None);
        self.edus = PendingEdus::default();
        self.messages = Messages::default();
        self.lists = Lists::default();
    }

    /// The log lost what was after `position`.
    pub fn cut_back(&mut self, position: Position) {
        self.messages.cut_back();
        if let Some(served) = self.served() {
            self.behind = Some(served.min(position));
            self.plan = None;
            self.queue.clear();
            self.edus.drop_receipts();
        }
        self.latest = self.latest.min(position);
        self.answers.retain(|(upto, _)| *upto <= position);
    }

    /// The row that is to stand for it: while it fails, and while it is owed something for longer than `patience`
    /// (milliseconds) or out of the log.
    pub fn row(&self, server_name: &str, now: i64, patience: i64) -> Option<Stored> {
        let is_slow = self
            .owed_since
            .is_some_and(|since| now.saturating_sub(since) > patience);
        let behind_since = self.served();
        if self.failing.is_none() && self.behind.is_none() && !(is_slow && behind_since.is_some()) {
            return None;
        }
        Some(Stored {
            server_name: server_name.to_owned(),
            behind_since,
            failing_since: self.failing.map(|failing| failing.since),
            retry_at: self.failing.map(|failing| failing.retry_at),
            last_success: self.last_success,
            failures: self
                .failing
                .map_or(0, |failing| i32::try_from(failing.failures).unwrap_or(i32::MAX)),
            last_error: self.last_error.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
