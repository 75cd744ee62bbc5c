//! Counts and hashes of keys, computed by the server, for both sides.

use std::sync::Arc;

use async_trait::async_trait;
use highwater_core::key_digests::{Chosen, Digest, Digests, KeyForm};
use highwater_core::{Completion, Error, KeyDigests, KeyTable, Output, Result, Table};
use highwater_sql::key_digests::{self, KeySpelling};
use highwater_sql::read_back::{selected, send_as};
use tokio_postgres::types::Type;

use crate::begin::{self, SNAPSHOT, missing};
use crate::catalog::{self, Relation, Selection, UserTypes, get};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::pool::Pool;
use crate::read::{self, Filter};
use crate::session::{Session, literal};
use crate::source::children;
use crate::target::Connector;

/// Where the keys are.
pub(crate) enum Side {
    /// In a source.
    Source(Pool),
    /// In a destination.
    Destination(Connector),
}

/// The keys of a table, in one snapshot.
pub(crate) struct PostgresKeys {
    side: Side,
    keys: KeyTable,
    /// What the first call has found; the table is `None` where there is none.
    open: Option<(Session, Option<Found>)>,
}

/// A table that is there.
struct Found {
    relation: Relation,
    types: UserTypes,
    hash: String,
}

impl PostgresKeys {
    pub(crate) fn new(side: Side, keys: &KeyTable) -> Self {
        Self { side, keys: keys.clone(), open: None }
    }

    async fn open(&mut self) -> Result<(&Session, Option<&Found>)> {
        if self.open.is_none() {
            let (session, found) = match &self.side {
                Side::Source(pool) => self.open_source(pool).await?,
                Side::Destination(connector) => {
                    let session = connector.session().await?;
                    session.run("begin", SNAPSHOT).await?;
                    let found = self.find(&session).await?;
                    (session, found)
                }
            };
            self.open = Some((session, found));
        }
        match &self.open {
            Some((session, found)) => Ok((session, found.as_ref())),
            None => Err(Error::internal("A session is gone")),
        }
    }

    /// What a source does not show counts as deleted: a table that is not there, that was
    /// rewritten after the snapshot, or that a standby has not filled yet must not look empty.
    async fn open_source(&self, pool: &Pool) -> Result<(Session, Option<Found>)> {
        let name = &self.keys.name;
        let session = pool.session(None).await?;
        if pool.has_several_hosts() {
            check_primary(&session).await?;
        }
        begin::begin(&session, name).await?;
        match self.find(&session).await? {
            Some(found) => Ok((session, Some(found))),
            None => Err(missing(name)),
        }
    }

    /// Looks, after a query has read the table, whether its rows were the ones of the snapshot:
    /// what cannot be locked may have been rewritten before that query.
    async fn check_not_rewritten(&self) -> Result<()> {
        let (Side::Source(_), Some((session, Some(found)))) = (&self.side, &self.open) else {
            return Ok(());
        };
        let oids = children(session, &found.relation).await?;
        let oids: Vec<u32> = oids.into_iter().chain([found.relation.oid]).collect();
        // The function tells what is there now, the catalog what the snapshot sees.
        let statement = "
            SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
                           WHERE c.oid = ANY ($1) AND c.relfilenode <> 0
                             AND pg_catalog.pg_relation_filenode(c.oid)
                                 IS DISTINCT FROM c.relfilenode)";
        let rows = catalog::rows(session, statement, &[(&oids, Type::OID_ARRAY)]).await?;
        match rows.first().map_or(Ok(true), |row| get(row, 0))? {
            false => Ok(()),
            true => Err(Error::transient("The table was rewritten while its keys were compared")
                .context("table", &self.keys.name)),
        }
    }

    async fn find(&self, session: &Session) -> Result<Option<Found>> {
        let is_destination = matches!(self.side, Side::Destination(_));
        let name = match is_destination {
            // Without any schema to create tables in there is no table either.
            true => changes::with_schema(session, &self.keys.name).await,
            false => Ok(self.keys.name.clone()),
        };
        let name = name.unwrap_or_else(|_| self.keys.name.clone());
        let (mut relations, types) =
            catalog::relations(session, Selection::Names(std::slice::from_ref(&name))).await?;
        let Some(relation) = relations.pop() else { return Ok(None) };
        if is_destination {
            self.check_collations(session, &relation).await?;
        }
        let statement = "SELECT pg_catalog.current_setting('server_encoding')";
        let rows = catalog::rows(session, statement, &[]).await?;
        let encoding: Option<&str> = rows.first().map(|row| get(row, 0)).transpose()?;
        let spelling = Spelling { is_utf8: encoding == Some("UTF8") };
        let hash = key_digests::hash(&PostgresDialect, &spelling, &self.keys);
        Ok(Some(Found { relation, types, hash }))
    }

    /// # Errors
    /// `Unsupported` where the key has a collation for which different texts are equal.
    async fn check_collations(&self, session: &Session, relation: &Relation) -> Result<()> {
        let names = self.keys.columns.iter().map(|column| literal(column.field.name()));
        // Servers before version 12 have no such collations.
        let statement = format!(
            "SELECT 1 FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation \
             WHERE a.attrelid = {} AND NOT a.attisdropped AND a.attname IN ({}) \
             AND pg_catalog.to_jsonb(c) ->> 'collisdeterministic' = 'false'",
            relation.oid,
            names.collect::<Vec<_>>().join(", ")
        );
        match catalog::rows(session, &statement, &[]).await?.is_empty() {
            true => Ok(()),
            false => Err(key_digests::blind(&self.keys)),
        }
    }
}

