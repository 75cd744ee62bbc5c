//! This process: who it is, how it takes memory, and the one place from which it ends abruptly.

use serde::{Deserialize, Serialize};

use crate::clock::Instant;

/// The holder of a lease: enough to tell on the same machine whether it is still alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Host name, or an empty text where it is not known.
    pub host: String,
    /// Process id on that host.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: tells a reused pid apart.
    pub start_ticks: u64,
    /// When the run began.
    pub since: Instant,
}

impl Owner {
    /// This process.
    pub fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            host: host_name(),
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            since: Instant::now(),
        }
    }

    /// `Some(false)` when the owner certainly no longer runs, `Some(true)` when it certainly does,
    /// `None` when this machine cannot tell because the owner is on another one.
    pub fn is_alive(&self) -> Option<bool> {
        if self.host.is_empty() || self.host != host_name() {
            return None;
        }
        Some(start_ticks(self.pid).is_some_and(|ticks| ticks == self.start_ticks))
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default()
}

/// Field 22 of `/proc/PID/stat`; the command name before it may hold spaces and parentheses.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // A zombie is dead: it will never commit again.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Lets all threads take memory from two pools. The C library else makes one per thread, and each
/// keeps what was freed in it. To be called before there are threads.
#[allow(unsafe_code)]
pub fn share_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes any parameter and value, and there is no other thread yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Ends the process at once: no destructor, no flush, as a power cut would.
#[cfg(debug_assertions)]
#[allow(unsafe_code)]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Stops the process until somebody sends SIGCONT.
#[cfg(debug_assertions)]
#[allow(unsafe_code)]
pub(crate) fn stop_self() {
    // SAFETY: `raise` with a valid signal number has no memory effects.
    unsafe {
        libc::raise(libc::SIGSTOP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lease_is_seen_to_live_and_to_die() {
        let me = Owner::this_process();
        assert_eq!(me.is_alive(), Some(true));
        assert_eq!(Owner { start_ticks: me.start_ticks + 1, ..me.clone() }.is_alive(), Some(false));
        assert_eq!(Owner { host: "elsewhere".into(), ..me }.is_alive(), None);
    }
}
