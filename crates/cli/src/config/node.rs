//! A YAML document as a tree in which every key and value knows its place, so that an error can
//! show the line it is about, also after variables were expanded.

use std::fmt;

use highwater_core::Error;
use highwater_core::secret::Secret;
use serde::de::{self, Deserialize, Deserializer};
use serde_json::Number;
use serde_saphyr::Spanned;

use super::text::{DocumentText, Place};
use crate::failure::Result;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: NodeValue,
}

/// What a YAML value is.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    /// Nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(Text),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its characters.
    pub text: String,
    /// Whether it stands in the file without quotes and holds an expanded variable: then it is
    /// whatever type the reader wants, as if its value stood in the file.
    pub retype: bool,
    /// The values of variables and files that it holds.
    pub values: Vec<Secret>,
}

/// A key of a mapping and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// Its text.
    pub name: String,
}

impl Node {
    /// Parses a document.
    ///
    /// # Errors
    /// `Config` with the place of a syntax error.
    pub fn parse(document: &DocumentText) -> Result<Self> {
        // `yes`, `no`, `on`, `off` are texts, as in YAML 1.2 and in JSON's eyes.
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options::<Spanned<Raw>>(&veiled(&document.text), options)
            .map(|root| build(root, document))
            .map_err(|error| syntax_error(&error, document))
    }

    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| value)
    }

    /// A key with its value.
    pub fn entry(&self, name: &str) -> Option<(&Key, &Self)> {
        let NodeValue::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(key, value)| (key, value))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The values of variables and files in all texts.
    pub fn values(&self) -> Vec<Secret> {
        match &self.value {
            NodeValue::Text(text) => text.values.clone(),
            NodeValue::List(items) => items.iter().flat_map(Self::values).collect(),
            NodeValue::Map(entries) => {
                entries.iter().flat_map(|(_, value)| value.values()).collect()
            }
            NodeValue::Null | NodeValue::Bool(_) | NodeValue::Number(_) => Vec::new(),
        }
    }

    /// The place of the key at a dotted path (`csv_spec.delimiter`), or of the last part of the
    /// path that exists, or of the whole.
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for part in path.split('.').filter(|p| !p.is_empty()) {
            if let NodeValue::List(items) = &node.value
                && let Some(item) = part.parse::<usize>().ok().and_then(|i| items.get(i))
            {
                (node, place) = (item, item.place);
                continue;
            }
            let Some((key, value)) = node.entry(part) else { break };
            (node, place) = (value, key.place);
        }
        place
    }

    /// What kind of value it is, in words.
    pub fn kind_words(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Number(_) => "a number",
            NodeValue::Text(_) => "a text",
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
        }
    }
}

