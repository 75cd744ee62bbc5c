//! A stream as a table: its columns, its keys, and what of a record is in which column.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::plan::{
    EXTRACTED_AT, GENERATION_ID, META, RAW_ID, SOURCE_NAME, SYNC_GROUP_ID, SYNC_TIME,
};
use highwater_core::types::{
    JSON, RECORD, RECORD_EXTRACTED_AT, RECORD_META, extension_field, record_form, record_part,
    with_metadata,
};
use highwater_core::{Error, Result, Table, TableName};

use super::TablePaths;
use crate::protocol::{AirbyteStream, Catalog, StreamDescriptor, SyncMode};
use crate::records::schema::{self, Step};
use crate::records::{Kind, Origin, Wanted};

/// Metadata of a table's schema: the stream as the connector described it, as JSON. A destination
/// connector gets it back.
pub const STREAM: &str = "airbyte:stream";
/// The form of the column that holds records as they came.
pub const LINE: &str = "line:airbyte";
/// The name of that column.
const LINE_COLUMN: &str = "_airbyte_record";
/// The only column of a stream that describes no fields: all of a record.
const DATA_COLUMN: &str = "data";
/// Names that the destination may fill itself; a field of that name has a column with [`SUFFIX`].
const RESERVED: [&str; 8] =
    [RAW_ID, EXTRACTED_AT, META, GENERATION_ID, LINE_COLUMN, SYNC_TIME, SOURCE_NAME, SYNC_GROUP_ID];
/// What is added to a field's name that is reserved.
const SUFFIX: &str = "_source";

/// The name of the table of a stream.
pub(crate) fn table_name(descriptor: &StreamDescriptor) -> TableName {
    let namespace = descriptor.namespace.clone().filter(|namespace| !namespace.is_empty());
    TableName { namespace, name: descriptor.name.clone() }
}

/// The stream of a table.
pub(super) fn descriptor(table: &TableName) -> StreamDescriptor {
    StreamDescriptor { name: table.name.clone(), namespace: table.namespace.clone() }
}

/// What a connector offers.
#[derive(Debug, Default)]
pub(crate) struct Streams(BTreeMap<TableName, Offered>);

/// A stream, and the table that it is.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) stream: AirbyteStream,
    pub(super) table: Table,
    /// Where in a record's data the value of a column is.
    paths: BTreeMap<String, Vec<String>>,
}

impl Streams {
    /// The tables of a catalog. `asked` are the nested paths that the user named.
    ///
    /// # Errors
    /// `Config` for a path that the stream cannot have; `Data` for a stream that comes twice.
    pub(crate) fn new(catalog: Catalog, asked: &[TablePaths]) -> Result<Self> {
        let mut streams = BTreeMap::new();
        for stream in catalog.streams {
            let offered = Offered::new(stream, asked)?;
            let name = offered.table.name.clone();
            if streams.insert(name.clone(), offered).is_some() {
                return Err(Error::data("The connector offers a stream twice")
                    .context("stream", name)
                    .hint("Take another version of the connector"));
            }
        }
        Ok(Self(streams))
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.0.values().map(|offered| &offered.table)
    }

    /// The stream of a planned table.
    ///
    /// # Errors
    /// `Schema` when the connector does not offer it.
    pub(super) fn get(&self, table: &TableName) -> Result<&Offered> {
        self.0.get(table).ok_or_else(|| {
            Error::schema("The connector does not offer this stream any more")
                .context("stream", table)
        })
    }
}

