//! Notes beside the shards, and what a store says of itself.

use super::running::{Running, write};
use super::{on_engines_with_tokens, on_every_engine};
use crate::store::{LoadError, NOTE_BYTES_MAX, NOTE_NAME_LEN_MAX};

#[test]
fn a_note_is_what_was_kept_last() {
    on_every_engine(|engine| {
        let mut store = Running::start(engine);
        assert_eq!(store.store().note("members").unwrap(), None);
        let most = vec![7; NOTE_BYTES_MAX];
        for bytes in [b"first".as_slice(), b"", &most, b"last"] {
            store.store().keep_note("members", bytes).unwrap();
            assert_eq!(store.store().note("members").unwrap().as_deref(), Some(bytes));
            store.crash();
            assert_eq!(store.store().note("members").unwrap().as_deref(), Some(bytes));
        }
        store.store().keep_note("boots-2", b"other").unwrap();
        assert_eq!(store.store().note("members").unwrap().as_deref(), Some(&b"last"[..]));
    });
}

#[test]
fn a_note_too_long_or_without_a_proper_name_is_refused_and_the_old_one_stays() {
    on_every_engine(|engine| {
        let store = Running::start(engine);
        store.store().keep_note("members", b"old").unwrap();
        let invalid = |refused: Result<(), LoadError>| matches!(refused, Err(LoadError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidInput);
        assert!(invalid(store.store().keep_note("members", &vec![0; NOTE_BYTES_MAX + 1])));
        for name in ["", "Members", "a/b", "..", "a.new", &"n".repeat(NOTE_NAME_LEN_MAX + 1)] {
            assert!(invalid(store.store().keep_note(name, b"x")), "{name:?}");
            assert!(invalid(store.store().note(name).map(drop)), "{name:?}");
        }
        assert_eq!(store.store().note("members").unwrap().as_deref(), Some(&b"old"[..]));
    });
}

#[test]
fn a_store_is_known_by_its_ids_and_never_looks_younger_than_it_was() {
    on_engines_with_tokens(|engine| {
        let mut store = Running::start(engine);
        let mut before = store.store().identity();
        assert_eq!((before.cluster, before.store), (1, 2));
        for number in 1..=4 {
            let position = store.commit(&[write(3, 1, number, b"k", b"v")]).unwrap();
            let after = store.store().identity();
            assert!(before.durable < after.durable && position <= after.durable);
            assert_eq!(after.boot, before.boot);
            store.crash();
            let reopened = store.store().identity();
            assert!(reopened.boot > after.boot && reopened.durable >= after.durable);
            assert_eq!((reopened.cluster, reopened.store), (1, 2));
            before = reopened;
        }
    });
}
