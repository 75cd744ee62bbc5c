//! Rows that a source asks to be removed by a condition: those that fulfil it, and those that
//! depend on them, of everything that was sent before.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float64Array, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt64Array, new_null_array,
};
use arrow_schema::{DataType, Field};
use highwater_core::deletion::{Equal, Group, PARENT_ID, ROW_ID, Relation};
use highwater_core::types::{DECLARED, JSON, UUID, extension_field, with_metadata};
use highwater_core::{Checkpoint, Committed, Deletion, ErrorKind, Table, TableName, WriteMode};

use super::together::{Sent, Together};
use crate::harness::Harness;
use crate::job::{Job, visible};
use crate::tables::{item_table, loose_item_table};

/// The modes in which a condition removes rows.
const MODES: [WriteMode; 2] = [WriteMode::Append, WriteMode::Overwrite];

fn uuid_field(name: &str) -> Field {
    extension_field(name, DataType::FixedSizeBinary(16), UUID)
}

/// A table of a plugin.
fn table(name: &str) -> Table {
    let fields = vec![
        uuid_field(ROW_ID).with_nullable(false),
        uuid_field(PARENT_ID),
        Field::new("name", DataType::Utf8, true),
        Field::new("size", DataType::UInt64, true),
    ];
    Table::new(TableName::new(name), fields).with_primary_key([ROW_ID])
}

/// Id, parent, name, size.
type Row = (u8, Option<u8>, Option<&'static str>, Option<u64>);

fn uuids(of: impl Iterator<Item = Option<u8>>) -> ArrayRef {
    let bytes = of.map(|id| id.map(|id| [id; 16]));
    let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, 16);
    Arc::new(array.expect("sixteen bytes each"))
}

fn rows(name: &str, rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        uuids(rows.iter().map(|row| Some(row.0))),
        uuids(rows.iter().map(|row| row.1)),
        Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<UInt64Array>()),
    ];
    RecordBatch::try_new(table(name).schema, columns).expect("rows fit their table")
}

fn job(name: &str, mode: WriteMode) -> Job {
    Job::new(table(name), mode)
}

fn equal(column: &str, value: ArrayRef) -> Equal {
    let field = Field::new(column, value.data_type().clone(), true);
    Equal { column: column.to_owned(), field, value }
}

fn named(name: &str) -> Equal {
    equal("name", Arc::new(StringArray::from(vec![name])))
}

fn sized(size: u64) -> Equal {
    equal("size", Arc::new(UInt64Array::from(vec![size])))
}

/// Whether any comparison of it is enough, and the comparisons.
type Compared = (bool, Vec<Equal>);

fn deletion(table: &str, groups: Vec<Compared>) -> Deletion {
    let groups = groups.into_iter().map(|(any, equal)| Group { any, equal }).collect();
    Deletion { table: TableName::new(table), groups, relations: Vec::new() }
}

fn relation(table: &str, parent: &str) -> Relation {
    Relation { table: TableName::new(table), parent: TableName::new(parent) }
}

/// The ids that are left, of every row that a reader sees.
async fn left(harness: &dyn Harness, name: &str) -> Vec<u8> {
    let found = visible(harness, &job(name, WriteMode::Append)).await;
    let mut ids = Vec::new();
    for batch in &found {
        let column = batch.column_by_name(ROW_ID).expect("the id").as_fixed_size_binary();
        ids.extend((0..batch.num_rows()).map(|row| column.value(row)[0]));
    }
    ids.sort_unstable();
    ids
}

const PEOPLE: [Row; 6] = [
    (1, None, Some("ada"), Some(1)),
    (2, None, Some("ada"), Some(2)),
    (3, None, Some("bob"), Some(1)),
    (4, None, Some("bob"), None),
    (5, None, None, Some(1)),
    (6, None, Some("cyd"), Some(u64::MAX)),
];

