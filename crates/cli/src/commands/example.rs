//! `highwater example`: a small shop to see a sync at work, without any other program.

use std::path::Path;

use clap::Args;
use highwater_core::Error;
use rusqlite::Connection;

use super::sync::Sync;
use crate::args::{Global, RunArgs, SyncArgs, TableArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;

/// The files of `examples/shop`.
const SHOP_SQL: &str = include_str!("../../../../examples/shop/shop.sql");
const CHANGE_SQL: &str = include_str!("../../../../examples/shop/change.sql");
const SYNC_YML: &str = include_str!("../../../../examples/shop/sync.yml");
/// The folder that `sync.yml` names.
const FOLDER: &str = "highwater-example";

/// Make a small shop and sync it; run again, a day passes there and only the changes move
#[derive(Debug, Args)]
pub struct Example {}

impl Example {
    /// Makes the shop, or lets a day pass in it, and syncs it.
    ///
    /// # Errors
    /// `Config` when the folder cannot be written; what a sync ends with.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let folder = Path::new(FOLDER);
        let (database, config) = (folder.join("shop.db"), folder.join("sync.yml"));
        std::fs::create_dir_all(folder).map_err(unwritable)?;
        let is_new = !database.exists();
        if is_new {
            // Under another name first: a shop is there completely or not at all.
            let unfinished = folder.join("shop.db.unfinished");
            let _ = std::fs::remove_file(&unfinished);
            run_sql(&unfinished, SHOP_SQL)?;
            std::fs::rename(&unfinished, &database).map_err(unwritable)?;
        } else {
            run_sql(&database, CHANGE_SQL)?;
        }
        if !config.exists() {
            std::fs::write(&config, SYNC_YML).map_err(unwritable)?;
        }
        output::note(if is_new {
            "A shop opens in highwater-example/shop.db: 200 customers, 40 products, 2,000 orders \
             with 5,000 lines."
        } else {
            "A day passes in the shop: 3 orders are placed, 2 shipped, a customer moves, a price \
             rises."
        });
        output::note("$ highwater sync highwater-example/sync.yml");
        let sync = Sync {
            what: SyncArgs {
                what: vec![config.display().to_string()],
                tables: TableArgs::default(),
            },
            run: RunArgs {
                no_migrate: false,
                allow_mass_delete: false,
                take_over: false,
                tasks: None,
                summary_location: None,
                tables_metrics_location: None,
                shard: None,
            },
        };
        Box::pin(sync.run(global)).await
    }
}

/// Runs a script in one transaction.
fn run_sql(database: &Path, script: &str) -> Result<()> {
    let run = || {
        let mut connection = Connection::open(database)?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(script)?;
        transaction.commit()
    };
    run().map_err(|error| {
        Error::config("The example's database cannot be written")
            .context("file", database.display())
            .hint("remove the folder highwater-example and try again")
            .caused_by(error)
            .into()
    })
}

fn unwritable(error: std::io::Error) -> Failure {
    Error::config("The example's folder cannot be written")
        .context("folder", FOLDER)
        .caused_by(error)
        .into()
}
