//! Rows like those of TPC-H's `lineitem`, for benchmarks: made alike on every machine, and measured
//! by time, CPU and memory.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// The columns as a PostgreSQL table has them, in the words of the source's `columns`.
pub const TYPES: [(&str, &str); 16] = [
    ("l_orderkey", "int64"),
    ("l_linenumber", "int32"),
    ("l_partkey", "int64"),
    ("l_suppkey", "int32"),
    ("l_quantity", "decimal(15,2)"),
    ("l_extendedprice", "decimal(15,2)"),
    ("l_discount", "decimal(15,2)"),
    ("l_tax", "decimal(15,2)"),
    ("l_returnflag", "text"),
    ("l_linestatus", "text"),
    ("l_shipdate", "date"),
    ("l_commitdate", "date"),
    ("l_shipinstruct", "text"),
    ("l_shipmode", "text"),
    ("l_comment", "text"),
    ("updated_at", "timestamptz"),
];

/// A day as text, `days` after 1992-01-02: months of 28 days are days enough here.
fn day(out: &mut String, days: u64) {
    let (year, rest) = (1992 + days / 336, days % 336);
    let _ = write!(out, "{year}-{:02}-{:02}", rest / 28 + 1, rest % 28 + 1);
}

/// The CSV line of row `i`, from 1.
pub fn line(out: &mut String, i: u64) {
    let cents = |out: &mut String, n: u64| {
        let _ = write!(out, "{}.{:02},", n / 100, n % 100);
    };
    let order = 1 + (i - 1) / 4;
    let (number, part, supplier) =
        (1 + (i - 1) % 4, 1 + i * 7919 % 200_000, 1 + i * 104_729 % 10_000);
    let _ = write!(out, "{order},{number},{part},{supplier},");
    cents(out, (1 + i * 31 % 50) * 100);
    cents(out, 90_000 + i * 7919 % 1_000_000);
    cents(out, i % 11);
    cents(out, i % 9);
    let _ = write!(out, "{},{},", ["R", "A", "N"][(i % 3) as usize], ["O", "F"][(i % 2) as usize]);
    day(out, i * 37 % 2526);
    out.push(',');
    if !i.is_multiple_of(50) {
        day(out, 29 + i * 41 % 2466);
    }
    let how = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"][(i % 4) as usize];
    let mode = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"][(i % 7) as usize];
    let _ = write!(out, ",{how:25},{mode},");
    if !i.is_multiple_of(97) {
        let noise = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let noise = format!("{noise:016x}{:016x}", noise.wrapping_mul(0xbf58_476d_1ce4_e5b9));
        let _ = write!(out, "comment {}", &noise[..8 + (i % 24) as usize]);
    }
    let (s, micro) = (i, i % 1_000_000);
    let (d, s) = (s / 86_400, s % 86_400);
    let _ = writeln!(
        out,
        ",2024-{:02}-{:02} {:02}:{:02}:{:02}.{micro:06}+00",
        d / 28 % 12 + 1,
        d % 28 + 1,
        s / 3600,
        s / 60 % 60,
        s % 60
    );
}

/// Writes a CSV file of `rows` rows, with the names of the columns.
///
/// # Panics
/// When the file cannot be written.
pub fn csv(path: &Path, rows: u64) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut text = TYPES.map(|(name, _)| name).join(",");
    text.push('\n');
    for i in 1..=rows {
        line(&mut text, i);
        if text.len() > 64 << 10 {
            file.write_all(text.as_bytes()).unwrap();
            text.clear();
        }
    }
    file.write_all(text.as_bytes()).unwrap();
    file.flush().unwrap();
}

/// CPU seconds of this process so far, of all threads.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(12) + ticks(13)) / 100.0
}

/// MiB of memory: now, and at most since the last reset.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Runs `work` some times, and prints the best time and CPU of all threads, and how much memory it
/// added at most. `BENCH` names what is measured, by parts of names with commas between.
///
/// # Panics
/// When `work` says another number of rows than `rows`.
pub fn measure(name: &str, rows: u64, rounds: usize, mut work: impl FnMut() -> u64) {
    let wanted = std::env::var("BENCH").unwrap_or_default();
    if !wanted.split(',').any(|part| name.contains(part)) {
        return;
    }
    let (mut wall, mut best_cpu, mut peak) = (f64::MAX, f64::MAX, 0f64);
    for _ in 0..rounds {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = (cpu(), memory().0, Instant::now());
        assert_eq!(work(), rows, "{name}");
        wall = wall.min(before.2.elapsed().as_secs_f64());
        best_cpu = best_cpu.min(cpu() - before.0);
        peak = peak.max(memory().1 - before.1);
    }
    println!(
        "{name:28} {wall:7.3} s  {best_cpu:6.2} CPU s  {:8.0} rows/s  +{peak:4.0} MiB",
        rows as f64 / wall
    );
}

/// How many rows and rounds a benchmark takes: a million and three, or as a test a few and one.
/// `LINEITEM_ROWS` says another number of rows.
pub fn size() -> (u64, usize) {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let rows = std::env::var("LINEITEM_ROWS").ok().and_then(|rows| rows.parse().ok());
    (rows.unwrap_or(if measured { 1_000_000 } else { 10_000 }), if measured { 3 } else { 1 })
}
