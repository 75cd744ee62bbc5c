//! The program: parse, start logging, run the command, say what went wrong, leave with a code
//! that tells how it ended.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use highwater_cli::args::{Cli, Command, LogFormat};
use highwater_cli::config::endpoints;
use highwater_cli::exit::Exit;
use highwater_cli::{commands, logging, not_here, output, plugin_log, registry, stop};
use highwater_core::process;

fn main() -> ExitCode {
    process::share_memory();
    end_on_defects();
    let cli = parsed();
    match &cli.command {
        Command::Plugin(plugin) if plugin.logs_to_stdout() => plugin_log::start(&cli.global),
        _ => logging::start(&cli.global),
    }
    let as_json = cli.global.log_format == LogFormat::Json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: The runtime does not start: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    {
        let _inside = runtime.enter();
        stop::outlive_the_file_size_limit();
    }
    let ended = runtime.block_on(commands::run(cli));
    // A thread that still waits for a system does not keep the program from leaving.
    runtime.shutdown_background();
    let exit = ended.unwrap_or_else(|failure| {
        output::failure(&failure, as_json);
        Exit::of_error(failure.kind())
    });
    ExitCode::from(exit.code())
}

/// The command line. Usage errors and `--help` are printed here and end the program with 2 and 0;
/// an argument that may hold a password is not repeated.
fn parsed() -> Cli {
    let error = match Cli::try_parse_from(arguments()) {
        Ok(cli) => return cli,
        Err(error) => error,
    };
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let Some(error) = not_here::refusal(&error, &given) {
        output::failure(&error.into(), false);
        std::process::exit(i32::from(Exit::Usage.code()));
    }
    let message = error.render().to_string();
    let mut shown = message.clone();
    for argument in given.iter().filter(|a| endpoints::may_hold_secret(a)) {
        shown = shown.replace(argument, "***");
    }
    if shown == message {
        error.exit();
    }
    output::note(shown.trim_end());
    std::process::exit(i32::from(Exit::Usage.code()));
}

/// The arguments. A program that is called `highwater-NAME` is the plugin NAME.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().and_then(|path| Path::new(path).file_name()?.to_str());
    let name = called.and_then(|called| called.strip_prefix("highwater-"));
    if let Some(name) = name.filter(|name| registry::by_path(name).is_some()).map(OsString::from) {
        arguments.splice(1..1, ["plugin".into(), name]);
    }
    arguments
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