/// All groups have to hold; inside a group all comparisons, or any of them.
pub async fn every_group_has_to_hold(harness: &dyn Harness) {
    let conditions: [(Vec<Compared>, &[u8]); 7] = [
        (vec![(false, vec![named("ada"), sized(1)])], &[2, 3, 4, 5, 6]),
        (vec![(true, vec![named("ada"), sized(1)])], &[4, 6]),
        (vec![(true, vec![named("ada"), named("bob")]), (false, vec![sized(1)])], &[2, 4, 5, 6]),
        (
            vec![(true, vec![named("ada"), named("cyd")]), (true, vec![sized(2), sized(u64::MAX)])],
            &[1, 3, 4, 5],
        ),
        (vec![(false, vec![named("ada"), named("bob")])], &[1, 2, 3, 4, 5, 6]),
        (vec![(false, vec![named("nobody")])], &[1, 2, 3, 4, 5, 6]),
        (vec![(true, Vec::new())], &[1, 2, 3, 4, 5, 6]),
    ];
    for (nth, (groups, expected)) in conditions.into_iter().enumerate() {
        for mode in MODES {
            let name = format!("people_{nth}_{mode}");
            let together = Together::open(harness, &[job(&name, mode)]).await;
            together.commit(vec![Sent::Rows(&name, rows(&name, &PEOPLE))]).await;
            let condition = deletion(&name, groups.clone());
            together.commit(vec![Sent::Delete(&condition)]).await;
            assert_eq!(left(harness, &name).await, expected, "condition {nth}, {mode}");
        }
    }
}

/// Without a condition every row goes.
pub async fn without_a_group_every_row_goes(harness: &dyn Harness) {
    for mode in MODES {
        let name = format!("everybody_{mode}");
        let together = Together::open(harness, &[job(&name, mode)]).await;
        together.commit(vec![Sent::Rows(&name, rows(&name, &PEOPLE))]).await;
        let committed = together.commit(vec![Sent::Delete(&deletion(&name, Vec::new()))]).await;
        assert_eq!(committed[&TableName::new(&*name)].deleted, 6);
        assert_eq!(left(harness, &name).await, [] as [u8; 0]);
    }
}

/// NULL equals nothing: not NULL either.
pub async fn null_equals_nothing(harness: &dyn Harness) {
    let together = Together::open(harness, &[job("people", WriteMode::Overwrite)]).await;
    together.commit(vec![Sent::Rows("people", rows("people", &PEOPLE))]).await;
    let null = |any, more: Vec<Equal>| {
        let mut all = vec![equal("name", new_null_array(&DataType::Utf8, 1))];
        all.extend(more);
        deletion("people", vec![(any, all)])
    };
    together.commit(vec![Sent::Delete(&null(false, Vec::new()))]).await;
    together.commit(vec![Sent::Delete(&null(false, vec![sized(1)]))]).await;
    assert_eq!(left(harness, "people").await, [1, 2, 3, 4, 5, 6]);
    together.commit(vec![Sent::Delete(&null(true, vec![sized(2)]))]).await;
    assert_eq!(left(harness, "people").await, [1, 3, 4, 5, 6]);
}

