//! What a server answered, and what a test may demand of it.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer, good or bad.
#[derive(Debug, Clone)]
#[must_use = "an answer is good or bad: say which with `ok` or `refused`"]
pub struct Answer {
    /// Method and path of the request.
    pub request: String,
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null where it isn't JSON.
    pub body: Value,
}

impl Answer {
    /// The body of a good answer.
    ///
    /// # Panics
    ///
    /// When the answer isn't 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{} was refused: {}", self.request, self.body);
        self.body
    }

    /// The body of an error: this status, this code, and a sentence.
    ///
    /// # Panics
    ///
    /// When the answer is another.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        assert_eq!(
            (self.status, self.errcode()),
            (status, errcode),
            "{} was answered by {} {}",
            self.request,
            self.status,
            self.body
        );
        self.assert_has_sentence();
        self.body
    }

    /// The `event_id` of a good answer.
    #[track_caller]
    pub fn event_id(self) -> String {
        self.string("event_id")
    }

    /// The `room_id` of a good answer.
    #[track_caller]
    pub fn room_id(self) -> String {
        self.string("room_id")
    }

    /// A string of a good answer.
    ///
    /// # Panics
    ///
    /// When there is none of that name.
    #[track_caller]
    pub fn string(self, key: &str) -> String {
        let request = self.request.clone();
        let body = self.ok();
        body[key]
            .as_str()
            .unwrap_or_else(|| panic!("{request} gave no `{key}`: {body}"))
            .to_owned()
    }

    /// The code of an error; empty where there is none.
    pub fn errcode(&self) -> &str {
        self.body["errcode"].as_str().unwrap_or_default()
    }

    /// Whether the server refused by the book: a status of 400 to 499, a code and a sentence.
    pub fn is_proper_refusal(&self) -> bool {
        (400..500).contains(&self.status)
            && self.errcode().starts_with("M_")
            && self.body["error"]
                .as_str()
                .is_some_and(|sentence| sentence.len() > 3)
    }

    #[track_caller]
    fn assert_has_sentence(&self) {
        let sentence = self.body["error"].as_str().unwrap_or_default();
        assert!(
            sentence.len() > 3,
            "{} was refused without a sentence: {}",
            self.request,
            self.body
        );
    }
}
