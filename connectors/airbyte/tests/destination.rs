//! What a destination gets, what of it counts as durable, and what happens when it fails.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::types::{RECORD, with_metadata};
use highwater_core::{
    Batch, Checkpoint, Destination, Error, ErrorKind, Fence, Op, Plan, Result, WriteMode, Writer,
};
use serde_json::{Value, json};

use super::destination_support::{Place, at, batch, fields, kinds, name, plan, table};

fn appended(tables: &[&str]) -> Plan {
    plan(tables.iter().map(|name| table(name, WriteMode::Append)).collect())
}

/// All that is durable once the writer has ended, and how it did.
async fn end(writer: &mut dyn Writer, complete: &[&str]) -> (Vec<Checkpoint>, Result<()>) {
    let complete: Vec<_> = complete.iter().map(|table| name(table)).collect();
    let ended = writer.end(&complete).await;
    let mut durable = Vec::new();
    // What the engine does: what was confirmed counts, however it ended.
    durable.extend(writer.durable().await.unwrap_or_default());
    match ended {
        Ok(rest) => {
            durable.extend(rest);
            (durable, Ok(()))
        }
        Err(error) => (durable, Err(error)),
    }
}

/// Three rows and a position, `count` times.
async fn positions(writer: &mut dyn Writer, plan: &Plan, count: i64) -> Result<Vec<Checkpoint>> {
    let mut durable = Vec::new();
    for position in 0..count {
        writer.write(batch(plan, "a", position * 3..position * 3 + 3)).await?;
        writer.commit(&at("a", position)).await?;
        durable.extend(writer.durable().await?);
    }
    Ok(durable)
}

fn all(count: i64) -> Vec<Checkpoint> {
    (0..count).map(|position| at("a", position)).collect()
}

