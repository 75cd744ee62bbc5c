//! The exit codes, the one place that knows them.

use highwater_core::ErrorKind;
use highwater_engine::{Failure as Reported, Outcome, Summary};

/// How the program ends, the better ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: everything is done and durable.
    Success,
    /// 3: what was done is durable, but tables failed.
    Partial,
    /// 75: another run is at work, or a system is out of reach: the same command may succeed later.
    TryLater,
    /// 4: source and destination disagree about a table, and no row was written.
    Blocked,
    /// 1: failed.
    Failed,
    /// 2: the command line or the configuration asks for something impossible.
    Usage,
    /// 130: stopped on request, after a clean commit.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Blocked => 4,
            Self::TryLater => 75,
            Self::Interrupted => 130,
        }
    }

    /// The end of a command that could not begin its work because of such an error.
    pub fn of_error(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Config | ErrorKind::Unsupported => Self::Usage,
            ErrorKind::Schema => Self::Blocked,
            ErrorKind::Fenced | ErrorKind::Transient => Self::TryLater,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Data | ErrorKind::Internal => Self::Failed,
        }
    }

    /// The end of a sync. One in which nothing was completed, and every table failed for the same
    /// kind of reason, ends as that kind does: a wrong configuration is 2 also when only a table
    /// showed it, and a schema that differs is 4, because no row was written.
    pub fn of_sync(summary: &Summary) -> Self {
        match summary.outcome() {
            Outcome::Complete => Self::Success,
            Outcome::Partial => Self::Partial,
            Outcome::TryLater => Self::TryLater,
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Failed => {
                let mut ends = failures(summary).map(|f| Self::of_error(f.kind));
                let first = ends.next().unwrap_or(Self::Failed);
                let wrote = summary.destinations.iter().flat_map(|d| &d.tables);
                let wrote = wrote.into_iter().any(|t| t.rows_written + t.rows_deleted > 0);
                let is_clear = matches!(first, Self::Usage | Self::Blocked) && !wrote;
                if is_clear && ends.all(|end| end == first) { first } else { Self::Failed }
            }
        }
    }
}

/// Everything that went wrong in a sync.
pub fn failures(summary: &Summary) -> impl Iterator<Item = &Reported> {
    summary.destinations.iter().flat_map(|d| {
        d.error.iter().chain(d.tables.iter().filter_map(|table| table.error.as_ref()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_of_several_counts() {
        let ends = [Exit::Partial, Exit::Success, Exit::Failed, Exit::TryLater];
        assert_eq!(ends.iter().max(), Some(&Exit::Failed));
        assert_eq!(Exit::Interrupted.max(Exit::Usage).code(), 130);
        assert_eq!(Exit::of_error(ErrorKind::Schema).code(), 4);
    }
}
