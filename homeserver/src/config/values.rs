//! The kinds of value that a plain type can't check: each says in its error what it expects.

use std::{
    fmt::{self, Debug},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use axum::http::Uri;
use ipnet::IpNet;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UserId};
use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::EnvFilter;

pub(super) const EXPECTED_SERVER_NAME: &str = "the domain after the colon in your users' names, such as \"example.org\", with a port only if it is part of the names";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself. Don't log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A number of bytes, written as such or as `"256 MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// A range of addresses in CIDR notation, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

/// The address of a name server, with port 53 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

/// A server name in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPattern(String);

impl ServerPattern {
    /// The pattern, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ByteSize {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(drop)?;
        let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "kib" | "k" => 1 << 10,
            "mb" => 1_000_000,
            "mib" | "m" => 1 << 20,
            "gb" => 1_000_000_000,
            "gib" | "g" => 1 << 30,
            _ => return Err(()),
        };
        number.checked_mul(unit).map(Self).ok_or(())
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let network = match text.parse::<IpNet>() {
            Ok(network) => network,
            Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(drop)?),
        };
        // Bits beyond the prefix are a slip: 10.1.2.3/8 may have been meant as one host or as the whole range.
        if network.addr() == network.network() {
            Ok(Self(network))
        } else {
            Err(())
        }
    }
}

impl FromStr for NameServer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let address = text
            .parse()
            .or_else(|_| Ok(SocketAddr::new(text.parse::<IpAddr>().map_err(drop)?, 53)));
        address.map(Self)
    }
}

impl FromStr for ServerPattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "*.-:[]".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err(());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Reads a string and turns it into a `T`; whatever is wrong with it, the error is what was expected.
pub(super) fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom(format_args!("expected {expected}")))
}

macro_rules! deserialize_text {
    ($type:ty, $expected:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text(deserializer, $expected, |text| text.parse().ok())
            }
        }
    };
}

deserialize_text!(
    Network,
    "a network such as \"10.0.0.0/8\" or \"fd00::/8\", or one address"
);
deserialize_text!(
    NameServer,
    "the address of a name server such as \"192.0.2.1\", or \"127.0.0.1:5353\" where its port isn't 53"
);
deserialize_text!(
    ServerPattern,
    "a server name such as \"example.org\", with `*` for any characters"
);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a string that is not empty", |text| {
            (!text.is_empty()).then(|| Self(text.to_owned()))
        })
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"256 MiB\", or a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let invalid = || E::invalid_value(de::Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(ByteSize).map_err(|_| invalid())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.trim()
                    .parse()
                    .map_err(|()| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

pub(super) fn server_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedServerName, D::Error> {
    text(deserializer, EXPECTED_SERVER_NAME, |text| {
        ServerName::parse(text).ok()
    })
}

pub(super) fn server_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<OwnedServerName>, D::Error> {
    let expected = || de::Error::custom("expected a list of server names, such as [\"matrix.org\"]");
    let names = Vec::<String>::deserialize(deserializer).map_err(|_| expected())?;
    names
        .iter()
        .map(|name| ServerName::parse(name).map_err(|_| expected()))
        .collect()
}

pub(super) fn room_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomVersionId, D::Error> {
    text(deserializer, "a room version from \"6\" to \"12\"", |text| {
        let known = ["6", "7", "8", "9", "10", "11", "12"].contains(&text);
        RoomVersionId::try_from(text).ok().filter(|_| known)
    })
}

pub(super) fn public_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(
        deserializer,
        "a URL such as \"https://chat.example.org\", without a query",
        |text| {
            let url: Uri = text.parse().ok()?;
            let is_http = matches!(url.scheme_str(), Some("http" | "https"));
            let has_host = url.host().is_some_and(|host| !host.is_empty());
            (is_http && has_host && url.query().is_none())
                .then(|| Some(text.trim_end_matches('/').to_owned()))
        },
    )
}

pub(super) fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(
        deserializer,
        "a URL such as \"https://example.org/help\"",
        |text| {
            let url: Uri = text.parse().ok()?;
            (url.scheme().is_some() && url.host().is_some()).then(|| Some(text.to_owned()))
        },
    )
}

pub(super) fn user_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OwnedUserId>, D::Error> {
    text(
        deserializer,
        "a user's full name, such as \"@alice:example.org\"",
        |text| UserId::parse(text).ok().map(Some),
    )
}

pub(super) fn database_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    text(
        deserializer,
        "a URL such as \"postgres://user:password@host/database\"",
        |text| {
            let is_postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
            is_postgres.then(|| Some(Secret(text.to_owned())))
        },
    )
}

pub(super) fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    text(
        deserializer,
        "an IP address and a port, such as \"127.0.0.1:8008\" or \"[::]:8008\"",
        |text| text.parse().ok(),
    )
}

pub(super) fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    text(deserializer, "the path of a directory", |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}

pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let expected =
        "a level (error, warn, info, debug, trace), or levels by part such as \"info,hearth_engine=debug\"";
    text(deserializer, expected, |text| {
        // The filter takes any word for the name of a part of the program: "inof" would silence everything.
        let is_level = |level: &str| level.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let has_level = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level).trim());
        let fits = text.split(',').all(has_level) && EnvFilter::try_new(text).is_ok();
        fits.then(|| text.to_owned())
    })
}

/// A whole number within bounds that both make sense.
pub(super) fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole_number(deserializer, 2, 1_000)
}

/// Seconds between two of something: neither all the time nor hardly ever.
pub(super) fn interval_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole_number(deserializer, 1, 3_600)
}

/// Members of a room; 0 where no room is meant.
pub(super) fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole_number(deserializer, 0, 10_000)
}

/// A limit that lets something through.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole_number(deserializer, 1, 1_000_000)
}

pub(super) fn whole_number<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: u32,
    most: u32,
) -> Result<u32, D::Error> {
    let expected = || de::Error::custom(format_args!("expected a whole number from {least} to {most}"));
    let number = i64::deserialize(deserializer).map_err(|_| expected())?;
    u32::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(expected)
}
