//! What is loaded is what was committed: every row, of any range, of one moment, and for the shard's owner alone.

use super::store::{Cluster, SHARDS, batch, lane_of, owned, take_all};
use entity_runtime::{
    placement::{Epoch, ShardId, Shards},
    store::{
        Batch, ImageKey, LoadError, Ownership, SharedStore, Store,
        batch::{delete, delete_range, put},
        memory::MemoryStore,
    },
};
use entity_runtime_tests::private_postgres::{Server, Stop};
use std::{net::TcpListener, sync::Arc, thread};

/// Numbers that look like chance, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        let len = self.below(len_max + 1);
        (0..len).map(|_| self.pick(&[0, 1, 2, 0x7f, 0x80, b'a', b'-', 0xff])).collect()
    }

    /// A key of any type, mostly one that a kernel would write. Names of entities are of one shard alone.
    fn key(&mut self, shard: u32) -> Vec<u8> {
        let number = self.pick(&[0, 1, 2, 3, 255, 256, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]);
        let target = self.pick(&[0_u32, 1, 9, 0x7fff_ffff, 0x8000_0000]);
        match self.below(9) {
            0 => vec![],
            1 => [&[self.pick(&[0x01, 0x10, 0x11, 0x20, 0x21, 0x40, 0xff])][..], &self.bytes(4)].concat(),
            2 => [&[0x12][..], &target.to_be_bytes(), &number.to_be_bytes()].concat(),
            3 => [&[0x22][..], &u128::from(number).to_be_bytes(), &number.to_be_bytes()].concat(),
            4 => [&[self.pick(&[0x30, 0x31, 0x32])][..], &number.to_be_bytes()].concat(),
            5 => [&[self.pick(&[0x12, 0x22, 0x30, 0x32])][..], &self.bytes(13)].concat(),
            6 => [&b"\xf0Not a kind"[..], &shard.to_be_bytes(), &self.bytes(2)].concat(),
            _ => {
                let kind: &[u8] = self.pick(&[b"a", b"a-b", b"ab", b"b.c"]);
                [b"\xf0", kind, b"\0", &shard.to_be_bytes(), &self.bytes(3)].concat()
            }
        }
    }
}

/// The same writes, to be committed under two epochs.
fn writes(random: &mut Random, shard: u32, known: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(12) {
        let key = random.key(shard);
        match random.below(5) {
            0 if !known.is_empty() => {
                let gone = known[random.below(known.len() as u64) as usize].clone();
                delete(&[&gone], &mut out);
            }
            1 => {
                let target = random.pick(&[0_u32, 1, 9]);
                let from = random.below(3);
                delete_range(&[&[0x12], &target.to_be_bytes()], from, from + random.below(4), &mut out);
            }
            _ => {
                let value = random.bytes(40);
                put(&[&key], &[&value], &mut out);
                known.push(key);
            }
        }
    }
    out
}

fn rows(store: &dyn Store, shard: u32, epoch: Epoch, keys: (&[u8], &[u8])) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .load_rows(ShardId(shard), epoch, keys.0..keys.1, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    rows
}

