//! Rows in the wire form of their system: used where nothing looks at them, and handed on as they
//! are.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use highwater_core::mapping::Mapping;
use highwater_core::types::{RECORD, with_metadata};
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Completion, Destination,
    DestinationDelivery, ExistingTable, Fence, MetadataColumns, Op, Output, Partition, Plan,
    Result, SchemaChange, Source, SourceDelivery, State, StateStore, Table, TableName, TablePlan,
    WriteMode, Writer,
};
use highwater_engine::{TableOptions, Target};
use highwater_testkit::scripted::Journal;
use highwater_testkit::tables::{item, item_table, items};

use crate::bench::Bench;

/// Both ends: a source that can send its rows in the form `wire`, and a destination that takes
/// that form and notes what it gets.
struct Wire(Journal);

#[async_trait]
impl Source for Wire {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(vec![item_table("t")])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    fn wire_form(&self, _table: &TablePlan) -> Option<&'static str> {
        Some("wire")
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        _state: &State,
        output: Output,
    ) -> Result<Completion> {
        let table = &plan.tables[&TableName::new("t")];
        let rows = match table.forwarded {
            Some(_) => {
                let field = Field::new("row", DataType::Binary, false);
                let field = with_metadata(field, RECORD, "line:wire");
                let rows: ArrayRef = Arc::new(BinaryArray::from(vec![&b"one"[..], b"two"]));
                RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![rows]).unwrap()
            }
            None => {
                let rows = items(&item_table("t"), &[item(1, "a", 1), item(2, "b", 2)]);
                let kept: Vec<_> = table
                    .source
                    .column_names()
                    .map(|name| rows.schema().index_of(name).unwrap())
                    .collect();
                rows.project(&kept).unwrap()
            }
        };
        output.batch(Batch { table: Arc::clone(&table.source), op: Op::Upsert, rows }).await?;
        Ok(Completion::Complete)
    }
}

#[async_trait]
impl Destination for Wire {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delivery: DestinationDelivery::Separate,
            describes_tables: false,
            ..Capabilities::transactional(63)
        }
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn target_name(&self, source: &TableName) -> TableName {
        source.clone()
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(names.iter().map(|_| None).collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Ok(field.clone())
    }

    fn takes_wire_form(&self, form: &str, _table: &TablePlan) -> bool {
        form == "wire"
    }

    fn ddl(&self, _plan: &TablePlan, _change: &SchemaChange) -> Vec<String> {
        Vec::new()
    }

    async fn migrate(&self, _plan: &Plan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn writer(
        &self,
        _plan: &Plan,
        _partition: &Partition,
        _fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        Ok(Box::new(WireWriter(self.0.clone())))
    }

    async fn finish(&self, _plan: &Plan, _table: &TablePlan, _fence: &Fence) -> Result<Committed> {
        Ok(Committed::default())
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        None
    }
}

struct WireWriter(Journal);

#[async_trait]
impl Writer for WireWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let schema = batch.rows.schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        self.0.note(format!("{} rows of {}", batch.rows.num_rows(), names.join(", ")));
        Ok(())
    }

    async fn commit(&mut self, _checkpoint: &Checkpoint) -> Result<CommittedTables> {
        Ok(CommittedTables::new())
    }
}

/// What the destination gets, and how many rows the summary counts.
async fn sent(change: impl FnOnce(&mut TableOptions, &mut Target)) -> (Vec<String>, u64) {
    let (mut bench, store) = Bench::new(Vec::new());
    bench.full_refresh(WriteMode::Append);
    let notes = Journal::default();
    let store: Arc<dyn Destination> = Arc::new(store);
    let mut target = Target {
        backend: Some(store),
        write_mode: WriteMode::Append,
        ..Target::new("w", Arc::new(Wire(notes.clone())) as Arc<dyn Destination>)
    };
    change(&mut bench.request.tables[0], &mut target);
    bench.request.targets = vec![target];
    let source = Arc::new(Wire(Journal::default()));
    let summary = highwater_engine::sync(source, &bench.request, &bench.options).await.unwrap();
    assert!(summary.destinations[0].tables[0].error.is_none(), "{summary:?}");
    (notes.lines(), summary.destinations[0].tables[0].rows_read)
}

#[tokio::test]
async fn rows_that_nobody_looks_at_are_handed_on_as_they_are() {
    let (lines, rows) = sent(|_, _| ()).await;
    assert_eq!((lines, rows), (vec!["2 rows of row".to_owned()], 2));
}

#[tokio::test]
async fn rows_that_are_changed_on_their_way_travel_as_columns() {
    let (lines, rows) =
        sent(|_, target| target.metadata_columns = MetadataColumns::CloudQuery).await;
    assert_eq!(rows, 2);
    assert!(lines[0].starts_with("2 rows of _cq_sync_time"), "{lines:?}");
    let drop = Mapping::Drop { column: "region".into() };
    let (lines, _) = sent(|options, _| options.mappings = vec![drop]).await;
    assert!(lines[0].starts_with("2 rows of id"), "{lines:?}");
    assert!(!lines[0].contains("region"), "{lines:?}");
}
