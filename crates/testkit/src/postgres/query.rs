//! Statements for setting up and looking at a test database, from any context.

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::PATIENCE;

/// The values of a row in PostgreSQL's text form, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// Runs statements on a connection of their own and returns the rows of all of them.
pub(super) fn run(url: &str, statements: &str) -> Result<Vec<Row>, String> {
    // A thread of its own, so that this also works inside a runtime.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|e| e.to_string())?
                    .block_on(async {
                        tokio::time::timeout(PATIENCE, simple_query(url, statements))
                            .await
                            .map_err(|_| format!("no answer in {PATIENCE:?}"))?
                    })
            })
            .join()
            .expect("the query thread does not panic")
    })
}

async fn simple_query(url: &str, statements: &str) -> Result<Vec<Row>, String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(describe)?;
    let background = tokio::spawn(connection);
    let messages = client.simple_query(statements).await.map_err(describe)?;
    drop(client);
    let _ = background.await;
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    Ok(rows)
}

fn describe(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}
