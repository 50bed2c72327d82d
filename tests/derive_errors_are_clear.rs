//! A wrong use of a derive is told in words, at the place, once.
//!
//! Each file of `ui/` is one wrong use; the `.stderr` beside it is what the compiler says, in the words of rustc 1.95. After
//! a change of words, look at what `TRYBUILD=overwrite` writes before it is committed.

#[test]
fn wrong_uses_are_told_in_words_and_right_ones_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/*.rs");
    cases.pass("ui/pass/*.rs");
}
