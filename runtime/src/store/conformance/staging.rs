//! What is staged of a shard on its way here: of nobody, until it is accepted.

use super::running::{Running, accept, seal, write};
use super::{Engine, IMAGE, on_engines_with_tokens, row};
use crate::placement::{Epoch, ShardId};
use crate::store::{
    CommitError, ImageKey, Ownership, STAGED_KEY_LEN_MAX, StageError, StagedRow, ToStage, TransferId,
};

/// A store whose shard 3 has moved away, to be known under epoch 2, with rows of its own still there.
fn left(engine: &mut dyn Engine) -> Running<'_> {
    let mut store = Running::start(engine);
    store.commit(&[write(3, 1, 1, b"k", b"past")]).unwrap();
    store.give_away(3, 1, 1);
    store
}

fn stage(store: &Running<'_>, epoch: u64, transfer: u128, rows: &[StagedRow<'_>]) -> Result<(), StageError> {
    store.store().stage(ShardId(3), Epoch(epoch), TransferId(transfer), rows)
}

fn is_not_staged(result: &Result<(), StageError>) -> bool {
    matches!(result, Err(StageError::NotStaged(ShardId(3))))
}

#[test]
fn what_is_staged_is_nobodys_until_it_is_accepted_and_then_seen_at_once() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        store.begin(3, 5, 9);
        store.stage(3, 5, 9, &[(b"a", Some(b"1")), (b"b", Some(b"1")), (b"c", Some(b"1"))]);
        // Later chunks go over earlier ones.
        store.stage(3, 5, 9, &[(b"a", None), (b"b", Some(b"2")), (b"missing", None)]);
        store.stage(3, 5, 9, &[]);
        store.stage(3, 5, 9, &[(&[IMAGE, b'i'], Some(b"image"))]);
        let rows = [row(b"b", b"2"), row(b"c", b"1"), row(&[IMAGE, b'i'], b"image")];
        assert_eq!(store.staged(3, 5, 9), rows);
        assert!(store.hides(3, 5));
        store.store().maintain().unwrap();
        assert_eq!(store.staged(3, 5, 9), rows, "maintenance leaves it alone");
        store.refuses(&[vec![write(3, 5, 1, b"k", b"x")]]);

        store.commit(&[accept(3, 5, 9)]).unwrap();
        assert_eq!(store.rows(3, 5).unwrap(), rows);
        let image = ImageKey { shard: ShardId(3), epoch: Epoch(5), key: vec![IMAGE, b'i'] };
        assert_eq!(store.store().load_images(&[image]).unwrap(), [Some(b"image".to_vec())]);
        assert_eq!(store.store().owned().unwrap()[3].epoch, Epoch(5));
        assert!(is_not_staged(&stage(&store, 5, 9, &[(b"late", Some(b"1"))])));

        store.crash();
        assert_eq!(store.rows(3, 5).unwrap(), rows);
        store.commit(&[write(3, 5, 2, b"c", b"3")]).unwrap();
        assert_eq!(store.all_rows(3, 5)[1], row(b"c", b"3"));
    });
}

#[test]
fn what_was_begun_and_never_staged_to_is_not_accepted() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        store.store().begin_staging(ShardId(3), Epoch(5), TransferId(9)).unwrap();
        assert!(matches!(store.commit(&[accept(3, 5, 9)]), Err(CommitError::Failed(_))));
        stage(&store, 5, 9, &[]).unwrap();
        store.commit(&[accept(3, 5, 9)]).unwrap();
        store.crash();
        assert_eq!(store.rows(3, 5).unwrap(), []);
    });
}

#[test]
fn shards_are_staged_together_and_one_that_cannot_be_harms_no_other() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        store.commit(&[write(2, 1, 1, b"k", b"past")]).unwrap();
        store.give_away(2, 1, 1);
        for (shard, epoch) in [(3, 5), (2, 7)] {
            store.store().begin_staging(ShardId(shard), Epoch(epoch), TransferId(9)).unwrap();
        }
        let (first, second): ([StagedRow<'_>; 2], [StagedRow<'_>; 1]) =
            ([(b"a", Some(b"1")), (b"b", None)], [(b"a", Some(b"2"))]);
        let to = |shard, epoch, rows| ToStage {
            shard: ShardId(shard),
            epoch: Epoch(epoch),
            transfer: TransferId(9),
            rows,
        };
        let staged = store.store().stage_all(&[to(3, 5, &first), to(1, 5, &first), to(2, 7, &second)]);
        assert!(matches!(staged[..], [Ok(()), Err(StageError::NotStaged(ShardId(1))), Ok(())]), "{staged:?}");
        // The group is of one lane: these two may be of different ones.
        store.commit(&[accept(3, 5, 9)]).unwrap();
        store.commit(&[accept(2, 7, 9)]).unwrap();
        store.crash();
        assert_eq!(store.rows(3, 5).unwrap(), [row(b"a", b"1")]);
        assert_eq!(store.rows(2, 7).unwrap(), [row(b"a", b"2")]);
    });
}

#[test]
fn what_was_not_accepted_is_swept_by_the_next_open() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        store.begin(3, 5, 9);
        store.stage(3, 5, 9, &[(b"a", Some(b"1"))]);
        store.crash();
        assert!(matches!(store.commit(&[accept(3, 5, 9)]), Err(CommitError::Failed(_))));
        assert!(is_not_staged(&stage(&store, 5, 9, &[])));
        store.begin(3, 5, 9);
        assert_eq!(store.staged(3, 5, 9), []);
        store.commit(&[accept(3, 5, 9)]).unwrap();
        assert_eq!(store.all_rows(3, 5), []);
    });
}

