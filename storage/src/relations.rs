//! How events relate to others: the children of an event, threads, and what children come to together.

use crate::{
    Connection, EventNid, Position, Result, RoomNid, TypeNid, UserNid, event_ids,
    events::Place,
    log::{NewEvent, Relation},
};

/// What a reader may be shown of the children of events.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The reader.
    pub user_nid: UserNid,
    /// The users whose children are passed over.
    pub ignored: &'a [String],
    /// The ranges of the log that they may see, without overlap, both ends included.
    pub sight: &'a [(RoomNid, Position, Position)],
}

/// What the children of an event come to.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// The event.
    pub parent_nid: EventNid,
    /// Its latest edit that counts.
    pub edit: Option<EventNid>,
    /// The thread that begins with it.
    pub thread: Option<Thread>,
    /// The IDs of the events that refer to it, in order.
    pub references: Vec<String>,
}

/// A thread.
#[derive(Debug, Clone, Copy)]
pub struct Thread {
    /// How many events are in it, its root not counted.
    pub count: i64,
    /// The last of them.
    pub latest: EventNid,
    /// Whether the reader sent any of them.
    pub participated: bool,
}

/// The ranges of a [`Reader`] as arrays.
struct Sight {
    rooms: Vec<i64>,
    low: Vec<i64>,
    high: Vec<i64>,
}

impl Sight {
    fn of(reader: &Reader<'_>) -> Self {
        Self {
            rooms: reader.sight.iter().map(|range| range.0.0).collect(),
            low: reader.sight.iter().map(|range| range.1.0).collect(),
            high: reader.sight.iter().map(|range| range.2.0).collect(),
        }
    }
}

