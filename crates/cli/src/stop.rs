//! Ctrl-C and SIGTERM: the first asks the run to stop cleanly, the second ends the program. And
//! SIGXFSZ, which is outlived.

use highwater_engine::StopSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;
use crate::output;

/// A stop signal that is set by the first Ctrl-C or SIGTERM. The second one ends the process at
/// once: what is not committed then is read again by the next sync.
pub fn on_signals() -> StopSignal {
    let stop = StopSignal::default();
    let asked = stop.clone();
    let (Ok(interrupt), Ok(terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("Signals cannot be handled: Ctrl-C ends the program at once");
        return stop;
    };
    tokio::spawn(async move {
        let (mut interrupt, mut terminate) = (interrupt, terminate);
        next(&mut interrupt, &mut terminate).await;
        asked.stop();
        output::note("Stopping: what is complete is committed first. Once more to stop at once.");
        next(&mut interrupt, &mut terminate).await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    stop
}

/// A file that may not grow further (`ulimit -f`) is an error of the write, as on a full disk, and
/// not the end of the process. Has to be called inside the runtime.
pub fn outlive_the_file_size_limit() {
    /// SIGXFSZ on every system whose signals have the usual numbers.
    const FILE_SIZE_EXCEEDED: i32 = 25;
    // A handler, once there, stays: nobody has to listen.
    if signal(SignalKind::from_raw(FILE_SIZE_EXCEEDED)).is_err() {
        tracing::warn!("A limit on the size of files ends the program without a message");
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
