"""A user with one device, through matrix-nio as its users write it, and what that device knows of a room.

Used by the scripts beside it. Nothing here waits for a time: what is waited for comes by sync.
"""

import asyncio

import nio

PASSWORD = "correct horse battery staple"
PATIENCE = 45


def good(response, kind):
    assert isinstance(response, kind), f"not a {kind.__name__}: {response}"
    return response


def same(left, right, what):
    assert left == right, f"{what}: {left!r} is not {right!r}"


def text(body, relates_to=None, mentions=()):
    """The content of a message."""
    content = {"msgtype": "m.text", "body": body}
    if relates_to:
        content["m.relates_to"] = relates_to
    if mentions:
        content["m.mentions"] = {"user_ids": list(mentions)}
    return content


class Person:
    """Who remembers what came by sync."""

    FILTER = {"room": {"timeline": {"limit": 100}}}

    def __init__(self, url, name):
        self.client = nio.AsyncClient(url, name, config=nio.AsyncClientConfig(encryption_enabled=False))
        self.events = {}
        self.typing = {}
        # Which event the last receipt of a (room, user, type, thread) is for; a thread of None is no thread.
        self.receipts = {}
        # By room, then by the root of the thread: notifications and highlights.
        self.unread_threads = {}
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
            # As clients do: of what no specification names, nothing is made.
            if receipt.receipt_type not in ("m.read", "m.read.private"):
                continue
            key = (room.room_id, receipt.user_id, receipt.receipt_type, receipt.thread_id)
            self.receipts[key] = receipt.event_id

    async def register(self, name):
        good(await self.client.register(name, PASSWORD, device_name="a test"), nio.RegisterResponse)
        good(await self.client.set_displayname(name.title()), nio.ProfileSetDisplayNameResponse)
        return self

    async def login(self):
        good(await self.client.login(PASSWORD, device_name="another test"), nio.LoginResponse)

    @property
    def user_id(self):
        return self.client.user_id

    async def sync(self, timeout=2000):
        response = good(await self.client.sync(timeout=timeout, sync_filter=self.FILTER), nio.SyncResponse)
        self.left |= set(response.rooms.leave)
        self.left -= set(response.rooms.join)
        for room_id, room in response.rooms.join.items():
            self.unread_threads[room_id] = {
                root: (unread.notification_count, unread.highlight_count)
                for root, unread in room.unread_thread_notifications.items()
            }

    async def sync_until(self, what, wanted):
        """Syncs until `wanted()` is true."""

        async def go_on():
            while not wanted():
                await self.sync()

        try:
            await asyncio.wait_for(go_on(), PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"{self.user_id} waited in vain until {what}") from None

    async def send(self, room_id, event_type, content):
        return good(await self.client.room_send(room_id, event_type, content), nio.RoomSendResponse).event_id

    async def say(self, room_id, body, mentions=()):
        return await self.send(room_id, "m.room.message", text(body, mentions=mentions))

    async def answer(self, room_id, event_id, body):
        return await self.send(room_id, "m.room.message", text(body, {"m.in_reply_to": {"event_id": event_id}}))

    async def say_in_thread(self, room_id, root, body, mentions=()):
        """Falls back to an answer to the root, as clients do for those that know no threads."""
        relates_to = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
        relates_to["m.in_reply_to"] = {"event_id": root}
        return await self.send(room_id, "m.room.message", text(body, relates_to, mentions))

    async def edit(self, room_id, event_id, body):
        content = text(f"* {body}", {"rel_type": "m.replace", "event_id": event_id})
        content["m.new_content"] = text(body)
        return await self.send(room_id, "m.room.message", content)

    async def react(self, room_id, event_id, key):
        relates_to = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self.send(room_id, "m.reaction", {"m.relates_to": relates_to})

    async def redact(self, room_id, event_id, reason):
        return good(await self.client.room_redact(room_id, event_id, reason), nio.RoomRedactResponse).event_id

    async def read(self, room_id, event_id, thread, kind="m.read"):
        """`thread` is the root of one, or "main"."""
        marked = await self.client.update_receipt_marker(room_id, event_id, nio.ReceiptType(kind), thread)
        good(marked, nio.UpdateReceiptMarkerResponse)

    async def mark(self, room_id, fully_read, read=None, read_private=None):
        """The fully read marker, and receipts for all that is in the room, whatever its thread."""
        marked = await self.client.room_read_markers(room_id, fully_read, read, read_private)
        good(marked, nio.RoomReadMarkersResponse)

    async def hear(self, room_id, body):
        def heard():
            return any(getattr(event, "body", None) == body for event in self.events.get(room_id, []))

        await self.sync_until(f"{body!r} is said", heard)

    async def meet(self, room_id, event_id):
        def met():
            return any(event.event_id == event_id for event in self.events.get(room_id, []))

        await self.sync_until(f"{event_id} comes", met)

    async def accept(self, room_id):
        await self.sync_until("the invite comes", lambda: room_id in self.client.invited_rooms)
        good(await self.client.join(room_id), nio.JoinResponse)
        await self.sync_until("the join comes", lambda: room_id in self.client.rooms)

    def unread(self, room_id):
        """Notifications and highlights."""
        room = self.client.rooms[room_id]
        return room.unread_notifications, room.unread_highlights

    async def page_back(self, room_id, limit):
        """All of the room's events that paging reaches, oldest first."""
        found, start = [], None
        while True:
            page = await self.client.room_messages(room_id, start=start, limit=limit)
            good(page, nio.RoomMessagesResponse)
            found += page.chunk
            if page.end is None:
                return found[::-1]
            start = page.end

    async def fetch(self, room_id, event_id):
        return good(await self.client.room_get_event(room_id, event_id), nio.RoomGetEventResponse).event


def line(event):
    """An event as a line that another library can be asked for too: its ID, who sent it, and what it does."""
    return f"{event.event_id} {event.sender} {deed(event)}{aggregated(event)}"


def deed(event):
    content = event.source["content"]
    if isinstance(event, nio.RedactedEvent):
        return f"was redacted by {event.redacter}"
    if isinstance(event, nio.RedactionEvent):
        return f"redacts {event.redacts}: {event.reason}"
    if isinstance(event, nio.ReactionEvent):
        return f"reacts {event.key} to {event.reacts_to}"
    if isinstance(event, nio.RoomMemberEvent):
        return f"makes {event.state_key} {event.membership} as {event.content.get('displayname')}"
    if isinstance(event, nio.RoomMessageText):
        relation = content.get("m.relates_to", {})
        answered = relation.get("m.in_reply_to", {}).get("event_id")
        if relation.get("rel_type") == "m.replace":
            return f"edits {relation['event_id']} to \"{content['m.new_content']['body']}\""
        if relation.get("rel_type") == "m.thread":
            return f"says \"{event.body}\" in the thread of {relation['event_id']}"
        return f'says "{event.body}"' + (f" to {answered}" if answered else "")
    assert not isinstance(event, (nio.BadEvent, nio.UnknownBadEvent)), f"{event} is well-formed"
    return f"sets {event.source['type']}"


def aggregated(event):
    """What the server says of the events that relate to this one."""
    relations = event.source.get("unsigned", {}).get("m.relations", {})
    said = ""
    if edit := relations.get("m.replace"):
        said += f"; reads \"{edit['content']['m.new_content']['body']}\" since {edit['event_id']}"
    if thread := relations.get("m.thread"):
        part = "taken part in" if thread["current_user_participated"] else "looked at"
        said += f"; a thread of {thread['count']} up to {thread['latest_event']['event_id']}, {part}"
    return said
