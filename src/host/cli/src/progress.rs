//! How far a command is, and how fast it may go.

use std::sync::Mutex;

use instar_abi::ring::LOG_LINES;
use instar_render::escape;
use instar_vmm::Observer;

use crate::streams;

/// `-p`, and `-r`: a worker that reports progress is the one that can be made to wait.
pub struct Progress {
    shown: bool,
    rate: u64,
    started: std::time::Instant,
    step: f64,
    last: Mutex<(f64, u32)>,
}

/// How often it may be told that all is done: the stock tool does so after each last piece, a hostile guest would without
/// end.
const DONE_MAX: u32 = 100;

impl Progress {
    /// Nothing is done yet; `rate`: at most so many bytes a second (0: any).
    pub fn new(shown: bool, rate: u64) -> Self {
        Self { shown, rate, started: std::time::Instant::now(), step: 1.0, last: Mutex::new((0.0, 0)) }
    }

    /// Shows it when it is so many percent more than what was shown before.
    #[must_use]
    pub fn by(mut self, step: f64) -> Self {
        self.step = step;
        self
    }

    /// Whether it is shown: then it is told in the stock tool's steps.
    pub const fn is_shown(&self) -> bool {
        self.shown
    }

    /// Shows a percentage.
    pub fn show(&self, percent: f64) {
        if self.shown {
            // The command goes on, and fails at its end.
            let _ = streams::show(&format!("    ({percent:.2}/100%)\r"));
        }
    }

    /// All is done.
    pub fn end(self) {
        self.show(100.0);
    }
}

impl Drop for Progress {
    /// The line ends, however far the command came.
    fn drop(&mut self) {
        if self.shown {
            let _ = streams::show("\n");
        }
    }
}

impl Observer for Progress {
    fn progress(&self, done: u64, total: u64) {
        // More than all is a guest's lie, and would be told without end.
        let percent = if total == 0 { 0.0 } else { (done as f64 * 100.0 / total as f64).min(100.0) };
        if !self.shown && instar_vmm::progress_asked() {
            streams::tell(&format!("    ({percent:.2}/100%)\n"));
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (shown, ends) = &mut *last;
        *ends = ends.saturating_add(u32::from(percent >= 100.0));
        if percent > *shown + self.step || (percent >= 100.0 && *ends <= DONE_MAX) {
            *shown = percent;
            self.show(percent);
        }
    }

    fn can_be_asked(&self) -> bool {
        true
    }

    fn delay(&self, done: u64) -> std::time::Duration {
        if self.rate == 0 {
            return std::time::Duration::ZERO;
        }
        let due = std::time::Duration::try_from_secs_f64(done as f64 / self.rate as f64);
        due.unwrap_or(std::time::Duration::MAX).saturating_sub(self.started.elapsed())
    }

    fn log(&self, level: u32, text: &[u8]) -> u64 {
        show_lines(level, text)
    }
}

/// Lines of the guest's own, on standard error at once; what is logged besides is not shown. Returns how many bytes were.
pub fn show_lines(level: u32, text: &[u8]) -> u64 {
    if level != LOG_LINES {
        return 0;
    }
    let text = escape::lines(text);
    streams::tell(&text);
    text.len() as u64
}
