//! Mappings that fail on purpose: no value that a table can hold does, and what happens then has
//! to be proven all the same. In release builds nothing fails here.

use highwater_core::{Error, Result};

/// Lets the mapping of a column fail, in debug builds: every `every`th of its values (from 1).
/// `HIGHWATER_FAIL_MAPPING=COLUMN[:EVERY]` does so in another process.
#[doc(hidden)]
pub fn inject(column: &str, every: u64) {
    #[cfg(debug_assertions)]
    armed::inject(column, every);
    #[cfg(not(debug_assertions))]
    let _ = (column, every);
}

/// Fails where a fault is due.
#[inline]
pub(super) fn at(column: &str) -> Result<()> {
    #[cfg(debug_assertions)]
    if armed::is_due(column) {
        return Err(Error::data("The mapping was made to fail"));
    }
    let _ = column;
    Ok::<(), Error>(())
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::BTreeMap;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    struct Fault {
        every: u64,
        passed: u64,
    }

    static FAULTS: LazyLock<Mutex<BTreeMap<String, Fault>>> = LazyLock::new(|| {
        let given = std::env::var("HIGHWATER_FAIL_MAPPING").ok();
        let fault = given.map(|text| {
            let (column, every) = text.split_once(':').unwrap_or((&text, "1"));
            let every = every.parse().unwrap_or(1).max(1);
            (column.to_owned(), Fault { every, passed: 0 })
        });
        Mutex::new(fault.into_iter().collect())
    });

    fn faults() -> MutexGuard<'static, BTreeMap<String, Fault>> {
        FAULTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inject(column: &str, every: u64) {
        faults().insert(column.to_owned(), Fault { every: every.max(1), passed: 0 });
    }

    pub(super) fn is_due(column: &str) -> bool {
        let mut faults = faults();
        let Some(fault) = faults.get_mut(column) else { return false };
        fault.passed += 1;
        fault.passed.is_multiple_of(fault.every)
    }
}
