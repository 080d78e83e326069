//! Interned event types and state keys.

use crate::{Connection, KeyNid, Result, StorageError, TypeNid};

/// The numbers of event types, given now to those that have none, in their order.
pub async fn intern_types(connection: &mut Connection, types: &[&str]) -> Result<Vec<TypeNid>> {
    let found = find_types(connection, types).await?;
    if let Some(nids) = found.into_iter().collect() {
        return Ok(nids);
    }
    let mut names: Vec<Vec<u8>> = types.iter().map(|name| name.as_bytes().to_vec()).collect();
    // In one order everywhere, so that two transactions don't wait for each other.
    names.sort_unstable();
    names.dedup();
    sqlx::query!(
        "INSERT INTO event_types (event_type) SELECT n.name FROM unnest($1::bytea[]) AS n (name)
         WHERE NOT EXISTS (SELECT FROM event_types t WHERE t.event_type = n.name) ORDER BY n.name
         ON CONFLICT ON CONSTRAINT event_types_event_type_key DO NOTHING",
        &names
    )
    .execute(&mut *connection)
    .await?;
    all_interned(find_types(connection, types).await?)
}

/// The numbers of event types, in their order; nothing for one that has none.
async fn find_types(connection: &mut Connection, types: &[&str]) -> Result<Vec<Option<TypeNid>>> {
    let names: Vec<Vec<u8>> = types.iter().map(|name| name.as_bytes().to_vec()).collect();
    let rows = sqlx::query!(
        r#"SELECT t.type_nid AS "type_nid?" FROM unnest($1::bytea[]) WITH ORDINALITY AS n (name, place)
           LEFT JOIN event_types t ON t.event_type = n.name ORDER BY n.place"#,
        &names
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.type_nid.map(TypeNid)).collect())
}

fn all_interned<T>(nids: Vec<Option<T>>) -> Result<Vec<T>> {
    nids.into_iter()
        .collect::<Option<_>>()
        .ok_or_else(|| StorageError::Damaged("a name was interned and has no number".to_owned()))
}

/// The numbers of state keys, given now to those that have none, in their order.
///
/// On a connection outside a transaction a new number is on the disk when this returns. It must be, although no event
/// names it yet: were it lost with a crash of the database it would be given again, to another key, while this process
/// goes on with what it remembers.
pub async fn intern_keys(connection: &mut Connection, keys: &[(TypeNid, &str)]) -> Result<Vec<KeyNid>> {
    let found = find_keys(connection, keys).await?;
    if let Some(nids) = found.into_iter().collect() {
        return Ok(nids);
    }
    let mut sorted: Vec<(i64, Vec<u8>)> = keys
        .iter()
        .map(|(nid, key)| (nid.0, key.as_bytes().to_vec()))
        .collect();
    sorted.sort_unstable();
    sorted.dedup();
    let (types, names): (Vec<i64>, Vec<Vec<u8>>) = sorted.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO state_keys (type_nid, state_key)
         SELECT n.type_nid, n.state_key FROM unnest($1::bigint[], $2::bytea[]) AS n (type_nid, state_key)
         WHERE NOT EXISTS (SELECT FROM state_keys k WHERE k.type_nid = n.type_nid AND k.state_key = n.state_key)
         ORDER BY n.type_nid, n.state_key
         ON CONFLICT ON CONSTRAINT state_keys_type_nid_state_key_key DO NOTHING",
        &types,
        &names
    )
    .execute(&mut *connection)
    .await?;
    all_interned(find_keys(connection, keys).await?)
}

/// The numbers of state keys, in their order; nothing for one that has none.
pub async fn find_keys(connection: &mut Connection, keys: &[(TypeNid, &str)]) -> Result<Vec<Option<KeyNid>>> {
    let types: Vec<i64> = keys.iter().map(|(nid, _)| nid.0).collect();
    let names: Vec<Vec<u8>> = keys.iter().map(|(_, key)| key.as_bytes().to_vec()).collect();
    let rows = sqlx::query!(
        r#"SELECT k.key_nid AS "key_nid?"
           FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS n (type_nid, state_key, place)
           LEFT JOIN state_keys k ON k.type_nid = n.type_nid AND k.state_key = n.state_key ORDER BY n.place"#,
        &types,
        &names
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.key_nid.map(KeyNid)).collect())
}

/// The event type and state key of numbers, in no order.
pub async fn keys_by_nids(
    connection: &mut Connection,
    key_nids: &[KeyNid],
) -> Result<Vec<(KeyNid, String, String)>> {
    let nids: Vec<i64> = key_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT k.key_nid, t.event_type, k.state_key FROM state_keys k JOIN event_types t USING (type_nid)
         WHERE k.key_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(rows
        .into_iter()
        .map(|row| (KeyNid(row.key_nid), text(row.event_type), text(row.state_key)))
        .collect())
}

/// The number of an event type, if it has one.
pub async fn find_type(connection: &mut Connection, event_type: &str) -> Result<Option<TypeNid>> {
    Ok(find_types(connection, &[event_type]).await?.pop().flatten())
}
