//! Drafts: what the user's words mean for each table, before the destination is looked at.
//!
//! Modes, keys, cursor, columns and names are settled here, and what cannot be done as asked is
//! refused before anything is opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::deletion::ROW_ID;
use highwater_core::guarantee::guarantee;
use highwater_core::plan::{DELETED_AT, SYNC_GROUP_ID};
use highwater_core::types::{record_form, record_part};
use highwater_core::{
    Error, MetadataColumns, NullCursor, ReadMode, Result, Source, Table, TableName, TablePlan,
    WriteMode,
};

use crate::mappings;
use crate::metadata;
use crate::options::{Deletes, KeyChoice, TableOptions, Target};
use crate::schema;
use crate::selection::{self, Selected};
use crate::transforms;

/// Drafts the tables of one destination.
pub(crate) struct Drafter<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) target: &'a Target,
}

impl Drafter<'_> {
    /// What is asked for, table by table, with what the source has to say about it.
    ///
    /// # Errors
    /// `Config` and `Unsupported` for what cannot be done as asked.
    pub(crate) async fn drafts(&self, selected: &[Selected<'_>]) -> Result<Vec<TablePlan>> {
        let mut drafts = Vec::new();
        for table in selected {
            drafts.push(self.draft(table).await?);
        }
        self.check_names(&drafts)?;
        let place = self.source.place().await?;
        if place.is_some() && place == self.target.destination.place().await? {
            let own = drafts.iter().find(|d| same_table(d.name(), &d.target.name));
            if let Some(own) = own {
                return Err(into_itself(own));
            }
        }
        for draft in &mut drafts {
            let notes = self.source.review(draft).await?;
            draft.notes.extend(notes);
        }
        Ok(drafts)
    }

    /// Settles modes, keys and columns of a table, without looking at the destination's table.
    async fn draft(&self, selected: &Selected<'_>) -> Result<TablePlan> {
        let (table, options) = (selected.table, selected.options);
        let write_mode = options.write_mode.unwrap_or(self.target.write_mode);
        let read_mode = read_mode(table, options, write_mode)?;
        let needs_cursor = read_mode == ReadMode::Incremental || is_dedup(write_mode);
        let read = selection::project(table, options, needs_cursor)?;
        let read = metadata::without_stamps(read, self.target);
        let primary_key = self.primary_key(table, options);
        let cursor_field = options.cursor.clone().or_else(|| read.cursor_field.clone());
        for column in primary_key.iter().chain(&cursor_field) {
            selection::require_column(&read, column)?;
        }
        check_key(table, &primary_key)?;
        self.check_mode(table, write_mode, &primary_key, cursor_field.as_ref())?;
        let is_keyed = is_keyed(write_mode, &primary_key);
        check_sweep(table, options, read_mode, is_keyed)?;
        let deletion_column = deletion_column(table, &read, options, is_keyed)?;
        let source = Arc::new(self.records(read, options));
        // Who takes records as they came reads that from them itself.
        let deletion_column = deletion_column.filter(|column| source.field(column).is_some());
        let mut mapped = source.as_ref().clone().with_primary_key(primary_key);
        mapped.cursor_field = cursor_field.clone();
        let mapped = mappings::table(&options.mappings, &mapped)?;
        let cursor = cursor_field.as_ref();
        mappings::check_order(&options.mappings, cursor, &mapped, read_mode, write_mode)?;
        let order_by = mapped.cursor_field.clone();
        let primary_key = mapped.primary_key.clone();
        let mut notes = Vec::new();
        if let Some(note) = mode_note(read_mode, write_mode, &primary_key, options) {
            notes.push(note);
        }
        if options.lookback.is_some_and(|l| l > 0) && read_mode == ReadMode::Incremental {
            notes.push(LOOKBACK_NOTE.to_owned());
        }
        // Rows of an append are versions: the key of the source is not unique among them.
        let mut target_key = if write_mode == WriteMode::Append { Vec::new() } else { primary_key };
        if self.target.sync_group_id.is_some() && !target_key.is_empty() {
            target_key.insert(0, SYNC_GROUP_ID.to_owned());
        }
        let mut fields = metadata::fields(self.target);
        let of_table = mapped.schema.fields().iter();
        let of_table = of_table.filter(|f| fields.iter().all(|stamp| stamp.name() != f.name()));
        let of_table: Vec<_> = of_table.map(|f| f.as_ref().clone()).collect();
        fields.extend(of_table);
        let kept = mapped.schema.metadata().clone();
        let mut target = mapped.with_primary_key(target_key);
        target.schema = Arc::new(Schema::new_with_metadata(fields, kept));
        let steps = transforms::steps(&self.target.transformers, &target).await?;
        let (untransformed, mut target) = match steps.into_iter().next_back() {
            None => (None, target),
            Some(last) => (Some(Arc::new(target)), last),
        };
        target.name = self.target_name(&target.name, options);
        let commits_later = self.target.destination.capabilities().commits_later;
        let mut plan = TablePlan {
            divisible: !commits_later && is_divisible(read_mode, write_mode, &target.primary_key),
            untransformed,
            cursor_field,
            order_by,
            deletion_column,
            mappings: options.mappings.clone(),
            reconcile: options.deletes == Some(Deletes::Reconcile),
            guards_deletes: !(options.allow_mass_delete || self.target.allow_mass_delete),
            null_cursor: options.null_cursor.unwrap_or(NullCursor::Include),
            lookback: options.lookback.unwrap_or(0),
            history_retention_seconds: options.history_retention_seconds,
            notes,
            ..TablePlan::new(source, Arc::new(target), read_mode, write_mode)
        };
        plan.guarantee = guarantee(
            &self.source.delivery(&plan),
            self.target.destination.capabilities().delivery,
            self.target.backend.is_none(),
            write_mode,
            &plan.target.primary_key,
        );
        Ok(plan)
    }

    /// The table with those columns of its records that the destination wants: the records as they
    /// came, and nothing else, where it takes them and nothing changes them on their way.
    fn records(&self, mut table: Table, options: &TableOptions) -> Table {
        let form = self.target.destination.capabilities().takes_records;
        let name = self.target_name(&table.name, options);
        let is_unchanged = options.columns.is_none()
            && options.mappings.is_empty()
            && self.target.transformers.is_empty()
            && metadata::fields(self.target).is_empty()
            && name == table.name;
        let fields = table.schema.fields();
        let line = fields.iter().find(|field| form.is_some() && record_form(field) == form);
        let kept: Vec<_> = match line.filter(|_| is_unchanged) {
            Some(line) => vec![Arc::clone(line)],
            None => {
                let with_parts =
                    form.is_some() || self.target.metadata_columns == MetadataColumns::Airbyte;
                let wanted = |field: &Field| match record_part(field) {
                    None => true,
                    Some(_) => with_parts && record_form(field).is_none(),
                };
                fields.iter().filter(|field| wanted(field)).cloned().collect()
            }
        };
        let metadata = table.schema.metadata().clone();
        table.schema = Arc::new(Schema::new_with_metadata(kept, metadata));
        table
    }

    /// The key that the user names, or the one that the destination is configured with.
    fn primary_key(&self, table: &Table, options: &TableOptions) -> Vec<String> {
        match (&options.primary_key, self.target.key) {
            (Some(key), _) => key.clone(),
            (None, KeyChoice::Source) => table.primary_key.clone(),
            (None, KeyChoice::RowId) if table.field(ROW_ID).is_some() => vec![ROW_ID.to_owned()],
            (None, KeyChoice::RowId) => Vec::new(),
        }
    }

    fn target_name(&self, name: &TableName, options: &TableOptions) -> TableName {
        let default = self.target.destination.target_name(name);
        match options.target.as_deref().map(|t| t.split_once('.').ok_or(t)) {
            None => default,
            Some(Ok((namespace, name))) => TableName::in_namespace(namespace, name),
            Some(Err(name)) => default.renamed(name),
        }
    }

    fn check_mode(
        &self,
        table: &Table,
        write_mode: WriteMode,
        primary_key: &[String],
        cursor_field: Option<&String>,
    ) -> Result<()> {
        let capabilities = self.target.destination.capabilities();
        if !capabilities.write_modes.contains(&write_mode) {
            let known: Vec<_> = capabilities.write_modes.iter().map(|m| m.as_str()).collect();
            return Err(Error::unsupported(format!(
                "The destination cannot write in mode `{write_mode}`: {}",
                capabilities.write_modes_note
            ))
            .context("table", &table.name)
            .context("destination", &self.target.name)
            .hint(format!("write_mode: {0} (with URLs: --write-mode {0})", known.join(" | "))));
        }
        if is_dedup(write_mode) && primary_key.is_empty() {
            return Err(Error::config(format!(
                "`{write_mode}` needs a primary key, and the source defines none",
            ))
            .context("table", &table.name)
            .hint(
                "name its columns: `--primary-key id`, or `primary_key: [id]` in the table's entry",
            ));
        }
        let has_order = cursor_field.is_some() || table.source_defined_cursor;
        if write_mode == WriteMode::AppendDedup && !has_order {
            return Err(Error::config(
                "`append-dedup` needs a cursor field to tell which row is newer",
            )
            .context("table", &table.name)
            .hint("name it: `cursor: updated_at` in the table's entry (with URLs: `--cursor updated_at`)"));
        }
        Ok(())
    }

    /// Two tables must not meet in one, and names must fit the system.
    fn check_names(&self, drafts: &[TablePlan]) -> Result<()> {
        let capabilities = self.target.destination.capabilities();
        let folded = |name: &TableName| {
            let text = name.to_string();
            if capabilities.case_sensitive_names { text } else { text.to_lowercase() }
        };
        let mut seen: BTreeMap<String, &TableName> = BTreeMap::new();
        for draft in drafts {
            let mut names = vec![draft.target.name.clone()];
            if draft.write_mode == WriteMode::AppendDedup {
                names.push(draft.history_name());
                schema::check_history_columns(&draft.target)?;
            }
            for name in names {
                if name.name.len() > capabilities.identifier_bytes_max {
                    return Err(too_long(&name.name, draft.name()));
                }
                if let Some(other) = seen.insert(folded(&name), draft.name()) {
                    return Err(Error::config("Two source tables would be written into one table")
                        .context("table", draft.name())
                        .context("other table", other)
                        .context("destination table", &name)
                        .hint("give one of them another name: `target: …` in its entry"));
                }
            }
            schema::check_column_names(&draft.target, &capabilities)?;
        }
        Ok(())
    }
}