/// Values are compared as what they are, and never read as a part of a statement.
pub async fn values_of_many_types_are_compared(harness: &dyn Harness) {
    let jsonb = |field: Field| with_metadata(field, DECLARED, "postgresql:jsonb");
    let inet =
        |name| with_metadata(Field::new(name, DataType::Utf8, true), DECLARED, "postgresql:inet");
    let decimals = |of: [i128; 2]| {
        let array = Decimal128Array::from(of.to_vec()).with_precision_and_scale(12, 2);
        Arc::new(array.expect("digits that fit")) as ArrayRef
    };
    let plain = |array: ArrayRef| (Field::new("v", array.data_type().clone(), true), array);
    let micros = || TimestampMicrosecondArray::from(vec![1, 1_800_000_000_000_000]);
    let columns: Vec<(Field, ArrayRef)> = vec![
        plain(Arc::new(BooleanArray::from(vec![true, false]))),
        plain(Arc::new(Int8Array::from(vec![i8::MIN, 1]))),
        plain(Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX]))),
        plain(Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
        plain(Arc::new(Float64Array::from(vec![0.1, 1e300]))),
        plain(decimals([150, 151])),
        plain(Arc::new(StringArray::from(vec!["'); DROP TABLE x; --", "a"]))),
        plain(Arc::new(StringArray::from(vec!["a ", "A "]))),
        plain(Arc::new(BinaryArray::from(vec![&b"\0a"[..], &b"\xff"[..]]))),
        plain(Arc::new(Date32Array::from(vec![0, -800_000]))),
        plain(Arc::new(micros())),
        plain(Arc::new(micros().with_timezone("UTC"))),
        (uuid_field("v"), uuids([Some(1), Some(2)].into_iter())),
        (
            jsonb(extension_field("v", DataType::Utf8, JSON)),
            Arc::new(StringArray::from(vec!["{\"a\": 1}", "[]"])),
        ),
        (
            extension_field("v", DataType::Utf8, JSON),
            Arc::new(StringArray::from(vec!["{\"a\": 1}", "[]"])),
        ),
        (inet("v"), Arc::new(StringArray::from(vec!["10.0.0.0/8", "::1"]))),
    ];
    for (nth, (field, values)) in columns.into_iter().enumerate() {
        let fields = vec![Field::new("id", DataType::Int64, true), field.clone()];
        let table = Table::new(TableName::new(format!("typed_{nth}")), fields);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![0, 1])), Arc::clone(&values)];
        let both = RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows");
        let job = Job::new(table.clone(), WriteMode::Append);
        let together = Together::open(harness, std::slice::from_ref(&job)).await;
        let condition = Deletion {
            table: table.name.clone(),
            groups: vec![Group {
                any: false,
                equal: vec![Equal { column: "v".into(), field, value: values.slice(0, 1) }],
            }],
            relations: Vec::new(),
        };
        let name = &table.name.name;
        let sent = vec![Sent::Rows(name, both), Sent::Delete(&condition)];
        let committed = together.commit(sent).await;
        let expected = Committed { written: 2, unchanged: 0, deleted: 1 };
        assert_eq!(committed[&table.name], expected, "{}", values.data_type());
        let found = visible(harness, &job).await;
        let ids: Vec<i64> = found
            .iter()
            .flat_map(|batch| {
                let ids = batch.column_by_name("id").expect("the id");
                ids.as_primitive::<arrow_array::types::Int64Type>().values().to_vec()
            })
            .collect();
        assert_eq!(ids, [1], "{}", values.data_type());
    }
}

/// Rows of two new tables with a deletion between them: what comes after it arrives too.
pub async fn a_deletion_between_rows_of_new_tables(harness: &dyn Harness) {
    let names = ["people", "pets"];
    let jobs = names.map(|name| job(name, WriteMode::Overwrite));
    let together = Together::open(harness, &jobs).await;
    let (first, second) = PEOPLE.split_at(3);
    let gone = deletion("people", vec![(false, vec![named("ada")])]);
    let sent = vec![
        Sent::Rows("people", rows("people", first)),
        Sent::Rows("pets", rows("pets", first)),
        Sent::Delete(&gone),
        Sent::Rows("pets", rows("pets", second)),
        Sent::Rows("people", rows("people", second)),
    ];
    together.commit(sent).await;
    assert_eq!(left(harness, "people").await, [3, 4, 5, 6]);
    assert_eq!(left(harness, "pets").await, [1, 2, 3, 4, 5, 6]);
}

