//! Up to where a cursor may move: how an incremental read loses no row that is committed late.
//!
//! A cursor column is written before its transaction commits. InnoDB shows no version numbers of
//! rows, but it shows which transactions are open: nothing that they write, and nothing that a
//! statement is writing right now, has a time before the earliest start of them. So the saved
//! maximum never passes that moment, and rows after it that were delivered are told by their
//! hashes ([`highwater_sql::boundary`]).
//!
//! A `datetime` or `date` holds the reading of a clock and not a moment, and once a year such a
//! clock may go back. For these columns the saved maximum stays two hours further behind, unless
//! the server's time zone has no changes (`source.rs`).
//!
//! This holds for columns that the server's clock fills (`DEFAULT CURRENT_TIMESTAMP ON UPDATE
//! CURRENT_TIMESTAMP`, `NOW()`). What the application sets, and numbers, need a `lookback`.

use highwater_core::{Instant, Result};

use crate::session::{Session, UTC};

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

/// The clock, and the earliest start of a statement that is running.
const STATEMENTS: &str = "
    SELECT CAST(FLOOR(UNIX_TIMESTAMP(LEAST(
      NOW(6),
      COALESCE((SELECT NOW(6) - INTERVAL MAX(time) + 1 SECOND FROM information_schema.processlist
                WHERE id <> CONNECTION_ID() AND command IN ('Query', 'Execute')), NOW(6))
    )) * 1000000) AS SIGNED)";

/// The earliest start of an open transaction. InnoDB shows it in the time zone of the server's
/// host, which is the zone `SYSTEM`, whatever the zones of the server and of the session are.
/// Around a change of that clock one reading may stand for two moments, two hours apart at most.
const TRANSACTIONS: &str = "
    SELECT CAST(started - IF(TIMESTAMPDIFF(SECOND, FROM_UNIXTIME(started - 10800),
                                           FROM_UNIXTIME(started + 10800)) = 21600, 0, 7200)
                AS SIGNED) * 1000000
    FROM (SELECT MIN(UNIX_TIMESTAMP(trx_started)) AS started FROM information_schema.innodb_trx
          WHERE trx_mysql_thread_id <> CONNECTION_ID()) AS earliest";

/// The horizon by the server's clock. Has to be asked for before the snapshot: a transaction that
/// ends in between is seen by the snapshot, and one that begins in between is later.
///
/// # Errors
/// As the server's.
pub(crate) async fn probe(session: &mut Session) -> Result<Horizon> {
    // Without the right, the list of transactions is refused, and that of statements is short.
    let micros = match may_see_others(session).await? {
        true => session.one::<i64>(STATEMENTS).await?,
        false => None,
    };
    if let Some(micros) = micros {
        // After the clock: what begins in between is later than the clock was.
        let started = transactions(session).await?;
        let micros = started.map_or(micros, |started| started.min(micros));
        return Ok(Horizon { at: Instant(micros - SLACK_MICROS), is_known: true });
    }
    let now = "SELECT CAST(FLOOR(UNIX_TIMESTAMP(NOW(6)) * 1000000) AS SIGNED)";
    let now = session.one::<i64>(now).await?.unwrap_or_default();
    Ok(Horizon { at: Instant(now - SLACK_MICROS), is_known: false })
}

async fn transactions(session: &mut Session) -> Result<Option<i64>> {
    session.run("look at the server", "SET SESSION time_zone = 'SYSTEM'").await?;
    let started = session.one::<i64>(TRANSACTIONS).await;
    session.run("prepare the session", UTC).await?;
    started
}

async fn may_see_others(session: &mut Session) -> Result<bool> {
    let granted = "SELECT COUNT(*) FROM information_schema.user_privileges \
                   WHERE privilege_type IN ('PROCESS', 'SUPER')
                     AND grantee = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''',
                                          SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
    Ok(session.one::<i64>(granted).await?.unwrap_or_default() > 0)
}
