//! A configuration as a tree that remembers where each key was written, and its reading into types.
//!
//! serde tells what is wrong; this adds the key and the place on the way out. A value from the environment is
//! text until a type asks for it: `HEARTH_ROOMS__DEFAULT_VERSION=12` is the string that the key wants, and
//! `HEARTH_REGISTRATION__OPEN=true` the boolean.

use std::{collections::BTreeMap, fmt::Display};

use serde::{
    de::{
        self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor,
    },
    forward_to_deserialize_any,
};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    /// The text of an environment variable: what it means depends on what is asked for.
    Raw(String),
}

/// A part of the way to a key.
#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

/// What serde found wrong, with the way to it, innermost step first.
#[derive(Debug)]
pub(super) struct Fault {
    steps: Vec<Step>,
    origin: Option<Origin>,
    problem: String,
}

/// Reads TOML. The error says what the grammar wants, without the text of the line: it may hold a secret.
pub(super) fn parse(text: &str) -> Result<Node, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        ConfigError::new(
            Some(Origin::Line(line)),
            "",
            format!("not TOML: {}", error.message()),
        )
    })?;
    let lines = Lines { text };
    Ok(Node {
        value: lines.table(table.get_ref())?,
        origin: Origin::Line(1),
    })
}

struct Lines<'a> {
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::Line(line_of(self.text, offset))
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Value, ConfigError> {
        let mut nodes = BTreeMap::new();
        for (key, value) in table {
            let origin = self.origin(key.span().start);
            nodes.insert(
                key.get_ref().to_string(),
                Node {
                    value: self.value(value)?,
                    origin,
                },
            );
        }
        Ok(Value::Table(nodes))
    }

    fn value(&self, value: &toml::Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                Value::Integer(parsed.map_err(|_| {
                    let problem = "a whole number that does not fit 64 bits";
                    ConfigError::new(Some(self.origin(value.span().start)), "", problem)
                })?)
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
            DeValue::Table(table) => self.table(table)?,
            DeValue::Array(array) => {
                let mut nodes = Vec::new();
                for item in array {
                    nodes.push(Node {
                        value: self.value(item)?,
                        origin: self.origin(item.span().start),
                    });
                }
                Value::Array(nodes)
            }
        })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

impl Node {
    /// The value at the end of `path`, whose steps are keys and indices.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        let inner = match &self.value {
            Value::Table(table) => table.get(*first),
            Value::Array(array) => array.get(first.parse::<usize>().ok()?),
            _ => None,
        };
        inner.and_then(|node| node.find(rest))
    }

    /// An error about the value at `path`, or about the nearest thing around it that was written.
    pub(super) fn error_at(&self, path: &[&str], problem: impl Into<String>) -> ConfigError {
        let origin = (0..=path.len()).rev().find_map(|length| {
            let node = self.find(&path[..length])?;
            (length > 0).then(|| node.origin.clone())
        });
        let key = path
            .iter()
            .fold(String::new(), |key, step| match step.parse::<usize>() {
                Ok(index) => format!("{key}[{index}]"),
                Err(_) if key.is_empty() => (*step).to_owned(),
                Err(_) => format!("{key}.{step}"),
            });
        ConfigError::new(origin, key, problem)
    }

    /// Makes text from the environment what it writes, so that a longer variable can go into it.
    pub(super) fn resolve(&mut self) {
        if let Value::Raw(raw) = &self.value
            && let Some(literal) = Self::literal(raw, &self.origin)
        {
            *self = literal;
        }
    }

    /// Text from the environment as the literal that it is, in TOML or JSON; `None` where it is neither.
    fn literal(raw: &str, origin: &Origin) -> Option<Self> {
        let value = literal_value(raw)?;
        Some(
            Self {
                value,
                origin: origin.clone(),
            }
            .all_from(origin),
        )
    }

    fn all_from(self, origin: &Origin) -> Self {
        let value = match self.value {
            Value::Table(table) => Value::Table(
                table
                    .into_iter()
                    .map(|(key, node)| (key, node.all_from(origin)))
                    .collect(),
            ),
            Value::Array(array) => {
                Value::Array(array.into_iter().map(|node| node.all_from(origin)).collect())
            }
            other => other,
        };
        Self {
            value,
            origin: origin.clone(),
        }
    }
}