impl Offered {
    fn new(stream: AirbyteStream, asked: &[TablePaths]) -> Result<Self> {
        let name = table_name(&stream.descriptor());
        let mut columns = Columns::of(&stream);
        let cursor = columns.key(&stream, &stream.default_cursor_field);
        let mut primary_key = Vec::new();
        for path in &stream.source_defined_primary_key {
            primary_key.extend(columns.key(&stream, path));
        }
        if primary_key.len() < stream.source_defined_primary_key.len() {
            tracing::warn!(stream = %name, "The stream's schema lacks a field of its primary key");
            primary_key.clear();
        }
        for asked in asked.iter().filter(|asked| matches(&asked.pattern, &name.to_string())) {
            for path in &asked.paths {
                match columns.asked(&stream, path) {
                    // A pattern may match streams that the path is not meant for.
                    Err(_) if asked.pattern.contains('*') => {}
                    done => {
                        let column = done.map_err(|error| error.context("table", &name))?;
                        let is_other = column.is_some_and(|column| column != path.join("_"));
                        if is_other {
                            return Err(taken(path).context("table", &name));
                        }
                    }
                }
            }
        }
        let Columns { mut fields, paths } = columns;
        fields.extend(hidden());
        let json = serde_json::to_string(&stream)
            .map_err(|e| Error::internal("A stream cannot be written").caused_by(e))?;
        let metadata = [(STREAM.to_owned(), json)].into();
        let mut table = Table::new(name, Vec::new()).with_primary_key(primary_key);
        table.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        table.cursor_field = cursor;
        table.source_defined_cursor =
            stream.source_defined_cursor == Some(true) && stream.supports(SyncMode::Incremental);
        table.resumable = stream.is_resumable == Some(true);
        Ok(Self { stream, table, paths })
    }

    /// Where the value of a column is in a record's data; `None` also where it is all of it.
    pub(super) fn path(&self, column: &str) -> Option<&Vec<String>> {
        self.paths.get(column).filter(|path| !path.is_empty())
    }

    /// What the user should know of the names of the planned columns.
    pub(super) fn notes(&self, planned: &Table) -> Vec<String> {
        let renamed = planned.column_names().filter_map(|column| {
            let [field] = self.path(column)?.as_slice() else { return None };
            let is_reserved = is_reserved(field) && column != field;
            is_reserved.then(|| {
                format!(
                    "The field `{field}` of the source is in `{column}`: its own name is that of \
                     a metadata column."
                )
            })
        });
        renamed.collect()
    }

    /// How the columns of a planned table come about; `None`: only the records as they came are
    /// wanted.
    ///
    /// # Errors
    /// `Schema` for a column that the stream does not have.
    pub(super) fn wanted(&self, planned: &Table) -> Result<Option<Vec<Wanted>>> {
        let fields = planned.schema.fields();
        if let [only] = fields.as_ref()
            && record_form(only).is_some()
        {
            return Ok(None);
        }
        let wanted = fields.iter().map(|field| {
            let origin = match record_part(field) {
                Some(RECORD_EXTRACTED_AT) => Origin::ExtractedAt,
                Some(RECORD_META) => Origin::Meta,
                Some(LINE) => Origin::Line,
                _ => {
                    let path = self.paths.get(field.name()).cloned().ok_or_else(|| {
                        Error::schema("The stream does not have this column any more")
                            .context("stream", &planned.name)
                            .context("column", field.name())
                    })?;
                    if path.is_empty() { Origin::Data } else { Origin::Path(path) }
                }
            };
            Ok(Wanted { field: field.as_ref().clone(), origin })
        });
        wanted.collect::<Result<Vec<_>>>().map(Some)
    }
}

/// Columns under construction.
struct Columns {
    fields: Vec<Field>,
    paths: BTreeMap<String, Vec<String>>,
}

impl Columns {
    /// One per property; one for all of a record where the stream describes none.
    fn of(stream: &AirbyteStream) -> Self {
        let fields = schema::fields(&stream.json_schema);
        if fields.is_empty() {
            let paths = [(DATA_COLUMN.to_owned(), Vec::new())].into();
            return Self { fields: vec![Kind::Object.field(DATA_COLUMN)], paths };
        }
        let mut columns = Self { fields: fields.clone(), paths: BTreeMap::new() };
        for (index, field) in fields.into_iter().enumerate() {
            let property = field.name().clone();
            if is_reserved(&property) {
                let name = free(&columns.fields, &format!("{property}{SUFFIX}"));
                columns.fields[index] = field.with_name(name);
            }
            columns.paths.insert(columns.fields[index].name().clone(), vec![property]);
        }
        columns
    }

