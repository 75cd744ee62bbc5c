//! Deletions that nobody reports, found by comparing keys: after the rows of an incremental table
//! are committed, what the destination has and the source has not any more is deleted.
//!
//! Both sides count their keys and add up their hashes per bucket ([`highwater_core::key_digests`]);
//! the keys of buckets that differ are fetched and compared one by one. The source is looked at
//! after the commit: a key that is missing there has been deleted, whatever was read before. A key
//! that the destination lacks is left to the cursor. Deletions go the way of reported ones, through
//! a writer, in a commit of their own; nothing is committed before all of them are known and the
//! plan lets so many go.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use highwater_core::key_digests::{self, BUCKETS, Chosen, Digests, KeyColumn, KeyForm};
use highwater_core::plan::SOURCE_NAME;
use highwater_core::{
    Batch, Checkpoint, Committed, Error, ErrorKind, Fence, KeyDigests, KeyTable, Mapping, Message,
    Op, Output, Partition, Plan, Result, Source, Table, TablePlan, WriteMode, Writer,
};
use serde_json::Value;

use crate::metadata;
use crate::options::Target;

/// As many keys of the source are held in memory at once, unless one bucket has more.
const KEYS_IN_MEMORY: u64 = 500_000;

/// The tables of both sides whose keys are compared, source first; why not, where that cannot be
/// done. `existing` is the destination's table as it is.
pub(crate) fn comparable(
    source: &dyn Source,
    target: &Target,
    table: &TablePlan,
    existing: Option<&Table>,
    sync: &str,
) -> std::result::Result<(), &'static str> {
    let tables = key_tables(table, sync)?;
    let as_planned = |column: &KeyColumn| {
        existing.is_none_or(|existing| {
            let field = existing.field(column.field.name());
            field.and_then(KeyForm::of) == Some(column.form)
        })
    };
    if !tables.1.columns.iter().all(as_planned) {
        return Err("the type of its key is another one at the destination");
    }
    if source.key_digests(&tables.0).is_none() {
        return Err("the source cannot tell keys without a read");
    }
    if target.destination.key_digests(&tables.1).is_none() {
        return Err("the destination cannot tell its keys");
    }
    Ok(())
}

/// What of the table is compared on each side, source first.
fn key_tables(
    table: &TablePlan,
    sync: &str,
) -> std::result::Result<(KeyTable, KeyTable), &'static str> {
    if table.untransformed.is_some() {
        return Err("transformers may change its key");
    }
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for name in &table.target.primary_key {
        let source = name_at_source(&table.mappings, name)?;
        let fields = (table.source.field(source), table.target.field(name));
        let (Some(from), Some(to)) = fields else {
            return Err("a column of its key is not of the source");
        };
        let form = KeyForm::of(from).filter(|form| KeyForm::of(to) == Some(*form));
        let form = form.ok_or("the type of its key has not one sure text in all systems")?;
        read.push(KeyColumn { field: from.clone(), form });
        written.push(KeyColumn { field: to.clone(), form });
    }
    if read.is_empty() {
        return Err("it has no key");
    }
    let order = table.order_by.as_deref().filter(|_| table.write_mode == WriteMode::AppendDedup);
    let is_told = table.target.field(SOURCE_NAME).is_some();
    let source =
        KeyTable { name: table.source.name.clone(), columns: read, along: None, of_sync: None };
    let destination = KeyTable {
        name: table.target.name.clone(),
        columns: written,
        // The record of a deletion is ordered as the row was.
        along: order.and_then(|order| table.target.field(order)).cloned(),
        of_sync: is_told.then(|| sync.to_owned()),
    };
    Ok((source, destination))
}

/// The name that a column of the destination has at the source.
fn name_at_source<'a>(
    mappings: &'a [Mapping],
    name: &'a str,
) -> std::result::Result<&'a str, &'static str> {
    let mut name = name;
    for mapping in mappings.iter().rev() {
        match mapping {
            Mapping::Rename { column, to } if to == name => name = column,
            Mapping::Hash { to, .. } | Mapping::Encrypt { to, .. } if to == name => {
                return Err("a mapping hides its key");
            }
            // What it leaves out now may be there from before.
            Mapping::Filter(_) => return Err("a mapping leaves rows out"),
            _ => {}
        }
    }
    Ok(name)
}

/// Where the comparison is done.
pub(crate) struct Site<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a Plan,
    pub(crate) fence: &'a Fence,
}

