//! Plain text tables for people and models: aligned columns, no borders.

/// `header` and `rows` in columns, two spaces apart; the last column is not padded.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

/// The line after a page that is not the last; nothing after the last.
pub fn more(n_shown: usize, total_count: usize, next_page_token: &str) -> String {
    match next_page_token {
        "" => String::new(),
        token => format!("\n{n_shown} of {total_count} shown; `page_token={token}` shows more"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), "2".to_owned()]];
        assert_eq!(super::table(["NAME", "N"], rows), "NAME  N\na     1\nlong  2");
    }
}
