//! Which leader a node listens to.
//!
//! Managers lead in terms, each in a later one than all before it. One that has been replaced may not
//! know it for a while, and goes on assigning; so a node that has obeyed a leader obeys no earlier one
//! any more, also after a crash: the term is on disk before anything of that leader is carried out.

/// Whether a node that has obeyed a leader of the term `obeyed` listens to one of `term`.
#[must_use]
pub const fn listens(obeyed: u64, term: u64) -> bool {
    term >= obeyed
}

/// Whether a leader of `term` is a later one than any obeyed, so that its term is to be written down
/// before it is obeyed.
#[must_use]
pub const fn is_news(obeyed: u64, term: u64) -> bool {
    term > obeyed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_replaced_is_not_listened_to() {
        for (obeyed, term, heard, new) in
            [(0, 0, true, false), (0, 1, true, true), (5, 4, false, false), (5, 5, true, false)]
        {
            assert_eq!(
                (listens(obeyed, term), is_news(obeyed, term)),
                (heard, new),
                "{obeyed} {term}"
            );
        }
    }
}
