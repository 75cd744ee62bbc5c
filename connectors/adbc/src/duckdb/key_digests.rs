//! Counts and hashes of keys, computed by DuckDB, for both sides.

use std::collections::BTreeMap;
use std::sync::Arc;

use adbc_core::Connection;
use async_trait::async_trait;
use highwater_core::key_digests::{Chosen, Digest, Digests, KeyForm};
use highwater_core::{Completion, Error, KeyDigests, KeyTable, Output, Result};
use highwater_sql::key_digests::{self, KeySpelling};
use highwater_sql::read_back::send_as;
use highwater_sql::{Dialect, read_back};

use super::catalog::{self, Relation, number, text};
use super::config::{Location, Setup};
use super::database::{Access, Database};
use super::destination::stored_as_asked;
use super::dialect::DuckDbDialect;
use super::file::File;
use crate::session::{Session, parameters};
use crate::source::abandon::{Abandon, Watched};
use crate::source::{self, carried};

/// The size of a batch.
const BATCH_ROWS: usize = 8192;

/// Where the keys are.
#[derive(Clone)]
pub(crate) enum Side {
    /// In the file of a source.
    Source(Location, Setup),
    /// In the file of a destination.
    Destination(File),
}

/// The keys of a table, in one snapshot.
pub(crate) struct DuckDbKeys {
    side: Side,
    keys: KeyTable,
    /// What the first call has found; `None` before, and while there is no file.
    open: Option<Open>,
}

/// A read transaction.
struct Open {
    session: Session,
    /// The table and the hash of its keys; `None` where there is none.
    found: Option<(Relation, String)>,
}

impl DuckDbKeys {
    pub(crate) fn new(side: Side, keys: &KeyTable) -> Self {
        Self { side, keys: keys.clone(), open: None }
    }

    /// Runs `work` on a thread that may block, in the transaction; `None` where there is no file.
    /// When the future is dropped, the statement that runs is interrupted.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Open, &KeyTable) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let abandon = Abandon::default();
        let watched = Arc::clone(&abandon.0);
        let (side, keys, open) = (self.side.clone(), self.keys.clone(), self.open.take());
        let done = tokio::task::spawn_blocking(move || {
            let open = match open {
                Some(open) => Some(open),
                None => side.open(&keys)?,
            };
            let Some(mut open) = open else { return Ok(None) };
            watch(&watched, &mut open.session)?;
            let done = work(&mut open, &keys)?;
            Ok::<_, Error>(Some((open, done)))
        });
        let done = done
            .await
            .map_err(|error| Error::internal("A reading thread ended early").caused_by(error))??;
        let Some((open, done)) = done else { return Ok(None) };
        self.open = Some(open);
        Ok(Some(done))
    }
}

fn watch(watched: &Watched, session: &mut Session) -> Result<()> {
    watched.watch(session.connection().get_cancel_handle())
}

impl Side {
    /// Takes the snapshot and looks at the table; `None` where there is no file.
    fn open(&self, keys: &KeyTable) -> Result<Option<Open>> {
        let mut session = match self {
            Self::Source(location, setup) => {
                Database::open(location, setup, Access::Read)?.connect()?
            }
            Self::Destination(file) if !file.location.path.exists() => return Ok(None),
            // Keys are followed by deletions: the file is opened for those at once.
            Self::Destination(file) => file.connect()?,
        };
        session.run("BEGIN TRANSACTION READ ONLY")?;
        let Some(relation) = catalog::relation(&mut session, &keys.name)? else {
            return match self {
                Self::Destination(_) => Ok(Some(Open { session, found: None })),
                // What a source does not have counts as deleted.
                Self::Source(..) => {
                    Err(Error::schema("The table is not there any more")
                        .context("table", &keys.name))
                }
            };
        };
        if matches!(self, Self::Destination(_)) {
            check_collations(&mut session, keys)?;
        }
        let hash = key_digests::hash(&DuckDbDialect, &Spelling::of(&relation), keys);
        Ok(Some(Open { session, found: Some((relation, hash)) }))
    }
}

/// # Errors
/// `Unsupported` where the key may have a collation for which different texts are equal.
fn check_collations(session: &mut Session, keys: &KeyTable) -> Result<()> {
    let schema = keys.name.namespace.as_deref().unwrap_or(catalog::MAIN);
    let found = session.fetch(
        "SELECT sql FROM duckdb_tables() WHERE database_name = current_database() \
         AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2)",
        parameters![schema, &keys.name.name],
    )?;
    let sql = (found.num_rows() > 0).then(|| text(&found, 0, 0)).flatten().unwrap_or_default();
    match sql.to_lowercase().contains("collate ") {
        true => Err(key_digests::blind(keys)),
        false => Ok(()),
    }
}

/// How DuckDB writes a key down.
struct Spelling {
    /// The types of the columns, by their names as SQL has them.
    declared: BTreeMap<String, String>,
}