const LOOKBACK_NOTE: &str = "The lookback acts from the first sync that has it: rows that earlier \
                             syncs have passed over need a `state reset`.";

fn check_key(table: &Table, primary_key: &[String]) -> Result<()> {
    let twice = primary_key.iter().enumerate().find(|(i, k)| primary_key[..*i].contains(k));
    match twice {
        None => Ok(()),
        Some((_, column)) => Err(Error::config("The primary key names a column twice")
            .context("table", &table.name)
            .context("column", column)
            .hint("name each column of the key once")),
    }
}

/// Where a table would be copied into itself.
fn into_itself(table: &TablePlan) -> Error {
    Error::config("The destination table is the source table itself")
        .context("table", table.name())
        .hint("give it another name at the destination: `target: …` in its entry, or `--target …`")
}

/// Whether two names mean one table; PostgreSQL's default namespace is `public`.
fn same_table(a: &TableName, b: &TableName) -> bool {
    let namespace = |name: &TableName| name.namespace.clone().unwrap_or_else(|| "public".into());
    a.name == b.name && namespace(a) == namespace(b)
}

fn read_mode(table: &Table, options: &TableOptions, write_mode: WriteMode) -> Result<ReadMode> {
    let has_cursor =
        options.cursor.is_some() || table.cursor_field.is_some() || table.source_defined_cursor;
    match options.read_mode {
        Some(ReadMode::Incremental) if is_replaced(write_mode) => {
            Err(Error::config(format!("`{write_mode}` needs a full refresh: an incremental read has not all rows"))
                .context("table", &table.name)
                .hint("leave `read_mode: incremental` out, or use another write mode"))
        }
        Some(ReadMode::Incremental) if !has_cursor => {
            Err(Error::config("An incremental read needs a cursor field, and the source defines none")
                .context("table", &table.name)
                .hint("name a column that grows with every change: `cursor: updated_at` in the table's entry (with URLs: `--cursor updated_at`)"))
        }
        Some(mode) => Ok(mode),
        None if is_replaced(write_mode) || !has_cursor => Ok(ReadMode::FullRefresh),
        None => Ok(ReadMode::Incremental),
    }
}

