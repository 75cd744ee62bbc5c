//! The bounds of an incremental read, without a server.

use super::*;
use highwater_core::ErrorKind;

fn probe() -> Probe {
    Probe {
        horizon: Instant(1_000_000_000),
        oldest_transaction: None,
        now: Instant(1_005_000_000),
        sessions_hidden: false,
        standby: false,
        prepared: vec![],
        system: Some("77".into()),
        timeline: Some("00000001".into()),
    }
}

fn now(clock: Clock) -> TableNow {
    TableNow {
        oid: 5,
        partitions: vec![],
        cursor_field: "c".into(),
        clock,
        files: Default::default(),
        nulls: highwater_core::NullCursor::Include,
    }
}

fn read(saved: Option<&SavedVersions>, probe: &Probe, snapshot: Snapshot) -> Result<VersionRead> {
    VersionRead::new(&TableName::new("t"), saved.cloned(), probe, snapshot, now(Clock::Instant))
}

fn saved(mut read: VersionRead) -> SavedVersions {
    read.reach(&i64::MAX.to_be_bytes());
    read.reach(&0i64.to_be_bytes());
    SavedVersions::parse(&Cursor(read.finish().unwrap()), &TableName::new("t")).unwrap()
}

#[test]
fn a_transaction_is_sent_once_as_a_whole() {
    let mut first = read(None, &probe(), Snapshot { xmin: 100, xmax: 110 }).unwrap();
    for xid in [2, 90, 100, 104, 105, 104] {
        assert!(first.admit(xid, false));
    }
    let first = saved(first);
    assert_eq!(first.delivered, "100,104-105");
    let mut second = read(Some(&first), &probe(), Snapshot { xmin: 104, xmax: 120 }).unwrap();
    let sent: Vec<u32> =
        [100, 101, 104, 105, 112].into_iter().filter(|x| second.admit(*x, false)).collect();
    assert_eq!(sent, [101, 112]);
    assert!(second.admit(104, true), "everything in a new partition is new");
    assert_eq!(saved(second).delivered, "104-105,112");
}

#[test]
fn ids_are_compared_beyond_the_32_bit_limit() {
    let xmin = (1 << 32) - 2;
    let snapshot = Snapshot { xmin, xmax: xmin + 100 };
    assert_eq!(snapshot.recent(u32::MAX), Some(xmin + 1));
    assert_eq!(snapshot.recent(5), Some((1 << 32) + 5));
    assert_eq!(snapshot.recent(u32::MAX - 2), None);
    assert_eq!(snapshot.recent(2), None);
    let mut first = read(None, &probe(), snapshot).unwrap();
    first.admit(5, false);
    let first = saved(first);
    let far = Snapshot { xmin: xmin + XIDS_MAX - 1, xmax: xmin + XIDS_MAX };
    let second = read(Some(&first), &probe(), far).unwrap();
    assert!(second.is_wrapped());
    assert_eq!(
        second.version_condition().unwrap(),
        "pg_catalog.age(xmin) BETWEEN 0 AND pg_catalog.age('4294967294'::pg_catalog.xid)"
    );
}

#[test]
fn the_bound_is_the_clocks_and_stays_where_sessions_are_hidden() {
    let snapshot = Snapshot { xmin: 100, xmax: 100 };
    let first = saved(read(None, &probe(), snapshot).unwrap());
    assert_eq!(first.lower_bound, Some(Instant(1_000_000_000)));
    let second = read(Some(&first), &probe(), snapshot).unwrap();
    assert_eq!(
        second.cursor_condition("c", Clock::Instant, 60).unwrap(),
        "(\"c\" >= '1970-01-01T00:15:40.000000Z'::pg_catalog.timestamptz OR \"c\" IS NULL)"
    );
    assert!(second.cursor_condition("c", Clock::Day, 0).unwrap().contains("1969-12-31T08:16"));
    let mut lagging = first.clone();
    lagging.greatest = Some(Instant(0));
    let third = read(Some(&lagging), &probe(), snapshot).unwrap();
    let condition = third.cursor_condition("c", Clock::Instant, 60).unwrap();
    assert!(condition.contains("'1969-12-31T23:59:00"), "{condition}");
    let back = Probe { now: Instant(999_999_999), ..probe() };
    let third = read(Some(&first), &back, snapshot).unwrap();
    assert_eq!(third.cursor_condition("c", Clock::Instant, 0), None, "the clock went back");
    let hidden = Probe { sessions_hidden: true, horizon: Instant(i64::MAX), ..probe() };
    assert_eq!(
        saved(read(Some(&first), &hidden, snapshot).unwrap()).lower_bound,
        first.lower_bound
    );
    assert_eq!(saved(read(None, &hidden, snapshot).unwrap()).lower_bound, None);
}

