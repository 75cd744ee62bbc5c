//! The first read of a table that is read incrementally: in rounds, each committed, so that one
//! that is interrupted goes on; and how large tables are read by several sessions at once.
//!
//! All rounds of a run read one snapshot, each the next pages of the table. After a round the
//! position of what was read so far is saved ([`Progress`]): up to which page, and the facts by
//! which an incremental read goes on (see [`crate::horizon`]), of the pages before it.
//!
//! A run that goes on has another snapshot. It first reads what is new in the pages before, by
//! exactly the rule of an incremental read, so that all of them are as the new snapshot sees them;
//! then there is only one snapshot again, and the pages after that are read as a whole. A row
//! version never moves to another page, so each is in one of the two and is sent once. A row that
//! was updated meanwhile is a new version, wherever that lies; one that was deleted stays at the
//! destination, as in every incremental read.
//!
//! Where pages mean nothing any more (the table was rewritten: VACUUM FULL, CLUSTER, TRUNCATE) the
//! read begins anew if rows are matched by a key, and is refused if they would be added again.
//!
//! The session that has the snapshot holds a lock that every reader of the table has, so nobody
//! empties, rewrites or detaches what is still to be read.

mod pages;
mod readers;

use std::sync::Arc;

use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Error, Output, Result, TableName,
    TablePlan, crash,
};
use serde::{Deserialize, Serialize};

use crate::catalog::{Relation, RelationKind};
use crate::horizon::durable::Written;
use crate::horizon::{self, Probe, SavedVersions, Snapshot, TableNow, VersionRead, durable};
use crate::read::{self, Filter, VersionFields};
use crate::session::Session;
use crate::source::{self, CursorColumn, PostgresSource};
use crate::storage::{self, Files};
use crate::types::Wire;
use pages::{Pages, Range};
use readers::{Readers, Work};

/// How large tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) round: Round,
    /// How many sessions read side by side, at most.
    pub(crate) readers: usize,
}

/// How much is read between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Bytes(u64),
    Pages(u64),
}

/// How far an unfinished first read has come.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    v: u32,
    kind: String,
    /// The pages before this one were read, of the table and of everything below it.
    pages: u64,
    /// What these were stored in.
    files: Files,
    /// The position of these pages.
    at: SavedVersions,
}

const KIND: &str = "first_read";

impl Progress {
    /// # Errors
    /// `Config` when it has a form that this version does not know.
    fn parse(cursor: &Cursor, table: &TableName) -> Result<Self> {
        let progress = Self::deserialize(&cursor.0).ok();
        progress.filter(|progress| progress.v == 1 && progress.kind == KIND).ok_or_else(|| {
            Error::config("The saved progress has a form that this version does not know")
                .context("table", table)
                .hint(horizon::reset_hint(table))
        })
    }
}

/// A first read, with everything that is known before it.
pub(crate) struct FirstLoad<'a> {
    pub(crate) source: &'a PostgresSource,
    pub(crate) table: &'a TablePlan,
    pub(crate) relation: Relation,
    pub(crate) wires: Vec<Wire>,
    pub(crate) cursor: CursorColumn,
    pub(crate) probe: Probe,
    pub(crate) snapshot: Snapshot,
    /// The server's log at the snapshot.
    pub(crate) written: Written,
}

