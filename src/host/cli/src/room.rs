//! How much is shown of what a guest has told.

use std::fmt;
use std::time::{Duration, Instant};

use instar_render::{Bounded, Over, Pieces};
use instar_vmm::limits::{MESSAGES, RESULTS};
use instar_vmm::{Failure, Limits};

use crate::program::{Exit, Program};
use crate::streams;

/// How much may be shown of what a guest has told, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    shown: u64,
    messages: u64,
    /// All of `messages`, for the text about it.
    message_limit: u64,
    wall: Option<(Duration, Instant)>,
}

impl Room {
    /// All that the limits allow, from now on.
    pub fn new(limits: &Limits) -> Self {
        Self {
            shown: limits.shown_bytes,
            messages: limits.message_bytes,
            message_limit: limits.message_bytes,
            wall: limits.wall.and_then(|wall| Some((wall, Instant::now().checked_add(wall)?))),
        }
    }

    /// So many bytes of messages are told already.
    #[must_use]
    pub fn after_messages(self, bytes: u64) -> Self {
        Self { messages: self.messages.saturating_sub(bytes), ..self }
    }
}

impl Program {
    /// Standard output, for what a guest has told: within the limits, and none of it where it is not. `render` writes the
    /// same each time.
    pub fn show(&self, render: &dyn Fn(&mut dyn fmt::Write) -> fmt::Result, subject: &str) -> Result<(), Exit> {
        let room = self.room.get();
        let mut measured = Bounded::new(room.shown, room.wall.map(|(_, until)| until));
        let written = render(&mut measured);
        let whole = measured.finish().map_err(|over| {
            let ((name, flag), value) = match over {
                Over::Long => (RESULTS, format!("{} bytes", room.shown)),
                Over::Late => {
                    (("wall-clock time", "--max-seconds"), seconds(room.wall.map_or(Duration::ZERO, |(wall, _)| wall)))
                }
            };
            self.failed(&Failure::Limit { name, flag, value }, subject)
        })?;
        match (written, whole) {
            (Ok(()), Some(text)) => self.print(&text),
            _ => {
                let mut error = None;
                let mut pieces = Pieces::new(|piece| streams::show(piece).map_err(|e| error = Some(e)).is_ok());
                let _ = render(&mut pieces).and_then(|()| pieces.finish());
                error.map_or(Ok(()), |error| Err(self.not_shown(&error)))
            }
        }
    }

    /// A text of the guest's, fit to be shown: if there is room for it at all, which is cheaper to find out first.
    pub fn fit(&self, text: &[u8], escape: fn(&[u8]) -> String, subject: &str) -> Result<String, Exit> {
        match text.len() as u64 > self.room.get().messages {
            true => Err(self.too_many_messages(subject)),
            false => Ok(escape(text)),
        }
    }

    fn too_many_messages(&self, subject: &str) -> Exit {
        let (name, flag) = MESSAGES;
        let value = format!("{} bytes", self.room.get().message_limit);
        self.failed(&Failure::Limit { name, flag, value }, subject)
    }

    /// Standard error, for what a guest has told: lines with their ends.
    pub fn tell(&self, text: &str, subject: &str) -> Result<(), Exit> {
        let mut room = self.room.get();
        let left = room.messages.checked_sub(text.len() as u64);
        room.messages = left.ok_or_else(|| self.too_many_messages(subject))?;
        self.room.set(room);
        streams::tell(text);
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{} seconds", time.as_secs_f64())
}