/// A value may come in another type than the column has, as long as it is a value of it.
pub async fn a_value_is_brought_to_the_type_of_its_column(harness: &dyn Harness) {
    let together = Together::open(harness, &[job("people", WriteMode::Overwrite)]).await;
    together.commit(vec![Sent::Rows("people", rows("people", &PEOPLE))]).await;
    let by = |column, value| deletion("people", vec![(false, vec![equal(column, value)])]);
    let id = StringArray::from(vec!["03030303-0303-0303-0303-030303030303"]);
    let size = Int64Array::from(vec![2]);
    let sent = [by(ROW_ID, Arc::new(id)), by("size", Arc::new(size))];
    together.commit(sent.iter().map(Sent::Delete).collect()).await;
    assert_eq!(left(harness, "people").await, [1, 4, 5, 6]);
    let mut writer = together.writer().await;
    let wrong = by(ROW_ID, Arc::new(StringArray::from(vec!["secret"])));
    let error = writer.delete(&wrong).await.expect_err("that is no id");
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("column"), Some(ROW_ID));
    assert!(!error.full_message().contains("secret"));
}

/// Rows of dependent tables go with the rows that they belong to, level by level; the rows of
/// others stay, and a table that is not there stops nobody.
pub async fn dependent_rows_go_with_their_parents(harness: &dyn Harness) {
    for mode in MODES {
        let names = ["clouds", "servers", "disks", "keys"].map(|name| format!("{name}_{mode}"));
        let [clouds, servers, disks, keys] = &names;
        let jobs = [job(clouds, mode), job(servers, mode), job(disks, mode), job(keys, mode)];
        let together = Together::open(harness, &jobs).await;
        let child = |id, parent| (id, Some(parent), Some("x"), None);
        let sent = vec![
            Sent::Rows(clouds, rows(clouds, &[PEOPLE[0], PEOPLE[2]])),
            Sent::Rows(servers, rows(servers, &[child(11, 1), child(12, 1), child(13, 3)])),
            Sent::Rows(disks, rows(disks, &[child(21, 11), child(22, 13), child(23, 12)])),
            Sent::Rows(keys, rows(keys, &[child(31, 1), child(32, 3), (33, None, None, None)])),
        ];
        together.commit(sent).await;
        let condition = Deletion {
            relations: vec![
                relation(servers, clouds),
                relation("nowhere", clouds),
                relation(disks, servers),
                relation("beyond", "nowhere"),
                relation(keys, clouds),
            ],
            ..deletion(clouds, vec![(false, vec![named("ada")])])
        };
        let committed = together.commit(vec![Sent::Delete(&condition)]).await;
        let deleted = |name: &String| committed[&TableName::new(name.as_str())].deleted;
        assert_eq!(names.each_ref().map(deleted), [1, 2, 2, 1], "{mode}");
        assert_eq!(left(harness, clouds).await, [3]);
        assert_eq!(left(harness, servers).await, [13]);
        assert_eq!(left(harness, disks).await, [22]);
        assert_eq!(left(harness, keys).await, [32, 33]);
    }
}

/// A condition acts on what was sent before it, in this commit and earlier ones, and on nothing
/// that is sent after it: also not on a row with the key of a removed one.
pub async fn only_what_was_sent_before_goes(harness: &dyn Harness) {
    for mode in MODES {
        let name = format!("order_{mode}");
        let child = format!("order_child_{mode}");
        let together = Together::open(harness, &[job(&name, mode), job(&child, mode)]).await;
        let of = |id: u8, text: &'static str| rows(&name, &[(id, None, Some(text), None)]);
        let under = |id: u8, parent: u8| rows(&child, &[(id, Some(parent), None, None)]);
        together
            .commit(vec![Sent::Rows(&name, of(1, "x")), Sent::Rows(&child, under(11, 1))])
            .await;
        let condition = Deletion {
            relations: vec![relation(&child, &name)],
            ..deletion(&name, vec![(false, vec![named("x")])])
        };
        let sent = vec![
            Sent::Rows(&name, of(2, "x")),
            Sent::Rows(&child, under(12, 2)),
            Sent::Rows(&name, of(3, "y")),
            Sent::Delete(&condition),
            Sent::Rows(&name, of(2, "x")),
            Sent::Rows(&name, of(4, "x")),
            Sent::Rows(&child, under(14, 4)),
        ];
        let committed = together.commit(sent).await;
        assert_eq!(left(harness, &name).await, [2, 3, 4], "{mode}");
        assert_eq!(left(harness, &child).await, [14], "{mode}");
        let of = |name: &str| committed[&TableName::new(name)];
        assert_eq!(of(&name), Committed { written: 4, unchanged: 0, deleted: 2 }, "{mode}");
        assert_eq!(of(&child), Committed { written: 2, unchanged: 0, deleted: 2 }, "{mode}");
        // Again and again in one commit, and the table is as good as new after it.
        let mut sent = Vec::new();
        for id in 100..150 {
            sent.push(Sent::Rows(&name, rows(&name, &[(id, None, Some("x"), None)])));
            sent.push(Sent::Delete(&condition));
        }
        let committed = together.commit(sent).await;
        assert_eq!(committed[&TableName::new(&*name)].deleted, 52, "{mode}");
        assert_eq!(left(harness, &name).await, [3], "{mode}");
    }
}

