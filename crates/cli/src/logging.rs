//! Log lines of the engine and the connectors, on stderr, above the bars.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Global, LogFormat};
use crate::output;

/// Starts logging. Lines of other crates are shown from `warn` on, and so are those of plugins,
/// unless a level was asked for.
pub fn start(global: &Global) {
    let asked: Option<LevelFilter> = global.log_level.as_ref().and_then(|l| l.parse().ok());
    let level = asked.unwrap_or(LevelFilter::INFO);
    let of_others = level.min(LevelFilter::WARN);
    let filter = Targets::new()
        .with_default(of_others)
        .with_target("highwater", level)
        .with_target("plugin", asked.unwrap_or(of_others));
    let registry = tracing_subscriber::registry().with(filter);
    match global.log_format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(AboveBars)
                    .with_ansi(output::shows_bars())
                    .without_time()
                    .with_target(false),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(AboveBars),
            )
            .init(),
    }
}

/// Collects a log line and writes it when it is complete.
struct AboveBars;

/// The line.
struct Line(Vec<u8>);

impl MakeWriter<'_> for AboveBars {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        output::note(String::from_utf8_lossy(&self.0).trim_end());
    }
}
