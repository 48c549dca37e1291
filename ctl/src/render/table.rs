//! Tables as Docker draws them: no lines, three spaces between columns. On a terminal they fit its
//! width, and nothing is ever cut: long columns fold, and those of the least rank are left out
//! where even that is too wide. What tells things apart, their names and ids, is always whole.

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use unicode_width::UnicodeWidthStr as _;

use super::clean;

/// Blanks between columns.
const GAP: usize = 3;
/// Characters that a column is folded to before columns are left out.
const FOLDED_MIN: usize = 16;

/// A heading, and what becomes of its column where it is too wide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    folds: bool,
    /// Columns with a higher one are left out earlier; those with 0 never.
    rank: u8,
    /// What templates call it, if not after the heading.
    field: Option<&'static str>,
}

/// A column that is always whole and there.
pub(crate) const fn whole(name: &'static str) -> Column {
    Column { name, folds: false, rank: 0, field: None }
}

/// A column that may be folded, and left out before those that may not.
pub(crate) const fn bends(name: &'static str) -> Column {
    Column { name, folds: true, rank: 1, field: None }
}

impl Column {
    /// The greater, the sooner it is left out.
    pub(crate) const fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    /// Docker's name of it in templates, where that is not the heading's.
    pub(crate) const fn field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The heading.
    pub(crate) const fn heading(&self) -> &'static str {
        self.name
    }

    /// What templates call it: `DESIRED STATE` is `DesiredState`.
    pub(crate) fn placeholder(&self) -> String {
        if let Some(field) = self.field {
            return field.to_owned();
        }
        let word = |word: &str| match word {
            "ID" | "CPU" | "IP" => word.to_owned(),
            word => super::words::capital(&word.to_lowercase()),
        };
        self.name.split(' ').map(word).collect()
    }
}

/// Draws a table. Without a width everything is there, on one line a row.
pub(crate) fn draw(columns: &[Column], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|cells| cells.iter().map(|c| clean::one_line(c).into_owned()).collect())
        .collect();
    let kept = kept(columns, &rows, width);
    let mut table = Table::new();
    table.load_style(NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(kept.iter().map(|i| columns[*i].name));
    for row in &rows {
        table.add_row(kept.iter().map(|i| row.get(*i).map_or("", String::as_str)));
    }
    for (place, i) in kept.iter().enumerate() {
        if let Some(drawn) = table.column_mut(place) {
            let last = place + 1 == kept.len();
            drawn.set_padding((0, if last { 0 } else { GAP as u16 }));
            if !columns[*i].folds {
                drawn.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    let drawn = table.to_string();
    drawn.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Headings of columns that are left out at a width.
pub(crate) fn left_out(
    columns: &[Column],
    rows: &[Vec<String>],
    width: Option<u16>,
) -> Vec<&'static str> {
    let kept = kept(columns, rows, width);
    let says = |i: usize| rows.iter().any(|row| row.get(i).is_some_and(|c| !c.is_empty()));
    let missing = (0..columns.len()).filter(|i| !kept.contains(i) && says(*i));
    missing.map(|i| columns[i].name).collect()
}

/// Which columns there is room for.
fn kept(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = width else { return kept };
    let cells = |i: usize| rows.iter().filter_map(move |row| row.get(i));
    let natural =
        |i: usize| cells(i).map(|c| c.width()).max().unwrap_or(0).max(columns[i].name.width());
    let least = |i: usize| match columns[i].folds {
        true => natural(i).min(FOLDED_MIN.max(columns[i].name.width())),
        false => natural(i),
    };
    let wide = |kept: &[usize], of: &dyn Fn(usize) -> usize| {
        let all: usize = kept.iter().map(|i| of(*i)).sum();
        all + GAP * kept.len().saturating_sub(1) > usize::from(width)
    };
    // What says nothing goes before anything is folded.
    if wide(&kept, &natural) {
        kept.retain(|i| columns[*i].rank == 0 || cells(*i).any(|c| !c.is_empty()));
    }
    while wide(&kept, &least) {
        let last = kept.iter().copied().filter(|i| columns[*i].rank > 0);
        let Some(last) = last.max_by_key(|i| (columns[*i].rank, *i)) else { break };
        kept.retain(|i| *i != last);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        vec![
            row(["abc", "shop_web", "a very long error\nof two lines that says a lot", "80/tcp"]),
            row(["defghi", "db", "", ""]),
        ]
    }

    const COLUMNS: [Column; 4] =
        [whole("ID").rank(1), whole("NAME"), bends("ERROR").rank(2), bends("PORTS").rank(3)];

    #[test]
    fn whole_without_a_width_and_nothing_trails() {
        let drawn = draw(&COLUMNS, rows(), None);
        let expected = "ID       NAME       ERROR                                            PORTS\n\
                        abc      shop_web   a very long error of two lines that says a lot   80/tcp\n\
                        defghi   db";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn folded_then_left_out_by_rank_and_never_cut() {
        let cases = [
            (60, 2, &[] as &[&str]),
            (42, 3, &["PORTS"]),
            (30, 0, &["ERROR", "PORTS"]),
            (16, 0, &["ID", "ERROR", "PORTS"]),
            (3, 0, &["ID", "ERROR", "PORTS"]),
        ];
        for (width, more_lines, missing) in cases {
            assert_eq!(left_out(&COLUMNS, &rows(), Some(width)), missing, "{width}");
            let drawn = draw(&COLUMNS, rows(), Some(width));
            assert!(drawn.contains("shop_web"), "{width}: {drawn}");
            assert!(!drawn.contains('…'), "{drawn}");
            assert!(drawn.lines().count() <= 3 + more_lines, "{width}: {drawn}");
            for line in drawn.lines() {
                assert!(width < 8 || line.width() <= usize::from(width), "{width}: {line}");
                assert_eq!(line, line.trim_end());
            }
        }
    }

    #[test]
    fn placeholders_are_dockers() {
        assert_eq!(whole("DESIRED STATE").placeholder(), "DesiredState");
        assert_eq!(whole("ID").placeholder(), "ID");
        assert_eq!(whole("NETWORK ID").field("ID").placeholder(), "ID");
    }
}