impl Spelling {
    fn of(relation: &Relation) -> Self {
        let columns = relation.columns.iter();
        let declared = columns
            .map(|column| {
                (DuckDbDialect.quote(&column.name).to_lowercase(), column.declared.clone())
            })
            .collect();
        Self { declared }
    }

    /// The text of a value as it travels.
    fn plain(&self, column: &str) -> String {
        let declared = self.declared.get(&column.to_lowercase());
        let value = declared
            .map_or_else(|| column.to_owned(), |declared| carried::expression(column, declared));
        format!("CAST({value} AS VARCHAR)")
    }
}

impl KeySpelling for Spelling {
    fn text(&self, column: &str, form: KeyForm) -> String {
        // Times at the far end are before what is counted from 2000.
        let hex = |number: &str, digits: u8, least: &str, greatest: &str| {
            format!(
                "CASE WHEN NOT isinf({column}) THEN lower(lpad(to_hex({number}), {digits}, '0')) \
                 WHEN CAST({column} AS VARCHAR) = 'infinity' THEN '{greatest}' ELSE '{least}' END"
            )
        };
        match form {
            KeyForm::Integer | KeyForm::Text | KeyForm::Uuid | KeyForm::Boolean => {
                self.plain(column)
            }
            KeyForm::Date => hex(
                &format!(
                    "greatest(date_diff('day', DATE '2000-01-01', {column}), -2147483648) \
                     & 4294967295"
                ),
                8,
                "80000000",
                "7fffffff",
            ),
            KeyForm::Timestamp { utc } => {
                let value = match utc {
                    true => column.to_owned(),
                    false => format!("CAST({column} AS TIMESTAMP)"),
                };
                hex(
                    &format!("greatest(epoch_us({value}), -9222425352054775808) - 946684800000000"),
                    16,
                    "8000000000000000",
                    "7fffffffffffffff",
                )
            }
            // Without room for a digit before it DuckDB begins with the point.
            KeyForm::Decimal { scale } => {
                format!("CAST(TRY_CAST({column} AS DECIMAL(38, {scale})) AS VARCHAR)")
            }
            KeyForm::Binary => format!("lower(hex({column}))"),
        }
    }

    fn bytes(&self, text: &str) -> String {
        format!("CAST(strlen({text}) AS VARCHAR)")
    }

    fn hash(&self, text: &str) -> String {
        format!("CAST('0x' || substr(md5({text}), 1, 15) AS BIGINT)")
    }
}

#[async_trait]
impl KeyDigests for DuckDbKeys {
    async fn digests(&mut self, buckets: u32) -> Result<Digests> {
        let counted = self.blocking(move |open, keys| {
            let Some((relation, hash)) = &open.found else { return Ok(Digests::new()) };
            let from = source::quoted(&relation.name);
            let own = key_digests::condition(&DuckDbDialect, keys);
            let sql = key_digests::digests(&from, hash, own.as_deref(), buckets);
            let rows = open.session.fetch(&sql, &[])?;
            let digest = |row| {
                let cell = |at| {
                    number(&rows, at, row)
                        .ok_or_else(|| Error::internal("A digest is not a number"))
                };
                let bucket = u32::try_from(cell(0)?)
                    .map_err(|error| Error::internal("A bucket is none").caused_by(error))?;
                let digest =
                    Digest { rows: cell(1)?.unsigned_abs(), upper: cell(2)?, lower: cell(3)? };
                Ok((bucket, digest))
            };
            (0..rows.num_rows()).map(digest).collect()
        });
        Ok(counted.await?.unwrap_or_default())
    }

    async fn keys(&mut self, chosen: &Chosen, output: Output) -> Result<()> {
        let (chosen, wanted) = (chosen.clone(), self.keys.table());
        let is_source = matches!(self.side, Side::Source(..));
        let asked = wanted.clone();
        let read = |output: Output| async move {
            let done = self.blocking(move |open, keys| {
                let Some((relation, hash)) = &open.found else { return Ok(Completion::Complete) };
                let list = |buckets: &[String]| format!(" IN ({})", buckets.join(", "));
                let own = key_digests::condition(&DuckDbDialect, keys);
                let conditions = own.into_iter().chain(key_digests::chosen(hash, &chosen, list));
                let conditions: Vec<_> = conditions.collect();
                let condition = match conditions.is_empty() {
                    true => String::new(),
                    false => format!(" WHERE {}", conditions.join(" AND ")),
                };
                let table = match is_source {
                    true => asked,
                    false => stored_as_asked(relation, &asked),
                };
                let plan = read_back::full_read(table);
                let session = &mut open.session;
                source::read_where(session, plan, relation, &condition, BATCH_ROWS, &output)
            });
            Ok(done.await?.unwrap_or(Completion::Complete))
        };
        match is_source {
            true => read(output).await.map(drop),
            // It has types of its own for some columns.
            false => send_as(&wanted, &output, read).await,
        }
    }
}
