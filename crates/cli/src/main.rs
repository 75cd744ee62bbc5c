//! The program: parse, start logging, run the command, say what went wrong, leave with a code
//! that tells how it ended.

use std::process::ExitCode;

use clap::Parser;
use highwater_cli::args::{Cli, LogFormat};
use highwater_cli::exit::Exit;
use highwater_cli::{commands, logging, output};

fn main() -> ExitCode {
    end_on_defects();
    // Clap prints usage errors itself and leaves with 2, as it leaves with 0 after `--help`.
    let cli = Cli::parse();
    logging::start(&cli.global);
    let as_json = cli.global.log_format == LogFormat::Json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: The runtime does not start: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let ended = runtime.block_on(commands::run(cli));
    // A thread that still waits for a system does not keep the program from leaving.
    runtime.shutdown_background();
    let exit = ended.unwrap_or_else(|failure| {
        output::failure(&failure, as_json);
        Exit::of_error(failure.kind())
    });
    ExitCode::from(exit.code())
}

/// Ends the program when something panics anywhere in it: a defect must not go on to commit. What
/// is printed is the place alone, because the message of a panic may hold a value of a row.
fn end_on_defects() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        output::note(&format!("error: A defect of highwater ended it{place}"));
        output::note("hint: run the same command again, nothing is lost; please report the place");
        std::process::exit(i32::from(Exit::Failed.code()));
    }));
}
