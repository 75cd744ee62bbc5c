//! The order in which rows and states go on, so that nothing is committed that no state covers.
//!
//! A commit takes everything sent before it. A source connector may send rows of many streams in
//! any order, and a state covers the rows of its own stream only: were all sent on as they come,
//! a state of one table would commit rows of another whose own state is still to come, and a
//! crash in between would bring those rows twice. So:
//!
//! - Rows wait in memory until their state comes, and then go on right before it.
//! - When too much waits in memory it goes to disk, up to 2 GiB: a table may still fail, and its
//!   rows must not be there then.
//! - When the disk is full too, or only one table is read, one table goes ahead: its rows pass as
//!   they come. Until its state has come no other state goes on; what waits for that is on disk,
//!   however much it is. If it never comes, rows are committed that the next sync reads again.
//! - Rows that may come twice without harm never wait, their states do.
//! - A GLOBAL state covers all tables at once: from the first one on they are one unit.
//! - A table that is covered by its end only (a full refresh that cannot be resumed) is a unit
//!   whose only state is its end.

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use highwater_core::{Checkpoint, Result};

use super::spill::{Place, Spill};

/// How many bytes of rows wait in memory.
pub(super) const MEMORY_BYTES: usize = 8 << 20;
/// How many bytes of rows, compressed, wait on disk before a table goes ahead.
pub(super) const DISK_BYTES: usize = 2 << 30;

/// Where everything goes on to.
pub(super) trait Exit {
    /// Rows of a table, by its index.
    fn rows(&mut self, table: usize, rows: RecordBatch) -> Result<()>;
    /// A checkpoint: everything sent so far is covered.
    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<()>;
}

/// What is known of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// Whether rows that are committed and sent again leave the destination as it was.
    pub(super) repeats: bool,
    /// Whether its end alone covers its rows.
    pub(super) at_end: bool,
}

/// The tables of a read on their way.
#[derive(Debug)]
pub(super) struct Order {
    traits: Vec<Traits>,
    /// The unit of each table.
    unit_of: Vec<usize>,
    units: Vec<VecDeque<Item>>,
    /// The unit that went ahead: rows of it were sent that no state covers yet.
    ahead: Option<usize>,
    /// The rows of each table that were sent and that no checkpoint followed.
    loose: Vec<u64>,
    /// States of tables whose rows do not wait.
    held: Option<Checkpoint>,
    /// The unit of all tables that GLOBAL states cover, when one has come.
    global: Option<usize>,
    /// Bytes that wait in memory, and how many may.
    memory: usize,
    limit: usize,
    /// How many bytes may wait on disk before a unit goes ahead.
    disk_limit: usize,
    spill: Spill,
}

#[derive(Debug)]
enum Item {
    Rows { table: usize, rows: Stored },
    State(Checkpoint),
}

#[derive(Debug)]
enum Stored {
    Memory(RecordBatch),
    Disk(Place),
}

impl Item {
    fn rows(&self) -> Option<&Stored> {
        match self {
            Self::Rows { rows, .. } => Some(rows),
            Self::State(_) => None,
        }
    }
}

impl Stored {
    fn in_memory(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.get_array_memory_size(),
            Self::Disk(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Memory(_) => self.in_memory(),
            Self::Disk(place) => place.bytes(),
        }
    }
}

impl Order {
    /// Nothing has been sent yet. So many bytes may wait in memory, and so many on disk.
    pub(super) fn new(traits: Vec<Traits>, limit: usize, disk_limit: usize) -> Self {
        let tables = traits.len();
        // A failure of the only table fails the read, and what it sent is not committed.
        let disk_limit = if tables > 1 { disk_limit } else { 0 };
        Self {
            traits,
            unit_of: (0..tables).collect(),
            units: (0..tables).map(|_| VecDeque::new()).collect(),
            ahead: None,
            loose: vec![0; tables],
            held: None,
            global: None,
            memory: 0,
            limit,
            disk_limit,
            spill: Spill::default(),
        }
    }

