//! Reads a type that derives `Deserialize` out of a tree, so that every error knows the place of
//! the key or value it is about and says what would be right.

use std::fmt;

use highwater_core::Error;
use highwater_engine::selection::closest;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::node::{Key, Node, NodeValue};
use super::text::Place;

/// What is wrong, and where.
#[derive(Debug)]
pub struct Problem {
    /// The message and its hint.
    pub error: Error,
    /// The place of the innermost key or value concerned.
    pub place: Option<Place>,
}

impl Problem {
    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // Types say what they expect in lower case, as serde's own do.
        let message = message.to_string();
        let mut chars = message.chars();
        let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
        Self { error: Error::config(first + chars.as_str()), place: None }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        // The value itself may be a secret.
        let found = match found {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => {
                "a number"
            }
            de::Unexpected::Str(_) => "a text",
            de::Unexpected::Unit | de::Unexpected::Option => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a mapping",
            _ => "something else",
        };
        let expected = words_for(&expected.to_string());
        let error = Error::config(format!("Expected {expected}, found {found}"));
        let quotes = expected == "a text" && matches!(found, "a number" | "a boolean");
        let error = if quotes { error.hint("put it in quotes") } else { error };
        Self { error, place: None }
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("expected {}", words_for(&expected.to_string())))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let error = Error::config(format!("Unknown key `{field}`"));
        Self { error: error.hint(suggestion(field, known)), place: None }
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let error = Error::config(format!("`{variant}` is not a value of this key"));
        Self { error: error.hint(suggestion(variant, known)), place: None }
    }

    fn missing_field(field: &'static str) -> Self {
        let error = Error::config(format!("The key `{field}` is missing"));
        let error = match example(field) {
            "" => error,
            example => error.hint(format!("{field}: {example}")),
        };
        Self { error, place: None }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self { error: Error::config(format!("The key `{field}` is there twice")), place: None }
    }
}

/// What may stand behind a key that has to be there.
pub fn example(field: &str) -> &'static str {
    match field {
        "kind" => "source   # or destination, transformer",
        "name" => "NAME",
        "path" => "postgresql   # or a plugin: TEAM/NAME",
        "tables" => "[\"*\"]",
        "destinations" => "[NAME]",
        "table_name" => "cq_state",
        "connection" => "\"@@plugins.NAME.connection\"",
        _ => "",
    }
}

fn suggestion(word: &str, known: &[&str]) -> String {
    let known: Vec<String> = known.iter().map(|k| (*k).to_owned()).collect();
    one_of(word, &known)
}

/// A hint for a word that is none of those that are known.
pub fn one_of(word: &str, known: &[String]) -> String {
    const SHOWN: usize = 20;
    if let Some(known) = closest(word, known) {
        return format!("did you mean `{known}`?");
    }
    let more = match known.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<&str> = known.iter().take(SHOWN).map(String::as_str).collect();
    format!("one of `{}`{more}", shown.join("`, `"))
}

