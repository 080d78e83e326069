//! Which fields of an event a client wants: `event_fields` of its filter (client-server API, "Filtering"), which are
//! dot-separated property paths (appendices, "Dot-separated property paths").

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

/// The fields that some paths lead to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Fields(BTreeMap<String, Wanted>);

#[derive(Debug, PartialEq)]
enum Wanted {
    /// With all there is in it.
    Whole,
    /// These of its own fields.
    Within(Fields),
}

impl Fields {
    /// The fields that a filter names. Nothing where it names none: then every field is wanted, as Synapse has it too.
    pub fn of(paths: Option<&[String]>) -> Option<Self> {
        let mut fields = Self::default();
        for path in paths? {
            fields.add(&names_in(path));
        }
        Some(fields).filter(|fields| !fields.0.is_empty())
    }

    /// An event, or any object, with these fields alone.
    pub fn of_event(&self, event: &RawValue) -> Box<RawValue> {
        let chosen = self.choose(event);
        to_raw_value(&chosen.unwrap_or_default()).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    fn add(&mut self, names: &[String]) {
        let Some((first, rest)) = names.split_first() else {
            return;
        };
        if rest.is_empty() {
            self.0.insert(first.clone(), Wanted::Whole);
            return;
        }
        let below = self
            .0
            .entry(first.clone())
            .or_insert_with(|| Wanted::Within(Self::default()));
        if let Wanted::Within(fields) = below {
            fields.add(rest);
        }
    }

    /// Nothing where the value is no object: a path through it leads nowhere.
    fn choose(&self, object: &RawValue) -> Option<BTreeMap<&str, Box<RawValue>>> {
        let mut values: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object.get()).ok()?;
        let chosen = self.0.iter().filter_map(|(name, wanted)| {
            let value = values.remove(name)?;
            let value = match wanted {
                Wanted::Whole => value,
                Wanted::Within(fields) => {
                    let inner = fields.choose(&value).filter(|inner| !inner.is_empty())?;
                    to_raw_value(&inner).ok()?
                }
            };
            Some((name.as_str(), value))
        });
        Some(chosen.collect())
    }
}

/// The names of a path. A dot or backslash after a backslash is part of a name; before anything else, a backslash is
/// one itself.
fn names_in(path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => names.push(std::mem::take(&mut name)),
            '\\' => name.push(
                characters
                    .next_if(|next| matches!(next, '.' | '\\'))
                    .unwrap_or('\\'),
            ),
            _ => name.push(character),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{Fields, names_in};

    fn chosen(paths: &[&str], event: &Value) -> Value {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let fields = Fields::of(Some(&paths)).unwrap();
        serde_json::from_str(fields.of_event(&to_raw_value(event).unwrap()).get()).unwrap()
    }

    #[test]
    fn paths_are_split_at_dots_that_are_not_escaped() {
        for (path, names) in [
            ("content.body", vec!["content", "body"]),
            (
                r"content.m\.relates_to.rel_type",
                vec!["content", "m.relates_to", "rel_type"],
            ),
            (r"content.m\\foo", vec!["content", r"m\foo"]),
            (r"a\x", vec![r"a\x"]),
            (r"a\", vec![r"a\"]),
            ("", vec![""]),
            ("a..b", vec!["a", "", "b"]),
        ] {
            assert_eq!(names_in(path), names, "{path}");
        }
    }

    #[test]
    fn a_field_is_there_if_a_path_leads_to_it() {
        let event = json!({
            "type": "m.room.message", "sender": "@a:b", "origin_server_ts": 1,
            "content": { "body": "hi", "msgtype": "m.text", "m.relates_to": { "rel_type": "x", "event_id": "$y" } },
        });
        assert_eq!(
            chosen(&["type", "content.body"], &event),
            json!({ "type": "m.room.message", "content": { "body": "hi" } })
        );
        assert_eq!(
            chosen(&[r"content.m\.relates_to.event_id"], &event),
            json!({ "content": { "m.relates_to": { "event_id": "$y" } } })
        );
        // Whichever comes first, the whole wins over a part of it.
        let whole = json!({ "content": event["content"] });
        assert_eq!(chosen(&["content.body", "content"], &event), whole);
        assert_eq!(chosen(&["content", "content.body"], &event), whole);
        assert_eq!(
            chosen(&["content.body.nothing", "nothing", "content.nothing"], &event),
            json!({})
        );
    }

    #[test]
    fn no_paths_are_all_fields() {
        assert_eq!(Fields::of(None), None);
        assert_eq!(Fields::of(Some(&[])), None);
    }
}
