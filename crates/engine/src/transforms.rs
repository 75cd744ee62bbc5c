//! A destination's transformers: rows pass through all of them, in order, while others are read
//! and written.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use futures::future::try_join_all;
use highwater_core::{Error, Plan, Result, Table, TableName, Transformer};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::sync::task_ended;

/// Batches that may wait between two transformers.
const WAITING: usize = 2;

/// Rows that have come out, with the name of their table afterwards.
pub(crate) type Passed = (String, RecordBatch);

/// What becomes of a table, step by step: the last one is what is written.
///
/// # Errors
/// What a transformer says, with its name.
pub(crate) async fn steps(
    transformers: &[Arc<dyn Transformer>],
    table: &Table,
) -> Result<Vec<Table>> {
    let mut steps: Vec<Table> = Vec::new();
    for transformer in transformers {
        let before = steps.last().unwrap_or(table);
        let after = transformer.table(before).await;
        let after = after.map_err(|e| {
            e.context("transformer", transformer.name()).context("table", &table.name)
        })?;
        steps.push(after);
    }
    Ok(steps)
}

/// The way through all transformers, from one commit to the next.
pub(crate) struct Chain {
    transformers: Vec<Arc<dyn Transformer>>,
    /// Per transformer: the tables as it takes them, by name.
    tables: Vec<Arc<BTreeMap<String, Arc<Table>>>>,
    /// The source table of each table that comes out, by its name then.
    sources: BTreeMap<String, TableName>,
    open: Option<Open>,
}

struct Open {
    input: mpsc::Sender<(Arc<Table>, RecordBatch)>,
    output: mpsc::Receiver<Passed>,
    work: JoinHandle<Result<()>>,
    abort: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Chain {
    /// The chain of a destination; `None` without transformers.
    ///
    /// # Errors
    /// What a transformer says of a table.
    pub(crate) async fn new(
        transformers: &[Arc<dyn Transformer>],
        plan: &Plan,
    ) -> Result<Option<Self>> {
        if transformers.is_empty() {
            return Ok(None);
        }
        let mut tables = vec![BTreeMap::new(); transformers.len()];
        let mut sources = BTreeMap::new();
        for table in plan.tables.values() {
            let Some(first) = &table.untransformed else { continue };
            let steps = steps(transformers, first).await?;
            let names = std::iter::once(first.as_ref()).chain(&steps);
            for (known, step) in tables.iter_mut().zip(names) {
                known.insert(step.name.to_string(), Arc::new(step.clone()));
            }
            if let Some(last) = steps.last() {
                sources.insert(last.name.to_string(), table.name().clone());
            }
        }
        let tables = tables.into_iter().map(Arc::new).collect();
        Ok(Some(Self { transformers: transformers.to_vec(), tables, sources, open: None }))
    }

    /// The source table of rows that have come out.
    ///
    /// # Errors
    /// `Internal` when no table becomes one of that name.
    pub(crate) fn source_of(&self, name: &str) -> Result<&TableName> {
        self.sources.get(name).ok_or_else(|| {
            Error::internal("A transformer gave rows of a table that it did not announce")
                .context("table", name)
        })
    }

    /// Sends rows in; what has come out in the meantime is returned.
    ///
    /// # Errors
    /// What a transformer says.
    pub(crate) async fn send(
        &mut self,
        table: &Arc<Table>,
        rows: RecordBatch,
    ) -> Result<Vec<Passed>> {
        let mut passed = Vec::new();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start(),
        };
        let ended = loop {
            tokio::select! {
                biased;
                out = open.output.recv() => match out {
                    Some(out) => passed.push(out),
                    None => break true,
                },
                permit = open.input.reserve() => match permit {
                    Ok(permit) => {
                        permit.send((Arc::clone(table), rows));
                        break false;
                    }
                    Err(_) => break true,
                },
            }
        };
        if ended {
            (&mut open.work).await.map_err(task_ended)??;
            return Err(Error::internal("A transformer ended before its input did"));
        }
        self.open = Some(open);
        Ok(passed)
    }

    /// The next rows that come out after everything was sent in; `None` when all are out.
    ///
    /// # Errors
    /// What a transformer says.
    pub(crate) async fn drain(&mut self) -> Result<Vec<Passed>> {
        let Some(mut open) = self.open.take() else { return Ok(Vec::new()) };
        // The sender has to go for the input to end.
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut open.input, closed));
        let mut passed = Vec::new();
        while let Some(out) = open.output.recv().await {
            passed.push(out);
        }
        (&mut open.work).await.map_err(task_ended)??;
        Ok(passed)
    }

    fn start(&self) -> Open {
        let (input, mut from) = mpsc::channel(WAITING);
        let (last, output) = mpsc::channel(WAITING);
        let mut stages: Vec<JoinHandle<Result<()>>> = Vec::new();
        for (index, transformer) in self.transformers.iter().enumerate() {
            let (to, next) = match self.tables.get(index + 1) {
                None => (last.clone(), None),
                Some(tables) => {
                    let (to, out) = mpsc::channel(WAITING);
                    let (named, next) = mpsc::channel(WAITING);
                    stages.push(tokio::spawn(hand_over(out, Arc::clone(tables), named)));
                    (to, Some(next))
                }
            };
            // Behind the last one nobody takes.
            let taken = std::mem::replace(&mut from, next.unwrap_or_else(|| mpsc::channel(1).1));
            let transformer = Arc::clone(transformer);
            stages.push(tokio::spawn(async move {
                let result = transformer.transform(taken, to).await;
                result.map_err(|e| e.context("transformer", transformer.name()))
            }));
        }
        drop(last);
        let work = tokio::spawn(async move {
            let aborts: Vec<_> = stages.iter().map(JoinHandle::abort_handle).collect();
            let guard = AbortAll(aborts);
            try_join_all(
                stages.into_iter().map(|stage| async { stage.await.map_err(task_ended)? }),
            )
            .await?;
            drop(guard);
            Ok(())
        });
        let abort = work.abort_handle();
        Open { input, output, work, abort }
    }
}

struct AbortAll(Vec<AbortHandle>);

impl Drop for AbortAll {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Gives the rows that come out of a transformer the table that the next one takes.
async fn hand_over(
    mut from: mpsc::Receiver<Passed>,
    tables: Arc<BTreeMap<String, Arc<Table>>>,
    to: mpsc::Sender<(Arc<Table>, RecordBatch)>,
) -> Result<()> {
    while let Some((name, rows)) = from.recv().await {
        let table = tables.get(&name).ok_or_else(|| {
            Error::internal("A transformer gave rows of a table that it did not announce")
                .context("table", &name)
        })?;
        if to.send((Arc::clone(table), rows)).await.is_err() {
            break;
        }
    }
    Ok(())
}
