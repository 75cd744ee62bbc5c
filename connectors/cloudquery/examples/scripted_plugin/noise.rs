//! What it logs.
//!
//! `levels`: one line of each level on stdout, and a plain one on stderr. `noise`: what no log
//! should hold, on both: broken UTF-8, NUL, ten megabytes without a line's end.

use std::io::Write;

use crate::script::Script;

pub fn make(script: &Script) {
    if script.has("levels") {
        for level in ["trace", "debug", "info", "warn", "error"] {
            println!(r#"{{"level":"{level}","message":"a line of level {level}","n":1}}"#);
        }
        eprintln!("a plain line");
    }
    if script.has("noise") {
        let mut garbage = b"\0\xff\xfe\x1b[31m\n{\"level\":\n[[[[\n\n\r\n".to_vec();
        garbage.extend(std::iter::repeat_n(b'x', 10 << 20));
        std::io::stdout().write_all(&garbage).unwrap();
        std::io::stderr().write_all(&garbage).unwrap();
        println!();
    }
}
