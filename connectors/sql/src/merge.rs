//! What happens to staged rows inside the commit, for each write mode.
//!
//! A staging table has the columns of [`crate::derived::staging_schema`]. A commit runs the
//! [`Step`]s in their order inside its transaction and adds up what they did.
//!
//! The rules (design: write modes): of several staged rows with one key the winner is the one
//! with the greatest value of [`TablePlan::order_by`], NULL lowest, then the later arrival; without
//! that column the later arrival. A row never replaces a greater one, also across syncs. Keys
//! match null-safely. A deletion without a value of that column goes by its arrival: it removes
//! what came before it and nothing that comes after. A deletion leaves a tombstone, so that a late older row stays deleted. The
//! other modes take what arrives last.
//!
//! A sweep remembers the keys that it sees, and in `append-dedup` a row that is as it was is left
//! out before anything is done with it.

use arrow_schema::Field;
use highwater_core::plan::{EXTRACTED_AT, GENERATION_ID, META, RAW_ID, SYNC_TIME};
use highwater_core::{TablePlan, WriteMode};

use crate::conditions::any;
use crate::ddl::quoted;
use crate::derived::{self, OPERATION, ORDINAL, SEQUENCE, SYNCED_AT};
use crate::dialect::Dialect;

/// What the rows affected by a statement are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Rows added or changed at the destination.
    Written,
    /// Rows removed at the destination.
    Deleted,
    /// Nothing that a summary shows.
    Nothing,
}

/// One statement of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The statement. Parameter 1 is the arrival order of the first staged row, parameter 2 the
    /// time of the run in microseconds, where [`Self::parameters`] says so.
    pub sql: String,
    /// Whether the statement takes the two parameters `(first sequence, started_at)`.
    pub parameters: bool,
    /// What the affected rows count as.
    pub counts: Counts,
    /// The crash point to pass after it.
    pub passes: Option<highwater_core::CrashPoint>,
}

/// The steps that merge the staging table `staging` (an identifier, quoted) into the target of
/// `plan`, in a run of `sync`. `instant` turns a parameter of microseconds since 1970 into the stored type of
/// [`SYNCED_AT`]. Only for `overwrite`, `overwrite-delete-stale` with a key, `append-dedup` and
/// `replace-dedup`; the other modes write rows where they belong at once. A rebuild passes
/// [`derived::beside`]. Where [`derived::remembers_keys`], the table [`derived::seen`] is there.
pub fn steps(
    dialect: &dyn Dialect,
    sync: &str,
    plan: &TablePlan,
    staging: &str,
    instant: impl Fn(&str) -> String,
) -> Vec<Step> {
    let merge = Merge { dialect, sync, plan, staging };
    let dedup = plan.write_mode == WriteMode::AppendDedup;
    let mut steps = Vec::new();
    if derived::remembers_keys(plan) {
        steps.push(merge.remember_keys());
    }
    if plan.sweep && dedup {
        steps.push(merge.leave_out_unchanged());
    }
    if dedup {
        steps.push(merge.append_history(&instant(&dialect.parameter(2)), true));
    }
    steps.extend(merge.undone());
    steps.push(merge.fold());
    if derived::is_ordered(plan.write_mode) {
        steps.extend(merge.tombstones());
    }
    steps.push(merge.delete());
    match dialect.indexes_keys() {
        true => {
            steps.push(merge.upsert());
            steps.extend(merge.null_keys());
        }
        false => steps.extend(merge.update_and_insert()),
    }
    if let Some(last) = steps.last_mut() {
        last.passes = Some(highwater_core::CrashPoint::CommitRows);
    }
    steps
}

