//! Names that the server chooses: of the array type of a table, of the index of a primary key.
//!
//! It takes one that is free as far as it sees. Of two transactions that make tables at once whose
//! names begin with the same 62 bytes, both choose the same: the second one waits for the first,
//! and is refused when that has committed. It then sees the name, and another attempt finds a free
//! one.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::session::Session;

/// More than there are tables that one run makes at once.
const ATTEMPTS: usize = 100;
const ATTEMPT: &str = "highwater_names";

/// Runs statements that make or rename something, in the open transaction, as often as another
/// transaction takes the name that the server chose. On another error the transaction has failed,
/// and the caller's savepoints are as they were.
///
/// # Errors
/// As the server's.
pub(crate) async fn make(session: &Session, statements: &str) -> Result<(), Error> {
    let attempt = format!("SAVEPOINT {ATTEMPT}; {statements}; RELEASE SAVEPOINT {ATTEMPT}");
    let back = format!("ROLLBACK TO SAVEPOINT {ATTEMPT}; RELEASE SAVEPOINT {ATTEMPT}");
    for _ in 0..ATTEMPTS {
        match session.batch_execute(&attempt).await {
            Err(error) if is_taken(&error) => session.batch_execute(&back).await?,
            done => return done,
        }
    }
    session.batch_execute(statements).await
}

/// Whether the key of a catalog of the server is meant, and not one of a table of the user's.
fn is_taken(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        *error.code() == SqlState::UNIQUE_VIOLATION && error.schema() == Some("pg_catalog")
    })
}
