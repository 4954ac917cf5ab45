//! What is said of the commands beside their options: for the help, and for the manual pages.

pub mod man;
pub mod pages;
mod roff;
pub mod sample;

/// What a command is there for: the help lists them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// It reads images.
    Look,
    /// It makes new ones.
    Make,
    /// It writes into those that are there.
    Change,
    /// It needs none.
    About,
}

impl Group {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Look, Self::Make, Self::Change, Self::About];

    /// What stands above its commands.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Look => "Look at images",
            Self::Make => "Make images",
            Self::Change => "Change images",
            Self::About => "About instar",
        }
    }
}

/// A command line that can be typed as it stands, and what it is for.
pub type Example = (&'static str, &'static str);

/// What a command's page says.
pub struct Manual {
    /// What it does, in paragraphs: what the options do not say.
    pub detail: &'static [&'static str],
    /// How it is used. The help shows the first of them.
    pub examples: &'static [Example],
    /// Exit statuses and what each means.
    pub statuses: &'static [(&'static str, &'static str)],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::COMMANDS;

    #[test]
    fn every_command_says_what_it_is_for_in_a_line() {
        for command in COMMANDS {
            assert!(command.about.len() <= 66 && command.about.ends_with('.'), "{}", command.name);
            assert!(!command.manual.detail.is_empty() && !command.manual.examples.is_empty(), "{}", command.name);
            let begins = format!("instar {}", command.name);
            for (line, what) in command.manual.examples {
                assert!(line.starts_with(&begins) && line.len() <= 74 && !what.is_empty(), "{line}");
            }
            assert!(command.manual.statuses.first().is_some_and(|(status, _)| *status == "0"), "{}", command.name);
        }
    }

    #[test]
    fn commands_of_a_group_stand_together() {
        let groups: Vec<Group> = COMMANDS.iter().map(|command| command.group).collect();
        let mut runs = groups.clone();
        runs.dedup();
        assert_eq!(runs, Group::ALL);
    }
}