#[test]
fn rows_of_every_kind_and_of_any_range_come_back_as_from_memory() {
    let cluster = Cluster::new();
    let store = cluster.open("a");
    take_all(&store, 0);
    let memory = MemoryStore::new(Shards::new(SHARDS).unwrap(), store.lanes());
    // One for each lane, which is taken once.
    for shard in 0..store.lanes() {
        let random = &mut Random(u64::from(shard) + 1);
        let mine = owned(&store, shard);
        let (mut lane, mut in_memory) = (lane_of(&store, shard), lane_of(&memory, shard));
        let mut known = Vec::new();
        for number in 1..=40 {
            let bytes = writes(random, shard, &mut known);
            let section = |epoch: Epoch| {
                let mut batch = Batch::new();
                batch.section(ShardId(shard), epoch, number, |out| out.extend_from_slice(&bytes));
                batch
            };
            lane.commit(&[section(mine.epoch)]).unwrap();
            in_memory.commit(&[section(Epoch(1))]).unwrap();
        }
        let all: (&[u8], &[u8]) = (&[], &[0xff; 40]);
        let expected = rows(&memory, shard, Epoch(1), all);
        assert!(expected.len() > 20, "{} rows", expected.len());
        assert_eq!(rows(&store, shard, mine.epoch, all), expected);
        assert_eq!(
            store.load_shard(ShardId(shard), mine.epoch).unwrap(),
            memory.load_shard(ShardId(shard), Epoch(1)).unwrap()
        );
        for _ in 0..60 {
            let (mut from, mut below) = (random.key(shard), random.key(shard));
            from.truncate(random.below(from.len() as u64 + 1) as usize);
            below.truncate(random.below(below.len() as u64 + 1) as usize);
            // Some ranges are upside down, and hold nothing.
            if random.below(8) > 0 && below < from {
                std::mem::swap(&mut from, &mut below);
            }
            let keys = (from.as_slice(), below.as_slice());
            let expected = if from <= below { rows(&memory, shard, Epoch(1), keys) } else { vec![] };
            assert_eq!(rows(&store, shard, mine.epoch, keys), expected, "{keys:?}");
        }
        let of = |epoch| move |key: &Vec<u8>| ImageKey { shard: ShardId(shard), epoch, key: key.clone() };
        known.retain(|key| key.first() == Some(&0xf0));
        known.push(b"\xf0nobody\0x".to_vec());
        let here: Vec<_> = known.iter().map(of(mine.epoch)).collect();
        let there: Vec<_> = known.iter().map(of(Epoch(1))).collect();
        let images = store.load_images(&here).unwrap();
        assert!(images.contains(&None) && images.iter().any(Option::is_some));
        assert_eq!(images, memory.load_images(&there).unwrap());
    }
}

/// Asks as a node's loader does: again, when the server cannot answer. The sessions of a run that lost its lease are ended.
fn answered<T>(ask: impl Fn() -> Result<T, LoadError>) -> Result<T, LoadError> {
    loop {
        match ask() {
            Err(LoadError::Later(_)) => {}
            answer => return answer,
        }
    }
}

#[test]
fn a_long_outbox_is_read_as_far_as_its_reader_goes() {
    const MESSAGES: u64 = 700;
    let cluster = Cluster::new();
    let store = cluster.open("a");
    take_all(&store, 0);
    let mine = owned(&store, 2);
    let mut batch = Batch::new();
    batch.section(mine.shard, mine.epoch, 1, |out| {
        for number in 1..=MESSAGES {
            put(&[&[0x12, 0, 0, 0, 9], &number.to_be_bytes()], &[&vec![7; 5_000]], out);
        }
    });
    lane_of(&store, 2).commit(&[batch]).unwrap();
    let key = |number: u64| [&[0x12, 0, 0, 0, 9][..], &number.to_be_bytes()].concat();
    for stops_at in [1, 32, 33, 400, MESSAGES, MESSAGES + 1] {
        let mut next = 1;
        let visit = &mut |row: &[u8], value: &[u8]| {
            assert_eq!((row, value.len()), (key(next).as_slice(), 5_000));
            next += 1;
            next <= stops_at
        };
        store.load_rows(mine.shard, mine.epoch, &[0x12]..&[0x13], visit).unwrap();
        assert_eq!(next - 1, stops_at.min(MESSAGES));
    }
    let (from, below) = (key(650), key(660));
    assert_eq!(rows(&store, 2, mine.epoch, (&from, &below)).len(), 10);
}

