//! It is a transformer: `transformer`, with what it does to each table and its rows.
//!
//! | word | what |
//! |---|---|
//! | `prefix=TEXT` | tables get other names |
//! | `rename=OLD:NEW`, `drop=COLUMN`, `add=COLUMN` | columns; a new one holds the text `new` |
//! | `only-odd` | rows of even position are dropped |
//! | `halves` | each batch comes out as two |
//! | `late` | nothing comes out before everything has come in |
//! | `early` | ends after the first message |
//! | `transform-die=N` | the process ends with code 137 at the Nth message |
//! | `transform-lie` | rows come out without their last column |

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use highwater_cloudquery::proto::plugin::{transform, transform_schema};
use highwater_cloudquery::wire::{Decoder, Encoder, decode_table, encode_table};
use highwater_core::Table;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::script::Script;

#[derive(Clone)]
pub struct Transformer {
    script: Script,
}

impl Transformer {
    /// `None` where the script does not ask for one.
    pub fn new(script: &Script) -> Option<Self> {
        script.has("transformer").then(|| Self { script: script.clone() })
    }

    pub fn schema(&self, request: &transform_schema::Request) -> transform_schema::Response {
        let table = self.table(&decode_table(&request.schema).unwrap());
        transform_schema::Response { schema: encode_table(&table).unwrap() }
    }

    fn table(&self, table: &Table) -> Table {
        let mut after = table.clone();
        after.name.name =
            format!("{}{}", self.script.value("prefix").unwrap_or_default(), table.name.name);
        let renamed = self.renamed();
        let mut fields: Vec<Field> = table
            .schema
            .fields()
            .iter()
            .filter(|field| self.stays(field.name()))
            .map(|field| match renamed {
                Some((old, new)) if old == field.name() => field.as_ref().clone().with_name(new),
                _ => field.as_ref().clone(),
            })
            .collect();
        fields.extend(self.script.value("add").map(|name| Field::new(name, DataType::Utf8, true)));
        after.schema = Schema::new_with_metadata(fields, table.schema.metadata().clone()).into();
        after
    }

    fn renamed(&self) -> Option<(&str, &str)> {
        self.script.value("rename").map(|pair| pair.split_once(':').unwrap())
    }

    fn stays(&self, column: &str) -> bool {
        self.script.value("drop") != Some(column)
    }

    fn rows(&self, table: &Table, rows: &RecordBatch) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = rows
            .schema()
            .fields()
            .iter()
            .zip(rows.columns())
            .filter(|(field, _)| self.stays(field.name()))
            .map(|(_, column)| Arc::clone(column))
            .collect();
        if self.script.value("add").is_some() {
            let new = std::iter::repeat_n("new", rows.num_rows());
            columns.push(Arc::new(StringArray::from_iter_values(new)));
        }
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
        if !self.script.has("only-odd") {
            return rows;
        }
        let odd: BooleanArray = (0..rows.num_rows()).map(|row| Some(row % 2 == 0)).collect();
        arrow_select::filter::filter_record_batch(&rows, &odd).unwrap()
    }

    fn answers(&self, record: &Bytes) -> Vec<Bytes> {
        let decoded = Decoder::new().decode(record).unwrap();
        let mut table = self.table(&decoded.table);
        let mut answers = Vec::new();
        for batch in &decoded.batches {
            let mut rows = self.rows(&table, batch);
            if self.script.has("transform-lie") {
                rows = rows.project(&(0..rows.num_columns() - 1).collect::<Vec<_>>()).unwrap();
                table.schema = rows.schema();
            }
            let half = if self.script.has("halves") { rows.num_rows() / 2 } else { 0 };
            let mut encoder = Encoder::new(&Arc::new(table.clone()), usize::MAX).unwrap();
            for part in [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)] {
                answers.extend(encoder.encode(&part).unwrap());
            }
        }
        answers
    }

    pub fn transform(
        self,
        mut messages: Streaming<transform::Request>,
    ) -> mpsc::Receiver<Result<transform::Response, Status>> {
        let (to, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            let mut count = 0;
            while let Ok(Some(message)) = messages.message().await {
                count += 1;
                if self.script.number("transform-die") == Some(count) {
                    std::process::exit(137);
                }
                for record in self.answers(&message.record) {
                    if self.script.has("late") {
                        waiting.push(record);
                    } else if to.send(Ok(transform::Response { record })).await.is_err() {
                        return;
                    }
                }
                if self.script.has("early") {
                    return;
                }
            }
            for record in waiting {
                let _ = to.send(Ok(transform::Response { record })).await;
            }
        });
        receiver
    }
}
