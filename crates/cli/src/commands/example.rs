//! `highwater example`: a small shop to try things on, without any other program.

use std::path::Path;

use clap::Args;
use highwater_core::Error;
use rusqlite::Connection;
use serde_json::json;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;

/// The files of `examples/shop`.
const SHOP_SQL: &str = include_str!("../../../../examples/shop/shop.sql");
const CHANGE_SQL: &str = include_str!("../../../../examples/shop/change.sql");
const SYNC_YML: &str = include_str!("../../../../examples/shop/sync.yml");
/// The folder that `sync.yml` names.
const FOLDER: &str = "highwater-example";

/// Make a small shop database and a configuration to sync it with
#[derive(Debug, Args)]
#[command(after_help = "Example:
  highwater example                            # makes highwater-example/
  highwater sync highwater-example/sync.yml    # copies everything
  highwater example --change                   # a day in the shop
  highwater sync highwater-example/sync.yml    # copies what changed")]
pub struct Example {
    /// Let a day pass in the shop: orders are placed and shipped, a customer moves
    #[arg(long)]
    pub change: bool,
}

impl Example {
    /// Makes what is missing of the example, or changes its database.
    ///
    /// # Errors
    /// `Config` when the folder cannot be written.
    pub fn run(self, global: &Global) -> Result<Exit> {
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
        }
        if !config.exists() {
            std::fs::write(&config, SYNC_YML).map_err(unwritable)?;
        }
        if self.change {
            run_sql(&database, CHANGE_SQL)?;
        }
        if global.json {
            output::json(&json!({ "folder": FOLDER, "made": is_new, "changed": self.change }))?;
            return Ok(Exit::Success);
        }
        let said = if self.change {
            "A day has passed in highwater-example/shop.db: 3 orders were placed, 2 shipped, \
             a customer moved and a price rose."
        } else if is_new {
            "highwater-example/shop.db is made: 200 customers, 40 products, 2,000 orders with \
             5,000 lines."
        } else {
            "highwater-example/shop.db is there already; `highwater example --change` changes it."
        };
        output::result(&format!("{said}\nNext: highwater sync highwater-example/sync.yml"))?;
        Ok(Exit::Success)
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