#[test]
fn a_shard_that_another_has_taken_is_not_loaded_and_its_owner_is_known_then() {
    let cluster = Cluster::new();
    let (store, other) = (cluster.open("a"), cluster.open("b"));
    let all = take_all(&store, 0);
    lane_of(&store, 5).commit(&[batch(&all[5..6], "one")]).unwrap();
    let image = |shard: usize| ImageKey {
        shard: ShardId(shard as u32),
        epoch: all[shard].epoch,
        key: format!("\u{f0}kind\0k{shard}").chars().map(|letter| letter as u8).collect(),
    };
    assert_eq!(store.load_images(&[image(5), image(6)]).unwrap(), [Some(b"one".to_vec()), None]);
    cluster.end_lease("a");
    let wanted = [(ShardId(5), all[5].epoch), (ShardId(6), all[6].epoch), (ShardId(7), all[7].epoch)];
    assert_eq!(other.take(0, &wanted).unwrap().len(), 3);

    assert_eq!(store.owned().unwrap().len(), SHARDS as usize, "it has not heard of it yet");
    let is_not_owned = |result: Result<(), LoadError>, shard| matches!(result, Err(LoadError::NotOwned(of)) if of == ShardId(shard));
    let load = |shard: usize| {
        store.load_rows(all[shard].shard, all[shard].epoch, &[]..&[0xff], &mut |_, _| {
            panic!("no row is shown")
        })
    };
    assert!(is_not_owned(answered(|| load(5)), 5));
    let moved = |shard: usize| {
        let epoch = Epoch(all[shard].epoch.0 + 1);
        (ShardId(shard as u32), Ownership::Moved { epoch, to: "b".parse().unwrap() })
    };
    assert!(store.ownership().unwrap().contains(&moved(5)));
    assert!(is_not_owned(answered(|| store.load_images(&[image(8), image(6)])).map(drop), 6));
    assert!(store.ownership().unwrap().contains(&moved(6)));
    assert_eq!(answered(|| store.owned_shard(ShardId(7))).unwrap(), None);
    assert!(store.ownership().unwrap().contains(&moved(7)));
    // Whoever has it reads what was committed before.
    let taken = owned(&other, 5);
    assert_eq!(rows(&other, 5, taken.epoch, (&[0xf0], &[0xf1])), [(image(5).key, b"one".to_vec())]);
    let earlier = other.load_rows(ShardId(5), all[5].epoch, &[]..&[0xff], &mut |_, _| true);
    assert!(is_not_owned(earlier, 5), "under the epoch of now alone");
}

#[test]
fn what_no_build_has_left_is_an_error_and_no_row() {
    let cluster = Cluster::new();
    let store = cluster.open("a");
    let all = take_all(&store, 0);
    cluster
        .sql("INSERT INTO entity.item (shard, type, number, value) VALUES (1, 48, -1, ''), (2, 77, 1, '')");
    cluster
        .sql("INSERT INTO entity.mark (shard, type, key, value) VALUES (1, 49, '\\x0000000000000001', '')");
    let damaged = |shard: usize| answered(|| store.load_shard(all[shard].shard, all[shard].epoch));
    assert!(matches!(damaged(1), Err(LoadError::Io(_))));
    assert_eq!(damaged(2).unwrap(), [], "of a type that nobody asks for");
    cluster.sql("DELETE FROM entity.shard WHERE id = 3");
    assert!(matches!(answered(|| store.owned_shard(ShardId(3))), Err(LoadError::Io(_))));
    assert!(matches!(damaged(3), Err(LoadError::Io(_))));
    cluster.sql("REVOKE ALL ON entity.outbox FROM entity");
    assert!(matches!(damaged(4), Err(LoadError::Io(_))), "missing rights do not pass");
}

#[test]
fn a_server_that_hangs_leaves_the_loads_of_another_alone() {
    let mut cluster = Cluster::on(vec![Server::shared(), Arc::new(Server::start())]);
    let store = cluster.open("a");
    let (here, there) = (take_all(&store, 0)[0], take_all(&store, 1)[0]);
    let server = Arc::get_mut(&mut cluster.servers[1]).unwrap();
    server.stop(Stop::Fast);
    // Connections are let in, and nobody is there.
    let port = TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    thread::scope(|scope| {
        let hung: Vec<_> =
            (0..8).map(|_| scope.spawn(|| store.load_shard(there.shard, there.epoch))).collect();
        for _ in 0..20 {
            store.load_shard(here.shard, here.epoch).unwrap();
        }
        drop(port);
        for hung in hung {
            assert!(matches!(hung.join().unwrap(), Err(LoadError::Later(_))));
        }
    });
    Arc::get_mut(&mut cluster.servers[1]).unwrap().start_again();
    store.load_shard(there.shard, there.epoch).unwrap();
}