/// Deletes from a table what the source has not any more. Called when all of its partitions are
/// committed, and before it is finished.
///
/// # Errors
/// `Data` where too many rows would go; what an end says. Nothing was deleted then.
pub(crate) async fn reconcile(site: &Site<'_>, table: &TablePlan) -> Result<Committed> {
    let failed = |error: Error| error.context("table", table.name());
    let (here, there) = key_tables(table, &site.plan.sync)
        .map_err(|why| failed(Error::internal(format!("Keys cannot be compared: {why}"))))?;
    let read = site.source.key_digests(&here);
    let written = site.target.destination.key_digests(&there);
    let (Some(read), Some(written)) = (read, written) else {
        return Err(failed(Error::internal("Keys can be compared no more")));
    };
    let mut ends = Ends { source: (here, read), destination: (there, written) };
    let done = ends.delete(site, table).await.map_err(failed)?;
    let Some((mut writer, gone, left)) = done else { return Ok(Committed::default()) };
    table.check_deletes(gone, left)?;
    // Their snapshots must not keep the commit waiting.
    drop(ends);
    let committed = writer.commit(&Checkpoint::default()).await?;
    Ok(committed.get(table.name()).copied().unwrap_or_default())
}

/// Both tables, each with its keys.
struct Ends {
    source: (KeyTable, Box<dyn KeyDigests>),
    destination: (KeyTable, Box<dyn KeyDigests>),
}

impl Ends {
    /// Writes the deletions, to be committed; with how many rows go and how many stay. `None`
    /// where there is nothing to delete.
    async fn delete(
        &mut self,
        site: &Site<'_>,
        table: &TablePlan,
    ) -> Result<Option<(Box<dyn Writer>, u64, u64)>> {
        let (here, there) =
            tokio::join!(self.source.1.digests(BUCKETS), self.destination.1.digests(BUCKETS),);
        let (here, there) = (here.map_err(unsuited)?, there.map_err(unsuited)?);
        let rows: u64 = there.values().map(|digest| digest.rows).sum();
        if here.is_empty() && rows > 0 {
            // No key has to be fetched to know that all would go.
            table.check_deletes(rows, 0)?;
        }
        let (mut writer, mut gone) = (None, 0);
        for chosen in portions(&here, &there) {
            let kept = self.keys_at_source(&chosen).await?;
            let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
            let (keys, digests) = (&self.destination.0, &mut self.destination.1);
            let delete = async {
                while let Some(message) = messages.recv().await {
                    let Message::Batch(batch) = message else { continue };
                    let missing = missing(keys, &chosen, &kept, &batch.rows)?;
                    if missing.num_rows() == 0 {
                        continue;
                    }
                    gone += missing.num_rows() as u64;
                    if writer.is_none() {
                        writer = Some(opened(site, table).await?);
                    }
                    if let Some(writer) = &mut writer {
                        write(writer, site.plan, table, missing).await?;
                    }
                }
                // What is left would never be taken.
                drop(messages);
                Ok::<_, Error>(())
            };
            let (sent, deleted) = tokio::join!(digests.keys(&chosen, output), delete);
            deleted?;
            sent?;
        }
        Ok(writer.map(|writer| (writer, gone, rows.saturating_sub(gone))))
    }

    /// The hashes of the keys that the source has in these buckets.
    async fn keys_at_source(&mut self, chosen: &Chosen) -> Result<HashSet<u128>> {
        let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
        let (keys, digests) = (&self.source.0, &mut self.source.1);
        let collect = async {
            let mut hashes = HashSet::new();
            while let Some(message) = messages.recv().await {
                let Message::Batch(batch) = message else { continue };
                let found = key_digests::hashes(&keys.columns, &batch.rows)?;
                check(chosen, &found)?;
                hashes.extend(found);
            }
            drop(messages);
            Ok::<_, Error>(hashes)
        };
        let (sent, hashes) = tokio::join!(digests.keys(chosen, output), collect);
        let hashes = hashes?;
        sent?;
        Ok(hashes)
    }
}

/// The buckets that differ, in portions that fit into memory; none where the destination has no
/// key in any of them. Where it has, those that only the source has keys in are looked at too: a
/// key that a system puts into another bucket than it belongs to is found there ([`check`]).
fn portions(here: &Digests, there: &Digests) -> Vec<Chosen> {
    let empty = || Chosen { of: BUCKETS, buckets: BTreeSet::new() };
    if there.iter().all(|(bucket, digest)| here.get(bucket) == Some(digest)) {
        return Vec::new();
    }
    let (mut portions, mut portion, mut keys) = (Vec::new(), empty(), 0);
    for bucket in here.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
        let known = here.get(bucket).copied().unwrap_or_default();
        if there.get(bucket) == Some(&known) {
            continue;
        }
        if keys + known.rows > KEYS_IN_MEMORY && !portion.buckets.is_empty() {
            portions.push(std::mem::replace(&mut portion, empty()));
            keys = 0;
        }
        keys += known.rows;
        portion.buckets.insert(*bucket);
    }
    portions.push(portion);
    portions.retain(|portion| !portion.buckets.is_empty());
    portions
}

/// The keys of the destination that the source has not.
fn missing(
    keys: &KeyTable,
    chosen: &Chosen,
    kept: &HashSet<u128>,
    rows: &RecordBatch,
) -> Result<RecordBatch> {
    let hashes = key_digests::hashes(&keys.columns, rows)?;
    check(chosen, &hashes)?;
    let gone: BooleanArray = hashes.iter().map(|hash| Some(!kept.contains(hash))).collect();
    Ok(filter_record_batch(rows, &gone)?)
}

