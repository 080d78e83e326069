//! How event IDs are stored: the hash as bytes where there is one, 33 bytes for 44.

use base64::{
    Engine as _, alphabet,
    engine::{
        GeneralPurpose,
        general_purpose::{NO_PAD, URL_SAFE_NO_PAD},
    },
};

/// Room version 3 writes the hash in the ordinary alphabet, later versions in the URL-safe one.
const STANDARD_NO_PAD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);

const TEXT: u8 = 0;
const HASH_V3: u8 = 3;
const HASH_V4: u8 = 4;

/// The stored form of an event ID.
pub(crate) fn pack(event_id: &str) -> Vec<u8> {
    let hash = event_id.strip_prefix('$').filter(|hash| hash.len() == 43);
    for (tag, alphabet) in [(HASH_V4, &URL_SAFE_NO_PAD), (HASH_V3, &STANDARD_NO_PAD)] {
        if let Some(bytes) = hash
            .and_then(|hash| alphabet.decode(hash).ok())
            .filter(|bytes| bytes.len() == 32)
        {
            return [&[tag], bytes.as_slice()].concat();
        }
    }
    [&[TEXT], event_id.as_bytes()].concat()
}

/// The event ID of a stored form.
pub(crate) fn unpack(packed: &[u8]) -> String {
    match packed.split_first() {
        Some((&HASH_V4, hash)) => format!("${}", URL_SAFE_NO_PAD.encode(hash)),
        Some((&HASH_V3, hash)) => format!("${}", STANDARD_NO_PAD.encode(hash)),
        Some((_, text)) => String::from_utf8_lossy(text).into_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{pack, unpack};

    #[test]
    fn every_form_of_event_id_comes_back_as_it_went_in() {
        for (event_id, length) in [
            ("$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", 33),
            ("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", 33),
            ("$143273582443PhrSn:example.org", 31),
            // A last symbol whose spare bits are set is no canonical hash, and must not become another ID.
            ("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zh", 45),
            ("$", 2),
        ] {
            assert_eq!(pack(event_id).len(), length, "{event_id}");
            assert_eq!(unpack(&pack(event_id)), event_id);
        }
    }
}
