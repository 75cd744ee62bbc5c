//! Ctrl-C and SIGTERM: the first asks the run to stop cleanly, the second ends the program.

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

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
