//! Rows that go by a condition, and the rows of other tables that go with them.
//!
//! Every statement names the rows that go by the condition on the first table, so the rows of
//! dependent tables are removed while those that they depend on are still there: deepest first.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::ArrayRef;
use arrow_schema::Field;
use highwater_core::deletion::{Equal, Group, PARENT_ID, ROW_ID, Relation};
use highwater_core::text::convert;
use highwater_core::{Deletion, Error, Plan, Result, TableName, TablePlan, WriteMode};

use crate::dialect::Dialect;

/// What a deletion means for the tables of a plan.
pub struct Removal<'a> {
    dialect: &'a dyn Dialect,
    plan: &'a Plan,
    deletion: &'a Deletion,
    /// The relations that are followed.
    relations: Vec<&'a Relation>,
    parameters: Vec<Parameter>,
    /// The number of each comparison's parameter, in the order of the groups.
    numbers: Vec<Vec<usize>>,
}

/// A value that is bound to a statement.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The column at the destination, whose type the value has.
    pub field: Field,
    /// One value.
    pub value: ArrayRef,
}

/// A statement that removes rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The table at the source.
    pub table: TableName,
    /// It takes all of [`Removal::parameters`].
    pub sql: String,
}

impl<'a> Removal<'a> {
    /// Relations to tables that are not planned are left out, and what depends on those.
    ///
    /// # Errors
    /// `Unsupported` when a table is written in a mode that cannot remove rows; `Schema` for a
    /// column that the destination does not have; `Data` for a value that is none of its column.
    pub fn new(dialect: &'a dyn Dialect, plan: &'a Plan, deletion: &'a Deletion) -> Result<Self> {
        let root = planned(plan, &deletion.table)?;
        check_mode(root)?;
        let mut reached = BTreeSet::from([&deletion.table]);
        let mut relations = Vec::new();
        for relation in &deletion.relations {
            let (Some(table), true) =
                (plan.tables.get(&relation.table), reached.contains(&relation.parent))
            else {
                continue;
            };
            check_mode(table)?;
            column(table, PARENT_ID)?;
            column(planned(plan, &relation.parent)?, ROW_ID)?;
            reached.insert(&relation.table);
            relations.push(relation);
        }
        let (mut parameters, mut numbers) = (Vec::new(), Vec::new());
        for group in &deletion.groups {
            let mut of_group = Vec::new();
            for equal in &group.equal {
                parameters.push(parameter(root, equal)?);
                of_group.push(parameters.len());
            }
            numbers.push(of_group);
        }
        Ok(Self { dialect, plan, deletion, relations, parameters, numbers })
    }

