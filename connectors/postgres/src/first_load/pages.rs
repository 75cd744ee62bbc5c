//! A table cut into ranges of pages. A range is the same pages of the table and of everything
//! below it (partitions, inheriting tables), so that all is read through the table itself: by its
//! columns, its rights and its row security.

use highwater_core::Result;
use tokio_postgres::types::Type;

use super::{Pace, Round};
use crate::catalog::{self, get};
use crate::session::Session;

/// The first version that finds a range of pages without reading the pages before it.
const RANGES_SINCE: u32 = 140_000;
/// What one statement reads, at most: so readers end at about the same time.
const PIECE_BYTES: u64 = 32 << 20;
/// Below that a statement and a connection more cost as much as they bring.
const PIECE_BYTES_MIN: u64 = 8 << 20;

/// Pages `from`, up to but without `to` (`None`: whatever comes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: u64,
    pub(super) to: Option<u64>,
}

impl Range {
    pub(super) const ALL: Self = Self { from: 0, to: None };

    /// The condition on a row; `None`: every row is in it.
    pub(super) fn condition(self) -> Option<String> {
        let from = (self.from > 0).then(|| format!("ctid >= '({},0)'::pg_catalog.tid", self.from));
        let to = self.to.map(|to| format!("ctid < '({to},0)'::pg_catalog.tid"));
        let both: Vec<String> = from.into_iter().chain(to).collect();
        (!both.is_empty()).then(|| both.join(" AND "))
    }
}

/// How many pages there are of each relation that has some, and how they are cut.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    heaps: Vec<u64>,
    round: u64,
    piece: u64,
}

impl Pages {
    /// Looks at relations in the open transaction. What it sees has no row beyond their end.
    ///
    /// # Errors
    /// As the server's.
    pub(super) async fn of(session: &Session, oids: &[u32], pace: Pace) -> Result<Self> {
        // Values that are stored apart count as well: they are read with their rows.
        let statement = "
            SELECT pg_catalog.current_setting('server_version_num')::int8,
                   pg_catalog.current_setting('block_size')::int8,
                   coalesce(sum(pg_catalog.pg_table_size(c)), 0)::int8,
                   coalesce(array_agg(pg_catalog.pg_relation_size(c)), '{}')
            FROM unnest($1::oid[]) AS c WHERE pg_catalog.pg_relation_size(c) > 0";
        let rows = catalog::rows(session, statement, &[(&oids, Type::OID_ARRAY)]).await?;
        let Some(row) = rows.first() else { return Ok(Self::whole()) };
        let number = |column| get::<i64>(row, column).map(|n| u64::try_from(n).unwrap_or(0));
        let (version, block, bytes) = (number(0)?, number(1)?.max(1), number(2)?);
        if version < RANGES_SINCE.into() {
            return Ok(Self::whole());
        }
        let heaps = get::<Vec<Option<i64>>>(row, 3)?.into_iter().flatten();
        let heaps: Vec<u64> =
            heaps.map(|size| u64::try_from(size).unwrap_or(0).div_ceil(block)).collect();
        let page = (bytes / heaps.iter().sum::<u64>().max(1)).max(block);
        let pages = |bytes: u64| (bytes / page).max(1);
        let round = match pace.round {
            Round::Pages(pages) => pages,
            Round::Bytes(bytes) => pages(bytes),
        };
        let share = round.div_ceil(pace.readers.max(1) as u64);
        let piece = share.clamp(pages(PIECE_BYTES_MIN).min(share), pages(PIECE_BYTES));
        Ok(Self { heaps, round, piece })
    }

    /// Not cut.
    fn whole() -> Self {
        Self { heaps: Vec::new(), round: u64::MAX, piece: u64::MAX }
    }

    /// Cuts a range into rounds.
    pub(super) fn rounds(&self, range: Range) -> Vec<Range> {
        self.cut(range, self.round)
    }

    /// Cuts a range into pieces, for one statement each.
    pub(super) fn pieces(&self, range: Range) -> Vec<Range> {
        self.cut(range, self.piece)
    }

    /// Cuts into ranges with about `budget` pages of all relations together; never into none.
    fn cut(&self, range: Range, budget: u64) -> Vec<Range> {
        let end = self.heaps.iter().copied().max().unwrap_or(0);
        let end = range.to.map_or(end, |to| to.min(end));
        let mut ranges = Vec::new();
        let mut from = range.from;
        loop {
            let to = self.end_of(from, budget);
            if to >= end {
                ranges.push(Range { from, to: range.to });
                return ranges;
            }
            ranges.push(Range { from, to: Some(to) });
            from = to;
        }
    }

    /// Where `budget` pages from page `from` on end; at least one page further.
    fn end_of(&self, from: u64, budget: u64) -> u64 {
        let between = |to: u64| -> u64 {
            self.heaps.iter().map(|heap| to.min(*heap).saturating_sub(from)).sum()
        };
        // One page more is too much where several relations have it; then the range is that page.
        let (mut fits, mut beyond) = (from + 1, from.saturating_add(budget).saturating_add(1));
        while fits + 1 < beyond {
            let middle = fits + (beyond - fits) / 2;
            if between(middle) <= budget { fits = middle } else { beyond = middle }
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(heaps: &[u64], round: u64) -> Pages {
        Pages { heaps: heaps.to_vec(), round, piece: 1 }
    }

    fn ends(pages: &Pages, range: Range) -> Vec<Option<u64>> {
        let rounds = pages.rounds(range);
        let begins: Vec<u64> = rounds.iter().map(|round| round.from).collect();
        let expected = rounds.iter().filter_map(|round| round.to);
        assert_eq!(begins[0], range.from);
        assert_eq!(begins[1..], expected.take(begins.len() - 1).collect::<Vec<_>>());
        rounds.iter().map(|round| round.to).collect()
    }

    #[test]
    fn a_table_is_cut_without_a_gap_and_open_at_its_end() {
        assert_eq!(ends(&pages(&[10], 4), Range::ALL), [Some(4), Some(8), None]);
        assert_eq!(ends(&pages(&[8], 4), Range::ALL), [Some(4), None]);
        assert_eq!(ends(&pages(&[], 4), Range::ALL), [None]);
        assert_eq!(ends(&pages(&[10], u64::MAX), Range::ALL), [None]);
        assert_eq!(ends(&Pages::whole(), Range { from: 3, to: Some(9) }), [Some(9)]);
        let part = Range { from: 3, to: Some(9) };
        assert_eq!(ends(&pages(&[10], 4), part), [Some(7), Some(9)]);
        // It has become shorter since.
        assert_eq!(ends(&pages(&[5], 4), part), [Some(9)]);
    }

    #[test]
    fn pages_of_all_partitions_count() {
        assert_eq!(ends(&pages(&[10, 2, 2], 6), Range::ALL), [Some(2), Some(8), None]);
        assert_eq!(ends(&pages(&[3, 3, 3], 1), Range::ALL), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_range_is_a_condition() {
        let range = Range { from: 4, to: Some(9) };
        let expected = "ctid >= '(4,0)'::pg_catalog.tid AND ctid < '(9,0)'::pg_catalog.tid";
        assert_eq!(range.condition().unwrap(), expected);
        assert_eq!(Range::ALL.condition(), None);
    }
}