    /// Rows of a table, in the order in which the connector sent them.
    pub(super) fn rows(
        &mut self,
        table: usize,
        rows: RecordBatch,
        exit: &mut dyn Exit,
    ) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let unit = self.unit_of[table];
        if self.traits[table].repeats || self.ahead == Some(unit) {
            return self.send(table, rows, exit);
        }
        self.memory += rows.get_array_memory_size();
        self.units[unit].push_back(Item::Rows { table, rows: Stored::Memory(rows) });
        self.relieve(exit)
    }

    /// A state that covers all rows of a table that came before it.
    pub(super) fn state(
        &mut self,
        table: usize,
        checkpoint: Checkpoint,
        exit: &mut dyn Exit,
    ) -> Result<()> {
        if self.traits[table].repeats {
            self.hold(checkpoint);
            return if self.ahead.is_none() { self.release(exit) } else { Ok(()) };
        }
        self.cover(self.unit_of[table], checkpoint, exit)
    }

    /// A state that covers all rows that came before it, but those of tables that only their end
    /// covers.
    pub(super) fn global(&mut self, checkpoint: Checkpoint, exit: &mut dyn Exit) -> Result<()> {
        let unit = self.global.unwrap_or_else(|| self.unite());
        self.cover(unit, checkpoint, exit)
    }

    /// Nothing more comes, and the connector ended well: what waits of tables that are not in
    /// `failed` goes on, covered or not. Rows of failed tables that no state covers are dropped.
    /// The answer is, per table, how many of those could not be dropped, because they had gone
    /// ahead.
    pub(super) fn finish(&mut self, failed: &[bool], exit: &mut dyn Exit) -> Result<Vec<u64>> {
        let mut told = vec![0; failed.len()];
        for table in (0..failed.len()).filter(|&table| failed[table]) {
            let unit = self.unit_of[table];
            self.forget(table);
            if self.ahead == Some(unit) {
                told[table] = self.loose[table];
                if self.global != Some(unit) {
                    self.ahead = None;
                }
            }
        }
        if let Some(unit) = self.ahead {
            self.cover(unit, Checkpoint::default(), exit)?;
        }
        self.drain(exit)?;
        for unit in 0..self.units.len() {
            if !self.units[unit].is_empty() {
                self.cover(unit, Checkpoint::default(), exit)?;
            }
        }
        let good = (0..failed.len()).any(|table| !failed[table] && self.loose[table] > 0);
        if self.held.is_some() || good {
            self.hold(Checkpoint::default());
            self.release(exit)?;
        }
        Ok(told)
    }

    /// Whether all that came of a table was sent and covered.
    pub(super) fn is_covered(&self, table: usize) -> bool {
        let unit = self.unit_of[table];
        let waits = match self.global == Some(unit) {
            false => !self.units[unit].is_empty(),
            true => self.units[unit].iter().any(|item| match item {
                Item::Rows { table: of, .. } => *of == table,
                Item::State(_) => true,
            }),
        };
        let held = self.traits[table].repeats && self.held.is_some();
        !waits && !held && self.loose[table] == 0
    }

    /// Whether nothing waits and nothing was sent that is not covered.
    pub(super) fn is_clean(&self) -> bool {
        self.ahead.is_none()
            && self.held.is_none()
            && self.units.iter().all(VecDeque::is_empty)
            && self.loose.iter().all(|rows| *rows == 0)
    }

    /// A state of a unit, or its end.
    fn cover(&mut self, unit: usize, state: Checkpoint, exit: &mut dyn Exit) -> Result<()> {
        if self.ahead.is_some_and(|ahead| ahead != unit) {
            if let Some(Item::State(before)) = self.units[unit].back_mut() {
                before.cursors.extend(state.cursors);
            } else {
                self.units[unit].push_back(Item::State(state));
            }
            return Ok(());
        }
        while let Some(item) = self.units[unit].pop_front() {
            self.pass(item, exit)?;
        }
        self.ahead = None;
        self.hold(state);
        self.release(exit)?;
        self.drain(exit)
    }

    /// Sends what is covered and has waited only for the unit that was ahead.
    fn drain(&mut self, exit: &mut dyn Exit) -> Result<()> {
        if self.ahead.is_some() {
            return Ok(());
        }
        for unit in 0..self.units.len() {
            let states = self.units[unit].iter().filter(|item| matches!(item, Item::State(_)));
            let mut states = states.count();
            while states > 0 {
                let Some(item) = self.units[unit].pop_front() else { break };
                states -= usize::from(matches!(item, Item::State(_)));
                self.pass(item, exit)?;
            }
        }
        self.relieve(exit)
    }

    /// Sends what has waited.
    fn pass(&mut self, item: Item, exit: &mut dyn Exit) -> Result<()> {
        match item {
            Item::Rows { table, rows: Stored::Memory(rows) } => {
                self.memory = self.memory.saturating_sub(rows.get_array_memory_size());
                self.send(table, rows, exit)
            }
            Item::Rows { table, rows: Stored::Disk(place) } => {
                self.send(table, place.take()?, exit)
            }
            Item::State(state) => {
                self.hold(state);
                self.release(exit)
            }
        }
    }

    fn send(&mut self, table: usize, rows: RecordBatch, exit: &mut dyn Exit) -> Result<()> {
        self.loose[table] += rows.num_rows() as u64;
        exit.rows(table, rows)
    }

    fn hold(&mut self, state: Checkpoint) {
        self.held.get_or_insert_default().cursors.extend(state.cursors);
    }

    fn release(&mut self, exit: &mut dyn Exit) -> Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        self.loose.fill(0);
        exit.checkpoint(held)
    }

    /// Makes room when too much waits in memory: a unit goes to disk, or ahead.
    fn relieve(&mut self, exit: &mut dyn Exit) -> Result<()> {
        while self.memory > self.limit {
            let is_ahead = self.ahead.is_some();
            if is_ahead || self.on_disk() < self.disk_limit {
                let Some(unit) = self.largest(Stored::in_memory) else { return Ok(()) };
                match self.put_away(unit) {
                    Err(error) if !is_ahead => {
                        tracing::warn!(%error, "Rows go on before their state");
                        self.disk_limit = 0;
                    }
                    done => done?,
                }
                continue;
            }
            let Some(unit) = self.largest(Stored::bytes) else { return Ok(()) };
            self.ahead = Some(unit);
            while let Some(item) = self.units[unit].pop_front() {
                self.pass(item, exit)?;
            }
        }
        Ok(())
    }

    /// The bytes that wait on disk.
    fn on_disk(&self) -> usize {
        let rows = self.units.iter().flatten().filter_map(Item::rows);
        rows.map(|rows| rows.bytes() - rows.in_memory()).sum()
    }

    /// The unit with the most bytes.
    fn largest(&self, bytes: impl Fn(&Stored) -> usize) -> Option<usize> {
        let size = |unit: &VecDeque<Item>| -> usize {
            unit.iter().filter_map(Item::rows).map(&bytes).sum()
        };
        let sizes = self.units.iter().map(size).enumerate();
        sizes.filter(|(_, bytes)| *bytes > 0).max_by_key(|(_, bytes)| *bytes).map(|(unit, _)| unit)
    }

    fn put_away(&mut self, unit: usize) -> Result<()> {
        for item in &mut self.units[unit] {
            let Item::Rows { rows, .. } = item else { continue };
            if let Stored::Memory(waiting) = rows {
                let size = waiting.get_array_memory_size();
                *rows = Stored::Disk(self.spill.put(waiting)?);
                self.memory = self.memory.saturating_sub(size);
            }
        }
        Ok(())
    }

    /// Makes one unit of all tables that GLOBAL states cover.
    fn unite(&mut self) -> usize {
        let united = self.units.len();
        let mut items = VecDeque::new();
        for table in 0..self.traits.len() {
            let Traits { repeats, at_end } = self.traits[table];
            if at_end && !repeats {
                continue;
            }
            let unit = std::mem::replace(&mut self.unit_of[table], united);
            items.append(&mut self.units[unit]);
            if self.ahead == Some(unit) {
                self.ahead = Some(united);
            }
        }
        self.units.push(items);
        self.global = Some(united);
        united
    }

    /// Drops the rows of a table that wait and that no state covers.
    pub(super) fn forget(&mut self, table: usize) {
        let memory = &mut self.memory;
        let unit = &mut self.units[self.unit_of[table]];
        let covered = unit.iter().rposition(|item| matches!(item, Item::State(_)));
        let mut index = 0;
        unit.retain(|item| {
            let is_covered = covered.is_some_and(|last| index < last);
            index += 1;
            let Item::Rows { table: of, rows } = item else { return true };
            let keep = is_covered || *of != table;
            if let (false, Stored::Memory(rows)) = (keep, rows) {
                *memory = memory.saturating_sub(rows.get_array_memory_size());
            }
            keep
        });
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