/// A table that the run itself makes takes conditions as any other.
pub async fn a_new_table_takes_conditions(harness: &dyn Harness) {
    for mode in MODES {
        let name = format!("new_{mode}");
        let together = Together::open(harness, &[job(&name, mode)]).await;
        let condition = deletion(&name, vec![(false, vec![named("ada")])]);
        let sent = vec![
            Sent::Delete(&condition),
            Sent::Rows(&name, rows(&name, &PEOPLE)),
            Sent::Delete(&condition),
            Sent::Rows(&name, rows(&name, &PEOPLE[..1])),
        ];
        let committed = together.commit(sent).await;
        assert_eq!(left(harness, &name).await, [1, 3, 4, 5, 6], "{mode}");
        let expected = Committed { written: 7, unchanged: 0, deleted: 2 };
        assert_eq!(committed[&TableName::new(&*name)], expected, "{mode}");
        together.finish().await;
        assert_eq!(left(harness, &name).await, [1, 3, 4, 5, 6], "{mode}");
    }
}

/// A writer that is dropped has removed nothing, and readers see no removal before the commit.
pub async fn a_dropped_writer_removes_nothing(harness: &dyn Harness) {
    let together = Together::open(harness, &[job("people", WriteMode::Overwrite)]).await;
    together.commit(vec![Sent::Rows("people", rows("people", &PEOPLE))]).await;
    let everything = deletion("people", Vec::new());
    let mut writer = together.writer().await;
    together.send(&mut writer, vec![Sent::Delete(&everything)]).await;
    assert_eq!(left(harness, "people").await.len(), 6);
    drop(writer);
    together.commit(Vec::new()).await;
    assert_eq!(left(harness, "people").await.len(), 6);
    let mut writer = together.writer().await;
    together.send(&mut writer, vec![Sent::Delete(&everything)]).await;
    let committed = writer.commit(&Checkpoint::default()).await.expect("a commit");
    assert_eq!(committed[&TableName::new("people")].deleted, 6);
    assert_eq!(left(harness, "people").await, [] as [u8; 0]);
}

/// Modes that keep what was, or show nothing before the end, do not take conditions; the error
/// says what to do.
pub async fn modes_without_removal_refuse(harness: &dyn Harness) {
    let modes: BTreeSet<_> =
        harness.destination().await.capabilities().write_modes.iter().copied().collect();
    for mode in [WriteMode::AppendDedup, WriteMode::Replace] {
        assert!(modes.contains(&mode), "{mode}");
        let job = match mode {
            WriteMode::AppendDedup => Job::new(item_table("dedup"), mode),
            _ => Job::new(loose_item_table("whole", &["id"]), mode),
        };
        let together = Together::open(harness, std::slice::from_ref(&job)).await;
        let mut writer = together.writer().await;
        let condition = deletion(&job.table.name.name, Vec::new());
        let error = writer.delete(&condition).await.expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{mode}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("write_mode")), "{mode}");
    }
}
