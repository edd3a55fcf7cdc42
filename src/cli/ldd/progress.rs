//! How far a long run has come, on a terminal that nothing else is written to; and its errors.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use soload::{Error, Escaped};

/// A line that counts the files, if anybody can see it.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(several: bool) -> Self {
        // Where the answers scroll by, they show themselves how far it has come.
        let is_seen = several && io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self(is_seen.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} files, {elapsed}: {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    /// The next file.
    pub(super) fn at(&mut self, path: &Path) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
            bar.set_message(Escaped(path.as_os_str().as_encoded_bytes()).to_string());
        }
    }

    /// One line on standard error. If even that fails, there is nobody to tell.
    pub(super) fn complain(&self, error: &Error) {
        let write = || io::stderr().write_all(format!("soload: {error}\n").as_bytes());
        let _ = match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
