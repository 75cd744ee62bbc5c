//! Commands and flags of CloudQuery that are not here: who types one of them is told why, and not
//! which other command has a similar name.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use highwater_core::Error;

/// Commands that are not here, why, and what to do instead.
const COMMANDS: [(&str, &str, &str); 4] = [
    ("login", HUB, KEY),
    ("logout", HUB, "unset CLOUDQUERY_API_KEY"),
    ("switch", HUB, "the key in CLOUDQUERY_API_KEY decides whose plugins there are"),
    ("addon", HUB, "download it with CloudQuery's own command"),
];

/// The same behind `plugin`.
const OF_PLUGIN: [(&str, &str, &str); 3] = [
    ("publish", HUB, "publish it with CloudQuery's own command"),
    ("docs", HUB, "highwater tables CONFIG   # writes the pages about a plugin's tables"),
    ("uiassets", HUB, "publish them with CloudQuery's own command"),
];

const HUB: &str = "it belongs to CloudQuery's hub, with which highwater has no account";
const KEY: &str = "export CLOUDQUERY_API_KEY=…   # enough to download plugins";
const NOT_NULL: &str = "--cq-columns-not-null";

/// What to say of a command line that was not understood, where it is CloudQuery's.
pub fn refusal(error: &clap::Error, arguments: &[String]) -> Option<Error> {
    let unknown = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    if let Some(word) = unknown(ContextKind::InvalidSubcommand)
        && let Some((_, why, hint)) = COMMANDS.iter().find(|(name, ..)| *name == word)
    {
        return Some(no_command(word, why, hint));
    }
    let of_plugin = arguments.windows(2).find_map(|pair| match pair {
        [first, second] if first == "plugin" => OF_PLUGIN.iter().find(|(name, ..)| name == second),
        _ => None,
    });
    if let Some((name, why, hint)) = of_plugin {
        return Some(no_command(&format!("plugin {name}"), why, hint));
    }
    let flag = unknown(ContextKind::InvalidArg).filter(|flag| flag.starts_with(NOT_NULL))?;
    (error.kind() == ErrorKind::UnknownArgument).then(|| {
        Error::unsupported(format!("highwater has no such flag: {flag}"))
            .context("why", "the columns that it adds take NULL, as CloudQuery's do by default")
            .hint("leave the flag out")
    })
}

fn no_command(name: &str, why: &str, hint: &str) -> Error {
    Error::unsupported(format!("highwater has no such command: `{name}`"))
        .context("why", why)
        .hint(hint.to_owned())
}
