//! The canonical aliases of two rooms of which one replaces the other. Pure.

use ruma::{CanonicalJsonObject, CanonicalJsonValue};

/// The content of `m.room.canonical_alias`, in the new room and in the old one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Divided {
    /// What is said of aliases that point to the new room now. Nothing if none is named.
    pub moved: Option<CanonicalJsonObject>,
    /// What is left in the old room. Nothing if that is what it says already.
    pub left: Option<CanonicalJsonObject>,
}

/// Divides what an old room says by the aliases that move to the new one.
pub(super) fn divide(content: &CanonicalJsonObject, moving: &[String]) -> Divided {
    let moves = |alias: &CanonicalJsonValue| {
        alias
            .as_str()
            .is_some_and(|alias| moving.iter().any(|moving| moving == alias))
    };
    let (mut moved, mut left) = (CanonicalJsonObject::new(), content.clone());
    if let Some(alias) = content.get("alias").filter(|alias| moves(alias)) {
        moved.insert("alias".to_owned(), alias.clone());
        left.remove("alias");
    }
    if let Some(CanonicalJsonValue::Array(alternatives)) = content.get("alt_aliases") {
        let (go, stay): (Vec<_>, Vec<_>) = alternatives.iter().cloned().partition(moves);
        if !go.is_empty() {
            moved.insert("alt_aliases".to_owned(), CanonicalJsonValue::Array(go));
            match stay.is_empty() {
                true => drop(left.remove("alt_aliases")),
                false => drop(left.insert("alt_aliases".to_owned(), CanonicalJsonValue::Array(stay))),
            }
        }
    }
    if moved.is_empty() {
        return Divided::default();
    }
    Divided {
        moved: Some(moved),
        left: Some(left),
    }
}

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonObject;
    use serde_json::{Value, json};

    use super::{Divided, divide};

    fn object(value: Value) -> CanonicalJsonObject {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn aliases_that_move_are_named_by_the_new_room_and_no_longer_by_the_old() {
        let content = object(json!({
            "alias": "#one:a", "alt_aliases": ["#two:a", "#elsewhere:b", 7], "org.example": true,
        }));
        let divided = divide(&content, &["#one:a".to_owned(), "#two:a".to_owned()]);
        let expected = Divided {
            moved: Some(object(json!({ "alias": "#one:a", "alt_aliases": ["#two:a"] }))),
            left: Some(object(
                json!({ "alt_aliases": ["#elsewhere:b", 7], "org.example": true }),
            )),
        };
        assert_eq!(divided, expected);
    }

    #[test]
    fn aliases_of_other_servers_stay_where_they_are() {
        let content = object(json!({ "alias": "#one:b", "alt_aliases": ["#two:b"] }));
        assert_eq!(divide(&content, &["#three:a".to_owned()]), Divided::default());
        assert_eq!(divide(&object(json!({})), &[]), Divided::default());
    }
}
