"""Holds a one-to-one and a group conversation through matrix-nio, as its users write it.

    nio_conversation.py http://127.0.0.1:PORT

The server is a fresh one with open registration. Ends with status 0 and "conversation over" when all was as it
should be. Nothing here waits for a time: what is waited for comes by sync.
"""

import asyncio
import sys

import nio

PASSWORD = "correct horse battery staple"
PATIENCE = 45


class Person:
    """A user with one device, who remembers what came by sync."""

    FILTER = {"room": {"timeline": {"limit": 100}}}

    def __init__(self, url, name):
        self.client = nio.AsyncClient(url, name, config=nio.AsyncClientConfig(encryption_enabled=False))
        self.events = {}
        self.typing = {}
        self.receipts = {}
        self.left = set()
        self.client.add_event_callback(self.on_event, nio.Event)
        self.client.add_ephemeral_callback(self.on_typing, nio.TypingNoticeEvent)
        self.client.add_ephemeral_callback(self.on_receipt, nio.ReceiptEvent)

    async def on_event(self, room, event):
        self.events.setdefault(room.room_id, []).append(event)

    async def on_typing(self, room, event):
        self.typing[room.room_id] = event.users

    async def on_receipt(self, room, event):
        for receipt in event.receipts:
            self.receipts[(room.room_id, receipt.user_id, receipt.receipt_type)] = receipt.event_id

    async def register(self, name):
        good(await self.client.register(name, PASSWORD, device_name="a test"), nio.RegisterResponse)
        good(await self.client.set_displayname(name.title()), nio.ProfileSetDisplayNameResponse)
        return self

    @property
    def user_id(self):
        return self.client.user_id

    async def sync(self):
        response = good(await self.client.sync(timeout=2000, sync_filter=self.FILTER), nio.SyncResponse)
        self.left |= set(response.rooms.leave)

    async def sync_until(self, what, wanted):
        """Syncs until `wanted()` is true."""

        async def go_on():
            while not wanted():
                await self.sync()

        try:
            await asyncio.wait_for(go_on(), PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"{self.user_id} waited in vain until {what}") from None

    async def say(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        return good(await self.client.room_send(room_id, "m.room.message", content), nio.RoomSendResponse).event_id

    async def hear(self, room_id, body):
        def heard():
            return any(getattr(event, "body", None) == body for event in self.events.get(room_id, []))

        await self.sync_until(f"{body!r} is said", heard)

    async def accept(self, room_id):
        await self.sync_until("the invite comes", lambda: room_id in self.client.invited_rooms)
        good(await self.client.join(room_id), nio.JoinResponse)
        await self.sync_until("the join comes", lambda: room_id in self.client.rooms)

    async def page_back(self, room_id, limit):
        """All of the room's events that paging reaches, oldest first: pairs of event ID and sender."""
        found, start = [], None
        while True:
            page = await self.client.room_messages(room_id, start=start, limit=limit)
            good(page, nio.RoomMessagesResponse)
            found += [(event.event_id, event.sender) for event in page.chunk]
            if page.end is None:
                return found[::-1]
            start = page.end


def good(response, kind):
    assert isinstance(response, kind), f"not a {kind.__name__}: {response}"
    return response


def same(left, right, what):
    assert left == right, f"{what}: {left!r} is not {right!r}"


async def one_to_one(alice, bob):
    """Alice writes to Bob: invite, messages both ways, typing, receipts, redaction, history."""
    created = await alice.client.room_create(
        is_direct=True, preset=nio.RoomPreset.trusted_private_chat, invite=[bob.user_id]
    )
    room = good(created, nio.RoomCreateResponse).room_id
    await bob.accept(room)
    await alice.sync_until(
        "Bob is there", lambda: room in alice.client.rooms and alice.client.rooms[room].joined_count == 2
    )
    same(bob.client.rooms[room].display_name, "Alice", "a room of two has the other's name")

    said = []
    for turn in range(12):
        speaker, listener = (alice, bob) if turn % 2 == 0 else (bob, alice)
        said.append(await speaker.say(room, f"turn {turn}"))
        await listener.hear(room, f"turn {turn}")

    good(await alice.client.room_typing(room, True, 20_000), nio.RoomTypingResponse)
    await bob.sync_until("Alice types", lambda: alice.user_id in bob.typing.get(room, []))
    good(await alice.client.room_typing(room, False), nio.RoomTypingResponse)
    await bob.sync_until("Alice stops", lambda: bob.typing.get(room) == [])

    good(await bob.client.update_receipt_marker(room, said[-2]), nio.UpdateReceiptMarkerResponse)
    await alice.sync_until("Bob has read", lambda: alice.receipts.get((room, bob.user_id, "m.read")) == said[-2])
    markers = await bob.client.room_read_markers(room, fully_read_event=said[-1], read_event=said[-1])
    good(markers, nio.RoomReadMarkersResponse)
    await alice.sync_until("Bob has read all", lambda: alice.receipts.get((room, bob.user_id, "m.read")) == said[-1])
    await bob.sync_until("the marker comes", lambda: bob.client.rooms[room].fully_read_marker == said[-1])

    redaction = good(await bob.client.room_redact(room, said[1], "typo"), nio.RoomRedactResponse).event_id
    await alice.sync_until(
        "the redaction comes", lambda: any(event.event_id == redaction for event in alice.events[room])
    )
    redacted = good(await alice.client.room_get_event(room, said[1]), nio.RoomGetEventResponse).event
    assert isinstance(redacted, nio.RedactedEvent), f"{redacted} is redacted"
    same(redacted.redacter, bob.user_id, "who redacted")

    histories = [await person.page_back(room, limit) for person in (alice, bob) for limit in (3, 7, 100)]
    for history in histories[1:]:
        same(history, histories[0], "the history of the room")
    ids = [event_id for event_id, _ in histories[0]]
    same(len(set(ids)), len(ids), "each event once")
    same([event_id for event_id in ids if event_id in said], said, "the order of what was said")
    return room


async def group(people):
    """A public room with a name, a topic and an alias, in which everyone speaks at once."""
    alice, bob, carol = people
    created = await alice.client.room_create(
        visibility=nio.RoomVisibility.public,
        preset=nio.RoomPreset.public_chat,
        alias="pub",
        name="The pub",
        topic="Everything",
    )
    room = good(created, nio.RoomCreateResponse).room_id
    server = alice.user_id.split(":", 1)[1]
    resolved = good(await bob.client.room_resolve_alias(f"#pub:{server}"), nio.RoomResolveAliasResponse)
    same(resolved.room_id, room, "the alias leads to the room")
    for person in (bob, carol):
        same(good(await person.client.join(f"#pub:{server}"), nio.JoinResponse).room_id, room, "the room joined")
    for person in people:
        rooms = person.client.rooms
        await person.sync_until("all are there", lambda: room in rooms and rooms[room].joined_count == 3)
        same(person.client.rooms[room].display_name, "The pub", "the room's name")
        same(person.client.rooms[room].topic, "Everything", "the room's topic")

    async def talk(person):
        return [await person.say(room, f"{person.user_id} says {number}") for number in range(10)]

    said = await asyncio.gather(*(talk(person) for person in people))
    for person in people:
        for speaker in people:
            await person.hear(room, f"{speaker.user_id} says 9")
    messages = set(sum(said, []))
    orders = [
        [event.event_id for event in person.events[room] if event.event_id in messages] for person in people
    ]
    same(len(orders[0]), 30, "everything was heard once")
    for order in orders[1:]:
        same(order, orders[0], "the order in which it was heard")
    for person in people:
        paged = [event_id for event_id, _ in await person.page_back(room, 4) if event_id in messages]
        same(paged, orders[0], "history has that order too")

    good(await carol.client.set_displayname("Carol of the pub"), nio.ProfileSetDisplayNameResponse)
    await alice.sync_until(
        "Carol's new name comes", lambda: alice.client.rooms[room].user_name(carol.user_id) == "Carol of the pub"
    )
    profile = good(await bob.client.get_displayname(carol.user_id), nio.ProfileGetDisplayNameResponse)
    same(profile.displayname, "Carol of the pub", "the name in the profile")
    good(await alice.client.room_put_state(room, "m.room.topic", {"topic": "Nothing"}), nio.RoomPutStateResponse)
    await bob.sync_until("the topic changes", lambda: bob.client.rooms[room].topic == "Nothing")

    good(await alice.client.room_kick(room, carol.user_id, "closing time"), nio.RoomKickResponse)
    await carol.sync_until("Carol is out", lambda: room in carol.left)
    refused = await carol.client.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "one more"})
    same(good(refused, nio.RoomSendError).status_code, "M_FORBIDDEN", "Carol may not speak")
    good(await bob.client.room_leave(room), nio.RoomLeaveResponse)
    await bob.sync_until("Bob is out", lambda: room in bob.left)
    good(await bob.client.room_forget(room), nio.RoomForgetResponse)
    members = good(await alice.client.joined_members(room), nio.JoinedMembersResponse).members
    same([member.user_id for member in members], [alice.user_id], "who is left")


async def a_second_device(url, alice, room):
    """Another device of Alice's sees the same room, from nothing."""
    tablet = Person(url, alice.user_id)
    good(await tablet.client.login(PASSWORD, device_name="tablet"), nio.LoginResponse)
    await tablet.sync_until("the room is there", lambda: room in tablet.client.rooms)
    same(await tablet.page_back(room, 9), await alice.page_back(room, 50), "both devices see one history")
    whoami = good(await tablet.client.whoami(), nio.WhoamiResponse)
    same((whoami.user_id, whoami.device_id), (alice.user_id, tablet.client.device_id), "who one is")
    good(await tablet.client.logout(), nio.LogoutResponse)
    await tablet.client.close()


async def main(url):
    people = [await Person(url, name).register(name) for name in ("alice", "bob", "carol")]
    try:
        for person in people:
            await person.sync()
        room = await one_to_one(*people[:2])
        await group(people)
        await a_second_device(url, people[0], room)
    finally:
        for person in people:
            await person.client.close()
    print("conversation over")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
