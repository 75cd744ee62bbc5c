//! Rows that are removed by a condition, in the open transaction: what was sent before is brought
//! to its table first.

use std::collections::BTreeMap;
use std::error::Error as StdError;

use bytes::BytesMut;
use highwater_core::{Deletion, Result, TableName, TablePlan};
use highwater_sql::deletion::Removal;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::PostgresWriter;
use super::open::{Open, Way};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::encode;
use crate::session::Session;

/// A value in the binary form of its type.
#[derive(Debug)]
struct Binary(Option<Vec<u8>>);

impl ToSql for Binary {
    fn to_sql(
        &self,
        _of: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Ok(match &self.0 {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    /// The statement casts every parameter to the type that the value was encoded for.
    fn accepts(_of: &Type) -> bool {
        true
    }

    fn encode_format(&self, _of: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}

impl PostgresWriter {
    pub(super) async fn try_delete(&mut self, deletion: &Deletion) -> Result<()> {
        let plan = std::sync::Arc::clone(&self.written);
        let removal = Removal::new(&PostgresDialect, &plan, deletion)?;
        let mut open = self.open().await?;
        for name in removal.tables() {
            self.send_waiting(&mut open, name).await?;
        }
        open.finish_load().await?;
        let mut there = BTreeMap::new();
        for name in removal.tables() {
            let table = self.table(name)?;
            if self.tables.contains(name) {
                self.settle_early(&mut open, table).await?;
            }
            let found = changes::find(&open.session, &open.now(table).target.name).await?;
            there.insert(name.clone(), found.is_some());
        }
        // The tables as this transaction has them.
        let mut now = (*plan).clone();
        now.tables.extend(open.beside.clone());
        let removal = Removal::new(&PostgresDialect, &now, deletion)?;
        let exists = |name: &TableName| there.get(name).copied().unwrap_or(false);
        let values: Vec<Binary> = removal
            .parameters()
            .iter()
            .map(|parameter| encode::single(&parameter.field, &parameter.value).map(Binary))
            .collect::<Result<_>>()?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as _).collect();
        for statement in removal.statements(exists)? {
            let removed = open.session.execute(&statement.sql, &values).await;
            let removed = removed.map_err(|error| {
                open.session.error("remove rows", error).context("table", &statement.table)
            })?;
            open.settled.entry(statement.table).or_default().deleted += removed;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Makes the changes of a table and brings its rows there before the commit.
    async fn settle_early(&self, open: &mut Open, table: &TablePlan) -> Result<()> {
        let name = table.name();
        self.change_early(open, table).await?;
        let now = open.now(table).clone();
        let Some(loaded) = open.loads.get_mut(name).filter(|loaded| loaded.rows > 0) else {
            return Ok(());
        };
        let settled = self.settle_loaded(&open.session, &now, loaded).await?;
        *open.settled.entry(name.clone()).or_default() += settled;
        *open.settled_rows.entry(name.clone()).or_default() += loaded.rows;
        loaded.rows = 0;
        match loaded.way {
            // Made and emptied in one transaction: that takes no new file.
            Way::Staged => empty(&open.session, &loaded.into).await,
            Way::Direct => Ok(()),
            // It has its key now: where further rows go is decided anew.
            Way::New => {
                open.loads.remove(name);
                Ok(())
            }
        }
    }
}

async fn empty(session: &Session, staging: &str) -> Result<()> {
    session.run("empty a staging table", &format!("TRUNCATE {staging}")).await
}
