//! Rewrites of a table: `ALTER TABLE … TYPE` and the like give every row a new transaction id,
//! so that nothing is told from what was delivered.
//!
//! A rewrite changes the file that a table is stored in. VACUUM FULL and CLUSTER do so as well but
//! keep the ids; then rows that were delivered are still there.

use std::collections::BTreeMap;

use highwater_core::{Error, Result, TablePlan, WriteMode};
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, get};
use crate::horizon::SavedVersions;
use crate::session::Session;

/// The storage files of a table and its partitions, by their object ids.
pub(crate) type Files = BTreeMap<u32, u32>;

/// The storage files as they are in this transaction.
///
/// # Errors
/// As the server's.
pub(crate) async fn files(session: &Session, oids: &[u32]) -> Result<Files> {
    let statement = "SELECT c, pg_catalog.pg_relation_filenode(c) FROM unnest($1::oid[]) AS c";
    let rows = catalog::rows(session, statement, &[(&oids, Type::OID_ARRAY)]).await?;
    let pairs = rows.iter().map(|row| Ok((get::<u32>(row, 0)?, get::<Option<u32>>(row, 1)?)));
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    Ok(pairs.into_iter().filter_map(|(oid, file)| Some((oid, file?))).collect())
}

/// Refuses to add all rows of a table again after a rewrite. Where rows are matched by a key,
/// sending them again changes nothing.
///
/// # Errors
/// `Schema` when the table was rewritten or emptied since the last read.
pub(crate) async fn check_not_rewritten(
    session: &Session,
    table: &TablePlan,
    quoted: &str,
    saved: &SavedVersions,
    now: &Files,
) -> Result<()> {
    let changed: Vec<u32> = now
        .iter()
        .filter(|(oid, file)| saved.files.get(oid).is_some_and(|before| before != *file))
        .map(|(oid, _)| *oid)
        .collect();
    let adds = matches!(table.write_mode, WriteMode::Append | WriteMode::AppendDedup);
    if changed.is_empty() || !adds {
        return Ok(());
    }
    let statement = format!(
        "SELECT EXISTS (SELECT 1 FROM {quoted} WHERE tableoid = ANY ($1))
            AND NOT EXISTS (SELECT 1 FROM {quoted} WHERE tableoid = ANY ($1)
              AND (pg_catalog.age(xmin) NOT BETWEEN 0 AND pg_catalog.age('{}'::pg_catalog.xid)
                   OR xmin = ANY ($2::text[]::pg_catalog.xid[])))",
        saved.snapshot_xmin as u32
    );
    let delivered: Vec<String> =
        saved.delivered(table.name())?.map(|xid| xid.to_string()).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&changed, Type::OID_ARRAY), (&delivered, Type::TEXT_ARRAY)];
    let rows = catalog::rows(session, &statement, &parameters).await?;
    let rewritten = rows.first().map_or(Ok(false), |row| get::<bool>(row, 0))?;
    if !rewritten {
        return Ok(());
    }
    Err(Error::schema(
        "The table was rewritten (ALTER TABLE) or emptied and filled since it was last read: \
         its rows cannot be told from those that were delivered",
    )
    .context("table", table.name())
    .hint(format!(
        "`write_mode: overwrite` takes them again by their key; or empty the destination table and \
         copy all: {}",
        crate::horizon::reset_hint(table.name())
    )))
}
