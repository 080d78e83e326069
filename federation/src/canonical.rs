//! Canonical JSON of what another server signed as a request (appendices, "Canonical JSON"), whatever it holds.
//!
//! A transaction carries events that other servers made. One with a fraction in it, or nested very deep, is refused by
//! itself; if it kept the signature of the whole request from being checked, a hostile event would stop everything that
//! its carrier sends. So numbers are left as they are written, which is how whoever signed them wrote them, and nothing
//! here recurses.

use std::{borrow::Cow, collections::BTreeMap};

/// This is no JSON.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no JSON at byte {0}")]
pub(crate) struct NotJson(usize);

/// A value; those within arrays and objects by their number.
enum Node<'a> {
    /// A number, `true`, `false` or `null`, as it is written.
    Literal(&'a str),
    String(Cow<'a, str>),
    Array(Vec<usize>),
    /// The last of several values of one key counts.
    Object(BTreeMap<Cow<'a, str>, usize>),
}

/// JSON with the keys of its objects in order and without white space.
pub(crate) fn canonical(json: &str) -> Result<String, NotJson> {
    let parser = Parser {
        json,
        at: 0,
        nodes: Vec::new(),
        open: Vec::new(),
        key: None,
    };
    Ok(written(&parser.parse()?, json.len()))
}

struct Parser<'a> {
    json: &'a str,
    at: usize,
    nodes: Vec<Node<'a>>,
    /// The arrays and objects that have not ended, the outermost first.
    open: Vec<usize>,
    /// The key whose value comes next.
    key: Option<Cow<'a, str>>,
}

impl<'a> Parser<'a> {
    /// All values, the outermost first.
    fn parse(mut self) -> Result<Vec<Node<'a>>, NotJson> {
        loop {
            if self.value()? {
                continue;
            }
            loop {
                let next = self.peek();
                let is_object = match self.open.last() {
                    None if next.is_none() => return Ok(self.nodes),
                    None => return Err(NotJson(self.at)),
                    Some(outer) => matches!(self.nodes[*outer], Node::Object(_)),
                };
                match (next, is_object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.key()?;
                        break;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        self.open.pop();
                    }
                    _ => return Err(NotJson(self.at)),
                }
            }
        }
    }

    /// Takes a value, or the beginning of one that has others in it: then it is true.
    fn value(&mut self) -> Result<bool, NotJson> {
        match self.peek() {
            Some(b'{') => {
                let node = self.begin(Node::Object(BTreeMap::new()), b'}');
                match node {
                    Some(node) => {
                        self.open.push(node);
                        self.key()?;
                        Ok(true)
                    }
                    None => Ok(false),
                }
            }
            Some(b'[') => {
                let node = self.begin(Node::Array(Vec::new()), b']');
                self.open.extend(node);
                Ok(node.is_some())
            }
            Some(b'"') => {
                let string = self.string()?;
                self.add(Node::String(string));
                Ok(false)
            }
            _ => {
                let rest = &self.json[self.at..];
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                let length = rest.bytes().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                let literal = &rest[..length];
                if serde_json::from_str::<serde::de::IgnoredAny>(literal).is_err() {
                    return Err(NotJson(self.at));
                }
                self.at += length;
                self.add(Node::Literal(literal));
                Ok(false)
            }
        }
    }

    /// Begins an array or object; nothing if it ends at once.
    fn begin(&mut self, node: Node<'a>, end: u8) -> Option<usize> {
        self.at += 1;
        let node = self.add(node);
        if self.peek() == Some(end) {
            self.at += 1;
            return None;
        }
        Some(node)
    }

    /// Adds a value to the innermost array or object.
    fn add(&mut self, node: Node<'a>) -> usize {
        let number = self.nodes.len();
        self.nodes.push(node);
        match self.open.last().map(|outer| &mut self.nodes[*outer]) {
            Some(Node::Array(values)) => values.push(number),
            Some(Node::Object(values)) => {
                values.insert(self.key.take().unwrap_or_default(), number);
            }
            _ => {}
        }
        number
    }

    /// Takes a key and its colon.
    fn key(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson(self.at));
        }
        self.key = Some(self.string()?);
        if self.peek() != Some(b':') {
            return Err(NotJson(self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a string, which begins here.
    fn string(&mut self) -> Result<Cow<'a, str>, NotJson> {
        let begin = self.at;
        let mut bytes = self.json.bytes().enumerate().skip(begin + 1);
        let mut is_plain = true;
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.at = at + 1;
                    if is_plain {
                        return Ok(Cow::Borrowed(&self.json[begin + 1..at]));
                    }
                    let string = serde_json::from_str(&self.json[begin..=at]);
                    return string.map(Cow::Owned).map_err(|_| NotJson(begin));
                }
                b'\\' => {
                    is_plain = false;
                    bytes.next();
                }
                0..=0x1f => return Err(NotJson(at)),
                _ => {}
            }
        }
        Err(NotJson(self.json.len()))
    }

    /// The next byte that isn't white space, and goes there.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.json.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }
}