fn is_dedup(write_mode: WriteMode) -> bool {
    matches!(write_mode, WriteMode::AppendDedup | WriteMode::ReplaceDedup)
}

fn is_replaced(write_mode: WriteMode) -> bool {
    matches!(write_mode, WriteMode::Replace | WriteMode::ReplaceDedup)
}

/// Whether rows are told apart by a key in this mode.
fn is_keyed(write_mode: WriteMode, primary_key: &[String]) -> bool {
    match write_mode {
        WriteMode::Append | WriteMode::Replace => false,
        WriteMode::AppendDedup | WriteMode::ReplaceDedup => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => !primary_key.is_empty(),
    }
}

fn check_sweep(
    table: &Table,
    options: &TableOptions,
    read_mode: ReadMode,
    is_keyed: bool,
) -> Result<()> {
    let sweeps = options.sweep_seconds.is_some() || options.deletes == Some(Deletes::Reconcile);
    if sweeps && (!is_keyed || read_mode == ReadMode::FullRefresh) {
        return Err(Error::config(
            "A sweep is for tables that are read incrementally and written by key",
        )
        .context("table", &table.name)
        .hint("write_mode: append-dedup, with a primary key and a cursor"));
    }
    Ok(())
}

/// The column by which deletions are told, where they are to remove rows.
fn deletion_column(
    table: &Table,
    read: &Table,
    options: &TableOptions,
    is_keyed: bool,
) -> Result<Option<String>> {
    if let Some(column) = &options.deletion_column {
        selection::require_column(table, column)?;
    }
    let named = options.deletion_column.clone();
    let usual = || table.field(DELETED_AT).map(|field| field.name().clone());
    let column = named.or_else(usual);
    let column = column.filter(|_| is_keyed && options.deletes != Some(Deletes::Soft));
    if let Some(column) = column.as_ref().filter(|column| read.field(column).is_none()) {
        return Err(Error::config("`columns` leaves out the column that tells deletions")
            .context("table", &table.name)
            .context("column", column)
            .hint(format!("add `{column}` to `columns`, or `deletes: soft`: rows stay then")));
    }
    Ok(column)
}

