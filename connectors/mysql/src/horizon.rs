//! Up to where a cursor may move: how an incremental read loses no row that is committed late.
//!
//! A cursor column is written before its transaction commits. InnoDB shows no version numbers of
//! rows, but it shows which transactions are open: nothing that they write, and nothing that a
//! statement is writing right now, has a time before the earliest start of them. So the saved
//! maximum never passes that moment, and rows after it that were delivered are told by their
//! hashes ([`highwater_sql::boundary`]).
//!
//! This holds for columns that the server's clock fills (`DEFAULT CURRENT_TIMESTAMP ON UPDATE
//! CURRENT_TIMESTAMP`, `NOW()`). What the application sets, and numbers, need a `lookback`.

use highwater_core::{Instant, Result};

use crate::session::Session;

/// Covers whole seconds in the list of statements, and small steps of the clock.
const SLACK_MICROS: i64 = 5_000_000;

/// What was found before the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// No transaction that can still write began earlier.
    pub(crate) at: Instant,
    /// Whether the transactions of others can be seen.
    pub(crate) is_known: bool,
}

const OPEN: &str = "
    SELECT CAST(FLOOR(UNIX_TIMESTAMP(LEAST(
      NOW(6),
      COALESCE((SELECT MIN(trx_started) FROM information_schema.innodb_trx
                WHERE trx_mysql_thread_id <> CONNECTION_ID()), NOW(6)),
      COALESCE((SELECT NOW(6) - INTERVAL MAX(time) + 1 SECOND FROM information_schema.processlist
                WHERE id <> CONNECTION_ID() AND command IN ('Query', 'Execute')), NOW(6))
    )) * 1000000) AS SIGNED)";

/// The horizon by the server's clock. Has to be asked for before the snapshot: a transaction that
/// ends in between is seen by the snapshot, and one that begins in between is later.
///
/// # Errors
/// As the server's.
pub(crate) async fn probe(session: &mut Session) -> Result<Horizon> {
    // Without the right, the list of transactions is refused, and that of statements is short.
    let micros = match may_see_others(session).await? {
        true => session.one::<i64>(OPEN).await?,
        false => None,
    };
    if let Some(micros) = micros {
        return Ok(Horizon { at: Instant(micros - SLACK_MICROS), is_known: true });
    }
    let now = "SELECT CAST(FLOOR(UNIX_TIMESTAMP(NOW(6)) * 1000000) AS SIGNED)";
    let now = session.one::<i64>(now).await?.unwrap_or_default();
    Ok(Horizon { at: Instant(now - SLACK_MICROS), is_known: false })
}

async fn may_see_others(session: &mut Session) -> Result<bool> {
    let granted = "SELECT COUNT(*) FROM information_schema.user_privileges \
                   WHERE privilege_type IN ('PROCESS', 'SUPER')
                     AND grantee = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''',
                                          SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
    Ok(session.one::<i64>(granted).await?.unwrap_or_default() > 0)
}
