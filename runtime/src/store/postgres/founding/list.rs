//! What the servers of a list say of their cluster, judged: a list is compared by who the servers are, never by its text.

use super::{Cluster, FoundingError, SERVERS_MAX, spread};
use crate::placement::{PlacementParameters, Shards};

/// The layout of keys and rows that this build knows (P17).
pub(super) const LAYOUT: i32 = 0;

/// The row of `entity.cluster`, as it was read: nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterRow {
    pub(super) id: u128,
    pub(super) layout: i32,
    pub(super) shards: i32,
    pub(super) hash: String,
    pub(super) placement: i64,
    pub(super) server: i32,
    pub(super) servers: Vec<u128>,
    pub(super) founded: bool,
}

/// What one server of the list has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// There is no connection.
    Unreachable,
    /// No cluster was ever founded on it.
    Nothing,
    /// Its row, and the shards it has.
    Row(ClusterRow, Vec<i32>),
}

impl Heard {
    fn row(&self) -> Option<&ClusterRow> {
        match self {
            Self::Row(row, _) => Some(row),
            Self::Unreachable | Self::Nothing => None,
        }
    }
}

/// Whether the servers that have a row are those of the list, each in its place (P24). The first row that there is.
pub(super) fn judge_list<'h>(
    names: &[String],
    heard: &'h [Heard],
) -> Result<Option<&'h ClusterRow>, FoundingError> {
    let rows: Vec<_> =
        heard.iter().enumerate().filter_map(|(at, heard)| heard.row().map(|row| (at, row))).collect();
    let Some(&(first_at, first)) = rows.first() else { return Ok(None) };
    for &(at, row) in &rows {
        let is_sound = !row.servers.is_empty()
            && row.servers.len() <= SERVERS_MAX
            && usize::try_from(row.server).is_ok_and(|place| place < row.servers.len());
        if !is_sound {
            return Err(damaged(&names[at], "its row of the cluster has no place for itself"));
        }
        if row.id != first.id || row.servers != first.servers {
            let (server, other) = (names[at].clone(), names[first_at].clone());
            return Err(FoundingError::OtherCluster { server, other });
        }
    }
    for (nth, &(at, row)) in rows.iter().enumerate() {
        if let Some(&(before, _)) = rows[..nth].iter().find(|(_, before)| before.server == row.server) {
            let (first, second) = (names[before].clone(), names[at].clone());
            return Err(FoundingError::Twice { first, second });
        }
    }
    let (given, founded) = (names.len(), first.servers.len());
    if given != founded {
        return Err(FoundingError::Length { given, founded });
    }
    if rows.iter().any(|(at, row)| row.server.cast_unsigned() as usize != *at) {
        // Places were found to be within the list. Those that say where they belong stand there; the others fill what is left.
        let mut order: Vec<Option<&String>> = vec![None; given];
        for (at, row) in &rows {
            order[row.server.cast_unsigned() as usize] = Some(&names[*at]);
        }
        let mut others = (0..given).filter(|at| heard[*at].row().is_none()).map(|at| &names[at]);
        let order: Vec<_> =
            order.into_iter().filter_map(|name| name.or_else(|| others.next())).cloned().collect();
        return Err(FoundingError::Order { order: order.join(", ") });
    }
    Ok(Some(first))
}

/// The cluster that a list of servers keeps, of which some may be away.
pub(super) fn judge(names: &[String], heard: &[Heard]) -> Result<Cluster, FoundingError> {
    let Some(first) = judge_list(names, heard)? else {
        let is_away = |heard: &Heard| *heard == Heard::Unreachable;
        return Err(if heard.iter().all(is_away) {
            FoundingError::NobodyAnswers
        } else {
            FoundingError::NotFounded { servers: names.join(", ") }
        });
    };
    for (name, heard) in names.iter().zip(heard) {
        let is_founded = match heard {
            Heard::Unreachable => continue,
            // Founding had not come as far as there; or it was emptied since.
            Heard::Nothing if first.founded => return Err(FoundingError::Emptied { server: name.clone() }),
            Heard::Nothing => false,
            Heard::Row(row, _) => row.founded,
        };
        if !is_founded {
            return Err(FoundingError::HalfFounded { server: name.clone() });
        }
    }
    let (shards, placement) = known(&names[0], first)?;
    Ok(Cluster {
        id: first.id,
        shards,
        placement,
        servers: first.servers.clone(),
        server_of: server_of(names, heard, shards)?,
        is_reachable: heard.iter().map(|heard| *heard != Heard::Unreachable).collect(),
    })
}