/// Whether doing a part of the read twice changes nothing.
fn is_divisible(read_mode: ReadMode, write_mode: WriteMode, target_key: &[String]) -> bool {
    match write_mode {
        WriteMode::Replace | WriteMode::ReplaceDedup => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => !target_key.is_empty(),
        WriteMode::Append | WriteMode::AppendDedup => read_mode == ReadMode::Incremental,
    }
}

fn mode_note(
    read_mode: ReadMode,
    write_mode: WriteMode,
    key: &[String],
    options: &TableOptions,
) -> Option<String> {
    match (write_mode, read_mode) {
        (WriteMode::Overwrite | WriteMode::OverwriteDeleteStale, _) if key.is_empty() => {
            Some("No primary key: rows are added, none is overwritten.".to_owned())
        }
        (WriteMode::OverwriteDeleteStale, ReadMode::Incremental)
            if options.deletes != Some(Deletes::Reconcile) =>
        {
            Some(
                "Read incrementally: rows deleted at the source stay at the destination."
                    .to_owned(),
            )
        }
        (WriteMode::Append, ReadMode::FullRefresh) => {
            Some("Full refresh with append: every sync adds all rows again.".to_owned())
        }
        _ => None,
    }
}

fn too_long(name: &str, table: &TableName) -> Error {
    Error::config("A name is too long for the destination")
        .context("table", table)
        .context("name", name)
        .hint("give it a shorter name: `target: …` in the table's entry")
}
