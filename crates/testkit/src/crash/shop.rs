//! A table that changes between syncs, and what each write mode has to make of it.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::types::LogicalType;
use highwater_core::{ReadMode, WriteMode};

use crate::rows::{TextRow, meaning};
use crate::tables::Random;

/// A table of orders at the source, kept in step with the statements that make it.
///
/// Every change of a row moves its cursor `updated_at`, so that every row version is different
/// from every other and can be counted. Three rows share one cursor value; some have none.
#[derive(Debug, Clone)]
pub struct Shop {
    table: &'static str,
    rows: BTreeMap<i64, TextRow>,
    next_id: i64,
    clock: i64,
    has_note: bool,
    random: Random,
}

impl Shop {
    /// A table with `rows` rows, and the statements that make it in SQLite and PostgreSQL.
    pub fn new(table: &'static str, rows: i64, seed: u64) -> (Self, String) {
        let mut shop = Self {
            table,
            rows: BTreeMap::new(),
            next_id: 1,
            clock: 0,
            has_note: false,
            random: Random::new(seed),
        };
        let mut statements = format!(
            "CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, customer TEXT, \
             quantity INTEGER, status TEXT, updated_at TIMESTAMP);\n"
        );
        statements.push_str(&shop.insert(rows));
        (shop, statements)
    }

    /// The name of the table.
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// The columns it has now.
    pub fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec!["id", "customer", "quantity", "status", "updated_at"];
        if self.has_note {
            columns.push("note");
        }
        columns
    }

    /// The rows it has now.
    pub fn rows(&self) -> Vec<TextRow> {
        self.rows.values().cloned().collect()
    }

    /// Changes some rows, adds some (the first ones at the greatest cursor reached, one without a
    /// cursor), takes one away. Returns the statements.
    pub fn change(&mut self) -> String {
        let mut statements = self.insert(4);
        for _ in 0..4 {
            statements.push_str(&self.update());
        }
        let ids: Vec<_> = self.rows.keys().copied().collect();
        let gone = ids[self.random.below(ids.len() as u64) as usize];
        self.rows.remove(&gone);
        statements.push_str(&format!("DELETE FROM {} WHERE id = {gone};\n", self.table));
        statements
    }

    /// Adds the column `note`, filled in the rows that change from now on.
    pub fn add_column(&mut self) -> String {
        self.has_note = true;
        self.rows.values_mut().for_each(|row| row.push(None));
        format!("ALTER TABLE {} ADD COLUMN note TEXT;\n", self.table)
    }

    fn insert(&mut self, count: i64) -> String {
        let mut values = Vec::new();
        for _ in 0..count {
            let id = self.next_id;
            self.next_id += 1;
            // Three rows in a row share a cursor, and the first of them the one before.
            if id % 3 == 1 {
                self.clock += 1;
            }
            let cursor = (id % 7 != 5).then(|| timestamp(self.clock));
            let row = self.row(id, 0, cursor);
            values.push(format!("({})", row.iter().map(literal).collect::<Vec<_>>().join(", ")));
            self.rows.insert(id, row);
        }
        let columns = self.columns().join(", ");
        format!("INSERT INTO {} ({columns}) VALUES {};\n", self.table, values.join(", "))
    }

    fn update(&mut self) -> String {
        let ids: Vec<_> = self.rows.keys().copied().collect();
        let id = ids[self.random.below(ids.len() as u64) as usize];
        self.clock += 1;
        let quantity = self.rows[&id][2].as_deref().and_then(|q| q.parse::<i64>().ok());
        let row = self.row(id, quantity.unwrap_or(0) + 1, Some(timestamp(self.clock)));
        let set: Vec<_> = self.columns()[1..]
            .iter()
            .zip(&row[1..])
            .map(|(column, value)| format!("{column} = {}", literal(value)))
            .collect();
        self.rows.insert(id, row);
        format!("UPDATE {} SET {} WHERE id = {id};\n", self.table, set.join(", "))
    }

    fn row(&mut self, id: i64, quantity: i64, cursor: Option<String>) -> TextRow {
        const STATUS: [&str; 4] = ["new", "paid", "it's \"shipped\"", "café, return\ned"];
        let mut row = vec![
            Some(id.to_string()),
            (id % 10 != 9).then(|| format!("Customer {}", id * 7 % 97)),
            Some(quantity.to_string()),
            Some(STATUS[self.random.below(4) as usize].to_owned()),
            cursor,
        ];
        if self.has_note {
            row.push(Some(format!("note {}", self.random.below(100))));
        }
        row
    }
}

/// A second of the year 2026.
fn timestamp(clock: i64) -> String {
    let (minutes, seconds) = (clock / 60, clock % 60);
    format!(
        "2026-01-{:02} {:02}:{:02}:{seconds:02}",
        1 + minutes / 1440,
        minutes / 60 % 24,
        minutes % 60
    )
}

fn literal(value: &Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

/// What was, or may have been, delivered of a [`Shop`] so far.
#[derive(Debug, Clone, Default)]
pub struct Deliveries {
    /// Row versions that a complete sync has seen.
    certain: BTreeSet<TextRow>,
    /// Row versions that only a run that died may have seen.
    possible: BTreeSet<TextRow>,
}

/// What has to be in a table: every row of `must`, and no row that is not in `may`.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Rows that have to be there.
    pub must: BTreeSet<TextRow>,
    /// Rows that may be there.
    pub may: BTreeSet<TextRow>,
    /// Ids that have to be there in one version, whichever it is.
    pub ids: BTreeSet<String>,
    /// Whether an id may be there only once.
    pub unique_ids: bool,
}

