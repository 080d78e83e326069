//! How deep JSON may nest.
//!
//! serde_json refuses more than 128 levels where it builds values, but skips over any number of them where a
//! type keeps its JSON as it came (`Raw`, `RawValue`) or ignores a field. Such JSON would be accepted, stored, and
//! refused by whoever parses it later. So it is refused at the door.

/// The most levels of arrays and objects in a body. What the server later wraps around a part of it (an event, a
/// sync response) still fits in serde_json's 128.
pub(crate) const MAX_DEPTH: usize = 100;

/// Whether `json` nests deeper than `most` levels. Exact for well-formed JSON, which is not checked here.
pub(crate) fn too_deep(json: &[u8], most: usize) -> bool {
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, too_deep};

    fn nested(depth: usize) -> Vec<u8> {
        [vec![b'['; depth], vec![b']'; depth]].concat()
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert!(!too_deep(&nested(MAX_DEPTH), MAX_DEPTH));
        assert!(too_deep(&nested(MAX_DEPTH + 1), MAX_DEPTH));
    }

    #[test]
    fn width_is_not_depth() {
        assert!(!too_deep("[{},[],{}]".repeat(1000).as_bytes(), MAX_DEPTH));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let json = format!(r#"{{"a":"{}","b\"[[":"\\"}}"#, "[".repeat(1000));
        assert!(!too_deep(json.as_bytes(), MAX_DEPTH));
        assert!(too_deep(
            format!(r#"{{"\\":{}"#, "[".repeat(MAX_DEPTH)).as_bytes(),
            MAX_DEPTH
        ));
    }

    #[test]
    fn serde_json_skips_raw_values_of_any_depth() {
        // If this stops holding, this module can go.
        let json = nested(100_000);
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&json).is_ok());
    }
}