/// What is yet to be written.
enum Step<'a> {
    Value(usize),
    Key(&'a str),
    Text(&'static str),
}

fn written(nodes: &[Node<'_>], capacity: usize) -> String {
    let mut out = String::with_capacity(capacity);
    // The next is the last.
    let mut steps = vec![Step::Value(0)];
    while let Some(step) = steps.pop() {
        let number = match step {
            Step::Text(text) => {
                out.push_str(text);
                continue;
            }
            Step::Key(key) => {
                push_string(&mut out, key);
                out.push(':');
                continue;
            }
            Step::Value(number) => number,
        };
        match &nodes[number] {
            Node::Literal(literal) => out.push_str(literal),
            Node::String(string) => push_string(&mut out, string),
            Node::Array(values) => {
                out.push('[');
                steps.push(Step::Text("]"));
                for (index, value) in values.iter().enumerate().rev() {
                    steps.push(Step::Value(*value));
                    if index > 0 {
                        steps.push(Step::Text(","));
                    }
                }
            }
            Node::Object(values) => {
                out.push('{');
                steps.push(Step::Text("}"));
                for (index, (key, value)) in values.iter().enumerate().rev() {
                    steps.push(Step::Value(*value));
                    steps.push(Step::Key(key));
                    if index > 0 {
                        steps.push(Step::Text(","));
                    }
                }
            }
        }
    }
    out
}

/// A string as JSON, which escapes no more than it must.
pub(crate) fn push_string(out: &mut String, string: &str) {
    out.push_str(&serde_json::Value::from(string).to_string());
}

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonValue;

    use super::*;

    #[test]
    fn what_the_specification_allows_comes_out_as_it_says() {
        for json in [
            r#"{}"#,
            r#"{"one": 1, "two": "Two"}"#,
            r#"{"b": "2", "a": "1"}"#,
            "{\n\t\"auth\": {\"success\": true, \"mxid\": \"@john.doe:example.com\", \"profile\": {\"display_name\": \"John Doe\", \"three_pids\": [{\"medium\": \"email\"}, {\"medium\": \"msisdn\"}]}}}",
            r#"{"a": "日本語"}"#,
            r#"{"本": 2, "日": 1}"#,
            r#"{"a": "\u65E5", "\u0000\n\"\\/": [], "z": [[], [1, -2, null, false], {}]}"#,
            r#"{"a": null, "b": [{"d": 1, "c": 2}, "\ud83d\ude00"], "a": 9007199254740991}"#,
        ] {
            let value: CanonicalJsonValue = serde_json::from_str(json).unwrap();
            assert_eq!(canonical(json).unwrap(), value.to_string(), "{json}");
        }
    }

    #[test]
    fn numbers_that_it_does_not_allow_stay_as_they_are_written() {
        let json = r#"{ "b": 1e+16, "a": [1.50, -0.0, 123456789012345678901234567890] }"#;
        let wanted = r#"{"a":[1.50,-0.0,123456789012345678901234567890],"b":1e+16}"#;
        assert_eq!(canonical(json).unwrap(), wanted);
    }

    #[test]
    fn no_depth_is_too_much() {
        let json = format!("{}1{}", r#"{"a": ["#.repeat(200_000), "]}".repeat(200_000));
        let canonical = canonical(&json).unwrap();
        assert_eq!(canonical, json.replace(' ', ""));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for json in [
            "",
            " ",
            "{",
            "[1",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            r#"{"a":1]"#,
            "[1}",
            "1 2",
            "tru",
            "01",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\n\"",
            r#"{1:2}"#,
            r#""\ud800""#,
            "]",
        ] {
            assert!(canonical(json).is_err(), "{json}");
        }
    }
}
