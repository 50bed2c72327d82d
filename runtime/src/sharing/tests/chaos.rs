//! Everything at once, by seed.

use super::*;

fn run(seed: u64) -> (u64, u64) {
    let mut world = World::new(seed);
    world.loses = world.random.random_range(0..30);
    (0..4).for_each(|at| world.start(at));
    for _ in 0..world.random.random_range(5..40) {
        let at = world.random.random_range(0..4);
        match world.random.random_range(0..8) {
            0 if world.processes.contains_key(&name(at)) => world.kill(at),
            0 | 1 => world.start(at),
            2 if world.processes.contains_key(&name(at)) => {
                let process = world.process(at);
                process.is_frozen = !process.is_frozen;
            }
            3 => world.is_stalled = !world.is_stalled,
            4 => world.nobody_hears = !world.nobody_hears,
            5 if world.processes.contains_key(&name(at)) => {
                // A lane is void: everything of it is read again.
                for shard in world.process(at).hosted.keys().copied().collect::<Vec<_>>() {
                    world.reload(&name(at), shard);
                }
            }
            _ => {}
        }
        let time = world.random.random_range(1..8_000);
        world.run(Duration::from_millis(time));
    }
    (world.loses, world.is_stalled, world.nobody_hears) = (0, false, false);
    for at in 0..4 {
        if let Some(process) = world.processes.get_mut(&name(at)) {
            process.is_frozen = false;
        }
    }
    if world.processes.is_empty() {
        world.start(0);
    }
    world.run(Duration::from_secs(200));
    let served = world.served();
    let share = (SHARDS as usize * 6).div_ceil(served.len() * 5);
    assert!(served.values().all(|count| *count <= share), "seed {seed}: {served:?}");
    assert!(world.all_routes_are_right(), "seed {seed}");
    let moves = world.moves;
    world.run(Duration::from_mins(1));
    assert_eq!(world.moves, moves, "seed {seed}: it does not come to rest");
    let alarms: Vec<_> = world.processes.values().flat_map(|process| &process.alarms).collect();
    assert!(alarms.is_empty(), "seed {seed}: {alarms:?}");
    (world.takes, world.moves)
}

#[test]
fn whatever_happened_each_shard_is_served_by_its_owner_in_the_end_and_rests() {
    let (mut takes, mut moves) = (0, 0);
    for seed in 0..100 {
        let of_seed = run(seed);
        takes += of_seed.0;
        moves += of_seed.1 - of_seed.0;
    }
    assert!(500 < takes && 500 < moves, "the seeds are to walk every path: {takes}, {moves}");
}
