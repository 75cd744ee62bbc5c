//! Reading JSON without building a tree: strings, and the raw texts of elements and members.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Whether `text` is one JSON value.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The content of a JSON string: `None` when `raw` is something else, `Some(None)` when it is a
/// broken string.
pub(super) fn string(raw: &str) -> Option<Option<Cow<'_, str>>> {
    let inner = raw.strip_prefix('"')?;
    if inner.bytes().all(|b| b != b'\\') {
        return Some(inner.strip_suffix('"').map(Cow::Borrowed));
    }
    Some(serde_json::from_str::<String>(raw).ok().map(Cow::Owned))
}

/// A text that is borrowed where it holds no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Calls `member` for each name and raw value of a JSON object, in order, duplicates too; stops
/// at the first `None`.
///
/// # Errors
/// The syntax error, which names a position and never shows the text; `Ok(None)` when `member`
/// stopped.
pub fn object<'de>(
    text: &'de str,
    mut member: impl FnMut(Cow<'de, str>, &'de str) -> Option<()>,
) -> Result<Option<()>, serde_json::Error> {
    struct Members<F>(F);
    impl<'de, F: FnMut(Cow<'de, str>, &'de str) -> Option<()>> Visitor<'de> for Members<F> {
        type Value = Option<()>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Some(());
            while let Some(key) = map.next_key::<Key<'de>>()? {
                let raw: &'de RawValue = map.next_value()?;
                if all.is_some() {
                    all = (self.0)(key.0, raw.get());
                }
            }
            Ok(all)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let all = deserializer.deserialize_map(Members(&mut member))?;
    deserializer.end()?;
    Ok(all)
}

/// Calls `item` for each raw element of a JSON array; `None` when `text` is no array or `item`
/// stopped.
pub(super) fn array<'de>(text: &'de str, item: impl FnMut(&'de str) -> Option<()>) -> Option<()> {
    struct Items<F>(F);
    impl<'de, F: FnMut(&'de str) -> Option<()>> Visitor<'de> for Items<F> {
        type Value = Option<()>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut all = Some(());
            while let Some(raw) = seq.next_element::<&'de RawValue>()? {
                if all.is_some() {
                    all = (self.0)(raw.get());
                }
            }
            Ok(all)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let all = deserializer.deserialize_seq(Items(item)).ok()?;
    deserializer.end().ok()?;
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_raw_and_in_order() {
        let mut seen = Vec::new();
        let text = r#" {"a": 1.50, "b\n": "x\"y" , "a": [1, {"z":null}]} "#;
        object(text, |key, raw| {
            seen.push((key.into_owned(), raw.to_owned()));
            Some(())
        })
        .unwrap()
        .unwrap();
        let expected = [("a", "1.50"), ("b\n", r#""x\"y""#), ("a", r#"[1, {"z":null}]"#)];
        assert_eq!(seen, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(object("{\"a\":1} x", |_, _| Some(())).is_err());
        assert!(object("[1]", |_, _| Some(())).is_err());
        assert_eq!(object("{\"a\":1}", |_, _| None).unwrap(), None);
    }

    #[test]
    fn a_deeply_nested_text_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(is_json(&deep));
        let mut members = 0;
        let text = format!("{{\"a\":{deep}}}");
        object(&text, |_, _| {
            members += 1;
            Some(())
        })
        .unwrap();
        assert_eq!(members, 1);
    }
}