/// Serde's names for types, in the words of a YAML file.
fn words_for(expected: &str) -> String {
    match expected {
        "a string" | "string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "u64" | "u32" | "u16" | "usize" => "a whole number".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

/// Reads a `T` out of a tree.
///
/// # Errors
/// What is wrong with the first key or value that is wrong.
pub fn read<'de, T: de::Deserialize<'de>>(node: &'de Node) -> Result<T, Problem> {
    T::deserialize(Reader(node))
}

struct Reader<'de>(&'de Node);

impl<'de> Reader<'de> {
    /// A text that came from a variable without quotes, as the value that YAML would see.
    fn retyped(self) -> Option<Node> {
        let NodeValue::Text(text) = &self.0.value else { return None };
        text.retype.then(|| Node { place: self.0.place, value: retype(&text.text) })
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let place = self.0.place;
        match &self.0.value {
            NodeValue::Null => visitor.visit_unit(),
            NodeValue::Bool(value) => visitor.visit_bool(*value),
            NodeValue::Number(number) => visit_number(number, visitor),
            NodeValue::Text(text) => visitor.visit_str(&text.text),
            NodeValue::List(items) => {
                visitor.visit_seq(de::value::SeqDeserializer::new(items.iter().map(Reader)))
            }
            NodeValue::Map(entries) => {
                visitor.visit_map(Entries { left: entries.iter(), value: None })
            }
        }
        .map_err(|problem: Problem| problem.at(place))
    }
}

fn visit_number<'de, V: Visitor<'de>>(
    number: &serde_json::Number,
    visitor: V,
) -> Result<V::Value, Problem> {
    if let Some(value) = number.as_u64() {
        visitor.visit_u64(value)
    } else if let Some(value) = number.as_i64() {
        visitor.visit_i64(value)
    } else {
        visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
    }
}

/// A text as a plain YAML scalar.
pub fn retype(text: &str) -> NodeValue {
    let plain = |text: &str| {
        NodeValue::Text(super::node::Text {
            text: text.to_owned(),
            retype: false,
            values: Vec::new(),
        })
    };
    match text.trim() {
        "" | "~" | "null" => NodeValue::Null,
        "true" => NodeValue::Bool(true),
        "false" => NodeValue::Bool(false),
        // A number only if it reads back the same: `007` and `1e400` are texts.
        trimmed => match serde_json::from_str::<serde_json::Number>(trimmed) {
            Ok(number) if number.to_string() == trimmed => NodeValue::Number(number),
            _ => plain(text),
        },
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.0.value == NodeValue::Null {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match Reader(self.0).retyped() {
            Some(Node { value: NodeValue::Bool(value), .. }) => visitor.visit_bool(value),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match Reader(self.0).retyped() {
            Some(Node { value: NodeValue::Number(number), place }) => {
                visit_number(&number, visitor).map_err(|p| p.at(place))
            }
            _ => self.visit(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let Some(text) = self.0.as_text() else {
            let found = self.0.kind_words();
            let error = Error::config(format!("Expected a word, found {found}"));
            return Err(Problem { error, place: Some(self.0.place) });
        };
        visitor
            .visit_enum(IntoDeserializer::<Problem>::into_deserializer(text))
            .map_err(|problem: Problem| problem.at(self.0.place))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Problem> for Reader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Entries<'de> {
    left: std::slice::Iter<'de, (Key, Node)>,
    value: Option<(&'de Key, &'de Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some((key, value));
        let name = IntoDeserializer::<Problem>::into_deserializer(key.name.as_str());
        seed.deserialize(name).map(Some).map_err(|problem| problem.at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader(node)).map_err(|mut problem| {
            // "Expected a text" says more with the key before it.
            if problem.place == Some(node.place) && !problem.error.message().contains('`') {
                let hint = problem.error.hint_text().map(str::to_owned);
                let mut chars = problem.error.message().chars();
                let first = chars.next().map(|c| c.to_ascii_lowercase()).unwrap_or_default();
                let message = format!("Key `{}`: {first}{}", key.name, chars.as_str());
                problem.error = Error::config(message);
                if let Some(hint) = hint {
                    problem.error = problem.error.hint(hint);
                }
            }
            problem.at(node.place)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use serde::Deserialize;

    use super::super::text::FileText;
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        #[serde(default)]
        port: Option<u64>,
        #[serde(default)]
        on: bool,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default)]
        items: Vec<String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Mode {
        #[serde(rename = "append")]
        Append,
    }

    fn sample(yaml: &str) -> Result<Sample, String> {
        let document = Rc::new(FileText::new("f".into(), yaml)).documents().remove(0);
        let mut node = Node::parse(&document).unwrap();
        let around = super::super::expand::Surroundings {
            variable: &|name| Some(name.to_ascii_lowercase()),
            variables: vec![],
            now: highwater_core::Instant(0),
        };
        super::super::expand::expand(&mut node, &document, &around).unwrap();
        read::<Sample>(&node).map_err(|problem| {
            let Place { line, column, .. } = problem.place.unwrap();
            let hint = problem.error.hint_text().map(|h| format!(" [{h}]")).unwrap_or_default();
            format!("{line}:{column} {}{hint}", problem.error)
        })
    }

    #[test]
    fn what_is_right_is_read() {
        let read = sample("name: a\nport: 5\non: true\nmode: append\nitems: [x]\n").unwrap();
        assert_eq!(
            read,
            Sample {
                name: "a".into(),
                port: Some(5),
                on: true,
                mode: Some(Mode::Append),
                items: vec!["x".into()]
            }
        );
    }

    #[test]
    fn a_variable_is_what_its_key_wants() {
        assert_eq!(sample("name: ${123}\nport: ${123}\non: ${TRUE}\n").unwrap().name, "123");
        assert_eq!(sample("name: ${123}\nport: ${123}\non: ${TRUE}\n").unwrap().port, Some(123));
        assert_eq!(
            sample("name: a\nport: \"${123}\"\n").unwrap_err(),
            "2:7 Key `port`: expected a whole number, found a text"
        );
    }

    #[test]
    fn what_is_wrong_is_named_where_it_stands() {
        for (yaml, expected) in [
            ("name: a\nports: 5\n", "2:1 Unknown key `ports` [did you mean `port`?]"),
            ("name: 5\n", "1:7 Key `name`: expected a text, found a number [put it in quotes]"),
            ("port: 5\n", "1:1 The key `name` is missing [name: NAME]"),
            (
                "name: a\nmode: upsert\n",
                "2:7 `upsert` is not a value of this key [one of `append`]",
            ),
            ("name: a\nmode: [1]\n", "2:7 Key `mode`: expected a word, found a list"),
            ("name: a\nitems: [x, {}]\n", "2:12 Expected a text, found a mapping"),
            ("name: a\nport: -1\n", "2:7 Key `port`: expected a whole number"),
        ] {
            assert_eq!(sample(yaml).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_plain_text_becomes_a_number_only_when_nothing_is_lost() {
        assert!(matches!(retype("12"), NodeValue::Number(_)));
        assert!(matches!(retype("true"), NodeValue::Bool(true)));
        assert_eq!(retype(""), NodeValue::Null);
        assert!(matches!(retype("007"), NodeValue::Text(_)));
        assert!(matches!(retype("1.50"), NodeValue::Text(_)));
        assert!(matches!(retype("a: b"), NodeValue::Text(_)));
    }
}
