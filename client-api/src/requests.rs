//! For the few requests that are not decoded by ruma's types: these are stricter than the specification, or don't tell
//! apart what it has different codes for.

use ruma::api::error::DeserializationError;
use serde::{
    Deserialize,
    de::value::{Error, SeqDeserializer},
};

/// The arguments of a path, a tuple in their order.
pub(crate) fn path<'a, T: Deserialize<'a>>(path_args: &'a [&'a str]) -> Result<T, DeserializationError> {
    Ok(T::deserialize(SeqDeserializer::<_, Error>::new(
        path_args.iter().copied(),
    ))?)
}

/// Makes a request type that is served where ruma serves another.
macro_rules! served_as {
    ($request:ty, $endpoint:ident) => {
        impl ruma::api::Metadata for $request {
            type Authentication = <$endpoint::Request as ruma::api::Metadata>::Authentication;
            type PathBuilder = <$endpoint::Request as ruma::api::Metadata>::PathBuilder;

            const METHOD: http::Method = <$endpoint::Request as ruma::api::Metadata>::METHOD;
            const PATH_BUILDER: Self::PathBuilder = <$endpoint::Request as ruma::api::Metadata>::PATH_BUILDER;
            const RATE_LIMITED: bool = <$endpoint::Request as ruma::api::Metadata>::RATE_LIMITED;
        }
    };
}
pub(crate) use served_as;