impl Deliveries {
    /// A run began and died: what it read may have been delivered.
    pub fn run_died(&mut self, shop: &Shop) {
        self.possible.extend(shop.rows());
    }

    /// A run was complete.
    pub fn run_completed(&mut self, shop: &Shop) {
        self.certain.extend(shop.rows());
    }

    /// A column was added at the source: what was delivered before has NULL there.
    pub fn column_added(&mut self) {
        let widen = |rows: &mut BTreeSet<TextRow>| {
            *rows = std::mem::take(rows)
                .into_iter()
                .map(|mut row| {
                    row.push(None);
                    row
                })
                .collect();
        };
        widen(&mut self.certain);
        widen(&mut self.possible);
    }

    /// What has to be in the destination table.
    pub fn table(&self, mode: WriteMode, read_mode: ReadMode, shop: &Shop) -> Expected {
        let current: BTreeSet<_> = shop.rows().into_iter().collect();
        let complete = read_mode == ReadMode::FullRefresh;
        match mode {
            WriteMode::Append => self.versions(),
            WriteMode::Replace | WriteMode::ReplaceDedup => exactly(current),
            WriteMode::OverwriteDeleteStale if complete => exactly(current),
            // Rows that are gone at the source stay, in whatever version was delivered last.
            _ => {
                let gone = |row: &&TextRow| !shop.rows.contains_key(&id(row));
                let possible = self.versions().may;
                let may = current.iter().chain(possible.iter().filter(gone)).cloned().collect();
                let ids = self.certain.iter().map(|row| id(row).to_string()).collect();
                Expected { must: current, may, ids, unique_ids: true }
            }
        }
    }

    /// What has to be in the history of `append-dedup`: every version.
    pub fn versions(&self) -> Expected {
        let may = self.certain.union(&self.possible).cloned().collect();
        Expected { must: self.certain.clone(), may, ids: BTreeSet::new(), unique_ids: false }
    }
}

fn id(row: &TextRow) -> i64 {
    row[0].as_deref().and_then(|id| id.parse().ok()).expect("every row has an id")
}

fn exactly(rows: BTreeSet<TextRow>) -> Expected {
    Expected { must: rows.clone(), may: rows, ids: BTreeSet::new(), unique_ids: true }
}

impl Expected {
    /// Compares with what is there.
    ///
    /// # Errors
    /// What is missing, what is foreign, and, where each row has to be there once, what is there
    /// more than once.
    pub fn check(&self, rows: Vec<TextRow>, once: bool) -> Result<(), String> {
        let timestamp =
            LogicalType::Timestamp { unit: arrow_schema::TimeUnit::Microsecond, utc: false };
        let mut counts: BTreeMap<TextRow, u64> = BTreeMap::new();
        for mut row in rows {
            row[4] = row[4].take().map(|text| meaning(&timestamp, text));
            *counts.entry(row).or_default() += 1;
        }
        let mut wrong = String::new();
        let mut say = |what: &str, rows: Vec<&TextRow>| {
            if !rows.is_empty() {
                wrong.push_str(&format!("  {} {what}, such as {:?}\n", rows.len(), rows[0]));
            }
        };
        say("missing", self.must.iter().filter(|row| !counts.contains_key(*row)).collect());
        say("not expected", counts.keys().filter(|row| !self.may.contains(*row)).collect());
        let mut ids: BTreeMap<String, u64> = BTreeMap::new();
        for row in counts.keys() {
            *ids.entry(id(row).to_string()).or_default() += 1;
        }
        let lost: Vec<TextRow> = self
            .ids
            .iter()
            .filter(|i| !ids.contains_key(*i))
            .map(|i| vec![Some(i.clone())])
            .collect();
        say("ids missing", lost.iter().collect());
        if self.unique_ids {
            let twice = |row: &&TextRow| ids[&id(row).to_string()] > 1;
            say("with ids that are there twice", counts.keys().filter(twice).collect());
        }
        if once {
            say("doubled", counts.iter().filter(|(_, n)| **n > 1).map(|(row, _)| row).collect());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_different_and_has_to_arrive() {
        let (mut shop, _) = Shop::new("orders", 20, 1);
        let mut deliveries = Deliveries::default();
        deliveries.run_completed(&shop);
        assert!(shop.add_column().contains("note"));
        deliveries.column_added();
        shop.change();
        deliveries.run_died(&shop);
        shop.change();
        deliveries.run_completed(&shop);
        let append = deliveries.table(WriteMode::Append, ReadMode::Incremental, &shop);
        assert!(append.must.len() > 24 && append.may.len() >= append.must.len());
        let all: Vec<_> = append.must.iter().cloned().collect();
        assert_eq!(append.check(all.clone(), true), Ok(()));
        let doubled = [&all[..], &all[..1]].concat();
        assert!(append.check(doubled.clone(), true).unwrap_err().contains("1 doubled"));
        assert_eq!(append.check(doubled, false), Ok(()));
        assert!(append.check(all[1..].to_vec(), false).unwrap_err().contains("1 missing"));
        let replace = deliveries.table(WriteMode::Replace, ReadMode::FullRefresh, &shop);
        assert!(replace.check(all, false).unwrap_err().contains("not expected"));
        assert_eq!(replace.check(shop.rows(), true), Ok(()));
    }
}
