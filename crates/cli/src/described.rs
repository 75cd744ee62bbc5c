//! What there is to say of tables, in the forms in which CloudQuery writes it: a JSON list in
//! which a table holds those that depend on it, and Markdown pages.

use std::fmt::Write as _;

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_cloudquery::wire::types::to_wire;
use highwater_core::types::{EXTENSION, FROM, type_name};
use highwater_core::{Table, TableName};
use serde_json::{Value, json};

/// Metadata key of CloudQuery: the title of a table.
const TITLE: &str = "cq:table_title";

/// Tables of one source.
pub struct Described<'a>(pub &'a [Table]);

impl<'a> Described<'a> {
    /// All of them; one whose parent is not among them stands alone.
    pub fn new(tables: &'a [Table]) -> Self {
        Self(tables)
    }

    /// As `__tables.json` holds them.
    pub fn json(&self) -> Value {
        self.roots().map(|table| self.value(table)).collect()
    }

    /// The page that lists them.
    pub fn list(&self, source: &str) -> String {
        let mut out = format!("# Source Plugin: {source}\n\n## Tables\n\n");
        for table in self.roots() {
            self.entry(&mut out, table, 0);
        }
        out
    }

    fn parent(&self, table: &Table) -> Option<&'a Table> {
        let parent = table.parent.as_ref()?;
        self.0.iter().find(|known| known.name == *parent && known.name != table.name)
    }

    fn roots(&self) -> impl Iterator<Item = &'a Table> {
        self.0.iter().filter(|table| self.parent(table).is_none())
    }

    fn children(&self, name: &'a TableName) -> impl Iterator<Item = &'a Table> {
        self.0.iter().filter(move |t| t.parent.as_ref() == Some(name) && t.name != *name)
    }

    fn value(&self, table: &'a Table) -> Value {
        let column = |field: &Field| {
            json!({
                "name": field.name(),
                "type": column_type(field),
                "not_null": !field.is_nullable(),
                "is_primary_key": table.primary_key.contains(field.name()),
                "is_incremental_key": table.cursor_field.as_ref() == Some(field.name()),
            })
        };
        json!({
            "name": table.name.to_string(),
            "title": title(table),
            "description": table.description.as_deref().unwrap_or_default(),
            "is_incremental": is_incremental(table),
            "primary_key": table.primary_key,
            "columns": table.schema.fields().iter().map(|f| column(f)).collect::<Vec<_>>(),
            "relations": self.children(&table.name).map(|t| self.value(t)).collect::<Vec<_>>(),
        })
    }

    fn entry(&self, out: &mut String, table: &'a Table, depth: usize) {
        let mark = if is_incremental(table) { " (Incremental)" } else { "" };
        let _ = writeln!(out, "{}- [{1}]({1}.md){mark}", "  ".repeat(depth), table.name);
        for child in self.children(&table.name) {
            self.entry(out, child, depth + 1);
        }
    }

    /// The page of a table.
    pub fn page(&self, table: &'a Table) -> String {
        let mut out = format!("# Table: {}\n\n", table.name);
        if !title(table).is_empty() {
            let _ = write!(out, "This table shows data for {}.\n\n", title(table));
        }
        if let Some(description) = table.description.as_ref().filter(|text| !text.is_empty()) {
            let _ = write!(out, "{description}\n\n");
        }
        match table.primary_key.as_slice() {
            [] => out.push_str("This table has no primary key.\n"),
            [key] => {
                let _ = writeln!(out, "The primary key for this table is **{key}**.");
            }
            keys => {
                let keys = keys.join("**, **");
                let _ = writeln!(out, "The composite primary key for this table is (**{keys}**).");
            }
        }
        if is_incremental(table) {
            let cursor = table.cursor_field.as_ref();
            let cursor = cursor.map(|c| format!(" based on the **{c}** column"));
            let _ = writeln!(out, "It supports incremental syncs{}.", cursor.unwrap_or_default());
        }
        self.relations(&mut out, table);
        out.push_str("\n## Columns\n\n| Name          | Type          |\n");
        out.push_str("| ------------- | ------------- |\n");
        for field in table.schema.fields() {
            let name = field.name();
            let key = if table.primary_key.contains(name) { " (PK)" } else { "" };
            let is_cursor = table.cursor_field.as_ref() == Some(name);
            let cursor = if is_cursor { " (Incremental Key)" } else { "" };
            let _ = writeln!(out, "|{name}{key}{cursor}|`{}`|", column_type(field));
        }
        out
    }

    fn relations(&self, out: &mut String, table: &'a Table) {
        let parent = self.parent(table);
        let mut children = self.children(&table.name).peekable();
        if parent.is_none() && children.peek().is_none() {
            return;
        }
        out.push_str("\n## Relations\n");
        if let Some(parent) = parent {
            let _ = write!(out, "\nThis table depends on [{0}]({0}.md).\n", parent.name);
        }
        if children.peek().is_some() {
            let _ = write!(out, "\nThe following tables depend on {}:\n", table.name);
            for child in children {
                let _ = writeln!(out, "  - [{0}]({0}.md)", child.name);
            }
        }
    }
}

fn title(table: &Table) -> &str {
    table.schema.metadata().get(TITLE).map(String::as_str).unwrap_or_default()
}

fn is_incremental(table: &Table) -> bool {
    table.source_defined_cursor || table.cursor_field.is_some()
}

/// The type of a column: a plugin's as CloudQuery writes it, any other as we do.
fn column_type(field: &Field) -> String {
    match to_wire(field) {
        Ok(wire) if field.metadata().contains_key(FROM) => wire_type(&wire),
        _ => type_name(field),
    }
}

/// A type as Go's Arrow library prints it.
fn wire_type(field: &Field) -> String {
    use DataType as D;
    if let Some(name) = field.metadata().get(EXTENSION) {
        return name.clone();
    }
    let item = |field: &Field| {
        let null = if field.is_nullable() { ", nullable" } else { "" };
        format!("{}: {}{null}", field.name(), wire_type(field))
    };
    match field.data_type() {
        D::Boolean => "bool".to_owned(),
        D::Timestamp(of, None) => format!("timestamp[{}]", unit(*of)),
        D::Timestamp(of, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit(*of)),
        D::Duration(of) => format!("duration[{}]", unit(*of)),
        D::Time32(of) => format!("time32[{}]", unit(*of)),
        D::Time64(of) => format!("time64[{}]", unit(*of)),
        D::Decimal128(digits, scale) => format!("decimal({digits}, {scale})"),
        D::FixedSizeBinary(bytes) => format!("fixed_size_binary[{bytes}]"),
        D::LargeUtf8 => "large_utf8".to_owned(),
        D::LargeBinary => "large_binary".to_owned(),
        D::List(of) => format!("list<{}>", item(of)),
        D::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|f| format!("{}: {}", f.name(), wire_type(f))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        D::Map(entries, _) => match entries.data_type() {
            D::Struct(pair) if pair.len() == 2 => {
                format!("map<{}, {}, items_nullable>", wire_type(&pair[0]), wire_type(&pair[1]))
            }
            _ => "map".to_owned(),
        },
        other => other.to_string().to_lowercase(),
    }
}

fn unit(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}