/// # Errors
/// `Config` when the server is a standby: another one of the list may have been read, and be ahead.
async fn check_primary(session: &Session) -> Result<()> {
    let rows = catalog::rows(session, "SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
    match rows.first().map_or(Ok(true), |row| get(row, 0))? {
        false => Ok(()),
        true => Err(Error::config(
            "Keys are not compared with those of a standby where several hosts are named: rows \
             that it has not replayed yet would count as deleted",
        )
        .hint("target_session_attrs=primary   # in the connection string; or name one host alone")),
    }
}

/// How PostgreSQL writes a key down.
struct Spelling {
    /// Whether texts are UTF-8 inside of the server.
    is_utf8: bool,
}

impl Spelling {
    fn in_utf8(&self, text: &str) -> String {
        match self.is_utf8 {
            true => text.to_owned(),
            false => format!("pg_catalog.convert_to({text}, 'UTF8')"),
        }
    }
}

impl KeySpelling for Spelling {
    fn text(&self, column: &str, form: KeyForm) -> String {
        let hex = |bytes: String| format!("pg_catalog.encode({bytes}, 'hex')");
        match form {
            KeyForm::Integer | KeyForm::Text | KeyForm::Uuid | KeyForm::Boolean => {
                format!("{column}::pg_catalog.text")
            }
            KeyForm::Date => hex(format!("pg_catalog.date_send({column})")),
            KeyForm::Timestamp { utc: true } => {
                hex(format!("pg_catalog.timestamptz_send({column})"))
            }
            KeyForm::Timestamp { utc: false } => {
                hex(format!("pg_catalog.timestamp_send({column})"))
            }
            KeyForm::Decimal { scale } => {
                format!("pg_catalog.round({column}, {scale})::pg_catalog.text")
            }
            KeyForm::Binary => hex(column.to_owned()),
        }
    }

    fn bytes(&self, text: &str) -> String {
        format!("pg_catalog.octet_length({})", self.in_utf8(text))
    }

    fn hash(&self, text: &str) -> String {
        let text = self.in_utf8(&format!("({text})"));
        format!("('x' || pg_catalog.substr(pg_catalog.md5({text}), 1, 15))::bit(60)::int8")
    }
}

#[async_trait]
impl KeyDigests for PostgresKeys {
    async fn digests(&mut self, buckets: u32) -> Result<Digests> {
        let condition = key_digests::condition(&PostgresDialect, &self.keys);
        let (session, found) = self.open().await?;
        let Some(found) = found else { return Ok(Digests::new()) };
        let from = read::quoted_name(&found.relation);
        let statement = key_digests::digests(&from, &found.hash, condition.as_deref(), buckets);
        let rows = catalog::rows(session, &statement, &[]).await?;
        let digest = |row| {
            let bucket: i32 = get(row, 0)?;
            let rows: i64 = get(row, 1)?;
            let digest =
                Digest { rows: rows.unsigned_abs(), upper: get(row, 2)?, lower: get(row, 3)? };
            Ok((bucket.unsigned_abs(), digest))
        };
        let digests = rows.iter().map(digest).collect::<Result<_>>()?;
        // From here on the lock of that query keeps the table as it is.
        self.check_not_rewritten().await?;
        Ok(digests)
    }

    async fn keys(&mut self, chosen: &Chosen, output: Output) -> Result<()> {
        let own = key_digests::condition(&PostgresDialect, &self.keys);
        let wanted = self.keys.table();
        let is_source = matches!(self.side, Side::Source(_));
        let (session, found) = self.open().await?;
        let Some(found) = found else { return Ok(()) };
        let list = |buckets: &[String]| format!(" = ANY ('{{{}}}'::int4[])", buckets.join(","));
        let condition = key_digests::chosen(&found.hash, chosen, list);
        let condition: Vec<_> = own.into_iter().chain(condition).collect();
        let condition = (!condition.is_empty()).then(|| condition.join(" AND "));
        let condition = condition.as_deref();
        if is_source {
            return found.send(session, &Arc::new(wanted), condition, &output).await.map(drop);
        }
        let stored = Arc::new(selected(&found.relation.table(&found.types), &wanted));
        let read = |output| async move { found.send(session, &stored, condition, &output).await };
        send_as(&wanted, &output, read).await
    }
}

impl Found {
    /// Sends columns of the rows for which a condition holds.
    async fn send(
        &self,
        session: &Session,
        table: &Arc<Table>,
        condition: Option<&str>,
        output: &Output,
    ) -> Result<Completion> {
        let wires = read::wires(table, &self.relation, &self.types)?;
        let statement = read::copy_statement(table, &wires, &[], &self.relation, condition);
        read::copy_columns(session, &statement, table, &wires, 0, &mut Filter::All, output).await
    }
}
