//! The few words of roff's man(7) that the pages are made of.

use crate::layout::{sentence, wrap};

/// Longer lines of its source are against the custom.
const WIDTH: usize = 78;

/// A page as it grows.
pub struct Page(String);

impl Page {
    /// The page `name(section)`, with what it is about in a line.
    pub fn new(name: &str, section: u8, date: &str, about: &str) -> Self {
        let title = quoted(&name.to_uppercase());
        let version = env!("CARGO_PKG_VERSION");
        let kind = if section == 1 { "User Commands" } else { "File Formats" };
        let mut page = Self(format!(".TH {title} {section} {} \"instar {version}\" \"{kind}\"\n", quoted(date)));
        page.section("NAME").text(&format!("{name} - {about}"));
        page
    }

    /// A heading.
    pub fn section(&mut self, title: &str) -> &mut Self {
        self.0 += &format!(".SH {title}\n");
        self
    }

    /// Text that goes on in the same paragraph.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.0 += &lines(text);
        self
    }

    /// A paragraph of its own.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        // A section begins with one.
        if !self.0.lines().last().is_some_and(|line| line.starts_with(".SH")) {
            self.0 += ".PP\n";
        }
        self.text(text)
    }

    /// Paragraphs.
    pub fn paragraphs<T: AsRef<str>>(&mut self, texts: &[T]) -> &mut Self {
        texts.iter().fold(self, |page, text| page.paragraph(text.as_ref()))
    }

    /// Something in bold, and what it is.
    pub fn item(&mut self, head: &str, text: &str) -> &mut Self {
        self.0 += &format!(".TP\n{}\n", bold(head));
        self.text(text)
    }

    /// A line as it is typed, and what it is for.
    pub fn example(&mut self, line: &str, what: &str) -> &mut Self {
        let what = sentence(what);
        self.paragraph(&format!("{}:", what.trim_end_matches('.')));
        self.literal(line)
    }

    /// Lines as they are.
    pub fn literal(&mut self, text: &str) -> &mut Self {
        let lines: String = text.lines().map(|line| guarded(&escaped(line)) + "\n").collect();
        self.0 += &format!(".PP\n.RS 4\n.nf\n{lines}.fi\n.RE\n");
        self
    }

    /// How it is called.
    pub fn synopsis(&mut self, program: &str, words: &str) -> &mut Self {
        self.section("SYNOPSIS");
        self.0 += &format!("{}\n", bold(program));
        self.text(words)
    }

    /// All of it.
    pub fn end(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('"', "\\(dq")
        .replace('`', "\\(ga")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti")
}

/// A dot or a quote at the beginning of a line would be a request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_string() }
}

fn lines(text: &str) -> String {
    let wrapped = wrap(text.split_whitespace().map(escaped), 0, 0, WIDTH);
    wrapped.lines().map(|line| guarded(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_taken_for_a_request() {
        assert_eq!(lines(".a 'b -c \\d"), "\\&.a 'b \\-c \\ed\n");
        assert_eq!(lines("'x"), "\\&'x\n");
        let long = format!("{} .config", "a".repeat(WIDTH));
        assert!(lines(&long).ends_with("\n\\&.config\n"));
    }

    #[test]
    fn an_example_stands_as_it_is() {
        let mut page = Page::new("x", 1, "today", "y");
        page.end();
        assert_eq!(page.example("x -a", "a thing").end(), ".PP\nA thing:\n.PP\n.RS 4\n.nf\nx \\-a\n.fi\n.RE\n");
    }
}
