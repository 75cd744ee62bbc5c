//! Tables and rows as bytes, written and read without any of the code under test.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;

pub const NAME: &str = "cq:table_name";
pub const PRIMARY_KEY: &str = "cq:extension:primary_key";
pub const UNIQUE: &str = "cq:extension:unique";
pub const PRIMARY_KEY_COMPONENT: &str = "cq:extension:primary_key_component";

/// A table as it is on the wire.
#[derive(Debug, Clone)]
pub struct WireTable {
    pub schema: Arc<Schema>,
}

impl WireTable {
    pub fn new(name: &str, fields: Vec<Field>) -> Self {
        let metadata = [
            (NAME.to_owned(), name.to_owned()),
            ("cq:table_description".to_owned(), String::new()),
            ("cq:table_title".to_owned(), String::new()),
        ];
        Self { schema: Arc::new(Schema::new_with_metadata(fields, metadata.into())) }
    }

    pub fn name(&self) -> String {
        self.schema.metadata()[NAME].clone()
    }

    /// The same table with a parent.
    pub fn child_of(&self, parent: &str) -> Self {
        let mut metadata = self.schema.metadata().clone();
        metadata.insert("cq:table_depends_on".to_owned(), parent.to_owned());
        let fields = self.schema.fields().clone();
        Self { schema: Arc::new(Schema::new_with_metadata(fields, metadata)) }
    }

    /// The same table with so many bytes in its schema that mean nothing.
    pub fn padded(&self, bytes: usize) -> Self {
        let mut metadata = self.schema.metadata().clone();
        metadata.insert("padding".to_owned(), "x".repeat(bytes));
        let fields = self.schema.fields().clone();
        Self { schema: Arc::new(Schema::new_with_metadata(fields, metadata)) }
    }

    pub fn bytes(&self) -> Bytes {
        encode(&self.schema, &[])
    }

    /// Rows of it, as an insert has them.
    pub fn rows(&self, columns: Vec<ArrayRef>) -> Bytes {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).unwrap();
        encode(&self.schema, &[batch])
    }
}

pub fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// A field with marks of CloudQuery; one that is a key is not nullable.
pub fn marked(field: Field, marks: &[&str]) -> Field {
    let mut metadata: HashMap<String, String> = field.metadata().clone();
    metadata.extend(marks.iter().map(|mark| ((*mark).to_owned(), "true".to_owned())));
    let nullable = field.is_nullable() && !marks.contains(&PRIMARY_KEY);
    field.with_metadata(metadata).with_nullable(nullable)
}

/// A field of an extension type of CloudQuery.
pub fn extension(name: &str, extension: &str, data_type: DataType) -> Field {
    field(name, data_type).with_metadata(
        [
            ("ARROW:extension:name".to_owned(), extension.to_owned()),
            ("ARROW:extension:metadata".to_owned(), format!("{extension}-serialized")),
        ]
        .into(),
    )
}

pub fn uuid(name: &str) -> Field {
    extension(name, "uuid", DataType::FixedSizeBinary(16))
}

/// An integer key.
pub fn id() -> Field {
    marked(field("id", DataType::Int64), &[PRIMARY_KEY])
}

pub fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

pub fn encode(schema: &Schema, batches: &[RecordBatch]) -> Bytes {
    let mut writer = StreamWriter::try_new(Vec::new(), schema).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().unwrap().into()
}

/// Exactly one batch, as CloudQuery's readers take it.
pub fn decode(bytes: &Bytes) -> RecordBatch {
    let mut batches: Vec<_> =
        StreamReader::try_new(&bytes[..], None).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.len(), 1, "a record is one batch");
    batches.remove(0)
}

/// The schema alone.
pub fn decode_schema(bytes: &Bytes) -> Arc<Schema> {
    StreamReader::try_new(&bytes[..], None).unwrap().schema()
}
