//! How often a plugin's position becomes a commit.
//!
//! A plugin may send its position after every few rows, and each would be a commit of its own. A
//! later position covers what an earlier one did, so those that come soon after one another wait
//! and go as one.

use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::StateRows;

/// The least time between two positions that are sent on.
const PERIOD: Duration = Duration::from_secs(2);

/// The positions that wait, and when the last one went.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waiting: StateRows,
    last: Option<Instant>,
}

impl Pace {
    /// A position that covers everything sent so far.
    pub(super) fn add(&mut self, rows: StateRows) {
        self.waiting.rows.extend(rows.rows);
    }

    /// What waits, if something does and its time has come. The first goes at once.
    pub(super) fn due(&mut self) -> Option<StateRows> {
        if self.waiting.rows.is_empty() {
            return None;
        }
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Option<StateRows> {
        if self.waiting.rows.is_empty() || self.last.is_some_and(|last| now - last < PERIOD) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::StateRow;

    fn rows(pairs: &[(&str, u64)]) -> StateRows {
        let row = |version| StateRow { value: format!("v{version}"), version };
        StateRows { rows: pairs.iter().map(|(key, v)| ((*key).to_owned(), row(*v))).collect() }
    }

    #[test]
    fn the_first_goes_at_once_and_the_others_go_as_one() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.due_at(start), None, "nothing waits");
        pace.add(rows(&[("a", 1)]));
        assert_eq!(pace.due_at(start), Some(rows(&[("a", 1)])));
        assert_eq!(pace.due_at(start + PERIOD), None, "it has gone");
        pace.add(rows(&[("a", 2), ("b", 1)]));
        pace.add(rows(&[("a", 3)]));
        pace.add(rows(&[("c", 1)]));
        assert_eq!(pace.due_at(start + PERIOD.mul_f64(0.9)), None);
        let all = rows(&[("a", 3), ("b", 1), ("c", 1)]);
        assert_eq!(pace.due_at(start + PERIOD), Some(all));
        pace.add(rows(&[("a", 4)]));
        assert_eq!(pace.due_at(start + PERIOD.mul_f64(1.9)), None);
        assert_eq!(pace.due_at(start + PERIOD * 5), Some(rows(&[("a", 4)])));
    }
}