#[test]
fn a_transfer_begins_with_nothing_and_ends_every_earlier_one() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        let mut last = None;
        // Another id, another epoch, both, and the same again.
        for (epoch, transfer) in [(5, 9), (5, 8), (6, 8), (4, 7), (4, 7)] {
            store.begin(3, epoch, transfer);
            assert_eq!(store.staged(3, epoch, transfer), []);
            store.stage(3, epoch, transfer, &[(&[transfer as u8, epoch as u8], Some(b"1"))]);
            assert_eq!(store.staged(3, epoch, transfer).len(), 1);
            if let Some((epoch, transfer)) = last.replace((epoch, transfer)).filter(|last| *last != (4, 7)) {
                assert!(is_not_staged(&stage(&store, epoch, transfer, &[(b"late", Some(b"1"))])));
                let refused = store.commit(&[accept(3, epoch, transfer)]);
                assert!(matches!(refused, Err(CommitError::Failed(_))), "{refused:?}");
            }
        }
        store.commit(&[accept(3, 4, 7)]).unwrap();
        assert_eq!(store.all_rows(3, 4), [row(&[7, 4], b"1")]);
        store.crash();
        assert_eq!(store.all_rows(3, 4), [row(&[7, 4], b"1")]);
    });
}

#[test]
fn a_staging_that_is_given_up_leaves_nothing() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        let sweep = |store: &Running<'_>, transfer: u128| {
            store.store().sweep_staging(ShardId(3), Epoch(5), TransferId(transfer)).unwrap();
        };
        sweep(&store, 9);
        store.begin(3, 5, 9);
        store.stage(3, 5, 9, &[(b"a", Some(b"1"))]);
        sweep(&store, 8);
        assert_eq!(store.staged(3, 5, 9).len(), 1, "only the transfer that is named");
        sweep(&store, 9);
        assert!(is_not_staged(&stage(&store, 5, 9, &[])));
        assert!(matches!(store.commit(&[accept(3, 5, 9)]), Err(CommitError::Failed(_))));
        assert!(matches!(store.ownership(3), Ownership::Moved { .. }));
        store.begin(3, 5, 9);
        store.commit(&[accept(3, 5, 9)]).unwrap();
        assert_eq!(store.all_rows(3, 5), []);
        sweep(&store, 9);
        assert_eq!(store.ownership(3).epoch(), Epoch(5), "what was accepted is swept no more");
    });
}

#[test]
fn a_shard_that_is_here_or_was_later_cannot_be_staged() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        store.commit(&[seal(4, 1, 1, 1)]).unwrap();
        // Away under epoch 2, sealed, owned, and no shard at all.
        for (shard, epoch) in [(3, 0), (3, 1), (3, 2), (4, 1), (4, 9), (5, 1), (5, 9), (8, 9), (u32::MAX, 9)]
        {
            let shard = ShardId(shard);
            let refused = store.store().begin_staging(shard, Epoch(epoch), TransferId(1));
            assert!(
                matches!(refused, Err(StageError::Stale(stale)) if stale == shard),
                "{shard} {epoch}: {refused:?}"
            );
        }
        store.begin(3, u64::MAX, 1);
        store.begin(3, 3, 1);
    });
}

#[test]
fn rows_that_no_source_would_send_are_refused_whole() {
    on_engines_with_tokens(|engine| {
        let store = left(engine);
        store.begin(3, 5, 9);
        let long = vec![1; STAGED_KEY_LEN_MAX + 1];
        let value: Option<&[u8]> = Some(b"1");
        let twice: [StagedRow<'_>; 2] = [(b"a", value), (b"a", value)];
        let back: [StagedRow<'_>; 3] = [(b"a", value), (b"c", value), (b"b", value)];
        for rows in [twice.as_slice(), &back, &[(&long, value)]] {
            assert!(matches!(stage(&store, 5, 9, rows), Err(StageError::Rows(ShardId(3)))));
        }
        assert_eq!(store.staged(3, 5, 9), []);
        store.stage(3, 5, 9, &[(&long[1..], value)]);
        assert_eq!(store.staged(3, 5, 9).len(), 1);
    });
}

#[test]
fn a_group_that_accepts_what_is_not_staged_changes_nothing_of_its_other_shards() {
    on_engines_with_tokens(|engine| {
        let mut store = left(engine);
        let together = [write(3, 5, 2, b"k", b"1"), accept(3, 5, 9)];
        store.refuses(&[together.to_vec()]);
        let group = [accept(3, 5, 9), write(3, 5, 2, b"k", b"1")];
        for _ in 0..2 {
            assert!(matches!(store.commit(&group), Err(CommitError::Failed(_))));
            assert!(matches!(store.ownership(3), Ownership::Moved { .. }));
        }
        store.begin(3, 5, 9);
        store.commit(&group).unwrap();
        assert_eq!(store.all_rows(3, 5), [row(b"k", b"1")]);
    });
}

#[test]
fn more_rows_than_are_dropped_at_once_are_dropped_too() {
    on_engines_with_tokens(|engine| {
        let store = left(engine);
        let keys: Vec<_> = (0..40_000_u32).map(u32::to_be_bytes).collect();
        let rows: Vec<StagedRow<'_>> = keys.iter().map(|key| (key.as_slice(), Some(&key[..]))).collect();
        store.begin(3, 5, 9);
        store.stage(3, 5, 9, &rows);
        assert_eq!(store.staged(3, 5, 9).len(), rows.len());
        store.begin(3, 5, 8);
        assert_eq!(store.staged(3, 5, 8), []);
    });
}