#[tokio::test]
async fn rows_and_positions_arrive_in_order_and_completion_last() {
    let place = Place::scripted(json!({}));
    let (destination, plan) = (place.destination(), appended(&["a", "b"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 1..3)).await.unwrap();
    writer.write(batch(&plan, "b", 1..2)).await.unwrap();
    let committed = writer.commit(&at("a", 7)).await.unwrap();
    assert_eq!(committed[&name("a")].written, 2);
    writer.write(batch(&plan, "a", 3..4)).await.unwrap();
    writer.commit(&at("a", 8)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a", "b"]).await;
    ended.unwrap();
    assert_eq!(durable, [at("a", 7), at("a", 8)]);
    let messages = place.messages();
    let expected = [
        "a 1",
        "a 2",
        "b 1",
        "state a 7",
        "state b null",
        "a 3",
        "state a 8",
        "a COMPLETE",
        "b COMPLETE",
    ];
    assert_eq!(kinds(&messages), expected);
    assert_eq!(messages[0]["record"]["data"]["name"], "row \"1\"\n");
    assert_eq!(messages[0]["record"]["emitted_at"], 1_795_254_085_000_i64);
    let entry = &place.catalog()["streams"][0];
    assert_eq!(
        (&entry["stream"]["name"], &entry["generation_id"], &entry["minimum_generation_id"]),
        (&json!("a"), &json!(1), &json!(0))
    );
    for name in ["a", "b"] {
        let fence = Fence { sync: "s".into(), epoch: 1 };
        destination
            .finish(&plan, &plan.tables[&super::destination_support::name(name)], &fence)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_position_counts_when_it_came_back_however_that_is() {
    let (late, last) = (json!({"echo": "late"}), json!({"echo": "end"}));
    let skips = json!({"every": 4});
    let mut ways = vec![json!({}), late, last, skips, json!({"stats": false})];
    let lossy = |way: &Value| {
        let mut way = way.clone();
        way["drop_id"] = json!(true);
        way
    };
    ways.extend(ways.clone().iter().map(lossy));
    // Without skipping, the order alone tells.
    for how in ["now", "late", "end"] {
        ways.push(json!({"echo": how, "drop_id": true, "change_state": true}));
    }
    for way in ways {
        let place = Place::scripted(way.clone());
        let (destination, plan) = (place.destination(), appended(&["a"]));
        let mut writer = place.writer(&destination, &plan).await;
        let mut durable = positions(writer.as_mut(), &plan, 10).await.unwrap();
        if way["echo"] == "end" {
            assert_eq!(durable, [], "{way}");
        }
        let (rest, ended) = end(writer.as_mut(), &["a"]).await;
        ended.unwrap_or_else(|e| panic!("{way}: {}", e.full_message()));
        durable.extend(rest);
        assert_eq!(durable, all(10), "{way}");
    }
}

#[tokio::test]
async fn what_never_came_back_does_not_count() {
    let place = Place::scripted(json!({"echo": "never"}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    assert_eq!(positions(writer.as_mut(), &plan, 3).await.unwrap(), []);
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    assert_eq!(durable, []);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(error.context_value("unconfirmed states"), Some("3"));
}

#[tokio::test]
async fn what_came_back_before_a_destination_died_counts() {
    let place = Place::scripted(json!({
        "die_at_record": 31, "die_message": "the disk is full", "die_type": "transient_error"}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    let mut durable = Vec::new();
    let mut position = 0;
    let error = loop {
        match positions_from(writer.as_mut(), &plan, position).await {
            Ok(more) => durable.extend(more),
            Err(error) => break error,
        }
        position += 1;
    };
    durable.extend(writer.durable().await.unwrap());
    assert_eq!(durable, all(10), "the positions before record 31");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.full_message().contains("the disk is full"), "{}", error.full_message());
}

async fn positions_from(
    writer: &mut dyn Writer,
    plan: &Plan,
    position: i64,
) -> Result<Vec<Checkpoint>> {
    writer.write(batch(plan, "a", position * 3..position * 3 + 3)).await?;
    writer.commit(&at("a", position)).await?;
    writer.durable().await
}

#[tokio::test]
async fn the_kind_of_a_failure_is_the_connectors() {
    for (kind, expected) in
        [("config_error", ErrorKind::Config), ("system_error", ErrorKind::Internal)]
    {
        let settings = json!({"die_at_record": 1, "die_message": "no", "die_type": kind});
        let place = Place::scripted(settings);
        let (destination, plan) = (place.destination(), appended(&["a"]));
        let mut writer = place.writer(&destination, &plan).await;
        writer.write(batch(&plan, "a", 0..1)).await.unwrap();
        writer.commit(&at("a", 1)).await.unwrap();
        let (durable, ended) = end(writer.as_mut(), &["a"]).await;
        assert_eq!(durable, []);
        assert_eq!(ended.unwrap_err().kind(), expected, "{kind}");
    }
    // One that says nothing at all.
    let place = Place::scripted(json!({"die_at_record": 1, "die_exit": 9}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..1)).await.unwrap();
    let (_, ended) = end(writer.as_mut(), &["a"]).await;
    assert!(ended.unwrap_err().full_message().contains("exit code 9"));
}

#[tokio::test]
async fn a_destination_that_talks_more_than_it_reads_stops_nobody() {
    let place = Place::scripted(json!({"stderr_bytes": 1_000_000, "log_records": true}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..2_000)).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    ended.unwrap();
    assert_eq!(durable, [at("a", 1)]);
    assert_eq!(place.lines().len(), 2_002);
}

#[tokio::test]
async fn rows_that_are_lost_on_the_way_are_an_error() {
    let place = Place::scripted(json!({"lose": 1}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..3)).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    assert_eq!(durable, []);
    let error: Error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(
        (error.context_value("sent"), error.context_value("stored")),
        (Some("3"), Some("2"))
    );
}

#[tokio::test]
async fn a_table_whose_rows_were_refused_is_not_finished() {
    let place = Place::scripted(json!({"reject": 2}));
    let (destination, plan) = (place.destination(), appended(&["a", "b"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..3)).await.unwrap();
    writer.write(batch(&plan, "b", 0..3)).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a", "b"]).await;
    ended.unwrap();
    assert_eq!(durable, [at("a", 1)]);
    let fence = Fence { sync: "s".into(), epoch: 1 };
    let error = destination.finish(&plan, &plan.tables[&name("a")], &fence).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("rows")), (ErrorKind::Data, Some("2")));
    destination.finish(&plan, &plan.tables[&name("b")], &fence).await.unwrap();
}

#[tokio::test]
async fn an_incomplete_table_undoes_nothing_that_was_confirmed() {
    let place = Place::scripted(json!({"need_complete": true}));
    let destination = place.destination();
    let plan = plan(vec![
        table("a", WriteMode::Append),
        table("b", WriteMode::Append),
        table("r", WriteMode::Replace),
    ]);
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..3)).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a", "r"]).await;
    ended.unwrap();
    assert_eq!(durable, [at("a", 1)]);
    let fence = Fence { sync: "s".into(), epoch: 1 };
    destination.finish(&plan, &plan.tables[&name("a")], &fence).await.unwrap();
    // Nobody knows whether its rows took the place of the old ones.
    let error = destination.finish(&plan, &plan.tables[&name("r")], &fence).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.context_value("error").unwrap().contains("terminal stream status"));
}

#[tokio::test]
async fn an_exit_code_is_an_error_when_all_is_complete() {
    let place = Place::scripted(json!({"exit": 3}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..3)).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    assert_eq!(durable, [at("a", 1)], "it was confirmed");
    assert!(ended.unwrap_err().full_message().contains("exit code 3"));
}

#[tokio::test]
async fn a_table_without_rows_is_replaced_too() {
    let place = Place::scripted(json!({}));
    let (destination, plan) = (place.destination(), plan(vec![table("a", WriteMode::Replace)]));
    let mut writer = place.writer(&destination, &plan).await;
    let (_, ended) = end(writer.as_mut(), &["a"]).await;
    ended.unwrap();
    assert_eq!(kinds(&place.messages()), ["a COMPLETE"]);
    let entry = &place.catalog()["streams"][0];
    assert_eq!(
        (&entry["destination_sync_mode"], &entry["minimum_generation_id"]),
        (&json!("overwrite"), &json!(1))
    );
}

#[tokio::test]
async fn one_that_knows_no_refreshes_is_told_no_status() {
    let mut place = Place::scripted(json!({}));
    place.config.supports_refreshes = Some(false);
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    writer.write(batch(&plan, "a", 0..1)).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    ended.unwrap();
    assert_eq!(durable, [Checkpoint::default()]);
    assert_eq!(kinds(&place.messages()), ["a 0", "state a null"]);
}

#[tokio::test]
async fn nothing_runs_where_there_is_nothing_to_do() {
    let place = Place::scripted(json!({}));
    let (destination, plan) = (place.destination(), appended(&["a"]));
    let mut writer = place.writer(&destination, &plan).await;
    let (durable, ended) = end(writer.as_mut(), &[]).await;
    ended.unwrap();
    assert_eq!(durable, []);
    assert!(!place.folder.path().join("catalog").exists());
}

#[tokio::test]
async fn records_of_a_source_connector_pass_untouched() {
    let place = Place::scripted(json!({}));
    let destination = place.destination();
    assert_eq!(destination.capabilities().takes_records, Some("airbyte"));
    let line = Field::new("_airbyte_record", DataType::Utf8, true);
    let fields = vec![with_metadata(line, RECORD, "line:airbyte")];
    let mut raw = table("a", WriteMode::Append);
    Arc::make_mut(&mut raw.target).schema = Arc::new(Schema::new(fields));
    let plan = plan(vec![raw]);
    let mut writer = place.writer(&destination, &plan).await;
    let records = [
        r#"{"type": "RECORD", "record": {"emitted_at": 1.0, "stream": "a", "data": {"id": 1, "n": 1.50}}}"#,
        r#"{"type":"RECORD","record":{"stream":"a","data":{"id":2},"emitted_at":2},"x":"ä\u0041"}"#,
    ];
    let column: ArrayRef = Arc::new(StringArray::from(records.to_vec()));
    let planned = &plan.tables[&name("a")];
    let rows = RecordBatch::try_new(Arc::clone(&planned.target.schema), vec![column]).unwrap();
    writer.write(Batch { table: Arc::clone(&planned.source), op: Op::Upsert, rows }).await.unwrap();
    writer.commit(&at("a", 1)).await.unwrap();
    let (durable, ended) = end(writer.as_mut(), &["a"]).await;
    ended.unwrap();
    assert_eq!(durable, [at("a", 1)]);
    assert_eq!(place.lines()[..2], records);
}

#[tokio::test]
async fn deletions_go_as_records_that_tell_them() {
    let place = Place::scripted(json!({}));
    let destination = place.destination();
    let told = |column: Option<&str>| {
        let mut table = table("a", WriteMode::Overwrite);
        table.deletion_column = column.map(str::to_owned);
        plan(vec![table])
    };
    let deletion = |plan: &Plan| {
        let mut batch = batch(plan, "a", 1..2);
        batch.op = Op::Delete;
        batch
    };
    let untold = told(None);
    let mut writer = place.writer(&destination, &untold).await;
    let error = writer.write(deletion(&untold)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    drop(writer);

    let told = told(Some("name"));
    let mut writer = place.writer(&destination, &told).await;
    writer.write(deletion(&told)).await.unwrap();
    let committed = writer.commit(&at("a", 1)).await.unwrap();
    assert_eq!((committed[&name("a")].deleted, committed[&name("a")].written), (1, 0));
    let (_, ended) = end(writer.as_mut(), &["a"]).await;
    ended.unwrap();
    assert_eq!(place.messages()[0]["record"]["data"], json!({"id": 1, "name": "row \"1\"\n"}));
}

#[tokio::test]
async fn what_a_destination_cannot_do_it_says() {
    let place = Place::scripted(json!({}));
    let destination = place.destination();
    destination.check().await.unwrap();
    assert!(destination.describe(&[name("a")]).await.unwrap()[0].is_none());
    assert!(destination.state_store().is_none());
    let plan = appended(&["a"]);
    let error = destination.migrate(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for field in fields() {
        assert_eq!(destination.stored_field(&field).unwrap(), field);
    }
    assert!(!destination.capabilities().write_modes.contains(&WriteMode::ReplaceDedup));
    destination.close().await.unwrap();

    let broken = Place::scripted(json!({"check": "no such database"}));
    let error = broken.destination().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.full_message().contains("no such database"));
}