/// What the children of each of `parents` come to, with one query; events without children that count are left out.
///
/// Rules are those of the client-server API: an edit is by the sender of the original, of its type, the latest by
/// `origin_server_ts` and then by ID, and not of an edit; a thread does not begin in the middle of a relation.
pub async fn aggregates(
    connection: &mut Connection,
    parents: &[EventNid],
    reader: Reader<'_>,
) -> Result<Vec<Aggregate>> {
    let nids: Vec<i64> = parents.iter().map(|nid| nid.0).collect();
    let Sight { rooms, low, high } = Sight::of(&reader);
    let rows = sqlx::query!(
        r#"WITH sight AS (
               SELECT s.room_nid, range_agg(int8range(s.low, s.high, '[]')) AS seen
               FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS s (room_nid, low, high) GROUP BY s.room_nid
           ), p AS MATERIALIZED (
               -- Most events have no children: the rest is not looked for with them.
               SELECT e.event_nid, e.room_nid, e.event_id, e.sender_nid, e.type_nid, e.key_nid, s.seen,
                      ARRAY(SELECT u.user_nid FROM users u WHERE u.user_id = ANY($5)) AS ignored
               FROM events e JOIN sight s ON s.room_nid = e.room_nid
               WHERE e.event_nid = ANY($1) AND EXISTS (
                   SELECT FROM relations c WHERE c.room_nid = e.room_nid AND c.parent_id = e.event_id)
           )
           SELECT p.event_nid AS "parent_nid!", edit.event_nid AS "edit?", coalesce(thread.count, 0) AS "count!",
                  coalesce(thread.participated, false) AS "participated!", latest.event_nid AS "latest?",
                  refs.event_ids AS "references?"
           FROM p
           LEFT JOIN relations own ON own.event_nid = p.event_nid
           LEFT JOIN LATERAL (
               SELECT c.event_nid FROM relations c JOIN events e ON e.event_nid = c.event_nid
               WHERE c.room_nid = p.room_nid AND c.parent_id = p.event_id AND c.rel_type = 'm.replace' AND c.is_edit
                   AND c.sender_nid = p.sender_nid AND c.type_nid = p.type_nid AND p.key_nid IS NULL
                   AND own.rel_type IS DISTINCT FROM 'm.replace' AND c.sender_nid <> ALL(p.ignored)
                   AND c.position <@ p.seen
               ORDER BY e.origin_server_ts DESC,
                   translate(encode(substring(e.event_id FROM 2), 'base64'), '+/=', '-_') COLLATE "C" DESC
               LIMIT 1
           ) edit ON true
           LEFT JOIN LATERAL (
               SELECT count(*) AS count, bool_or(c.sender_nid = $6) AS participated FROM relations c
               WHERE c.room_nid = p.room_nid AND c.parent_id = p.event_id AND c.rel_type = 'm.thread'
                   AND own.event_nid IS NULL AND c.sender_nid <> ALL(p.ignored)
                   AND c.position <@ p.seen
           ) thread ON true
           LEFT JOIN LATERAL (
               SELECT c.event_nid FROM relations c
               WHERE c.room_nid = p.room_nid AND c.parent_id = p.event_id AND c.rel_type = 'm.thread'
                   AND thread.count > 0 AND c.sender_nid <> ALL(p.ignored)
                   AND c.position <@ p.seen
               ORDER BY c.sequence DESC, c.sub DESC LIMIT 1
           ) latest ON true
           LEFT JOIN LATERAL (
               SELECT array_agg(e.event_id ORDER BY c.sequence, c.sub) AS event_ids
               FROM relations c JOIN events e ON e.event_nid = c.event_nid
               WHERE c.room_nid = p.room_nid AND c.parent_id = p.event_id AND c.rel_type = 'm.reference'
                   AND c.sender_nid <> ALL(p.ignored)
                   AND c.position <@ p.seen
           ) refs ON true
           WHERE edit.event_nid IS NOT NULL OR thread.count > 0 OR refs.event_ids IS NOT NULL"#,
        &nids,
        &rooms,
        &low,
        &high,
        reader.ignored,
        reader.user_nid.0
    )
    .fetch_all(connection)
    .await?;
    let aggregates = rows.into_iter().map(|row| Aggregate {
        parent_nid: EventNid(row.parent_nid),
        edit: row.edit.map(EventNid),
        thread: row.latest.map(|latest| Thread {
            count: row.count,
            latest: EventNid(latest),
            participated: row.participated,
        }),
        references: row
            .references
            .unwrap_or_default()
            .iter()
            .map(|packed| event_ids::unpack(packed))
            .collect(),
    });
    Ok(aggregates.collect())
}

/// Which children of an event to show.
#[derive(Debug, Clone, Copy)]
pub struct Children<'a> {
    /// The room.
    pub room_nid: RoomNid,
    /// The event.
    pub parent_id: &'a str,
    /// How they relate to it; in any way, if nothing is said.
    pub rel_type: Option<&'a str>,
    /// Of what type they are; of any, if nothing is said.
    pub type_nid: Option<TypeNid>,
    /// How many levels of children: 1 for its own alone. The filters are for every level.
    pub depth: i32,
}

/// A child of an event.
#[derive(Debug, Clone, Copy)]
pub struct Child {
    /// It.
    pub event_nid: EventNid,
    /// Its place in the room.
    pub place: Place,
    /// Its position in the log; 0 for one that is not live.
    pub position: Position,
}

/// Up to `limit` children of an event whose places are after `after` and before `before`: the first of
/// them, or with `backwards` the last, newest first.
///
/// Of an event's own children no more is read than is asked for. What is below them is read whole: see
/// [`depth_within`].
pub async fn children(
    connection: &mut Connection,
    wanted: Children<'_>,
    reader: Reader<'_>,
    bounds: (Place, Place),
    backwards: bool,
    limit: i64,
) -> Result<Vec<Child>> {
    match (wanted.depth > 1, backwards) {
        (true, _) => descendants(connection, wanted, reader, bounds, backwards, limit).await,
        (false, true) => last_children(connection, wanted, reader, bounds, limit).await,
        (false, false) => first_children(connection, wanted, reader, bounds, limit).await,
    }
}

