//! The shells' halves: they ask what may come and show it, each in its own way.

/// A shell, and its half.
pub const SHELLS: &[(&str, &str)] = &[
    ("bash", include_str!("completion.bash")),
    ("zsh", include_str!("completion.zsh")),
    ("fish", include_str!("completion.fish")),
];

/// The completion of a shell, for the program or for a link to it named `qemu-img`.
pub fn script(shell: &str, stock: bool) -> Option<String> {
    let (_, text) = SHELLS.iter().find(|(name, _)| *name == shell)?;
    // A link of that name knows no other command than the stock tool does: the program is asked by its own.
    let (name, ask) = match (stock, shell) {
        (true, _) => ("qemu-img", "instar"),
        (false, "bash") => ("instar", "${COMP_WORDS[0]}"),
        (false, "zsh") => ("instar", "${(Q)words[1]}"),
        (false, _) => ("instar", "$words[1]"),
    };
    Some(text.replace("@NAME@", name).replace("@ASK@", ask))
}
