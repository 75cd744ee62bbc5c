//! The books of a run: what is still to be done per table and destination, and what was done.

use std::collections::BTreeMap;

use highwater_core::{
    Committed, Error, Guarantee, Instant, ReadMode, TableName, TablePlan, WriteMode,
};

use crate::events::Event;
use crate::lanes::LaneOutcome;
use crate::options::{RunOptions, SyncRequest};
use crate::planning::Planned;
use crate::summary::{DestinationSummary, Failure, Summary, TableSummary};

/// The account of one table at one destination.
struct Account {
    summary: TableSummary,
    /// Partitions that are not committed completely yet.
    open_partitions: usize,
    /// Whether there ever was a partition.
    had_partitions: bool,
    /// Whether what is committed can be seen before the table is finished.
    is_visible: bool,
    started: Option<Instant>,
}

/// All accounts of a run, by destination (in the order of the request) and table.
pub(crate) struct Ledger {
    books: Vec<Book>,
}

struct Book {
    destination: String,
    error: Option<Failure>,
    accounts: BTreeMap<TableName, Account>,
}

impl Ledger {
    pub(crate) fn new(request: &SyncRequest) -> Self {
        let book = |name: &str| Book {
            destination: name.to_owned(),
            error: None,
            accounts: BTreeMap::new(),
        };
        Self { books: request.targets.iter().map(|t| book(&t.name)).collect() }
    }

    /// Opens an account for every planned table; those that were refused are closed at once.
    pub(crate) fn open(&mut self, seat: usize, planned: &Planned, options: &RunOptions) {
        let refused = planned.refused.iter().map(|r| &r.table);
        for table in planned.plan.tables.values().chain(refused) {
            self.books[seat].accounts.insert(table.name().clone(), Account::new(table));
        }
        for refused in &planned.refused {
            self.table_failed(seat, refused.table.name(), &refused.error, options);
        }
    }

    /// Nothing can be done at this destination.
    pub(crate) fn destination_failed(&mut self, seat: usize, error: &Error) {
        self.books[seat].error = Some(Failure::from(error));
    }

    /// A partition of these tables will be copied to these destinations.
    pub(crate) fn expect(&mut self, tables: &[TableName], seats: &[usize]) {
        for &seat in seats {
            for table in tables {
                if let Some(account) = self.books[seat].accounts.get_mut(table) {
                    account.open_partitions += 1;
                    account.had_partitions = true;
                }
            }
        }
    }

    /// Tables that no partition belongs to: there is nothing to read.
    pub(crate) fn without_partitions(&self) -> Vec<(usize, TableName)> {
        let mut empty = Vec::new();
        for (seat, book) in self.books.iter().enumerate() {
            for (table, account) in &book.accounts {
                if !account.had_partitions && account.summary.error.is_none() {
                    empty.push((seat, table.clone()));
                }
            }
        }
        empty
    }

    pub(crate) fn table_started(&mut self, table: &TableName, options: &RunOptions) {
        let mut first = false;
        for book in &mut self.books {
            if let Some(account) = book.accounts.get_mut(table) {
                first |= account.started.is_none();
                account.started.get_or_insert_with(Instant::now);
            }
        }
        if first {
            options.observer.event(&Event::TableStarted { table });
        }
    }

    pub(crate) fn book(&mut self, seat: usize, table: &TableName, outcome: &LaneOutcome) {
        if let Some(account) = self.books[seat].accounts.get_mut(table) {
            account.summary.rows_read += outcome.rows_read.get(table).copied().unwrap_or(0);
            let count = |rows: &BTreeMap<TableName, u64>| rows.get(table).copied().unwrap_or(0);
            account.summary.rows_filtered += count(&outcome.rows_filtered);
            account.summary.rows_quarantined += count(&outcome.rows_quarantined);
            account.summary.add(outcome.committed.get(table).copied().unwrap_or_default());
        }
    }

    /// A partition of the table is committed completely; whether it was the last one.
    pub(crate) fn partition_done(&mut self, seat: usize, table: &TableName) -> bool {
        let Some(account) = self.books[seat].accounts.get_mut(table) else { return false };
        account.open_partitions = account.open_partitions.saturating_sub(1);
        account.open_partitions == 0 && account.summary.error.is_none()
    }

    pub(crate) fn table_finished(
        &mut self,
        seat: usize,
        table: &TableName,
        committed: Committed,
        options: &RunOptions,
    ) {
        let Book { destination, accounts, .. } = &mut self.books[seat];
        let Some(account) = accounts.get_mut(table) else { return };
        account.summary.add(committed);
        account.summary.complete = true;
        account.end();
        options.observer.event(&Event::TableEnded { table, destination, error: None });
    }

