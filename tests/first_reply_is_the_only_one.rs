//! A repeat of a request gets the first reply, byte for byte: at once, after passivation, a checkpoint and a restart (P11).

use entity_runtime::{error::Refusal, kernel::Outcome, limits::Limits};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Account, Books, Fund, Transfer},
};
use std::time::Duration;

fn accounts() -> Driven {
    let mut limits = Limits::default();
    limits.idle_after = Duration::from_secs(5);
    Driven::new(with::<Account>(kinds()), limits, 2, 1, 2)
}

#[test]
fn the_first_reply_survives_everything() {
    let mut driven = accounts();
    let fund = envelope::<Account, _>("a", &Fund { cents: 5 });
    let rejected = envelope::<Account, _>("a", &Transfer { to: "b".into(), cents: 1_000 });
    let firsts = [driven.request(1, 1, fund.clone(), true), driven.request(1, 2, rejected.clone(), true)];
    driven.settle();
    let first: Vec<Outcome> =
        firsts.iter().map(|to| driven.answer(*to).cloned().expect("answered")).collect();
    // What the entity says today is another thing.
    driven.request(1, 3, envelope::<Account, _>("a", &Fund { cents: 5_000 }), true);
    driven.settle();
    let again = |driven: &mut Driven, when: &str| {
        let repeats =
            [driven.request(1, 1, fund.clone(), true), driven.request(1, 2, rejected.clone(), true)];
        driven.settle();
        for (to, first) in repeats.iter().zip(&first) {
            assert_eq!(driven.answer(*to), Some(first), "another reply {when}");
        }
    };
    again(&mut driven, "at once");
    driven.checkpoint();
    again(&mut driven, "after a checkpoint");
    driven.checkpoint();
    driven.pass(Duration::from_mins(1));
    let in_memory: usize = driven.kernels.iter().map(|kernel| kernel.activations().0).sum();
    assert_eq!(in_memory, 0, "it was let go");
    again(&mut driven, "after passivation");
    driven.restart();
    again(&mut driven, "after a restart");
}

#[test]
fn a_reply_grown_old_is_dropped_and_its_request_never_runs_again() {
    let mut driven = accounts();
    let fund = envelope::<Account, _>("a", &Fund { cents: 5 });
    let first = driven.request(1, 1, fund.clone(), true);
    driven.settle();
    let first = driven.answer(first).cloned();
    let retention = Limits::default().reply_retention;
    driven.pass(retention.mul_f64(0.9));
    let repeat = driven.request(1, 1, fund.clone(), true);
    driven.settle();
    assert_eq!(driven.answer(repeat), first.as_ref(), "it is not old yet");
    driven.pass(retention.mul_f64(0.2));
    for restarted in [false, true] {
        if restarted {
            driven.restart();
        }
        let late = driven.request(1, 1, fund.clone(), true);
        let books = driven.query(named("account", "a", &Books));
        driven.settle();
        assert!(
            matches!(driven.answer(late), Some(Outcome::Refused(Refusal::Expired(_)))),
            "{:?}",
            driven.told
        );
        let Some(Outcome::Done(books)) = driven.answer(books) else { panic!("no answer") };
        assert_eq!(entity_runtime::codec::decode::<(u64, u64)>(&books.body).unwrap(), (5, 5));
    }
}

#[test]
fn a_reply_never_leaves_before_its_batch_is_durable() {
    let mut driven = accounts();
    let first = driven.request(1, 1, envelope::<Account, _>("a", &Fund { cents: 5 }), true);
    driven.run();
    driven.run();
    assert_eq!(driven.pending.len(), 1);
    // A repeat and a query see what is not durable yet: their answers wait behind it.
    let repeat = driven.request(1, 1, envelope::<Account, _>("a", &Fund { cents: 5 }), true);
    let query = driven.query(named("account", "a", &Books));
    driven.run();
    assert_eq!(driven.told, [], "an answer left before its sync");
    driven.commit();
    assert!(
        driven.answer(first).is_some() && driven.answer(repeat).is_none() && driven.answer(query).is_none()
    );
    driven.settle();
    assert_eq!(driven.answer(repeat), driven.answer(first));
    assert!(driven.answer(query).is_some());
}

#[test]
fn memory_stays_flat_under_overload_and_refusals_are_counted() {
    let mut limits = Limits::default();
    limits.mailbox_len_max = 16;
    limits.activation_bytes_max = 64 << 10;
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    let mut highest = 0;
    for number in 1..=20_000 {
        let key = format!("a{}", number % 2_000);
        driven.request(1, number, envelope::<Account, _>(&key, &Fund { cents: 1 }), true);
        if number % 100 == 0 {
            driven.run();
            highest = highest.max(driven.kernels[0].activations().1);
        }
        if number % 1_000 == 0 {
            driven.pass(Duration::from_secs(2));
            driven.checkpoint();
            driven.pass(Duration::from_secs(2));
        }
    }
    driven.settle();
    let counters = driven.kernels[0].counters();
    // What is there may grow beyond the bound, and nothing new comes in; 2,000 accounts would take ten times as much.
    assert!(highest <= 96 << 10, "{highest} bytes of activations");
    assert!(counters.refused > 1_000, "{counters:?}");
    let refused = driven.told.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Refused(_))).count();
    assert_eq!(counters.refused, refused as u64, "every refusal is told and counted");
    assert_eq!(counters.accepted + counters.refused, 20_000);
}
