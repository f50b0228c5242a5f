//! What is wrong with the settings, as `main` tells it: every mistake at once, each with the setting that it is about.

/// One setting that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {what}")]
pub struct Problem {
    /// The flag, such as `--lease`.
    pub setting: &'static str,
    /// What is wrong with it.
    pub what: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The flags cannot be read, or help was asked for.
    #[error("{}", one_line(.0))]
    Flags(#[from] clap::Error),
    /// Settings are out of range or contradict each other: one line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
}

impl ConfigError {
    /// True when help or the version was asked for, which is no mistake.
    #[must_use]
    pub fn is_help(&self) -> bool {
        match self {
            Self::Flags(error) => !error.use_stderr(),
            Self::Problems(_) => false,
        }
    }
}

#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, setting: &'static str, what: impl Into<String>) {
        self.0.push(Problem { setting, what: what.into() });
    }

    pub(super) fn require(&mut self, holds: bool, setting: &'static str, what: &str) {
        if !holds {
            self.add(setting, what);
        }
    }
}

/// What clap has to say, on one line and without the usage: up to the first empty line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said: Vec<_> = text.lines().take_while(|l| !l.trim().is_empty()).map(str::trim).collect();
    let said = said.join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}