    /// Keeps the first error of a table: the later ones follow from it.
    pub(crate) fn table_failed(
        &mut self,
        seat: usize,
        table: &TableName,
        error: &Error,
        options: &RunOptions,
    ) {
        self.fail(seat, table, error, false, options);
    }

    /// As [`Self::table_failed`], where all rows of the table were committed and only its end was
    /// refused.
    pub(crate) fn table_unfinished(
        &mut self,
        seat: usize,
        table: &TableName,
        error: &Error,
        options: &RunOptions,
    ) {
        self.fail(seat, table, error, false, options);
        if let Some(account) = self.books[seat].accounts.get_mut(table)
            && let Some(failure) = &mut account.summary.error
        {
            failure.rows_committed = account.is_visible;
        }
    }

    /// Something that the user should know about a table, once.
    pub(crate) fn note(&mut self, seat: usize, table: &TableName, text: &str) {
        if let Some(account) = self.books[seat].accounts.get_mut(table)
            && !account.summary.notes.iter().any(|known| known == text)
        {
            account.summary.notes.push(text.to_owned());
        }
    }

    /// As [`Self::table_failed`], where the table could not be read.
    pub(crate) fn table_unread(
        &mut self,
        seat: usize,
        table: &TableName,
        error: &Error,
        options: &RunOptions,
    ) {
        self.fail(seat, table, error, true, options);
    }

    fn fail(
        &mut self,
        seat: usize,
        table: &TableName,
        error: &Error,
        from_source: bool,
        options: &RunOptions,
    ) {
        let Book { destination, accounts, .. } = &mut self.books[seat];
        // A source may fail at a table that nobody planned: it is no success either.
        let account =
            accounts.entry(table.clone()).or_insert_with(|| Account::of(unplanned(table)));
        if account.summary.error.is_some() {
            return;
        }
        account.summary.error = Some(Failure { from_source, ..Failure::from(error) });
        account.end();
        options.observer.event(&Event::TableEnded { table, destination, error: Some(error) });
    }

    pub(crate) fn into_summary(
        self,
        sync: String,
        sync_id: String,
        started_at: Instant,
        duration_ms: u64,
        stopped: bool,
    ) -> Summary {
        let destinations: Vec<_> = self
            .books
            .into_iter()
            .map(|book| DestinationSummary {
                destination: book.destination,
                error: book.error,
                tables: book.accounts.into_values().map(|a| a.summary).collect(),
            })
            .collect();
        let all_complete = destinations.iter().flat_map(|d| &d.tables).all(|t| t.complete);
        let interrupted = stopped && !all_complete;
        Summary { sync, sync_id, started_at, duration_ms, interrupted, destinations }
    }
}

impl Account {
    fn new(plan: &TablePlan) -> Self {
        Self { is_visible: !plan.rebuild, ..Self::of(empty_summary(plan)) }
    }

    fn of(summary: TableSummary) -> Self {
        Self {
            summary,
            open_partitions: 0,
            had_partitions: false,
            is_visible: false,
            started: None,
        }
    }

    fn end(&mut self) {
        if let Some(started) = self.started {
            self.summary.duration_ms = Instant::now().micros_since(started) / 1000;
        }
    }
}

fn empty_summary(plan: &TablePlan) -> TableSummary {
    TableSummary {
        table: plan.name().clone(),
        target: plan.target.name.clone(),
        read_mode: plan.read_mode,
        write_mode: plan.write_mode,
        guarantee: plan.guarantee.clone(),
        rows_read: 0,
        rows_filtered: 0,
        rows_quarantined: 0,
        rows_written: 0,
        rows_unchanged: 0,
        rows_deleted: 0,
        duration_ms: 0,
        complete: false,
        error: None,
        notes: plan.notes.clone(),
    }
}

fn unplanned(table: &TableName) -> TableSummary {
    TableSummary {
        table: table.clone(),
        target: table.clone(),
        read_mode: ReadMode::FullRefresh,
        write_mode: WriteMode::Append,
        guarantee: Guarantee::AtLeastOnce("the table is not planned".to_owned()),
        rows_read: 0,
        rows_filtered: 0,
        rows_quarantined: 0,
        rows_written: 0,
        rows_unchanged: 0,
        rows_deleted: 0,
        duration_ms: 0,
        complete: false,
        error: None,
        notes: Vec::new(),
    }
}