/// What the parser sees, before places are put into lines of the document.
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> de::Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Raw, E> {
        Err(E::custom("the number is too large"))
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Raw, E> {
        Err(E::custom("the number is too large"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Number::from_f64(value)
            .map(Raw::Number)
            .ok_or_else(|| E::custom("a number that is not finite has no meaning here"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// The first of the private characters that stand for ASCII ones inside `${…}`.
const VEIL: u32 = 0xF_0000;

/// The text with every `${…}` written in characters that mean nothing to YAML, so that
/// `[${A}, ${B}]` is a list of two and `${time:now|15:04}` no mapping. Columns stay.
fn veiled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let line_end = rest[start..].find('\n').map_or(rest.len(), |n| start + n);
        let end = rest[start..line_end].find('}').map_or(start + 2, |n| start + n + 1);
        out.push_str(&rest[..start]);
        let is_whole = rest[..end].ends_with('}');
        out.extend(rest[start..end].chars().map(|c| match char::from_u32(VEIL + u32::from(c)) {
            Some(veil) if is_whole && c.is_ascii() => veil,
            _ => c,
        }));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The text that was given to [`veiled`].
fn unveiled(text: String) -> String {
    let is_veil = |c: char| (VEIL..VEIL + 128).contains(&u32::from(c));
    if !text.contains(is_veil) {
        return text;
    }
    let original = |c: char| char::from_u32(u32::from(c) - VEIL).unwrap_or(c);
    text.chars().map(|c| if is_veil(c) { original(c) } else { c }).collect()
}

fn build(raw: Spanned<Raw>, document: &DocumentText) -> Node {
    let place = place_of(raw.referenced, document);
    let value = match raw.value {
        Raw::Null => NodeValue::Null,
        Raw::Bool(value) => NodeValue::Bool(value),
        Raw::Number(value) => NodeValue::Number(value),
        Raw::Text(text) => {
            let text = unveiled(text);
            let retype =
                text.contains("${") && !text.contains('\n') && is_plain(raw.defined, document);
            NodeValue::Text(Text { text, retype, values: Vec::new() })
        }
        Raw::List(items) => {
            NodeValue::List(items.into_iter().map(|item| build(item, document)).collect())
        }
        Raw::Map(entries) => NodeValue::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let place = place_of(key.referenced, document);
                    let mut value = build(value, document);
                    // What is wrong with a mapping as a whole is shown at its key.
                    if matches!(value.value, NodeValue::Map(_)) {
                        value.place = place;
                    }
                    (Key { place, name: unveiled(key.value) }, value)
                })
                .collect(),
        ),
    };
    Node { place, value }
}

fn place_of(location: serde_saphyr::Location, document: &DocumentText) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let (line, column) = (number(location.line()), number(location.column()));
    // A value that goes on over several lines is underlined to the end of its first one.
    let rest = document
        .text
        .lines()
        .nth(line.saturating_sub(1))
        .map_or(0, |l| l.trim_end().chars().count().saturating_sub(column.saturating_sub(1)));
    Place { line, column, width: number(location.span().len()).min(rest).max(1) }
}

/// Whether a scalar stands in the file without quotes and is no block.
fn is_plain(location: serde_saphyr::Location, document: &DocumentText) -> bool {
    let line = usize::try_from(location.line().saturating_sub(1)).unwrap_or(usize::MAX);
    let column = usize::try_from(location.column().saturating_sub(1)).unwrap_or(usize::MAX);
    let first = document.text.lines().nth(line).and_then(|l| l.chars().nth(column));
    !matches!(first, Some('"' | '\'' | '|' | '>' | '!' | '&'))
}

fn syntax_error(error: &serde_saphyr::Error, document: &DocumentText) -> crate::failure::Failure {
    let text = unveiled(error.without_snippet().to_string());
    // The parser writes the place into its message; it is shown below the message anyway.
    let words = text.split(" at line ").next().unwrap_or(&text).trim_end_matches([',', ':']);
    let words = words.rsplit_once(": line ").map_or(words, |(before, _)| before);
    let words = match words.split_once("duplicate mapping key: ") {
        Some((_, key)) => {
            format!("the key `{}` is there twice", key.split(',').next().unwrap_or(key))
        }
        None => words.trim().to_owned(),
    };
    let failure = Error::config(format!("This is not valid YAML: {words}"));
    match error.location() {
        Some(location) => document.failure(place_of(location, document), failure),
        None => Error::config(failure.message()).context("file", &document.file.path).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::text::FileText;
    use super::*;

    fn document(text: &str) -> DocumentText {
        Rc::new(FileText::new("f.yml".into(), text)).documents().remove(0)
    }

    fn parse(text: &str) -> Node {
        Node::parse(&document(text)).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let root = parse("kind: source\nspec:\n  name: shop\n  tables: [\"a\", b]\n");
        assert_eq!(root.place_of("spec.name"), Place { line: 3, column: 3, width: 4 });
        let tables = root.get("spec").and_then(|s| s.get("tables")).unwrap();
        let NodeValue::List(items) = &tables.value else { panic!("no list") };
        assert_eq!(items[0].place, Place { line: 4, column: 12, width: 3 });
        assert_eq!(items[1].place, Place { line: 4, column: 17, width: 1 });
    }

    #[test]
    fn scalars_have_the_types_of_yaml_1_2() {
        let root = parse("a: 5\nb: true\nc: no\nd:\ne: '5'\nf: 1.5\ng: 2026-01-02\n");
        let kinds: Vec<_> = ["a", "b", "c", "d", "e", "f", "g"]
            .iter()
            .map(|k| root.get(k).unwrap().kind_words())
            .collect();
        let expected =
            ["a number", "a boolean", "a text", "nothing", "a text", "a number", "a text"];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn only_a_scalar_without_quotes_takes_another_type() {
        let root = parse("a: ${X}\nb: '${X}'\nc: \"${X}\"\nd: |\n  ${X}\ne: p${X}\n");
        let retype = |key: &str| match &root.get(key).unwrap().value {
            NodeValue::Text(text) => text.retype,
            _ => panic!("no text"),
        };
        let found = ["a", "b", "c", "d", "e"].map(retype);
        assert_eq!(found, [true, false, false, false, true]);
    }

    #[test]
    fn a_variable_means_nothing_to_yaml() {
        let root = parse("a: [${A}, \"${B}\", x-${C}]\nb: {k: ${time:now|15:04, Jan}}\n${K}: 1\n");
        let NodeValue::List(items) = &root.get("a").unwrap().value else { panic!("no list") };
        let texts: Vec<_> = items.iter().map(|i| i.as_text().unwrap()).collect();
        assert_eq!(texts, ["${A}", "${B}", "x-${C}"]);
        let time = root.get("b").unwrap().get("k").unwrap();
        assert_eq!(time.as_text(), Some("${time:now|15:04, Jan}"));
        assert!(root.get("${K}").is_some());
        assert_eq!(unveiled(veiled("a ${x ${y} $ {z}")), "a ${x ${y} $ {z}");
    }

    #[test]
    fn anchors_and_merges_work() {
        let root = parse("a: &x {k: 1}\nb:\n  <<: *x\n  l: 2\n");
        assert!(root.get("b").unwrap().get("k").is_some());
    }

    #[test]
    fn a_syntax_error_shows_its_line_and_no_secret() {
        let failure = Node::parse(&document("a: 1\nspec:\n  password: hunter2\n  b: [1\nc: 2\n"))
            .unwrap_err();
        let text = failure.to_string();
        assert!(text.starts_with("error: This is not valid YAML"), "{text}");
        assert!(text.contains("--> f.yml:"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let twice = Node::parse(&document("a: 1\na: 2\n")).unwrap_err().to_string();
        assert!(twice.contains("--> f.yml:2:1"), "{twice}");
    }
}
