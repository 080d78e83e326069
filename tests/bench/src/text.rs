//! What people say: words of about the length and variety of real messages, so that a database compresses them as it
//! would compress those. The same number always gives the same text.

const WORDS: [&str; 64] = [
    "the",
    "a",
    "we",
    "you",
    "it",
    "is",
    "was",
    "to",
    "of",
    "and",
    "in",
    "for",
    "on",
    "with",
    "at",
    "by",
    "about",
    "meeting",
    "tomorrow",
    "today",
    "later",
    "lunch",
    "coffee",
    "please",
    "thanks",
    "review",
    "branch",
    "build",
    "server",
    "message",
    "fixed",
    "broken",
    "question",
    "answer",
    "maybe",
    "really",
    "already",
    "customer",
    "invoice",
    "train",
    "office",
    "monday",
    "friday",
    "morning",
    "evening",
    "call",
    "write",
    "look",
    "think",
    "know",
    "need",
    "want",
    "can",
    "should",
    "would",
    "great",
    "sorry",
    "soon",
    "again",
    "still",
    "never",
    "always",
    "somebody",
    "everybody",
];

/// A text of at least so many bytes, and at most one word more.
pub fn message(number: u64, bytes: usize) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = format!("{number:x}");
    while text.len() < bytes {
        // xorshift64: quick, and nobody has to be surprised by it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(' ');
        text.push_str(WORDS[(state % WORDS.len() as u64) as usize]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_repeat_and_have_the_length_asked_for() {
        assert_eq!(message(7, 80), message(7, 80));
        assert_ne!(message(7, 80)[2..], message(8, 80)[2..]);
        assert!((80..92).contains(&message(7, 80).len()));
    }
}