    /// The tables that lose rows, the first one first: what was sent of them before has to be in
    /// their tables when the statements run.
    pub fn tables(&self) -> Vec<&'a TableName> {
        let mut tables = vec![&self.deletion.table];
        for relation in &self.relations {
            if !tables.contains(&&relation.table) {
                tables.push(&relation.table);
            }
        }
        tables
    }

    /// The values of every statement, numbered from 1.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The statements, in the order in which they have to run. Tables that do not `exist` are
    /// left out, and what depends on them.
    ///
    /// # Errors
    /// `Internal` for a table that is not planned.
    pub fn statements(&self, exists: impl Fn(&TableName) -> bool) -> Result<Vec<Statement>> {
        let there: Vec<&Relation> = self
            .relations
            .iter()
            .copied()
            .filter(|relation| exists(&relation.table) && exists(&relation.parent))
            .collect();
        let mut order = Vec::new();
        deepest_first(&self.deletion.table, &there, &mut BTreeSet::new(), &mut order);
        let statement = |table: &&TableName| {
            let target = &planned(self.plan, table)?.target.name;
            let rows = self.rows(table, "t0", 0, &there)?;
            let sql = format!("DELETE FROM {} AS t0 WHERE {rows}", self.dialect.table(target));
            Ok(Statement { table: (*table).clone(), sql })
        };
        order.iter().filter(|table| exists(table)).map(statement).collect()
    }

    /// The condition that the rows of a table fulfil which go: by `relations` at most.
    fn rows(
        &self,
        table: &TableName,
        alias: &str,
        depth: usize,
        relations: &[&Relation],
    ) -> Result<String> {
        let mut any = Vec::new();
        if *table == self.deletion.table {
            any.push(self.condition(alias)?);
        }
        for (at, relation) in relations.iter().enumerate() {
            if relation.table != *table {
                continue;
            }
            let inner = format!("t{}", depth + 1);
            let parent = &planned(self.plan, &relation.parent)?.target.name;
            any.push(format!(
                "{alias}.{} IN (SELECT {inner}.{} FROM {} AS {inner} WHERE {})",
                self.dialect.quote(PARENT_ID),
                self.dialect.quote(ROW_ID),
                self.dialect.table(parent),
                // Only what was removed before this relation's turn.
                self.rows(&relation.parent, &inner, depth + 1, &relations[..at])?,
            ));
        }
        Ok(joined(&any, true))
    }

    fn condition(&self, alias: &str) -> Result<String> {
        let root = planned(self.plan, &self.deletion.table)?;
        let groups: Vec<String> = self
            .deletion
            .groups
            .iter()
            .zip(&self.numbers)
            .map(|(group, numbers)| self.group(root, group, numbers, alias))
            .collect::<Result<_>>()?;
        Ok(joined(&groups, false))
    }

    fn group(
        &self,
        root: &TablePlan,
        group: &Group,
        numbers: &[usize],
        alias: &str,
    ) -> Result<String> {
        let comparisons: Vec<String> = group
            .equal
            .iter()
            .zip(numbers)
            .map(|(equal, number)| {
                let field = column(root, &equal.column)?;
                let left = format!("{alias}.{}", self.dialect.quote(field.name()));
                Ok(self.dialect.equals_parameter(&left, *number, field))
            })
            .collect::<Result<_>>()?;
        Ok(joined(&comparisons, group.any))
    }
}

/// Conditions of which `any`, or all, have to hold.
fn joined(conditions: &[String], any: bool) -> String {
    match (conditions, any) {
        ([], true) => "1 = 0".to_owned(),
        ([], false) => "1 = 1".to_owned(),
        ([one], _) => one.clone(),
        (many, true) => format!("({})", many.join(" OR ")),
        (many, false) => format!("({})", many.join(" AND ")),
    }
}

/// A table comes after all that depend on it.
fn deepest_first<'a>(
    table: &'a TableName,
    relations: &[&'a Relation],
    seen: &mut BTreeSet<&'a TableName>,
    order: &mut Vec<&'a TableName>,
) {
    if !seen.insert(table) {
        return;
    }
    for relation in relations.iter().filter(|relation| relation.parent == *table) {
        deepest_first(&relation.table, relations, seen, order);
    }
    order.push(table);
}

fn planned<'a>(plan: &'a Plan, name: &TableName) -> Result<&'a TablePlan> {
    let tables: &BTreeMap<TableName, TablePlan> = &plan.tables;
    tables.get(name).ok_or_else(|| {
        Error::internal("Rows are removed from a table that is not planned").context("table", name)
    })
}

fn check_mode(table: &TablePlan) -> Result<()> {
    match table.write_mode {
        WriteMode::Append | WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => Ok(()),
        mode @ (WriteMode::AppendDedup | WriteMode::Replace | WriteMode::ReplaceDedup) => {
            Err(Error::unsupported("Rows cannot be removed by a condition in this write mode")
                .context("table", table.name())
                .context("write_mode", mode)
                .hint("write_mode: overwrite"))
        }
    }
}

fn column<'a>(table: &'a TablePlan, name: &str) -> Result<&'a Field> {
    table.target.field(name).ok_or_else(|| {
        Error::schema("Rows are removed by a column that the destination table does not have")
            .context("table", table.name())
            .context("column", name)
            .hint(format!("add `{name}` to the `columns` of the table, or leave `columns` out"))
    })
}

fn parameter(table: &TablePlan, equal: &Equal) -> Result<Parameter> {
    let field = column(table, &equal.column)?.clone().with_nullable(true);
    if equal.value.len() != 1 {
        return Err(Error::data("A condition compares with several values or none")
            .context("table", table.name())
            .context("column", &equal.column));
    }
    let value = convert(&equal.field, &equal.value, &field)
        .map_err(|error| error.context("table", table.name()))?;
    Ok(Parameter { field, value })
}