/// A function that reads an event's own children in an order of the index. For each kind of relation that the event has,
/// of which there are few, it goes to where the page begins.
macro_rules! own_children {
    ($name:ident, $order:tt) => {
        async fn $name(
            connection: &mut Connection,
            wanted: Children<'_>,
            reader: Reader<'_>,
            (after, before): (Place, Place),
            limit: i64,
        ) -> Result<Vec<Child>> {
            let Sight { low, high, .. } = Sight::of(&reader);
            let rows = sqlx::query!(
                r#"WITH RECURSIVE kinds AS (
                       (SELECT c.rel_type FROM relations c WHERE c.room_nid = $1 AND c.parent_id = $2
                        ORDER BY c.rel_type LIMIT 1)
                       UNION ALL
                       SELECT (SELECT c.rel_type FROM relations c
                               WHERE c.room_nid = $1 AND c.parent_id = $2 AND c.rel_type > k.rel_type
                               ORDER BY c.rel_type LIMIT 1)
                       FROM kinds k WHERE k.rel_type IS NOT NULL
                   ), ignored AS MATERIALIZED (
                       SELECT ARRAY(SELECT u.user_nid FROM users u WHERE u.user_id = ANY($9)) AS user_nids
                   )
                   SELECT c.event_nid AS "event_nid!", c.sequence AS "sequence!", c.sub AS "sub!",
                          c.position AS "position!"
                   FROM kinds k CROSS JOIN ignored i CROSS JOIN LATERAL (
                       SELECT c.event_nid, c.sequence, c.sub, c.position FROM relations c
                       WHERE c.room_nid = $1 AND c.parent_id = $2 AND c.rel_type = k.rel_type
                           AND ($4::bigint IS NULL OR c.type_nid = $4)
                           AND (c.sequence, c.sub) > ($5, $6) AND (c.sequence, c.sub) < ($7, $8)
                           AND c.sender_nid <> ALL(i.user_nids)
                           AND EXISTS (SELECT FROM unnest($10::bigint[], $11::bigint[]) AS s (low, high)
                                       WHERE c.position BETWEEN s.low AND s.high)
                       ORDER BY c.sequence "#
                    + $order
                    + r#", c.sub "#
                    + $order
                    + r#" LIMIT $12
                   ) c
                   WHERE $3::bytea IS NULL OR k.rel_type = $3
                   ORDER BY c.sequence "#
                    + $order
                    + r#", c.sub "#
                    + $order
                    + r#" LIMIT $12"#,
                wanted.room_nid.0,
                event_ids::pack(wanted.parent_id),
                wanted.rel_type.map(str::as_bytes),
                wanted.type_nid.map(|nid| nid.0),
                after.sequence,
                after.sub,
                before.sequence,
                before.sub,
                reader.ignored,
                &low,
                &high,
                limit
            )
            .fetch_all(connection)
            .await?;
            let children = rows
                .into_iter()
                .map(|row| child(row.event_nid, (row.sequence, row.sub), row.position));
            Ok(children.collect())
        }
    };
}

own_children!(first_children, "ASC");
own_children!(last_children, "DESC");

fn child(event_nid: i64, (sequence, sub): (i64, i32), position: i64) -> Child {
    Child {
        event_nid: EventNid(event_nid),
        place: Place { sequence, sub },
        position: Position(position),
    }
}