/// Whether what a server says fits what is known of its cluster.
pub(super) fn judge_one(
    name: &str,
    heard: Option<&Heard>,
    at: usize,
    cluster: &Cluster,
) -> Result<(), FoundingError> {
    let server = || name.to_owned();
    let (row, ids) = match heard {
        Some(Heard::Row(row, ids)) => (row, ids),
        Some(Heard::Nothing) => return Err(FoundingError::Emptied { server: server() }),
        Some(Heard::Unreachable) | None => return Err(FoundingError::Away { why: server() }),
    };
    if row.id != cluster.id || row.servers != cluster.servers || usize::try_from(row.server) != Ok(at) {
        let other = format!("place {at} of the list");
        return Err(FoundingError::OtherCluster { server: server(), other });
    }
    if !row.founded {
        return Err(FoundingError::HalfFounded { server: server() });
    }
    known(name, row)?;
    let expected = cluster.server_of.iter().enumerate().filter(|(_, place)| **place as usize == at);
    if !expected.map(|(id, _)| (id as u32).cast_signed()).eq(ids.iter().copied()) {
        return Err(damaged(name, "it has not the shards that it was founded with"));
    }
    Ok(())
}

/// What of a row this build must know to work with the cluster.
pub(super) fn known(name: &str, row: &ClusterRow) -> Result<(Shards, u64), FoundingError> {
    let hash = PlacementParameters::CURRENT.hash;
    if row.layout != LAYOUT || row.hash != hash {
        let found = format!("layout {} and hash {:?}", row.layout, row.hash);
        return Err(FoundingError::OtherBuild { found, known: format!("layout {LAYOUT} and hash {hash:?}") });
    }
    let shards = u32::try_from(row.shards).ok().and_then(Shards::new);
    let shards = shards.ok_or_else(|| damaged(name, &format!("it has {} shards", row.shards)))?;
    Ok((shards, row.placement.cast_unsigned()))
}

/// The server of each shard: the one that has its row. A server that is away keeps what no other has.
fn server_of(names: &[String], heard: &[Heard], shards: Shards) -> Result<Vec<u32>, FoundingError> {
    let mut found: Vec<Option<u32>> = vec![None; shards.count() as usize];
    for (at, heard) in heard.iter().enumerate() {
        let Heard::Row(_, ids) = heard else { continue };
        for id in ids {
            let place = usize::try_from(*id).ok().and_then(|id| found.get_mut(id));
            let place = place.ok_or_else(|| damaged(&names[at], &format!("it has a shard {id}")))?;
            if let Some(other) = place.replace(at as u32) {
                let other = &names[other as usize];
                return Err(damaged(&names[at], &format!("it has shard {id}, and so has {other}")));
            }
        }
    }
    let is_away = |server: u32| heard[server as usize] == Heard::Unreachable;
    let mut away = (0..heard.len() as u32).filter(|server| is_away(*server));
    // Where one alone is away there is no question; else the founding's choice stands.
    let only = away.next().filter(|_| away.next().is_none());
    let founded = spread(heard.len(), shards);
    let server_of = found.into_iter().zip(founded).enumerate().map(|(shard, (found, founded))| {
        let away = only.or(Some(founded).filter(|server| is_away(*server)));
        found.or(away).ok_or_else(|| {
            damaged(&names[founded as usize], &format!("shard {shard} has no row on any server"))
        })
    });
    server_of.collect()
}