    /// The column of a path that has one.
    fn known(&self, path: &[String]) -> Option<&String> {
        self.paths.iter().find(|(_, known)| known.as_slice() == path).map(|(name, _)| name)
    }

    /// The column for a key or cursor that the source names; `None` where the schema has no such
    /// field.
    fn key(&mut self, stream: &AirbyteStream, path: &[String]) -> Option<String> {
        match path {
            [] => None,
            [_] => self.known(path).cloned(),
            path => {
                let field = schema::field_at(&stream.json_schema, path, "")?;
                Some(self.nested(path, &field))
            }
        }
    }

    /// The column for a nested path that the user names. What an object may hold without the
    /// schema's describing it is text.
    ///
    /// # Errors
    /// `Config` where the schema says that there is nothing at the path.
    fn asked(&mut self, stream: &AirbyteStream, path: &[String]) -> Result<Option<String>> {
        let mut at = Some(&stream.json_schema);
        for (depth, key) in path.iter().enumerate() {
            let Some(schema) = at else { break };
            at = match schema::step(schema, key) {
                Step::Property(property) => Some(property),
                Step::Open => None,
                Step::Unknown(names) => return Err(self.no_field(path, depth, &names)),
                Step::NoObject => return Err(no_object(path, depth)),
            };
        }
        if path.len() < 2 {
            return Ok(None);
        }
        let kind = at.map_or(Kind::Text, Kind::of_schema);
        Ok(Some(self.nested(path, &kind.field(""))))
    }

    /// The schema has other fields than the one of a path.
    fn no_field(&self, path: &[String], depth: usize, names: &[&str]) -> Error {
        let error = Error::config("The stream has no field for a nested path")
            .context("path", path.join("."))
            .context("field", path.get(depth).map_or("", String::as_str));
        let whole = path.join(".");
        if self.known(std::slice::from_ref(&whole)).is_some() {
            return error.hint(format!(
                "the name of this field has dots, so write it as a list: \
                 `cursor_field: [\"{whole}\"]`, `primary_key: [[\"{whole}\"]]`"
            ));
        }
        let shown: Vec<_> = names.iter().take(NAMES_SHOWN).copied().collect();
        let more = if names.len() > NAMES_SHOWN { " …" } else { "" };
        let inside = path[..depth].join(".");
        let of = if depth == 0 { "Its fields".into() } else { format!("The fields of `{inside}`") };
        error.hint(format!("{of} are: {}{more}", shown.join(", ")))
    }

    /// A column for what is at a nested path, once.
    fn nested(&mut self, path: &[String], field: &Field) -> String {
        if let Some(name) = self.known(path) {
            return name.clone();
        }
        let name = free(&self.fields, &path.join("_"));
        self.fields.push(field.clone().with_name(&name));
        self.paths.insert(name.clone(), path.to_vec());
        name
    }
}

/// How many names a hint lists.
const NAMES_SHOWN: usize = 20;

/// A path that goes on where the schema has no objects.
fn no_object(path: &[String], depth: usize) -> Error {
    let inside = path[..depth].join(".");
    Error::config("A nested path goes into a field that is no object")
        .context("path", path.join("."))
        .context("field", &inside)
        .hint(format!("name the field itself: `{inside}`"))
}

/// Whether the destination may fill a column of that name itself. Some do not tell case apart.
fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// The user's settings mean the column by the path's own name, and another field has that.
fn taken(path: &[String]) -> Error {
    Error::config("The column of a nested path would have the name of another field")
        .context("path", path.join("."))
        .context("field", path.join("_"))
        .hint("Leave the path out: a key or cursor that the source itself defines needs no name")
}

