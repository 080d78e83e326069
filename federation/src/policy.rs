//! `[federation] allow` and `deny`: which servers this one has to do with.

use ruma::ServerName;

/// Patterns of server names, in which `*` stands for any characters. A pattern without a port is held against the
/// host alone, so that a denied server can't come back on another port.
#[derive(Debug, Clone, Default)]
pub struct ServerPolicy {
    /// If given, only servers that match one of these.
    pub allow: Option<Vec<String>>,
    /// Never servers that match one of these.
    pub deny: Vec<String>,
}

impl ServerPolicy {
    /// Whether there may be anything between this server and `server`.
    pub fn allows(&self, server: &ServerName) -> bool {
        let name = server.as_str().to_ascii_lowercase();
        let host = server.host().to_ascii_lowercase();
        let fits = |pattern: &String| matches(pattern, &name) || matches(pattern, &host);
        !self.deny.iter().any(fits) && self.allow.as_ref().is_none_or(|allow| allow.iter().any(fits))
    }
}

/// Whether all of `text` fits `pattern`. Takes time of the product of their lengths at most.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The last star, and how much of the text it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, upto)) = star {
            star = Some((at, upto + 1));
            (p, t) = (at + 1, upto + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: Option<&[&str]>, deny: &[&str]) -> ServerPolicy {
        let owned = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        ServerPolicy {
            allow: allow.map(owned),
            deny: owned(deny),
        }
    }

    fn allows(policy: &ServerPolicy, server: &str) -> bool {
        policy.allows(&ServerName::parse(server).expect("a server name"))
    }

    #[test]
    fn without_lists_everybody_is_allowed() {
        assert!(allows(&policy(None, &[]), "example.org"));
    }

    #[test]
    fn an_empty_allow_list_allows_nobody() {
        assert!(!allows(&policy(Some(&[]), &[]), "example.org"));
    }

    #[test]
    fn denied_is_denied_though_it_is_allowed() {
        let policy = policy(Some(&["*.example.org"]), &["evil.example.org"]);
        assert!(allows(&policy, "good.example.org"));
        assert!(!allows(&policy, "evil.example.org"));
        assert!(!allows(&policy, "EVIL.example.org:8448"));
        assert!(!allows(&policy, "example.org"));
    }

    #[test]
    fn a_pattern_with_a_port_is_for_that_port() {
        let policy = policy(None, &["localhost:1", "[::1]"]);
        assert!(!allows(&policy, "localhost:1"));
        assert!(allows(&policy, "localhost:2"));
        assert!(!allows(&policy, "[::1]:3"));
    }

    #[test]
    fn stars_stand_for_anything_and_nothing() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("*.org", "org", false),
            ("a", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