/// How many levels of the children of an event, up to `wanted.depth` and one at least, come to no more than `limit`
/// events together, whoever may see them. A level below which there is none counts for all further ones.
pub async fn depth_within(connection: &mut Connection, wanted: Children<'_>, limit: i64) -> Result<i32> {
    // Levels come one after the other, and no more rows are made than are taken.
    let row = sqlx::query!(
        r#"WITH RECURSIVE tree AS (
               SELECT c.event_nid, 1 AS depth FROM relations c
               WHERE c.room_nid = $1 AND c.parent_id = $2 AND ($3::bytea IS NULL OR c.rel_type = $3)
                   AND ($4::bigint IS NULL OR c.type_nid = $4)
               UNION ALL
               SELECT c.event_nid, t.depth + 1
               FROM tree t JOIN events p ON p.event_nid = t.event_nid
               JOIN relations c ON c.room_nid = $1 AND c.parent_id = p.event_id
                   AND ($3::bytea IS NULL OR c.rel_type = $3) AND ($4::bigint IS NULL OR c.type_nid = $4)
               WHERE t.depth < $5
           )
           SELECT count(*) AS "count!", max(depth) AS deepest FROM (SELECT t.depth FROM tree t LIMIT $6) t"#,
        wanted.room_nid.0,
        event_ids::pack(wanted.parent_id),
        wanted.rel_type.map(str::as_bytes),
        wanted.type_nid.map(|nid| nid.0),
        wanted.depth,
        limit + 1
    )
    .fetch_one(connection)
    .await?;
    Ok(match row.deepest {
        Some(deepest) if row.count > limit => (deepest - 1).max(1),
        _ => wanted.depth,
    })
}

async fn descendants(
    connection: &mut Connection,
    wanted: Children<'_>,
    reader: Reader<'_>,
    (after, before): (Place, Place),
    backwards: bool,
    limit: i64,
) -> Result<Vec<Child>> {
    let Sight { low, high, .. } = Sight::of(&reader);
    // The signs turn the order around, so that one query does for both ways.
    let rows = sqlx::query!(
        r#"WITH RECURSIVE tree AS (
               SELECT c.event_nid, c.sequence, c.sub, c.position, c.sender_nid, 1 AS depth FROM relations c
               WHERE c.room_nid = $1 AND c.parent_id = $2 AND ($3::bytea IS NULL OR c.rel_type = $3)
                   AND ($4::bigint IS NULL OR c.type_nid = $4)
               UNION ALL
               SELECT c.event_nid, c.sequence, c.sub, c.position, c.sender_nid, t.depth + 1
               FROM tree t JOIN events p ON p.event_nid = t.event_nid
               JOIN relations c ON c.room_nid = $1 AND c.parent_id = p.event_id
                   AND ($3::bytea IS NULL OR c.rel_type = $3) AND ($4::bigint IS NULL OR c.type_nid = $4)
               WHERE t.depth < $5
           )
           SELECT t.event_nid AS "event_nid!", t.sequence AS "sequence!", t.sub AS "sub!",
                  t.position AS "position!"
           FROM tree t
           WHERE (t.sequence, t.sub) > ($6, $7) AND (t.sequence, t.sub) < ($8, $9)
               AND t.sender_nid <> ALL(ARRAY(SELECT u.user_nid FROM users u WHERE u.user_id = ANY($10)))
               AND EXISTS (SELECT FROM unnest($11::bigint[], $12::bigint[]) AS s (low, high)
                           WHERE t.position BETWEEN s.low AND s.high)
           ORDER BY CASE WHEN $13 THEN -t.sequence ELSE t.sequence END, CASE WHEN $13 THEN -t.sub ELSE t.sub END
           LIMIT $14"#,
        wanted.room_nid.0,
        event_ids::pack(wanted.parent_id),
        wanted.rel_type.map(str::as_bytes),
        wanted.type_nid.map(|nid| nid.0),
        wanted.depth,
        after.sequence,
        after.sub,
        before.sequence,
        before.sub,
        reader.ignored,
        &low,
        &high,
        backwards,
        limit
    )
    .fetch_all(connection)
    .await?;
    let children = rows
        .into_iter()
        .map(|row| child(row.event_nid, (row.sequence, row.sub), row.position));
    Ok(children.collect())
}

