//! How the process starts and how it ends.
//!
//! `note=FILE`: each start appends its process id and its arguments to the file as a line.
//! `child=FILE`: starts a process that never ends, and writes its id into the file.
//! `exit=CODE`: ends at once. `no-unix`: ends if it is to listen on a socket, as Python plugins do.
//! `hang`: never listens. `deaf`: listens and never answers.
//! `http1`: listens, and answers as a web server. `stubborn`: does not heed SIGINT.
//! `end=CODE`: the exit code after a SIGINT.

use std::io::{Read, Write};
use std::time::Duration;

use crate::script::Script;

pub fn before_listening(script: &Script) {
    if let Some(file) = script.value("note") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        let line = format!("{} {}\n", std::process::id(), script.arguments().join(" "));
        file.write_all(line.as_bytes()).unwrap();
    }
    if let Some(file) = script.value("child") {
        // That nobody waits for it is the point: the host has to end it.
        #[allow(clippy::zombie_processes)]
        let child = std::process::Command::new("sleep").arg("100000").spawn().unwrap();
        std::fs::write(file, child.id().to_string()).unwrap();
    }
    if let Some(code) = script.number("exit") {
        eprintln!("first line of trouble\nthe reason: postgres://me:hunter2@host/db is down");
        std::process::exit(code);
    }
    if script.has("no-unix") && script.network() == "unix" {
        println!(r#"{{"level":"error","message":"cannot listen on a path"}}"#);
        eprintln!("RuntimeError: Failed to bind to address {}", script.address());
        std::process::exit(1);
    }
    if script.has("hang") {
        std::thread::sleep(Duration::from_secs(100_000));
    }
    if script.has("http1") {
        speak_http1(script);
    }
    if script.has("deaf") {
        // One of the two: a TCP address is a relative path as well.
        let _unix;
        let _tcp;
        if script.network() == "unix" {
            _unix = std::os::unix::net::UnixListener::bind(script.address()).unwrap();
        } else {
            _tcp = std::net::TcpListener::bind(script.address()).unwrap();
        }
        std::thread::sleep(Duration::from_secs(100_000));
    }
}

fn speak_http1(script: &Script) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    if script.network() == "unix" {
        let listener = std::os::unix::net::UnixListener::bind(script.address()).unwrap();
        for mut peer in listener.incoming().flatten() {
            let _ = peer.read(&mut [0; 24]);
            let _ = peer.write_all(ANSWER);
        }
    } else {
        let listener = std::net::TcpListener::bind(script.address()).unwrap();
        for mut peer in listener.incoming().flatten() {
            let _ = peer.read(&mut [0; 24]);
            let _ = peer.write_all(ANSWER);
        }
    }
}

/// Resolves when the process is to end.
pub async fn end(script: &Script) {
    tokio::signal::ctrl_c().await.unwrap();
    if script.has("stubborn") {
        std::future::pending::<()>().await;
    }
    if let Some(code) = script.number("end") {
        std::process::exit(code);
    }
}

pub fn after_serving(script: &Script) {
    println!(r#"{{"level":"info","message":"good bye from {}"}}"#, script.network());
}