impl FirstLoad<'_> {
    /// Reads the table in the snapshot of `holder`, from where `progress` says.
    ///
    /// # Errors
    /// `Schema` when the read cannot go on and must not begin anew; else as [`read::copy`].
    pub(crate) async fn read(
        self,
        holder: Session,
        progress: Option<&Cursor>,
        output: &Output,
    ) -> Result<Completion> {
        let name = self.table.name();
        let progress = progress.map(|progress| Progress::parse(progress, name)).transpose()?;
        let partitions = source::children(&holder, &self.relation).await?;
        let oids: Vec<u32> = partitions.iter().copied().chain([self.relation.oid]).collect();
        lock(&holder, &self.relation).await?;
        let files = storage::files(&holder, &oids).await?;
        if !durable::is_flushed(&holder, &self.written).await? {
            match self.source.session().await {
                Ok(other) => {
                    durable::wait(&other, &self.written, false).await?;
                    other.give_back();
                }
                // The server takes no more sessions.
                Err(_) => durable::wait(&holder, &self.written, true).await?,
            }
        }
        let (mut read, from) = match self.go_on(progress, &partitions, &files)? {
            GoesOn::At(read, page) => (read, page),
            GoesOn::Anew(read, why) => {
                output.note(name.clone(), why).await?;
                (read, 0)
            }
        };
        let pages = Pages::of(&holder, &oids, self.source.pace).await?;
        let before = (from > 0).then_some(Range { from: 0, to: Some(from) });
        let rounds = pages.rounds(Range { from, to: None });
        let most = before.iter().chain(&rounds).map(|round| pages.pieces(*round).len()).max();
        let count = self.source.pace.readers.min(most.unwrap_or(1));
        let by_pages = from > 0 || most > Some(1) || rounds.len() > 1;
        let mut readers = Readers::open(self.source, holder, count, by_pages).await?;
        crash::at(CrashPoint::ReadSnapshot);
        let mut left_out = 0;
        if let Some(before) = before {
            let (work, fields) = self.work(&read, true);
            let filter = || self.filter(&read, fields);
            let ended = readers.read(&work, pages.pieces(before), filter, output).await?;
            left_out += absorb(&mut read, ended.1);
            if ended.0 == Completion::Stopped {
                return Ok(Completion::Stopped);
            }
            // One snapshot for all pages before: the next run need not come back to the old one.
            self.save(&read, from, &files, output).await?;
            read.forget_known();
        }
        let (work, fields) = self.work(&read, false);
        for round in rounds {
            let filter = || self.filter(&read, fields);
            let ended = readers.read(&work, pages.pieces(round), filter, output).await?;
            left_out += absorb(&mut read, ended.1);
            if ended.0 == Completion::Stopped {
                return Ok(Completion::Stopped);
            }
            if let Some(to) = round.to {
                self.save(&read, to, &files, output).await?;
            }
        }
        crash::at(CrashPoint::ReadRows);
        readers.end().await?;
        source::say_left_out(left_out, self.table);
        let key = CursorKey::Table(name.clone());
        output.checkpoint(Checkpoint::of(key, read.finish()?)).await?;
        Ok(Completion::Complete)
    }

    /// Where the read goes on, and by which rule.
    fn go_on(
        &self,
        progress: Option<Progress>,
        partitions: &[u32],
        files: &Files,
    ) -> Result<GoesOn> {
        let name = self.table.name();
        let is_view = self.relation.kind == RelationKind::MaterializedView;
        let begin = |saved: Option<SavedVersions>| {
            let now = TableNow {
                oid: self.relation.oid,
                partitions: partitions.to_vec(),
                // A refresh makes every row new, and the label says so.
                files: if is_view { Files::new() } else { files.clone() },
                nulls: self.table.null_cursor,
                cursor_field: self.cursor.name.clone(),
                clock: self.cursor.clock,
            };
            VersionRead::new(name, saved, &self.probe, self.snapshot, now)
        };
        let Some(Progress { pages, files: before, at, .. }) = progress else {
            return Ok(GoesOn::At(Box::new(begin(None)?), 0));
        };
        let rewritten =
            files.iter().any(|(oid, file)| before.get(oid).is_some_and(|before| before != file));
        let read = begin(Some(at))?;
        let why = if rewritten {
            "The table was rewritten or emptied while its first read was interrupted"
        } else if read.is_wrapped() {
            "The first read was interrupted so long ago that transaction ids cannot be compared"
        } else {
            return Ok(GoesOn::At(Box::new(read), pages));
        };
        if is_view || source::is_keyed(self.table) {
            let why = format!("{why}: the table was read from the beginning.");
            return Ok(GoesOn::Anew(Box::new(begin(None)?), why));
        }
        Err(Error::schema(format!(
            "{why}: its rows cannot be told from those that were delivered"
        ))
        .context("table", name)
        .hint(format!(
            "`write_mode: overwrite` takes them again by their key; or empty the destination table \
             and copy all: {}",
            horizon::reset_hint(name)
        )))
    }

    /// What is read: of pages that were read before, only what is new.
    fn work(&self, read: &VersionRead, only_new: bool) -> (Arc<Work>, VersionFields) {
        let fresh = if only_new { read.new_partitions() } else { Vec::new() };
        let (hidden, fields) = source::hidden_fields(self.table, &self.cursor, &fresh);
        let mut conditions = Vec::new();
        if only_new {
            let is_new = read.version_condition();
            let is_new = is_new.into_iter().chain(source::in_relations(&fresh));
            conditions.push(format!("({})", is_new.collect::<Vec<_>>().join(" OR ")));
        }
        conditions.extend(source::in_known_partitions(read));
        let work = Work {
            table: Arc::new(self.table.clone()),
            relation: self.relation.clone(),
            wires: self.wires.clone(),
            hidden,
            condition: (!conditions.is_empty()).then(|| conditions.join(" AND ")),
        };
        (Arc::new(work), fields)
    }

    fn filter(&self, read: &VersionRead, fields: VersionFields) -> Filter {
        Filter::Versions {
            read: Box::new(read.part()),
            fields,
            null_cursor: self.table.null_cursor,
            cursor_field: self.cursor.name.clone(),
            nulls_left_out: 0,
        }
    }

    /// Lets everything before a page be committed. A sweep always begins anew: nothing is saved.
    async fn save(
        &self,
        read: &VersionRead,
        pages: u64,
        files: &Files,
        output: &Output,
    ) -> Result<()> {
        if self.table.sweep {
            return Ok(());
        }
        let name = self.table.name();
        let (v, kind, files, at) = (1, KIND.to_owned(), files.clone(), read.reached());
        let progress = horizon::as_json(&Progress { v, kind, pages, files, at }, name)?;
        let key = CursorKey::Partition(name.clone(), FULL_REFRESH.to_owned());
        output.checkpoint(Checkpoint::of(key, progress)).await
    }
}

