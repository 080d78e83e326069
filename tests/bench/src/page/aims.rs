//! The aims of DESIGN's "How fast", and whether medians meet them.

use super::figures::Key;
use crate::table::number;

/// What a figure is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// So many times as many a second as the other server.
    TimesAsMany(f64),
    /// So many times as fast as the other server, by the median latency.
    TimesAsFast(f64),
    /// At most this fraction of the other server's.
    Share(f64, &'static str),
    /// Less than this.
    Under(f64),
    /// At most so many times a one-row commit.
    Commits(f64),
    /// Not fewer than that line's, divided by this.
    Within(f64, &'static str),
    /// None.
    None,
}

/// What an aim is judged by.
pub struct Context<'a> {
    pub own: Option<f64>,
    pub other: Option<f64>,
    pub commit_ms: Option<f64>,
    /// The same figure of another line.
    pub sibling: &'a dyn Fn(&str) -> Option<f64>,
}

/// The aim for a line of a table.
pub fn aim_of(key: Key, name: &str) -> Option<Aim> {
    let of = |prefix: &str| name.starts_with(prefix);
    Some(match key {
        Key::PerSecond if name == "send-many-rooms" => Aim::TimesAsMany(100.0),
        Key::PerSecond if name == "send-one-room" => Aim::Within(2.0, "send-many-rooms"),
        Key::PerSecond if name == "history" || name == "create-room" || of("join-") => Aim::TimesAsMany(20.0),
        Key::Median if name == "send-one-at-a-time" => Aim::Commits(3.0),
        // "A few milliseconds."
        Key::Median if name == "delivery-100" || name == "push-100" => Aim::Under(10.0),
        Key::Median if of("initial-sync-") => Aim::TimesAsFast(50.0),
        Key::Cpu if name == "send-many-rooms" => Aim::Under(0.3),
        Key::Statements if of("incremental-sync-") => Aim::None,
        Key::Disk if name == "send-many-rooms" => Aim::Share(1.0 / 3.0, "a third"),
        Key::Disk if of("state-changes-") => Aim::Share(0.1, "a tenth"),
        Key::Memory => Aim::Under(60.0),
        Key::EachClient => Aim::Under(16.0),
        _ => return None,
    })
}

impl Aim {
    /// The aim in words, with whether it is met, where that can be told.
    pub fn verdict(self, context: &Context<'_>) -> String {
        let (words, met) = self.judge(context);
        match met {
            Some(true) => format!("✓ {words}"),
            Some(false) => format!("✗ {words}"),
            None => words,
        }
    }

    fn judge(self, context: &Context<'_>) -> (String, Option<bool>) {
        let own = context.own;
        let both = own.zip(context.other);
        match self {
            Self::TimesAsMany(times) => (
                format!("{times} times"),
                both.map(|(own, other)| own >= times * other),
            ),
            Self::TimesAsFast(times) => (
                format!("{times} times"),
                both.map(|(own, other)| own * times <= other),
            ),
            Self::Share(share, words) => (
                format!("{words} of the other's"),
                both.map(|(own, other)| own <= share * other),
            ),
            Self::Under(bound) => (format!("under {}", number(bound)), own.map(|own| own < bound)),
            Self::Commits(times) => {
                let met = own
                    .zip(context.commit_ms)
                    .map(|(own, commit)| own <= times * commit);
                (format!("within {times} times of a one-row commit"), met)
            }
            Self::Within(times, name) => {
                let met = own
                    .zip((context.sibling)(name))
                    .map(|(own, sibling)| own * times >= sibling);
                (format!("within {times} times of {name}"), met)
            }
            // What is left of it is the counting of the benchmark itself.
            Self::None => ("none".to_owned(), own.map(|own| own < 0.05)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(aim: Aim, own: f64, other: f64) -> String {
        let sibling = |_: &str| Some(2000.0);
        aim.verdict(&Context {
            own: Some(own),
            other: Some(other),
            commit_ms: Some(1.0),
            sibling: &sibling,
        })
    }

    #[test]
    fn an_aim_is_met_or_missed() {
        assert_eq!(verdict(Aim::TimesAsMany(100.0), 3000.0, 30.0), "✓ 100 times");
        assert_eq!(verdict(Aim::TimesAsMany(100.0), 2999.0, 30.0), "✗ 100 times");
        assert_eq!(verdict(Aim::TimesAsFast(50.0), 10.0, 400.0), "✗ 50 times");
        assert_eq!(
            verdict(Aim::Share(0.1, "a tenth"), 99.0, 1000.0),
            "✓ a tenth of the other's"
        );
        assert_eq!(verdict(Aim::Under(0.3), 0.3, 30.0), "✗ under 0.300");
        assert_eq!(
            verdict(Aim::Commits(3.0), 2.9, 30.0),
            "✓ within 3 times of a one-row commit"
        );
        assert_eq!(
            verdict(Aim::Within(2.0, "x"), 1000.0, 1.0),
            "✓ within 2 times of x"
        );
        assert_eq!(verdict(Aim::None, 0.01, 9.0), "✓ none");
    }

    #[test]
    fn without_the_other_there_is_no_verdict() {
        let context = Context {
            own: Some(1.0),
            other: None,
            commit_ms: None,
            sibling: &|_| None,
        };
        assert_eq!(Aim::TimesAsMany(20.0).verdict(&context), "20 times");
        assert_eq!(
            Aim::Commits(3.0).verdict(&context),
            "within 3 times of a one-row commit"
        );
    }
}