/// The steps of [`steps`] for `append-dedup` where nothing is there yet, no staged row is a deletion
/// and no two have one key: the history, and the final table without its key.
pub fn first_steps(
    dialect: &dyn Dialect,
    sync: &str,
    plan: &TablePlan,
    staging: &str,
    instant: impl Fn(&str) -> String,
) -> [Step; 2] {
    let merge = Merge { dialect, sync, plan, staging };
    let all = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {staging}",
        dialect.table(&plan.target.name),
        merge.columns(),
        merge.staged_values(""),
    );
    // They lie in the order of their arrival, and to sort a first load costs as much as to add it.
    let history = merge.append_history(&instant(&dialect.parameter(2)), false);
    [history, step(Counts::Written, all)]
}

/// The statement that removes history rows which arrived before a time: parameter 1, in
/// microseconds, converted by `instant`.
pub fn prune_history(
    dialect: &dyn Dialect,
    plan: &TablePlan,
    instant: impl Fn(&str) -> String,
) -> String {
    format!(
        "DELETE FROM {} WHERE {} < {}",
        dialect.table(&derived::history(plan, dialect).name),
        dialect.quote(SYNCED_AT),
        instant(&dialect.parameter(1)),
    )
}

/// The statement that leaves the latest record of each key in the history: the greatest value of
/// [`TablePlan::order_by`], NULL lowest, then the latest arrival; none from before a deletion that
/// goes by its arrival. The affected rows are what went.
pub fn compact_history(dialect: &dyn Dialect, plan: &TablePlan) -> String {
    let sequence = dialect.quote(SEQUENCE);
    let row = dialect.row_id().map_or_else(|| sequence.clone(), str::to_owned);
    let key = quoted(dialect, &plan.target.primary_key);
    let history = dialect.table(&derived::history(plan, dialect).name);
    let (from, order) = match order_by(plan) {
        Some(field) => {
            let column = dialect.quote(field.name());
            let undone = format!(
                "max(CASE WHEN {} = 'd' AND {column} IS NULL THEN {sequence} END) \
                 OVER (PARTITION BY {key})",
                dialect.quote(OPERATION),
            );
            let from = format!(
                "(SELECT *, {row} AS _highwater_row, {undone} AS _highwater_undone FROM {history}) AS known"
            );
            let order = format!(
                "CASE WHEN {sequence} < _highwater_undone THEN 1 ELSE 0 END, \
                 {} DESC NULLS LAST, {sequence} DESC",
                dialect.ordered(&column, field),
            );
            (from, order)
        }
        None => (
            format!("(SELECT *, {row} AS _highwater_row FROM {history}) AS known"),
            format!("{sequence} DESC"),
        ),
    };
    format!(
        "DELETE FROM {history} WHERE {row} IN (SELECT _highwater_row FROM (\
         SELECT _highwater_row, row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS place \
         FROM {from}) AS placed WHERE place > 1)",
    )
}

/// The column that orders versions, in the modes that have an order.
fn order_by(plan: &TablePlan) -> Option<&Field> {
    if !derived::is_ordered(plan.write_mode) {
        return None;
    }
    plan.target.field(plan.order_by.as_deref()?)
}

/// Columns that are new with every read, whether the row has changed or not.
const OF_THE_READ: [&str; 5] = [SYNC_TIME, RAW_ID, EXTRACTED_AT, META, GENERATION_ID];

struct Merge<'a> {
    dialect: &'a dyn Dialect,
    sync: &'a str,
    plan: &'a TablePlan,
    staging: &'a str,
}