/// Where a first read goes on.
enum GoesOn {
    /// The pages before this one were read.
    At(Box<VersionRead>, u64),
    /// At the beginning again, and why.
    Anew(Box<VersionRead>, String),
}

/// Takes back what the readers have seen; returns how many rows without a cursor they left out.
fn absorb(read: &mut VersionRead, filters: Vec<Filter>) -> u64 {
    let mut left_out = 0;
    for filter in filters {
        if let Filter::Versions { read: part, nulls_left_out, .. } = filter {
            read.absorb(*part);
            left_out += nulls_left_out;
        }
    }
    left_out
}

/// Keeps the table, and everything below it, as it is until the end of the transaction: a `SELECT`
/// needs no right that the read does not need, and locks as it does.
async fn lock(holder: &Session, relation: &Relation) -> Result<()> {
    let statement = format!("SELECT FROM {} LIMIT 0", read::quoted_name(relation));
    let locked = holder.run("lock the table", &statement).await;
    locked.map_err(|error| error.context("table", &relation.name))
}

/// Reads the rows of a table in the snapshot of `holder`, all in one commit.
///
/// # Errors
/// As [`read::copy`].
pub(crate) async fn whole(
    source: &PostgresSource,
    holder: Session,
    table: &TablePlan,
    relation: Relation,
    wires: Vec<Wire>,
    output: &Output,
) -> Result<Completion> {
    let mut pieces = vec![Range::ALL];
    let mut condition = None;
    if relation.has_row_versions {
        let partitions = source::children(&holder, &relation).await?;
        let oids: Vec<u32> = partitions.iter().copied().chain([relation.oid]).collect();
        lock(&holder, &relation).await?;
        pieces = Pages::of(&holder, &oids, source.pace).await?.pieces(Range::ALL);
        // Not the later pages of a partition that is attached right now.
        condition = source::in_relations(&oids).filter(|_| oids.len() > 1);
    }
    let hidden = Vec::new();
    let table = Arc::new(table.clone());
    let work = Arc::new(Work { table, relation, wires, hidden, condition });
    if pieces.len() == 1 {
        let (statement, mut filter) = (work.statement(Range::ALL), Filter::All);
        let (table, wires) = (&work.table, &work.wires);
        let done = read::copy(&holder, &statement, table, wires, 0, &mut filter, output).await?;
        if done == Completion::Complete {
            source::end(holder).await?;
        }
        return Ok(done);
    }
    let count = source.pace.readers.min(pieces.len());
    let mut readers = Readers::open(source, holder, count, true).await?;
    let (completion, _) = readers.read(&work, pieces, || Filter::All, output).await?;
    if completion == Completion::Complete {
        readers.end().await?;
    }
    Ok(completion)
}