/// `name`, or the first of `name_2`, `name_3` … that no field has.
fn free(fields: &[Field], name: &str) -> String {
    let taken = |name: &str| fields.iter().any(|f| f.name().eq_ignore_ascii_case(name));
    if !taken(name) {
        return name.to_owned();
    }
    let numbered = (2_u32..).map(|number| format!("{name}_{number}"));
    numbered.into_iter().find(|name| !taken(name)).unwrap_or_default()
}

/// What a record brings beside its data. No field has these names.
fn hidden() -> [Field; 3] {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [
        (Field::new(EXTRACTED_AT, utc, true), RECORD_EXTRACTED_AT),
        (extension_field(META, DataType::Utf8, JSON), RECORD_META),
        (Field::new(LINE_COLUMN, DataType::Utf8, true), LINE),
    ]
    .map(|(field, part)| with_metadata(field, RECORD, part))
}

/// Whether a pattern of the user matches: `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter_map(|at| name.get(at..)).any(|name| matches(rest, name))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn offered(stream: Value, paths: &[&[&str]]) -> Result<Offered> {
        let path = |path: &&[&str]| path.iter().map(|key| (*key).to_owned()).collect();
        let asked = TablePaths {
            pattern: "public.users".to_owned(),
            paths: paths.iter().map(path).collect(),
        };
        Offered::new(serde_json::from_value(stream).unwrap(), &[asked])
    }

    fn stream() -> Value {
        json!({
            "name": "users", "namespace": "public",
            "json_schema": {"type": "object", "properties": {
                "id": {"type": "integer"},
                "metadata": {"type": "object", "properties": {
                    "updated_at": {"type": "string", "format": "date-time"},
                    "key": {"type": "string"},
                }},
                "metadata_updated_at": {"type": "string"},
                "open": {"type": "object"},
            }},
            "supported_sync_modes": ["full_refresh", "incremental"],
            "source_defined_cursor": true,
            "default_cursor_field": ["metadata", "updated_at"],
            "source_defined_primary_key": [["id"], ["metadata", "key"]],
            "is_resumable": true,
        })
    }

    #[test]
    fn nested_keys_become_columns_and_records_bring_hidden_ones() {
        let offered = offered(stream(), &[&["open", "x"], &["metadata", "key"]]).unwrap();
        let table = &offered.table;
        assert_eq!(table.name, TableName::in_namespace("public", "users"));
        assert_eq!(
            table.column_names().collect::<Vec<_>>(),
            [
                "id",
                "metadata",
                "metadata_updated_at",
                "open",
                "metadata_updated_at_2",
                "metadata_key",
                "open_x",
                "_airbyte_extracted_at",
                "_airbyte_meta",
                "_airbyte_record"
            ]
        );
        assert_eq!(table.primary_key, ["id", "metadata_key"]);
        assert_eq!(table.cursor_field.as_deref(), Some("metadata_updated_at_2"));
        assert!(table.source_defined_cursor && table.resumable);
        let parts: Vec<_> =
            table.schema.fields().iter().filter_map(|field| record_part(field)).collect();
        assert_eq!(parts, ["extracted_at", "meta", "line:airbyte"]);
        let kept: Value = serde_json::from_str(&table.schema.metadata()[STREAM]).unwrap();
        assert_eq!(kept, stream());
        assert_eq!(offered.path("open_x").unwrap(), &["open", "x"]);
    }

    #[test]
    fn the_columns_of_a_plan_know_where_they_come_from() {
        let offered = offered(stream(), &[]).unwrap();
        let mut planned = offered.table.clone();
        let chosen = |names: &[&str]| {
            let fields = offered.table.schema.fields().iter();
            let fields = fields.filter(|field| names.contains(&field.name().as_str()));
            Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
        };
        planned.schema = chosen(&["id", "metadata_key", "_airbyte_meta"]);
        let wanted = offered.wanted(&planned).unwrap().unwrap();
        let origins: Vec<_> = wanted.into_iter().map(|wanted| wanted.origin).collect();
        let path = |path: &[&str]| Origin::Path(path.iter().map(|key| (*key).into()).collect());
        assert_eq!(origins, [path(&["id"]), path(&["metadata", "key"]), Origin::Meta]);
        planned.schema = chosen(&["_airbyte_record"]);
        assert!(offered.wanted(&planned).unwrap().is_none());
        planned.schema = Arc::new(Schema::new(vec![Field::new("gone", DataType::Utf8, true)]));
        assert_eq!(offered.wanted(&planned).unwrap_err().context_value("column"), Some("gone"));
    }

    #[test]
    fn a_path_that_cannot_be_is_an_error_and_a_lost_key_is_no_key() {
        let error = offered(stream(), &[&["gone", "x"]]).unwrap_err();
        assert_eq!(error.context_value("path"), Some("gone.x"));
        let clash = offered(stream(), &[&["metadata", "updated_at"]]).unwrap_err();
        assert_eq!(clash.context_value("field"), Some("metadata_updated_at"));
        let mut bare = stream();
        bare["json_schema"] = json!({});
        let table = offered(bare, &[]).unwrap().table;
        assert!(table.primary_key.is_empty() && table.cursor_field.is_none());
        assert_eq!(table.column_names().next(), Some("data"));
        assert_eq!(table.column_names().count(), 4);
    }

    #[test]
    fn every_step_of_a_path_is_held_against_the_schema() {
        for (path, hint) in [
            (&["metadata", "updated_att"][..], "The fields of `metadata` are: updated_at, key"),
            (&["metadata", "key", "x"], "name the field itself: `metadata.key`"),
            (&["id", "x"], "name the field itself: `id`"),
            (&["a", "b"], "the name of this field has dots"),
        ] {
            let mut stream = stream();
            stream["json_schema"]["properties"]["a.b"] = json!({"type": "string"});
            let error = offered(stream, &[path]).unwrap_err();
            assert_eq!(error.context_value("path"), Some(path.join(".").as_str()));
            assert!(error.hint_text().is_some_and(|said| said.contains(hint)), "{error:?}");
        }
        assert!(offered(stream(), &[&["open", "x", "y"]]).is_ok());
    }

    #[test]
    fn a_field_with_a_metadata_columns_name_keeps_its_values_in_another_column() {
        let mut stream = stream();
        for name in ["_airbyte_meta", "_AIRBYTE_EXTRACTED_AT", "_airbyte_raw_id_source"] {
            stream["json_schema"]["properties"][name] = json!({"type": "string"});
        }
        stream["json_schema"]["properties"]["_airbyte_raw_id"] = json!({"type": "integer"});
        stream["source_defined_primary_key"] = json!([["_airbyte_raw_id"]]);
        let offered = offered(stream, &[]).unwrap();
        let table = &offered.table;
        assert_eq!(table.primary_key, ["_airbyte_raw_id_source_2"]);
        assert_eq!(offered.path("_airbyte_meta_source").unwrap(), &["_airbyte_meta"]);
        let names: Vec<_> = table.column_names().collect();
        assert!(names.contains(&"_AIRBYTE_EXTRACTED_AT_source"), "{names:?}");
        assert!(names.ends_with(&["_airbyte_extracted_at", "_airbyte_meta", "_airbyte_record"]));
        assert_eq!(offered.notes(table).len(), 3);
    }

    #[test]
    fn patterns_match_with_stars() {
        for (pattern, name, is_match) in [
            ("users", "users", true),
            ("users", "users2", false),
            ("*", "a.b", true),
            ("public.*", "public.users", true),
            ("*.users", "public.users", true),
            ("p*c.u*s", "public.users", true),
            ("p*x", "public.users", false),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }
}
