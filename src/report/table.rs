//! Tables as plain data, and their forms: text, Markdown, CSV.

/// A table: rows of cells under a header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table, whose rows have as many cells as the header.
    pub fn new(header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.header.len());
        self.rows.push(row);
    }

    /// The table for people: aligned columns, the first one to the left, the others to the right.
    pub fn to_text(&self) -> String {
        self.aligned(|cells| cells.join("  ")).collect()
    }

    /// The table for documents: Markdown with aligned columns.
    pub fn to_markdown(&self) -> String {
        let mut lines: Vec<String> = self.aligned(|cells| format!("| {} |", cells.join(" | "))).collect();
        let rule: Vec<String> = self
            .widths()
            .iter()
            .enumerate()
            .map(|(column, &width)| if column == 0 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" })
            .collect();
        lines.insert(1, format!("| {} |\n", rule.join(" | ")));
        lines.concat()
    }

    /// The table for programs: CSV as in RFC 4180, but with LF as the line end.
    pub fn to_csv(&self) -> String {
        let quoted = |cell: &String| {
            if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
        };
        let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.header).chain(&self.rows).map(line).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = std::iter::once(&self.header).chain(&self.rows).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        (0..self.header.len()).map(width).collect()
    }

    fn aligned(&self, join: impl Fn(&[String]) -> String) -> impl Iterator<Item = String> {
        let widths = self.widths();
        std::iter::once(&self.header).chain(&self.rows).map(move |row| {
            let pad = |(column, cell): (usize, &String)| {
                let width = widths[column];
                if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            };
            let cells: Vec<String> = row.iter().enumerate().map(pad).collect();
            join(&cells).trim_end().to_owned() + "\n"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["model", "time"]);
        table.push(vec!["blocking".to_owned(), "22.5s".to_owned()]);
        table.push(vec!["a, \"b\"".to_owned(), "9s".to_owned()]);
        table
    }

    #[test]
    fn for_people_columns_are_aligned() {
        assert_eq!(table().to_text(), "model      time\nblocking  22.5s\na, \"b\"       9s\n");
    }

    #[test]
    fn for_documents_there_is_a_rule() {
        assert_eq!(
            table().to_markdown(),
            "| model    |  time |\n| -------- | ----: |\n| blocking | 22.5s |\n| a, \"b\"   |    9s |\n"
        );
    }

    #[test]
    fn for_programs_cells_are_quoted_where_they_must_be() {
        assert_eq!(table().to_csv(), "model,time\nblocking,22.5s\n\"a, \"\"b\"\"\",9s\n");
    }
}
