//! The arguments and the words of the script.

/// What this process was asked to do.
#[derive(Debug, Clone)]
pub struct Script {
    arguments: Vec<String>,
    words: Vec<String>,
}

impl Script {
    /// From the arguments and the environment of this process.
    pub fn read() -> Self {
        let words = std::env::var("SCRIPT").unwrap_or_default();
        Self {
            arguments: std::env::args().skip(1).collect(),
            words: words.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// Whether the script holds `word`.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// The value of `word=value`.
    pub fn value(&self, word: &str) -> Option<&str> {
        self.words.iter().find_map(|w| w.strip_prefix(word)?.strip_prefix('='))
    }

    /// The number of `word=number`.
    pub fn number(&self, word: &str) -> Option<i32> {
        self.value(word).map(|v| v.parse().expect("a number"))
    }

    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    pub fn network(&self) -> &str {
        self.argument("--network")
    }

    pub fn address(&self) -> &str {
        self.argument("--address")
    }

    fn argument(&self, flag: &str) -> &str {
        let at = self.arguments.iter().position(|a| a == flag);
        &self.arguments[at.unwrap_or_else(|| panic!("no {flag}")) + 1]
    }
}
