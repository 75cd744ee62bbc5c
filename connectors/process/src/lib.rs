//! Child processes of connectors: started in a group, watched, listened to, and never left behind.
//!
//! CloudQuery's plugins and Airbyte's connectors are both programs of others that we run. What is
//! true for both is here; how they are found, asked and understood is in their own crates.
//!
//! | module | what |
//! |---|---|
//! | `process` | the process: its group, its end |
//! | `guard` | what ends it when highwater itself was killed |
//! | `logs` | its lines |
//! | `hidden` | the secrets in them |
//! | `words` | what it says, fit for errors |

mod guard;
#[cfg(test)]
mod heard;
mod hidden;
mod logs;
mod process;
mod words;

pub use hidden::Hidden;
pub use logs::{Level, LogBook, LogCounts};
pub use process::{Container, Exit, Launch, Pipes, Process};
pub use words::said;

/// What a process is to the user: the word that errors and logs have for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// It speaks CloudQuery's protocol.
    #[default]
    Plugin,
    /// It speaks Airbyte's protocol.
    Connector,
}

impl Kind {
    /// The word, which is also the key of its name in errors.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Connector => "connector",
        }
    }
}
