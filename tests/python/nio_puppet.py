"""A device that does what it is told: a line of JSON in, a line of JSON out. See tests/sdk.

    nio_puppet.py http://127.0.0.1:PORT USER_ID

The user is registered already. A command is `{"do": "say", "with": {"room_id": …, "body": …}}`; the answer is
`{"ok": …}`, or `{"error": …}`.
"""

import asyncio
import json
import sys
import traceback

import nio

from nio.api import RelationshipType
from nio_person import Person, good, line


class Puppet(Person):
    """What a person does, and what it sees."""

    async def catch_up(self):
        await self.sync(timeout=0)

    async def create_direct_room(self, invite):
        created = await self.client.room_create(
            is_direct=True, preset=nio.RoomPreset.trusted_private_chat, invite=[invite]
        )
        return good(created, nio.RoomCreateResponse).room_id

    async def create_public_room(self, alias, name, topic):
        created = await self.client.room_create(
            preset=nio.RoomPreset.public_chat, alias=alias, name=name, topic=topic
        )
        return good(created, nio.RoomCreateResponse).room_id

    async def join(self, room):
        return good(await self.client.join(room), nio.JoinResponse).room_id

    async def invite(self, room_id, user_id):
        good(await self.client.room_invite(room_id, user_id), nio.RoomInviteResponse)

    async def kick(self, room_id, user_id, reason):
        good(await self.client.room_kick(room_id, user_id, reason), nio.RoomKickResponse)

    async def leave(self, room_id):
        good(await self.client.room_leave(room_id), nio.RoomLeaveResponse)

    async def forget(self, room_id):
        good(await self.client.room_forget(room_id), nio.RoomForgetResponse)

    async def set_typing(self, room_id, on):
        good(await self.client.room_typing(room_id, on, 20_000), nio.RoomTypingResponse)

    async def set_topic(self, room_id, topic):
        set_ = await self.client.room_put_state(room_id, "m.room.topic", {"topic": topic})
        return good(set_, nio.RoomPutStateResponse).event_id

    async def set_displayname(self, name):
        good(await self.client.set_displayname(name), nio.ProfileSetDisplayNameResponse)

    async def displayname_of(self, user_id):
        return good(await self.client.get_displayname(user_id), nio.ProfileGetDisplayNameResponse).displayname

    async def refusal_to_say(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        return good(await self.client.room_send(room_id, "m.room.message", content), nio.RoomSendError).status_code

    async def await_typing(self, room_id, user_id, on):
        def as_wanted():
            return (user_id in self.typing.get(room_id, [])) == on

        await self.sync_until("somebody types, or stops", as_wanted)

    async def membership(self, room_id):
        if room_id in self.client.rooms and room_id not in self.left:
            return "join"
        if room_id in self.client.invited_rooms:
            return "invite"
        return "leave"

    async def relations(self, room_id, event_id, rel_type):
        related = self.client.room_get_event_relations(
            room_id, event_id, rel_type=RelationshipType(rel_type), limit=2
        )
        return [line(event) async for event in related]

    async def view(self, room_id):
        room = self.client.rooms[room_id]
        notifications, highlights = self.unread(room_id)
        return {
            "name": room.name,
            "topic": room.topic,
            "members": {
                user_id: user.display_name for user_id, user in room.users.items() if user_id not in room.invited_users
            },
            "invited": sorted(room.invited_users),
            "history": [line(event) for event in await self.page_back(room_id, 5)],
            "heard": [event.event_id for event in self.events.get(room_id, [])],
            "threads": [line(event) async for event in self.client.room_get_threads(room_id, limit=2)],
            "typing": sorted(self.typing.get(room_id, [])),
            "receipts": {
                f"{user_id} {kind} {thread or 'everywhere'}": event_id
                for (room, user_id, kind, thread), event_id in self.receipts.items()
                if room == room_id
            },
            "fully_read": room.fully_read_marker,
            "notifications": notifications,
            "highlights": highlights,
        }

    async def obey(self, command):
        try:
            verb = getattr(self, command["do"])
            return {"ok": await verb(**command["with"])}
        except Exception:
            return {"error": traceback.format_exc()}


async def main(url, user_id):
    puppet = Puppet(url, user_id)
    await puppet.login()
    commands = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while command := await commands.readline():
        print(json.dumps(await puppet.obey(json.loads(command))), flush=True)
    await puppet.client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