/// The value that `raw` writes in TOML or JSON.
fn literal_value(raw: &str) -> Option<Value> {
    let document = format!("value = {raw}");
    let from_toml = DeTable::parse(&document).ok().and_then(|table| {
        let only = if table.get_ref().len() == 1 {
            table.get_ref().get("value")
        } else {
            None
        };
        Lines { text: &document }.value(only?).ok()
    });
    from_toml.or_else(|| serde_json::from_str(raw).ok().and_then(json_value))
}

fn json_value(json: serde_json::Value) -> Option<Value> {
    // The caller puts the right origin on the whole.
    let node = |json| {
        Some(Node {
            value: json_value(json)?,
            origin: Origin::Line(1),
        })
    };
    Some(match json {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(boolean) => Value::Boolean(boolean),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(number.as_f64()?),
        },
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Array(array) => Value::Array(array.into_iter().map(node).collect::<Option<_>>()?),
        serde_json::Value::Object(object) => {
            let entry = |(key, json)| Some((key, node(json)?));
            Value::Table(object.into_iter().map(entry).collect::<Option<_>>()?)
        }
    })
}

impl<'de> Deserializer<'de> for Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let origin = self.origin;
        let result = match self.value {
            Value::Raw(raw) => match Self::literal(&raw, &origin) {
                Some(literal) => literal.deserialize_any(visitor),
                None => visitor.visit_string(raw),
            },
            Value::String(text) | Value::Datetime(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(boolean) => visitor.visit_bool(boolean),
            Value::Array(array) => visitor.visit_seq(Items(array.into_iter().enumerate())),
            Value::Table(table) => visitor.visit_map(Entries {
                entries: table.into_iter(),
                value: None,
            }),
        };
        result.map_err(|fault| fault.at(origin))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Raw(raw) = self.value else {
            return self.deserialize_any(visitor);
        };
        let quoted = raw.len() > 1 && (raw.starts_with('"') || raw.starts_with('\''));
        let text = match quoted.then(|| literal_value(&raw)) {
            Some(Some(Value::String(text))) => text,
            _ => raw,
        };
        visitor
            .visit_string(text)
            .map_err(|fault: Fault| fault.at(self.origin))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let origin = self.origin;
        match self.value {
            Value::String(text) | Value::Raw(text) => {
                let variant: de::value::StringDeserializer<Fault> = text.into_deserializer();
                visitor.visit_enum(variant)
            }
            _ => Err(Fault::new(format!("expected {}", one_of(variants)))),
        }
        .map_err(|fault| fault.at(origin))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items(std::iter::Enumerate<std::vec::IntoIter<Node>>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, item)) = self.0.next() else {
            return Ok(None);
        };
        let origin = item.origin.clone();
        seed.deserialize(item)
            .map(Some)
            .map_err(|fault| fault.at(origin).within(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    entries: std::collections::btree_map::IntoIter<String, Node>,
    value: Option<(String, Node)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        let origin = node.origin.clone();
        let found: de::value::StringDeserializer<Fault> = key.clone().into_deserializer();
        let result = seed.deserialize(found);
        self.value = Some((key.clone(), node));
        result
            .map(Some)
            .map_err(|fault| fault.at(origin).within(Step::Key(key)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.value.take() else {
            return Err(Fault::new("a key without a value"));
        };
        let origin = node.origin.clone();
        seed.deserialize(node)
            .map_err(|fault| fault.at(origin).within(Step::Key(key)))
    }
}

impl Fault {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            origin: None,
            problem: problem.into(),
        }
    }

    /// Keeps the innermost place.
    fn at(mut self, origin: Origin) -> Self {
        self.origin.get_or_insert(origin);
        self
    }

    fn within(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        let key = fault
            .steps
            .iter()
            .rev()
            .fold(String::new(), |key, step| match step {
                Step::Index(index) => format!("{key}[{index}]"),
                Step::Key(step) if key.is_empty() => step.clone(),
                Step::Key(step) => format!("{key}.{step}"),
            });
        Self::new(fault.origin, key, fault.problem)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    // serde's own texts of these two repeat the value.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", plain(expected), kind(found)))
    }

    fn invalid_value(_found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", plain(expected)))
    }

    fn unknown_variant(_variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("expected {}", one_of(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let nearest = expected
            .iter()
            .map(|known| (strsim::damerau_levenshtein(field, known), *known))
            .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
            .min();
        let hint = nearest.map_or(String::new(), |(_, known)| format!(" (did you mean `{known}`?)"));
        Self::new(format!("unknown key{hint}; expected {}", one_of(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the key `{field}` is missing"))
    }
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("one of {}", quoted.join(", "))
}

fn plain(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        other => other.to_owned(),
    }
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => "something else",
    }
}