#[test]
fn a_prepared_transaction_holds_the_bound_of_the_sync_that_first_met_it() {
    let snapshot = Snapshot { xmin: 100, xmax: 100 };
    let first = saved(read(None, &probe(), snapshot).unwrap());
    let met = Probe { prepared: vec!["99".into()], horizon: Instant(2_000_000_000), ..probe() };
    let second = saved(read(Some(&first), &met, snapshot).unwrap());
    assert_eq!(second.lower_bound, first.lower_bound);
    let later = Probe { horizon: Instant(3_000_000_000), ..met.clone() };
    assert_eq!(
        saved(read(Some(&second), &later, snapshot).unwrap()).lower_bound,
        first.lower_bound
    );
    let gone = Probe { prepared: vec![], ..later };
    assert_eq!(
        saved(read(Some(&second), &gone, snapshot).unwrap()).lower_bound,
        Some(gone.horizon)
    );
    assert_eq!(saved(read(None, &met, snapshot).unwrap()).lower_bound, None);
}

#[test]
fn another_server_table_or_past_is_refused() {
    let snapshot = Snapshot { xmin: 100, xmax: 110 };
    let first = saved(read(None, &probe(), snapshot).unwrap());
    let kind =
        |probe: Probe, snapshot| read(Some(&first), &probe, snapshot).err().map(|e| e.kind());
    assert_eq!(kind(probe(), snapshot), None);
    let other = Probe { system: Some("78".into()), ..probe() };
    assert_eq!(kind(other, snapshot), Some(ErrorKind::Schema));
    let past = Snapshot { xmin: 90, xmax: 109 };
    assert_eq!(kind(probe(), past), Some(ErrorKind::Schema));
    assert_eq!(kind(Probe { standby: true, ..probe() }, past), Some(ErrorKind::Transient));
    let table = TableNow { oid: 6, ..now(Clock::Instant) };
    let again =
        VersionRead::new(&TableName::new("t"), Some(first.clone()), &probe(), snapshot, table);
    assert_eq!(again.err().map(|e| e.kind()), Some(ErrorKind::Schema));
}

#[test]
fn damaged_ranges_are_refused() {
    for text in ["x", "5-", "9-3", "1-99999999999"] {
        assert!(parse_ranges(text).is_none(), "{text}");
    }
    assert_eq!(parse_ranges("").unwrap(), BTreeSet::new());
}

#[test]
fn what_readers_of_parts_admit_is_covered_together() {
    let snapshot = Snapshot { xmin: 100, xmax: 110 };
    let mut whole = read(None, &probe(), snapshot).unwrap();
    let (mut left, mut right) = (whole.part(), whole.part());
    left.admit(101, false);
    left.reach(&0i64.to_be_bytes());
    right.admit(99, false);
    right.admit(105, false);
    assert_eq!(whole.reached().delivered, "");
    whole.absorb(left);
    whole.absorb(right);
    assert_eq!(whole.reached().delivered, "101,105");
    assert_eq!(whole.reached().greatest, Some(Instant(EPOCH_MICROS)));
    let mut later = read(Some(&saved(whole)), &probe(), snapshot).unwrap();
    assert!(!later.part().admit(101, false));
    later.forget_known();
    assert!(later.part().admit(101, false), "of a page that was not read");
}

#[test]
fn a_row_that_was_frozen_long_ago_is_none_of_a_transaction_to_come() {
    let snapshot = Snapshot { xmin: 3_000_000_000, xmax: 3_000_000_002 };
    assert_eq!(snapshot.recent(785), None);
    assert_eq!(snapshot.recent(3_000_000_001), Some(3_000_000_001));
    assert_eq!(snapshot.recent(3_000_000_002), None);
}

#[test]
fn a_source_that_was_promoted_or_restored_is_refused() {
    let snapshot = Snapshot { xmin: 100, xmax: 100 };
    let first = saved(read(None, &probe(), snapshot).unwrap());
    let promoted = Probe { timeline: Some("00000002".into()), ..probe() };
    let refused = read(Some(&first), &promoted, snapshot).err().unwrap();
    assert_eq!(refused.kind(), highwater_core::ErrorKind::Schema);
    // A standby knows none, and what was known is kept.
    let standby = Probe { timeline: None, standby: true, ..probe() };
    let second = saved(read(Some(&first), &standby, snapshot).unwrap());
    assert!(read(Some(&second), &promoted, snapshot).is_err());
    assert!(read(Some(&second), &probe(), snapshot).is_ok());
}