fn damaged(server: &str, what: &str) -> FoundingError {
    FoundingError::Damaged { server: server.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u32 = 16;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|server| format!("s{server}")).collect()
    }

    /// A cluster of `count` servers, founded.
    fn cluster(count: usize) -> Vec<Heard> {
        let founded = spread(count, Shards::new(SHARDS).unwrap());
        let server = |server: usize| {
            let row = ClusterRow {
                id: 7,
                layout: LAYOUT,
                shards: SHARDS.cast_signed(),
                hash: PlacementParameters::CURRENT.hash.into_owned(),
                placement: -1,
                server: (server as u32).cast_signed(),
                servers: (0..count as u128).map(|server| 100 + server).collect(),
                founded: true,
            };
            let ids = founded.iter().enumerate().filter(|(_, at)| **at as usize == server);
            Heard::Row(row, ids.map(|(id, _)| (id as u32).cast_signed()).collect())
        };
        (0..count).map(server).collect()
    }

    fn row(heard: &mut Heard) -> &mut ClusterRow {
        match heard {
            Heard::Row(row, _) => row,
            _ => panic!("there is a row"),
        }
    }

    fn error(heard: &[Heard]) -> FoundingError {
        judge(&names(heard.len()), heard).unwrap_err()
    }

    #[test]
    fn the_list_of_the_founding_is_taken_whoever_is_away() {
        for count in 1..=3 {
            let all = judge(&names(count), &cluster(count)).unwrap();
            assert_eq!((all.id, all.placement, all.servers.len()), (7, u64::MAX, count));
            for away in 0..1 << count {
                let mut heard = cluster(count);
                for (server, heard) in heard.iter_mut().enumerate() {
                    if away >> server & 1 == 1 {
                        *heard = Heard::Unreachable;
                    }
                }
                let judged = judge(&names(count), &heard);
                if away + 1 == 1 << count {
                    assert!(matches!(judged, Err(FoundingError::NobodyAnswers)));
                } else {
                    assert_eq!(judged.unwrap().server_of, all.server_of, "away: {away:b}");
                }
            }
        }
    }

    #[test]
    fn every_wrong_list_is_refused_by_what_is_wrong_with_it() {
        let three = cluster(3);
        assert!(matches!(error(&three[..2]), FoundingError::Length { given: 2, founded: 3 }));
        let mut longer = cluster(2);
        longer.push(Heard::Nothing);
        assert!(matches!(error(&longer), FoundingError::Length { given: 3, founded: 2 }));
        let twice = [three[0].clone(), three[0].clone(), three[2].clone()];
        assert!(matches!(error(&twice), FoundingError::Twice { .. }));
        let FoundingError::Order { order } = error(&[three[2].clone(), Heard::Unreachable, three[1].clone()])
        else {
            panic!("it is another order")
        };
        assert_eq!(order, "s1, s2, s0");
        let mut other = cluster(3);
        row(&mut other[1]).id = 8;
        assert!(matches!(error(&other), FoundingError::OtherCluster { server, .. } if server == "s1"));
        // The same cluster as far as it says, and not the same servers.
        let mut other = cluster(3);
        row(&mut other[2]).servers[2] = 1;
        assert!(matches!(error(&other), FoundingError::OtherCluster { server, .. } if server == "s2"));
    }

    #[test]
    fn a_cluster_that_is_not_there_whole_is_not_opened() {
        assert!(matches!(error(&[Heard::Nothing, Heard::Unreachable]), FoundingError::NotFounded { .. }));
        let mut heard = cluster(2);
        heard[1] = Heard::Nothing;
        assert!(matches!(error(&heard), FoundingError::Emptied { server } if server == "s1"));
        row(&mut heard[0]).founded = false;
        assert!(matches!(error(&heard), FoundingError::HalfFounded { server } if server == "s0"));
        let mut heard = cluster(2);
        row(&mut heard[0]).founded = false;
        assert!(matches!(error(&heard), FoundingError::HalfFounded { server } if server == "s0"));
    }

    #[test]
    fn rows_that_cannot_be_are_refused_and_nothing_is_indexed_by_them() {
        let changes: [fn(&mut ClusterRow); 6] = [
            |row| row.server = -1,
            |row| row.server = 2,
            |row| row.servers.clear(),
            |row| row.servers = vec![1; SERVERS_MAX + 1],
            |row| row.shards = 12,
            |row| row.shards = -16,
        ];
        for change in changes {
            let mut heard = cluster(2);
            for heard in &mut heard {
                change(row(heard));
            }
            assert!(matches!(error(&heard), FoundingError::Damaged { .. }));
        }
        for id in [-1, SHARDS.cast_signed(), 0] {
            let mut heard = cluster(2);
            for heard in &mut heard {
                if let Heard::Row(_, ids) = heard {
                    ids.push(id);
                }
            }
            assert!(matches!(error(&heard), FoundingError::Damaged { .. }), "shard {id}");
        }
        let mut heard = cluster(2);
        if let Heard::Row(_, ids) = &mut heard[1] {
            ids.pop();
        }
        assert!(matches!(error(&heard), FoundingError::Damaged { .. }));
        let mut heard = cluster(1);
        row(&mut heard[0]).hash = "md5".into();
        assert!(matches!(error(&heard), FoundingError::OtherBuild { .. }));
    }

    #[test]
    fn a_server_that_comes_late_is_judged_by_what_is_known_of_its_place() {
        let heard = cluster(2);
        let known = judge(&names(2), &heard).unwrap();
        let judged = |heard: &Heard| judge_one("s1", Some(heard), 1, &known);
        judged(&heard[1]).unwrap();
        assert!(matches!(judged(&heard[0]), Err(FoundingError::OtherCluster { .. })), "of another place");
        assert!(matches!(judged(&Heard::Nothing), Err(FoundingError::Emptied { .. })));
        assert!(matches!(judged(&Heard::Unreachable), Err(FoundingError::Away { .. })));
        let changed = |change: &dyn Fn(&mut ClusterRow)| {
            let mut late = heard[1].clone();
            change(row(&mut late));
            judged(&late).unwrap_err()
        };
        assert!(matches!(changed(&|row| row.id = 8), FoundingError::OtherCluster { .. }));
        assert!(matches!(changed(&|row| row.servers[0] = 8), FoundingError::OtherCluster { .. }));
        assert!(matches!(changed(&|row| row.founded = false), FoundingError::HalfFounded { .. }));
        assert!(matches!(changed(&|row| row.layout = 1), FoundingError::OtherBuild { .. }));
        let mut late = heard[1].clone();
        if let Heard::Row(_, ids) = &mut late {
            ids.pop();
        }
        assert!(matches!(judged(&late), Err(FoundingError::Damaged { .. })), "a row is never made anew");
    }
}
