//! Texts of others, kept within bounds.

use std::borrow::Cow;

/// What stands where something was cut off.
const MARK: &str = "…";

/// At most so many bytes of a text, the mark at its end included if something was cut off. Never
/// cuts through a character.
#[must_use]
pub fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let Some(room) = bytes.checked_sub(MARK.len()) else {
        return Cow::Borrowed(&text[..text.floor_char_boundary(bytes)]);
    };
    let kept = &text[..text.floor_char_boundary(room)];
    Cow::Owned(format!("{kept}{MARK}"))
}

/// [`cut`] in place.
pub fn cut_to(text: &mut String, bytes: usize) {
    if let Cow::Owned(shorter) = cut(text, bytes) {
        *text = shorter;
    } else if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so_and_stays_text() {
        let table = [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abcd", 3, "…"),
            ("abcdefg", 6, "abc…"),
            ("üüü", 5, "ü…"),
            ("üüü", 6, "üüü"),
            ("üüü", 1, ""),
            ("abc", 2, "ab"),
        ];
        for (text, bytes, expected) in table {
            assert_eq!(cut(text, bytes), expected, "{text:?} to {bytes}");
            let mut owned = text.to_owned();
            cut_to(&mut owned, bytes);
            assert_eq!(owned, expected, "{text:?} to {bytes}");
        }
    }
}