/// The children of an event that are of one kind and type and by one sender, in no order.
pub async fn children_by(
    connection: &mut Connection,
    room_nid: RoomNid,
    parent_id: &str,
    rel_type: &str,
    type_nid: TypeNid,
    sender_nid: UserNid,
) -> Result<Vec<EventNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT event_nid FROM relations
         WHERE room_nid = $1 AND parent_id = $2 AND rel_type = $3 AND type_nid = $4 AND sender_nid = $5",
        room_nid.0,
        event_ids::pack(parent_id),
        rel_type.as_bytes(),
        type_nid.0,
        sender_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(EventNid).collect())
}

/// Up to `limit` roots of a room's threads, by their latest events before `before`, those with the newest first; each
/// with the place of that event. With `participated`, only of threads that the reader began or sent to.
pub async fn threads(
    connection: &mut Connection,
    room_nid: RoomNid,
    reader: Reader<'_>,
    before: Place,
    participated: bool,
    limit: i64,
) -> Result<Vec<(EventNid, Place)>> {
    let Sight { low, high, .. } = Sight::of(&reader);
    // The index is walked from its end; an event that has a later one in its thread is passed over.
    let rows = sqlx::query!(
        r#"WITH sight AS MATERIALIZED (SELECT s.* FROM unnest($4::bigint[], $5::bigint[]) AS s (low, high))
           SELECT p.event_nid AS "root_nid!", c.sequence AS "sequence!", c.sub AS "sub!"
           FROM relations c JOIN events p ON p.event_id = c.parent_id
           WHERE c.room_nid = $1 AND c.rel_type = 'm.thread' AND (c.sequence, c.sub) < ($2, $3)
               AND c.sender_nid <> ALL(ARRAY(SELECT u.user_nid FROM users u WHERE u.user_id = ANY($6)))
               AND EXISTS (SELECT FROM sight s WHERE c.position BETWEEN s.low AND s.high)
               AND p.room_nid = c.room_nid AND p.status = 0
               AND EXISTS (SELECT FROM sight s WHERE coalesce(p.position, 0) BETWEEN s.low AND s.high)
               AND NOT EXISTS (SELECT FROM relations own WHERE own.event_nid = p.event_nid)
               AND NOT EXISTS (
                   SELECT FROM relations n
                   WHERE n.room_nid = c.room_nid AND n.parent_id = c.parent_id AND n.rel_type = 'm.thread'
                       AND (n.sequence, n.sub) > (c.sequence, c.sub)
                       AND n.sender_nid <> ALL(ARRAY(SELECT u.user_nid FROM users u WHERE u.user_id = ANY($6)))
                       AND EXISTS (SELECT FROM sight s WHERE n.position BETWEEN s.low AND s.high))
               AND (NOT $7 OR p.sender_nid = $8 OR EXISTS (
                   SELECT FROM relations own
                   WHERE own.room_nid = c.room_nid AND own.parent_id = c.parent_id AND own.rel_type = 'm.thread'
                       AND own.sender_nid = $8))
           ORDER BY c.sequence DESC, c.sub DESC LIMIT $9"#,
        room_nid.0,
        before.sequence,
        before.sub,
        &low,
        &high,
        reader.ignored,
        participated,
        reader.user_nid.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let place = |sequence, sub| Place { sequence, sub };
    Ok(rows
        .into_iter()
        .map(|row| (EventNid(row.root_nid), place(row.sequence, row.sub)))
        .collect())
}

/// Stores how an event that was fetched later relates to another.
pub async fn store_quietly(
    connection: &mut Connection,
    event: &NewEvent,
    place: Place,
    relation: &Relation,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO relations (event_nid, room_nid, sequence, position, sender_nid, type_nid, sub, is_edit, rel_type, parent_id)
         VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9) ON CONFLICT ON CONSTRAINT relations_pkey DO NOTHING",
        event.event_nid.0,
        event.room_nid.0,
        place.sequence,
        event.sender_nid.0,
        event.type_nid.0,
        place.sub,
        relation.is_edit,
        relation.rel_type.as_bytes(),
        event_ids::pack(&relation.parent_id)
    )
    .execute(connection)
    .await?;
    Ok(())
}
