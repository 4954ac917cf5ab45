//! Text for people, as wide as where it is read.

/// Where nothing says how wide.
const USUAL: usize = 80;
/// Longer lines are hard to read.
const WIDEST: usize = 100;
/// Narrower, words would not fit beside each other.
const NARROWEST: usize = 40;

/// Columns of a line: what `COLUMNS` says, or the terminal that standard output is.
pub fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    said.or_else(terminal).filter(|columns| *columns > 0).map_or(USUAL, |columns| columns.clamp(NARROWEST, WIDEST))
}

/// The words in lines of at most `width` columns. The first line goes on at `column`, the others begin at `indent`.
pub fn wrap(words: impl IntoIterator<Item = impl AsRef<str>>, column: usize, indent: usize, width: usize) -> String {
    let (mut text, mut column, mut begun) = (String::new(), column, false);
    for word in words {
        let word = word.as_ref();
        let len = word.chars().count();
        if begun && column + 1 + len > width {
            text += "\n";
            text += &" ".repeat(indent);
            column = indent;
        } else if begun {
            text += " ";
            column += 1;
        }
        text += word;
        column += len;
        begun = true;
    }
    text
}

/// A paragraph, each line of which begins at `indent`.
pub fn paragraph(text: &str, indent: usize, width: usize) -> String {
    format!("{}{}\n", " ".repeat(indent), wrap(text.split_whitespace(), indent, indent, width))
}

/// Something and what it is, which begins at `column`: on the next line if there is no room left of it.
pub fn entry(head: &str, text: &str, column: usize, width: usize) -> String {
    let text = wrap(text.split_whitespace(), column, column, width);
    let gap = match head.chars().count() {
        len if len + 2 <= column => " ".repeat(column - len),
        _ => format!("\n{}", " ".repeat(column)),
    };
    format!("{head}{gap}{text}\n")
}

/// The text as a sentence.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string());
    first + letters.as_str() + if text.ends_with('.') { "" } else { "." }
}

/// Rows of cells, each column as wide as its widest cell, the last as it is.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_on_the_next_line_when_they_would_be_too_long() {
        assert_eq!(wrap("aa bb cc".split(' '), 0, 2, 5), "aa bb\n  cc");
        assert_eq!(wrap("aa bb cc".split(' '), 2, 2, 5), "aa\n  bb\n  cc");
        assert_eq!(wrap(["a-word-that-fits-nowhere", "b"], 0, 1, 5), "a-word-that-fits-nowhere\n b");
        assert_eq!(paragraph("a\n  b c", 2, 5), "  a b\n  c\n");
    }

    #[test]
    fn what_is_explained_stands_left_of_it_or_above() {
        assert_eq!(entry("-a", "one two", 4, 8), "-a  one\n    two\n");
        assert_eq!(entry("-abc", "one", 4, 8), "-abc\n    one\n");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows =
            [vec!["A".to_string(), "B".into()], vec!["long".into(), String::new()], vec!["x".into(), "y".into()]];
        assert_eq!(table(&rows), "A     B\nlong\nx     y\n");
    }
}