impl Merge<'_> {
    /// Keys of rows that are there, for the end of the sweep.
    fn remember_keys(&self) -> Step {
        let seen = derived::seen(self.plan, self.sync, self.dialect);
        let values: Vec<_> =
            seen.schema.fields().iter().map(|f| self.staged_value(f, "s.")).collect();
        let table = self.dialect.table(&seen.name);
        let once = match self.dialect.indexes_keys() {
            true => "ON CONFLICT DO NOTHING".to_owned(),
            false => format!(
                "AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {})",
                self.same_key("t", "s")
            ),
        };
        step(
            Counts::Nothing,
            format!(
                "INSERT INTO {table} ({}) SELECT DISTINCT {} FROM {} AS s WHERE s.{} = 'u' {once}",
                quoted(self.dialect, &seen.primary_key),
                values.join(", "),
                self.staging,
                self.dialect.quote(OPERATION),
            ),
        )
    }

    /// Drops staged rows that are as the final table has them, where the key has no other version
    /// in this commit.
    fn leave_out_unchanged(&self) -> Step {
        let q = |name: &str| self.dialect.quote(name);
        let compared: Vec<&Field> = self
            .plan
            .target
            .schema
            .fields()
            .iter()
            .map(AsRef::as_ref)
            .filter(|f| !OF_THE_READ.contains(&f.name().as_str()))
            .collect();
        let differs = |left: &dyn Fn(&Field) -> String| {
            let parts: Vec<_> = compared
                .iter()
                .map(|f| self.dialect.distinct(&left(f), &self.staged_value(f, "s."), f))
                .collect();
            any(&parts)
        };
        let from_final = differs(&|f| format!("t.{}", q(f.name())));
        let from_other = differs(&|f| self.staged_value(f, "o."));
        let same_staged = self.same_staged("o", "s");
        step(
            Counts::Nothing,
            format!(
                "DELETE FROM {staging} AS s WHERE s.{op} = 'u' AND EXISTS (\
                 SELECT 1 FROM {table} AS t WHERE {matches} AND NOT ({from_final})) \
                 AND NOT EXISTS (SELECT 1 FROM {staging} AS o WHERE {same_staged} \
                 AND (o.{op} <> 'u' OR {from_other}))",
                staging = self.staging,
                op = q(OPERATION),
                table = self.dialect.table(&self.plan.target.name),
                matches = self.same_key("t", "s"),
            ),
        )
    }

    /// Every staged row becomes a history row, numbered in arrival order.
    fn append_history(&self, synced_at: &str, sorted: bool) -> Step {
        let q = |name: &str| self.dialect.quote(name);
        let history = derived::history(self.plan, self.dialect);
        let order = if sorted { format!(" ORDER BY {}", q(ORDINAL)) } else { String::new() };
        Step {
            sql: format!(
                "INSERT INTO {} ({}, {}, {}, {}) SELECT {}, {} + {}, {}, {synced_at} FROM {}{order}",
                self.dialect.table(&history.name),
                self.columns(),
                q(SEQUENCE),
                q(OPERATION),
                q(SYNCED_AT),
                self.staged_values(""),
                self.dialect.parameter(1),
                q(ORDINAL),
                q(OPERATION),
                self.staging,
            ),
            parameters: true,
            counts: Counts::Nothing,
            passes: Some(highwater_core::CrashPoint::CommitHistory),
        }
    }

    /// Removes what came before a deletion of its key that has no place in the order: staged rows
    /// and the row that is there. What came after it is merged as if that had never been.
    fn undone(&self) -> Vec<Step> {
        let Some(field) = self.cursor() else { return Vec::new() };
        let column = self.dialect.quote(field.name());
        let (op, ordinal) = (self.dialect.quote(OPERATION), self.dialect.quote(ORDINAL));
        let (staging, same) = (self.staging, self.same_staged("o", "s"));
        // Mostly there is none, and nothing is looked up.
        let any = format!(
            "EXISTS (SELECT 1 FROM {staging} AS a WHERE a.{op} = 'd' AND a.{column} IS NULL)"
        );
        let staged = format!(
            "DELETE FROM {staging} AS s WHERE {any} \
             AND EXISTS (SELECT 1 FROM {staging} AS o WHERE {same} AND o.{op} = 'd' \
             AND o.{column} IS NULL AND o.{ordinal} > s.{ordinal})"
        );
        let there = format!(
            "DELETE FROM {} AS t WHERE {any} AND EXISTS (SELECT 1 FROM {staging} AS s \
             WHERE {} AND s.{op} = 'd' AND s.{column} IS NULL)",
            self.dialect.table(&self.plan.target.name),
            self.same_key("t", "s"),
        );
        vec![step(Counts::Nothing, staged), step(Counts::Deleted, there)]
    }

    /// Leaves one staged row per key: the winner.
    fn fold(&self) -> Step {
        let q = |name: &str| self.dialect.quote(name);
        let order = match self.cursor() {
            Some(field) => format!(
                "{} DESC NULLS LAST, {} DESC",
                self.dialect.ordered(&self.staged_value(field, ""), field),
                q(ORDINAL)
            ),
            None => format!("{} DESC", q(ORDINAL)),
        };
        step(
            Counts::Nothing,
            format!(
                "DELETE FROM {staging} WHERE {ordinal} IN (SELECT {ordinal} FROM (\
                 SELECT {ordinal}, row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS place \
                 FROM {staging}) AS placed WHERE place > 1)",
                staging = self.staging,
                ordinal = q(ORDINAL),
                key = quoted(self.dialect, &self.plan.target.primary_key),
            ),
        )
    }

    /// Drops staged rows that are older than the deletion of their key, remembers new deletions,
    /// and forgets deletions that a newer row has undone.
    fn tombstones(&self) -> Vec<Step> {
        let table = derived::tombstones(self.plan, self.dialect);
        let name = self.dialect.table(&table.name);
        let columns: Vec<_> = table.column_names().collect();
        let staging = self.staging;
        let op = self.dialect.quote(OPERATION);
        let matches = self.same_key("t", "s");
        let newer = self.newer("t", "s").unwrap_or_else(|| "1 = 0".to_owned());
        let newest = format!(
            "EXISTS (SELECT 1 FROM {staging} AS s WHERE {matches} AND s.{op} = 'd' AND NOT ({newer}))"
        );
        let values: Vec<_> =
            table.schema.fields().iter().map(|f| self.staged_value(f, "s.")).collect();
        vec![
            step(
                Counts::Nothing,
                format!(
                    "DELETE FROM {staging} AS s WHERE s.{op} = 'u' AND EXISTS (\
                     SELECT 1 FROM {name} AS t WHERE {matches} AND ({newer}))"
                ),
            ),
            step(Counts::Nothing, format!("DELETE FROM {name} AS t WHERE {newest}")),
            step(
                Counts::Nothing,
                format!(
                    "INSERT INTO {name} ({}) SELECT {} FROM {staging} AS s WHERE s.{op} = 'd' \
                     AND NOT EXISTS (SELECT 1 FROM {name} AS t WHERE {matches})",
                    quoted(self.dialect, &columns),
                    values.join(", "),
                ),
            ),
            step(
                Counts::Nothing,
                format!(
                    "DELETE FROM {name} AS t WHERE EXISTS (SELECT 1 FROM {staging} AS s \
                     WHERE {matches} AND s.{op} = 'u')"
                ),
            ),
        ]
    }

    /// Removes the rows whose deletion is staged and not older than they are.
    fn delete(&self) -> Step {
        let guard = self.newer("t", "s").map_or(String::new(), |n| format!(" AND NOT ({n})"));
        step(
            Counts::Deleted,
            format!(
                "DELETE FROM {} AS t WHERE EXISTS (SELECT 1 FROM {} AS s WHERE {}{guard} \
                 AND s.{} = 'd')",
                self.dialect.table(&self.plan.target.name),
                self.staging,
                self.same_key("t", "s"),
                self.dialect.quote(OPERATION),
            ),
        )
    }

    /// Adds and changes rows whose key has no NULL; rows that are the same, value for value, or
    /// older than what is there, are left alone.
    fn upsert(&self) -> Step {
        let q = |name: &str| self.dialect.quote(name);
        let key = &self.plan.target.primary_key;
        let others: Vec<_> =
            self.plan.target.schema.fields().iter().filter(|f| !key.contains(f.name())).collect();
        let action = if others.is_empty() {
            "NOTHING".to_owned()
        } else {
            let set: Vec<_> =
                others.iter().map(|f| format!("{0} = excluded.{0}", q(f.name()))).collect();
            let changed: Vec<_> = others
                .iter()
                .map(|f| {
                    let name = q(f.name());
                    self.dialect.distinct(&format!("t.{name}"), &format!("excluded.{name}"), f)
                })
                .collect();
            let guard = self
                .newer_stored("t", "excluded")
                .map_or(String::new(), |n| format!(" AND NOT ({n})"));
            format!("UPDATE SET {} WHERE ({}){guard}", set.join(", "), any(&changed))
        };
        let complete: Vec<_> = key.iter().map(|k| format!("s.{} IS NOT NULL", q(k))).collect();
        step(
            Counts::Written,
            format!(
                "INSERT INTO {} AS t ({}) SELECT {} FROM {} AS s WHERE s.{} = 'u' AND {} \
                 ON CONFLICT ({}) DO {action}",
                self.dialect.table(&self.plan.target.name),
                self.columns(),
                self.staged_values("s."),
                self.staging,
                q(OPERATION),
                complete.join(" AND "),
                quoted(self.dialect, key),
            ),
        )
    }

    /// The same where no index finds the rows of a key: those that are there are changed, the
    /// others added.
    fn update_and_insert(&self) -> Vec<Step> {
        let q = |name: &str| self.dialect.quote(name);
        let target = &self.plan.target;
        let (table, staging, op) = (self.dialect.table(&target.name), self.staging, q(OPERATION));
        let matches = self.same_key("t", "s");
        let others: Vec<&Field> = target
            .schema
            .fields()
            .iter()
            .map(AsRef::as_ref)
            .filter(|f| !target.primary_key.contains(f.name()))
            .collect();
        let mut steps = Vec::new();
        if !others.is_empty() {
            let set: Vec<_> = others
                .iter()
                .map(|f| format!("{} = {}", q(f.name()), self.staged_value(f, "s.")))
                .collect();
            let changed: Vec<_> = others
                .iter()
                .map(|f| {
                    let stored = format!("t.{}", q(f.name()));
                    self.dialect.distinct(&stored, &self.staged_value(f, "s."), f)
                })
                .collect();
            let guard = self.newer("t", "s").map_or(String::new(), |n| format!(" AND NOT ({n})"));
            steps.push(step(
                Counts::Written,
                format!(
                    "UPDATE {table} AS t SET {} FROM {staging} AS s WHERE {matches} \
                     AND s.{op} = 'u' AND ({}){guard}",
                    set.join(", "),
                    any(&changed),
                ),
            ));
        }
        steps.push(step(
            Counts::Written,
            format!(
                "INSERT INTO {table} ({}) SELECT {} FROM {staging} AS s WHERE s.{op} = 'u' \
                 AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {matches})",
                self.columns(),
                self.staged_values("s."),
            ),
        ));
        steps
    }

    /// Rows with NULL in their key never conflict in an index, so they are matched by hand. There
    /// are none where the key columns are NOT NULL.
    fn null_keys(&self) -> Vec<Step> {
        let q = |name: &str| self.dialect.quote(name);
        let target = &self.plan.target;
        let nullable: Vec<_> = target
            .primary_key
            .iter()
            .filter(|k| target.field(k).is_none_or(Field::is_nullable))
            .map(|k| format!("s.{} IS NULL", q(k)))
            .collect();
        if nullable.is_empty() {
            return Vec::new();
        }
        let any_null = any(&nullable);
        let (table, staging, op) = (self.dialect.table(&target.name), self.staging, q(OPERATION));
        let matches = self.same_key("t", "s");
        let guard = self.newer("t", "s").map_or(String::new(), |n| format!(" AND NOT ({n})"));
        let changed: Vec<_> = target
            .schema
            .fields()
            .iter()
            .map(|f| {
                let stored = format!("t.{}", q(f.name()));
                self.dialect.distinct(&stored, &self.staged_value(f, "s."), f)
            })
            .collect();
        vec![
            step(
                Counts::Nothing,
                format!(
                    "DELETE FROM {table} AS t WHERE EXISTS (SELECT 1 FROM {staging} AS s \
                     WHERE {matches}{guard} AND s.{op} = 'u' AND ({any_null}) AND ({}))",
                    any(&changed),
                ),
            ),
            step(
                Counts::Written,
                format!(
                    "INSERT INTO {table} ({}) SELECT {} FROM {staging} AS s WHERE s.{op} = 'u' \
                     AND ({any_null}) AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {matches})",
                    self.columns(),
                    self.staged_values("s."),
                ),
            ),
        ]
    }

    /// Whether stored row `t` is newer than staged row `s`: `None` without a cursor field.
    fn newer(&self, t: &str, s: &str) -> Option<String> {
        let field = self.cursor()?;
        Some(self.newer_than(t, &self.staged_value(field, &format!("{s}.")), field))
    }

    /// As [`Self::newer`], for a row that has the stored types already (`excluded`).
    fn newer_stored(&self, t: &str, s: &str) -> Option<String> {
        let field = self.cursor()?;
        Some(self.newer_than(t, &format!("{s}.{}", self.dialect.quote(field.name())), field))
    }

    fn newer_than(&self, t: &str, other: &str, field: &Field) -> String {
        let mine = format!("{t}.{}", self.dialect.quote(field.name()));
        format!(
            "{mine} IS NOT NULL AND ({other} IS NULL OR {} > {})",
            self.dialect.ordered(&mine, field),
            self.dialect.ordered(other, field),
        )
    }

    fn cursor(&self) -> Option<&Field> {
        order_by(self.plan)
    }

    fn same_key(&self, t: &str, s: &str) -> String {
        let target = &self.plan.target;
        let parts: Vec<_> = target
            .primary_key
            .iter()
            .map(|k| {
                let (name, field) = (self.dialect.quote(k), target.field(k));
                let staged = field.map_or_else(
                    || format!("{s}.{name}"),
                    |f| self.staged_value(f, &format!("{s}.")),
                );
                self.dialect.same_key(&format!("{t}.{name}"), &staged, field)
            })
            .collect();
        parts.join(" AND ")
    }

    /// Whether two staged rows have the same key.
    fn same_staged(&self, left: &str, right: &str) -> String {
        same_key(self.dialect, self.plan, left, right)
    }

    fn columns(&self) -> String {
        let names: Vec<_> = self.plan.target.column_names().collect();
        quoted(self.dialect, &names)
    }

    fn staged_values(&self, prefix: &str) -> String {
        let fields = self.plan.target.schema.fields().iter();
        fields.map(|f| self.staged_value(f, prefix)).collect::<Vec<_>>().join(", ")
    }

    fn staged_value(&self, field: &Field, prefix: &str) -> String {
        self.dialect
            .staged_as_stored(&format!("{prefix}{}", self.dialect.quote(field.name())), field)
    }
}

/// Whether two rows with the same types have the same key.
pub fn same_key(dialect: &dyn Dialect, plan: &TablePlan, left: &str, right: &str) -> String {
    let parts = plan.target.primary_key.iter().map(|name| {
        let column = dialect.quote(name);
        let (left, right) = (format!("{left}.{column}"), format!("{right}.{column}"));
        dialect.same_key(&left, &right, plan.target.field(name))
    });
    parts.collect::<Vec<_>>().join(" AND ")
}

fn step(counts: Counts, sql: String) -> Step {
    Step { sql, parameters: false, counts, passes: None }
}
