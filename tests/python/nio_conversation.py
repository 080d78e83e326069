"""Holds a one-to-one and a group conversation through matrix-nio, as its users write it.

    nio_conversation.py http://127.0.0.1:PORT

The server is a fresh one with open registration. Ends with status 0 and "conversation over" when all was as it
should be. Nothing here waits for a time: what is waited for comes by sync.
"""

import asyncio
import sys

import nio

from nio.api import RelationshipType
from nio_person import Person, good, line, same


class Reader(Person):
    """Who also wants to know what is unread in which thread."""

    FILTER = {"room": {"timeline": {"limit": 100, "unread_thread_notifications": True}}}


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

    bobs = (room, bob.user_id, "m.read", None)
    await bob.mark(room, said[-3], read=said[-2])
    await alice.sync_until("Bob has read", lambda: alice.receipts.get(bobs) == said[-2])
    await bob.mark(room, said[-1], read=said[-1])
    await alice.sync_until("Bob has read all", lambda: alice.receipts.get(bobs) == said[-1])
    await bob.sync_until("the marker comes", lambda: bob.client.rooms[room].fully_read_marker == said[-1])

    await alice.meet(room, await bob.redact(room, said[1], "typo"))
    redacted = await alice.fetch(room, said[1])
    assert isinstance(redacted, nio.RedactedEvent), f"{redacted} is redacted"
    same(redacted.redacter, bob.user_id, "who redacted")

    await second_thoughts(alice, bob, room, said[2], said[3])
    await threads(alice, bob, room, said[4])

    for limit in (3, 7, 100):
        histories = [await person.page_back(room, limit) for person in (alice, bob)]
        same(*([line(event) for event in history] for history in histories), "the history of the room")
    ids = [event.event_id for event in histories[0]]
    same(len(set(ids)), len(ids), "each event once")
    same([event_id for event_id in ids if event_id in said], said, "the order of what was said")
    return room


async def second_thoughts(alice, bob, room, alices, bobs):
    """Edits, reactions, and both taken back."""
    edits = [await alice.edit(room, alices, body) for body in ("turn 22", "turn 2, of course")]
    await bob.meet(room, edits[-1])
    edited = await bob.fetch(room, alices)
    same(edited.body, "turn 2", "what was said first")
    same(edited.source["unsigned"]["m.relations"]["m.replace"]["event_id"], edits[-1], "the last edit")
    await bob.meet(room, await alice.redact(room, edits[-1], "no"))
    edited = await bob.fetch(room, alices)
    same(edited.source["unsigned"]["m.relations"]["m.replace"]["event_id"], edits[0], "the edit that is left")
    found = [event async for event in bob.client.room_get_event_relations(room, alices)]
    same([event.event_id for event in found], edits[:1], "what relates to it")

    reactions = [await person.react(room, bobs, "\N{THUMBS UP SIGN}") for person in (alice, bob)]
    again = {"rel_type": "m.annotation", "event_id": bobs, "key": "\N{THUMBS UP SIGN}"}
    refused = await alice.client.room_send(room, "m.reaction", {"m.relates_to": again})
    same(good(refused, nio.RoomSendError).status_code, "M_DUPLICATE_ANNOTATION", "a second thumb of hers")
    await bob.meet(room, await alice.redact(room, reactions[0], "no"))
    found = [
        event
        async for event in bob.client.room_get_event_relations(
            room, bobs, RelationshipType.annotation, "m.reaction", limit=1
        )
    ]
    same([(event.event_id, event.reacts_to) for event in found], [(reactions[1], bobs)], "the thumb that is left")
    await alice.react(room, bobs, "\N{THUMBS UP SIGN}")


async def threads(alice, bob, room, root):
    """Beside a conversation in the room another one in a thread: what is unread of each, and receipts for each."""
    last = (await bob.page_back(room, 50))[-1].event_id
    await bob.mark(room, last, read=last)
    in_thread = [await alice.say_in_thread(room, root, f"aside {number}") for number in range(3)]
    mention = await alice.say_in_thread(room, root, "aside, you", mentions=[bob.user_id])
    aloud = await alice.say(room, "aloud")
    await bob.meet(room, aloud)
    same(bob.unread(room), (1, 0), "what is unread in the room")
    same(bob.unread_threads[room], {root: (4, 1)}, "what is unread in the thread")

    await bob.read(room, in_thread[1], root, "m.read.private")
    await bob.sync_until("the thread is read in part", lambda: bob.unread_threads[room] == {root: (2, 1)})
    same(bob.unread(room), (1, 0), "what is unread in the room still")
    same(bob.receipts[(room, bob.user_id, "m.read.private", root)], in_thread[1], "Bob's own receipt")
    await bob.read(room, mention, root)
    await bob.sync_until("the thread is read", lambda: not bob.unread_threads[room])
    await bob.read(room, aloud, "main")
    await bob.sync_until("the room is read", lambda: bob.unread(room) == (0, 0))
    mains = (room, bob.user_id, "m.read", "main")
    await alice.sync_until("Bob has read the room", lambda: alice.receipts.get(mains) == aloud)
    same(alice.receipts[(room, bob.user_id, "m.read", root)], mention, "Bob has read the thread")
    private = [key for key in alice.receipts if key[1] == bob.user_id and key[2] == "m.read.private"]
    same(private, [], "private receipts of Bob's that Alice knows of")

    reply = await bob.say_in_thread(room, root, "indeed")
    await alice.meet(room, reply)
    roots = [event async for event in alice.client.room_get_threads(room)]
    same([event.event_id for event in roots], [root], "the roots of threads")
    thread = roots[0].source["unsigned"]["m.relations"]["m.thread"]
    same((thread["count"], thread["latest_event"]["event_id"]), (5, reply), "what the thread comes to")


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
        paged = [event.event_id for event in await person.page_back(room, 4) if event.event_id in messages]
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
    tablet = Reader(url, alice.user_id)
    await tablet.login()
    await tablet.sync_until("the room is there", lambda: room in tablet.client.rooms)
    histories = [await device.page_back(room, limit) for device, limit in ((tablet, 9), (alice, 50))]
    same(*([line(event) for event in history] for history in histories), "the history on both devices")
    receipts = [
        {key: event_id for key, event_id in device.receipts.items() if key[0] == room} for device in (tablet, alice)
    ]
    same(*receipts, "the receipts on both devices")
    same(tablet.unread(room), alice.unread(room), "what is unread on both devices")
    whoami = good(await tablet.client.whoami(), nio.WhoamiResponse)
    same((whoami.user_id, whoami.device_id), (alice.user_id, tablet.client.device_id), "who one is")
    good(await tablet.client.logout(), nio.LogoutResponse)
    await tablet.client.close()


async def main(url):
    people = [await Reader(url, name).register(name) for name in ("alice", "bob", "carol")]
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
