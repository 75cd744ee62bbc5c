//! What holds for every destination: nothing is seen before the commit, nothing of an abandoned
//! run is ever seen, and looking changes nothing. Written with `append`, which all of them have.

use highwater_core::{Op, WriteMode};

use crate::harness::Harness;
use crate::job::{Job, Run, sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{item, item_table, items, orders};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

/// The check passes on a system that is there, twice, and leaves nothing behind.
pub async fn a_check_leaves_nothing_behind(harness: &dyn Harness) {
    for _ in 0..2 {
        harness.destination().await.check().await.expect("the system is there");
    }
    let name = harness.destination().await.target_name(&job().table.name);
    assert!(harness.rows(&name).await.is_none());
}

/// Tables that do not exist are `None`, in the order asked for.
pub async fn tables_are_described_in_the_order_asked_for(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let destination = harness.destination().await;
    let name = destination.target_name(&job().table.name);
    let names = [name.renamed("missing"), name.clone(), name.renamed("missing_too")];
    let described = destination.describe(&names).await.expect("a description");
    let there: Vec<_> = described.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, false]);
    let table = &described[1].as_ref().expect("the second is there").table;
    assert_eq!(table.column_names().collect::<Vec<_>>(), ["id", "region", "value", "updated_at"]);
    assert_eq!(table.name.name, name.name);
}

/// Rows that were written are not seen until they are committed; then all are.
pub async fn nothing_is_visible_before_the_commit(harness: &dyn Harness) {
    let sample = orders(3_000);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    let run = Run::open(harness, &job).await;
    let mut writer = run.writer().await;
    for part in 0..3 {
        let rows = sample.rows.slice(part * 1_000, 1_000);
        writer.write(run.batch(Op::Upsert, &rows)).await.expect("rows are taken");
        assert_eq!(count(&visible(harness, &job).await), 0);
    }
    writer.commit(&run.checkpoint(1)).await.expect("a commit");
    assert_same(&visible(harness, &job).await, &[sample.rows]);
}

/// What a dropped writer took is never seen, and does not disturb the next run.
pub async fn a_dropped_writer_leaves_nothing(harness: &dyn Harness) {
    let rows = |id| items(&item_table("items"), &[item(id, "a", 1)]);
    sync(harness, &job(), &[upsert(&rows(1))]).await;
    let run = Run::open(harness, &job()).await;
    let mut writer = run.writer().await;
    writer.write(run.batch(Op::Upsert, &rows(2))).await.expect("rows are taken");
    drop(writer);
    // The same run goes on with another writer, then a new run does.
    run.commit(&[upsert(&rows(3))], 2).await;
    drop(run);
    sync(harness, &job(), &[upsert(&rows(4))]).await;
    let expected = items(&item_table("items"), &[1, 3, 4].map(|id| item(id, "a", 1)));
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// A run that is abandoned between two commits leaves the first and nothing of the second.
pub async fn an_abandoned_run_leaves_what_it_committed(harness: &dyn Harness) {
    let rows = |id| items(&item_table("items"), &[item(id, "a", 1)]);
    let run = Run::open(harness, &job()).await;
    let mut writer = run.writer().await;
    writer.write(run.batch(Op::Upsert, &rows(1))).await.expect("rows are taken");
    writer.commit(&run.checkpoint(1)).await.expect("a commit");
    writer.write(run.batch(Op::Upsert, &rows(2))).await.expect("rows are taken");
    drop(writer);
    drop(run);
    let run = Run::open(harness, &job()).await;
    if let Some(cursor) = run.state.table_cursor(&job().table.name) {
        assert_eq!(cursor.0, serde_json::json!(1));
    }
    assert_same(&visible(harness, &job()).await, &[rows(1)]);
}

/// As many writers as the destination allows work at the same time, each with its own commits.
pub async fn writers_work_side_by_side(harness: &dyn Harness) {
    let sample = orders(2_000);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    let run = Run::open(harness, &job).await;
    // The table is there before the race: who makes it is settled by the plan.
    run.commit(&[upsert(&sample.rows.slice(0, 1))], 0).await;
    let run = Run::open(harness, &job).await;
    let writers = run.destination.capabilities().writers_max.clamp(1, 4);
    let part = (sample.rows.num_rows() - 1) / writers;
    let mut tasks = Vec::new();
    for number in 0..writers {
        let mut writer = run.writer_of(&format!("part-{number}")).await;
        let from = 1 + number * part;
        let length = if number + 1 == writers { sample.rows.num_rows() - from } else { part };
        let batch = run.batch(Op::Upsert, &sample.rows.slice(from, length));
        tasks.push(tokio::spawn(async move {
            writer.write(batch).await?;
            writer.commit(&highwater_core::Checkpoint::default()).await
        }));
    }
    for task in tasks {
        task.await.expect("no panic").unwrap_or_else(|e| panic!("{}", e.full_message()));
    }
    assert_same(&visible(harness, &job).await, &[sample.rows]);
}

/// An empty table is made when its sync ends, so that readers find it.
pub async fn a_sync_without_rows_makes_the_table(harness: &dyn Harness) {
    sync(harness, &job(), &[]).await;
    let destination = harness.destination().await;
    let name = destination.target_name(&job().table.name);
    let described = destination.describe(std::slice::from_ref(&name)).await.expect("described");
    assert!(described[0].is_some(), "the table exists");
    assert_eq!(count(&visible(harness, &job()).await), 0);
}

/// What a plan would execute can be read, and reading it changes nothing.
pub async fn statements_are_shown_and_not_run(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let changes = &run.table().changes;
    assert_eq!(changes, &[highwater_core::SchemaChange::CreateTable]);
    let statements = run.destination.ddl(run.table(), &changes[0]);
    assert!(statements.join(";").contains("items"), "{statements:?}");
    let name = run.table().target.name.clone();
    assert!(run.destination.describe(&[name]).await.expect("described")[0].is_none());
}

/// `migrate` makes the table without rows, and a sync after it finds nothing to change.
pub async fn a_migration_makes_the_table_without_rows(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let ran = run.destination.migrate(&run.plan).await.expect("a migration");
    assert!(!ran.is_empty());
    drop(run);
    let run = Run::open(harness, &job()).await;
    assert_eq!(run.table().changes, []);
    assert_eq!(
        run.destination.migrate(&run.plan).await.expect("nothing to do"),
        Vec::<String>::new()
    );
    let rows = items(&item_table("items"), &[item(1, "a", 1)]);
    run.commit(&[upsert(&rows)], 1).await;
    assert_same(&visible(harness, &job()).await, &[rows]);
}
