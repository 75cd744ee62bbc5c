//! What ends a process when highwater itself was killed and can do nothing more.
//!
//! A small shell waits for the end of a pipe that only we hold open; then it kills the group,
//! removes its files and its container. (The kernel's parent-death signal would need unsafe code,
//! and it fires when a mere thread ends.)

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Pid;

use crate::process::Launch;

/// `$1` is the group, `$2` and `$3` are the `docker` command and a container, or empty; what
/// follows is removed.
const SCRIPT: &str = r#"trap '' HUP INT TERM; read -r _; kill -s KILL -- "-$1"; docker=$2; name=$3; shift 3; [ $# = 0 ] || rm -rf -- "$@"; [ -z "$name" ] || "$docker" rm --force "$name""#;

/// Kills a process group when we are gone.
#[derive(Debug)]
pub(crate) struct Guard(std::process::Child);

impl Guard {
    /// `None` where there is no shell: then the group outlives a kill of highwater.
    pub(crate) fn stand_by(group: Pid, launch: &Launch) -> Option<Self> {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "highwater-guard", &group.as_raw_nonzero().to_string()]);
        match &launch.container {
            Some(container) => {
                // The shell needs its own PATH for `rm`.
                let variables = container.environment.iter().filter(|(key, _)| key != "PATH");
                command.envs(variables.map(|(key, value)| (key, value)));
                command.arg(&container.docker).arg(&container.name)
            }
            None => command.args(["", ""]),
        };
        command.args(launch.socket.as_deref());
        command.args(launch.folder.as_ref().map(tempfile::TempDir::path).map(Path::as_os_str));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .inspect_err(|e| tracing::debug!("no guard for a process: {e}"))
            .ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