/// A system that hashes otherwise sends keys of other buckets, and what it does not send would be
/// taken for deleted.
fn check(chosen: &Chosen, hashes: &[u128]) -> Result<()> {
    match hashes.iter().all(|hash| chosen.has(*hash)) {
        true => Ok(()),
        false => Err(Error::internal("A system hashes keys in another way; nothing was deleted")
            .hint("sweep: 1d   # reads the whole table once a day, and deletes without hashes")),
    }
}

fn unsuited(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => error
            .hint("sweep: 1d   # reads the whole table once a day, and finds deletions by that"),
        _ => error,
    }
}

async fn opened(site: &Site<'_>, table: &TablePlan) -> Result<Box<dyn Writer>> {
    let name = table.name().clone();
    let mut plan = site.plan.clone();
    // The rows that were committed have made the changes.
    plan.tables.retain(|other, _| *other == name);
    plan.tables.values_mut().for_each(|table| table.changes.clear());
    let id = format!("deletions of {name}");
    let partition = Partition { tables: vec![name], id, bounds: Value::Null };
    site.target.destination.writer(&plan, &partition, site.fence).await
}

async fn write(
    writer: &mut Box<dyn Writer>,
    plan: &Plan,
    table: &TablePlan,
    keys: RecordBatch,
) -> Result<()> {
    let source = Arc::clone(&table.source);
    let batch = Batch { table: source, op: Op::Delete, rows: keys };
    writer.write(metadata::shape(&batch, plan, table, &table.target)?).await
}

/// What is told of a table whose keys are compared.
pub(crate) const NOTE: &str =
    "Keys are compared after the read: rows that the source has no more are deleted.";

/// What is told of a table, where its keys are not compared.
pub(crate) fn note(why: &str) -> String {
    format!("Deleted rows are found by reading the whole table in every sync: {why}.")
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};
    use highwater_core::key_digests::Digest;
    use highwater_core::mapping::{Condition, HashMethod};
    use highwater_core::{ReadMode, TableName};

    use super::*;

    #[test]
    fn only_buckets_that_differ_are_fetched() {
        let digest = |rows, lower| Digest { rows, upper: 0, lower };
        let here = [(1, digest(1, 1)), (2, digest(1, 1)), (3, digest(2, 2)), (5, digest(1, 1))];
        let there = [(1, digest(1, 1)), (2, digest(1, 2)), (3, digest(3, 2)), (4, digest(1, 1))];
        let chosen = portions(&here.into(), &there.into());
        let chosen: Vec<Vec<u32>> =
            chosen.into_iter().map(|chosen| chosen.buckets.into_iter().collect()).collect();
        assert_eq!(chosen, [[2, 3, 4, 5]]);
        assert!(portions(&here.into(), &here.into()).is_empty());
        // What only the source has is left to the cursor.
        assert!(portions(&here.into(), &here[..2].iter().copied().collect()).is_empty());
        let many = digest(KEYS_IN_MEMORY, 1);
        let there = [(1, many), (2, many), (3, digest(1, 1))];
        let here = [(1, digest(KEYS_IN_MEMORY, 2)), (2, digest(1, 2)), (3, digest(2, 2))];
        assert_eq!(portions(&here.into(), &there.into()).len(), 2);
    }

    fn plan(mappings: Vec<Mapping>, key: &str) -> TablePlan {
        let fields = |names: [&str; 2]| names.map(|name| Field::new(name, DataType::Int64, false));
        let source = Table::new(TableName::new("t"), fields(["id", "old"]).to_vec());
        let target = Table::new(TableName::new("t"), fields(["id", "new"]).to_vec());
        let target = target.with_primary_key([key]);
        let (read, write) = (ReadMode::Incremental, WriteMode::Overwrite);
        TablePlan { mappings, ..TablePlan::new(Arc::new(source), Arc::new(target), read, write) }
    }

    #[test]
    fn a_key_is_followed_through_the_mappings() {
        let rename =
            |column: &str, to: &str| Mapping::Rename { column: column.into(), to: to.into() };
        let renamed = plan(vec![rename("old", "mid"), rename("mid", "new")], "new");
        let (here, there) = key_tables(&renamed, "s").unwrap();
        assert_eq!(here.columns[0].field.name(), "old");
        assert_eq!(there.columns[0].field.name(), "new");
        let hash = |column: &str, to: &str| Mapping::Hash {
            column: column.into(),
            to: to.into(),
            method: HashMethod::Md5,
        };
        assert!(key_tables(&plan(vec![hash("old", "new")], "new"), "s").is_err());
        assert!(key_tables(&plan(vec![hash("old", "new")], "id"), "s").is_ok());
        let filter = Mapping::Filter(Condition::IsNull { column: "old".into() });
        assert!(key_tables(&plan(vec![filter], "id"), "s").is_err());
    }
}
