//! Texts of network and hardware addresses.
//!
//! CloudQuery's `inet` is always a network with its mask; PostgreSQL leaves the mask of a single
//! address out.

use std::borrow::Cow;
use std::net::IpAddr;

/// The address with its mask: `10.0.0.1` becomes `10.0.0.1/32`, `::1` becomes `::1/128`. `None`
/// for what is no address.
pub fn with_mask(text: &str) -> Option<Cow<'_, str>> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let bits = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    match mask {
        Some(mask) => is_mask(mask, bits).then_some(Cow::Borrowed(text)),
        None => Some(Cow::Owned(format!("{text}/{bits}"))),
    }
}

fn is_mask(text: &str, bits_max: u8) -> bool {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    canonical && digits && text.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
}

/// The six bytes of a hardware address: pairs of hexadecimal digits with `:` or `-` between.
pub fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let bytes = text.as_bytes();
    let separator = *bytes.get(2)?;
    if bytes.len() != 17 || !matches!(separator, b':' | b'-') {
        return None;
    }
    let mut address = [0; 6];
    for (byte, pair) in address.iter_mut().zip(bytes.chunks(3)) {
        let (high, low) = (hex(pair[0])?, hex(*pair.get(1)?)?);
        if pair.get(2).is_some_and(|s| *s != separator) {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some(address)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Appends `aa:bb:cc:dd:ee:ff`; `false` if there are not six bytes.
pub fn write_mac(bytes: &[u8], out: &mut String) -> bool {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    if bytes.len() != 6 {
        return false;
    }
    for (i, byte) in bytes.iter().enumerate() {
        if i > 0 {
            out.push(':');
        }
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_address_gets_its_mask() {
        for (text, wire) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("::1", "::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4/128"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(with_mask(text).as_deref(), Some(wire));
        }
        for text in [
            "",
            "/8",
            "10.0.0/8",
            "10.0.0.1/33",
            "::/129",
            "::/256",
            "1.2.3.4/",
            "1.2.3.4/08",
            "1.2.3.4/+8",
            " 1.2.3.4",
        ] {
            assert_eq!(with_mask(text), None, "{text}");
        }
    }

    #[test]
    fn hardware_addresses_round_trip() {
        let mut text = String::new();
        assert!(write_mac(&[0x08, 0, 0x2b, 0x01, 0xfe, 0xff], &mut text));
        assert_eq!(text, "08:00:2b:01:fe:ff");
        assert_eq!(mac_bytes(&text), Some([0x08, 0, 0x2b, 0x01, 0xfe, 0xff]));
        assert_eq!(mac_bytes("08-00-2B-01-FE-FF"), Some([0x08, 0, 0x2b, 0x01, 0xfe, 0xff]));
        for text in [
            "",
            "08",
            "08:00:2b:01:fe",
            "08:00:2b:01:fe:fg",
            "08:00-2b:01:fe:ff",
            "08:00:2b:01:fe:ff:",
            "08002b01feff00000",
        ] {
            assert_eq!(mac_bytes(text), None, "{text}");
        }
        assert!(!write_mac(&[1, 2, 3], &mut text));
    }
}
