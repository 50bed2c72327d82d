//! The result of a run: what is printed, as JSON, and how it is compared with another.

use crate::totals::{AircraftTotals, AirportTotals, CarrierTotals, Tables};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a run found and did. Its JSON form is one object with the keys `rows`, `aircraft`, `airports`, `carriers` and
/// `counters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What the entities answered.
    #[serde(flatten)]
    pub tables: Tables,
    /// What the runtime did in this run.
    pub counters: Counters,
}

/// What the runtime did with the messages of this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Turns that took effect.
    pub applied: u64,
    /// Messages known from before and left aside.
    pub duplicates: u64,
    /// Messages that no entity could handle.
    pub dead_letters: u64,
}

/// Each table added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Over all aircraft.
    pub aircraft: AircraftTotals,
    /// Over all airports.
    pub airports: AirportTotals,
    /// Over all carriers.
    pub carriers: CarrierTotals,
}

impl Sums {
    /// Adds up three tables.
    pub fn of(tables: &Tables) -> Self {
        let mut sums = Self::default();
        for one in tables.aircraft.values() {
            sums.aircraft.flights += one.flights;
            sums.aircraft.miles += one.miles;
            sums.aircraft.cancelled += one.cancelled;
        }
        for one in tables.airports.values() {
            sums.airports.departures += one.departures;
            sums.airports.departure_delay += one.departure_delay;
            sums.airports.cancelled += one.cancelled;
            sums.airports.arrivals += one.arrivals;
            sums.airports.arrival_delay += one.arrival_delay;
            sums.airports.diverted += one.diverted;
        }
        for one in tables.carriers.values() {
            sums.carriers.flights += one.flights;
            sums.carriers.miles += one.miles;
            sums.carriers.cancelled += one.cancelled;
        }
        sums
    }

    /// Each figure with its table and name, in the order of the report.
    pub fn figures(&self) -> Vec<(&'static str, &'static str, i128)> {
        let named = |table, fields: &[(&'static str, i128)]| {
            fields.iter().map(|(name, figure)| (table, *name, *figure)).collect::<Vec<_>>()
        };
        [
            named("aircraft", &self.aircraft.fields()),
            named("airports", &self.airports.fields()),
            named("carriers", &self.carriers.fields()),
        ]
        .concat()
    }
}

/// A figure that two results do not agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The entity and the field: `airports/JFK departures`.
    pub what: String,
    /// The figure here; `None` where there is no such entity.
    pub found: Option<i128>,
    /// The figure it should be.
    pub expected: Option<i128>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |figure: Option<i128>| figure.map_or("nothing".to_owned(), |figure| figure.to_string());
        write!(f, "{}: {}, expected {}", self.what, show(self.found), show(self.expected))
    }
}

/// Every figure that differs, in the order of the report.
pub fn differences(found: &Tables, expected: &Tables) -> Vec<Difference> {
    let mut all = Vec::new();
    if found.rows != expected.rows {
        all.push(Difference {
            what: "rows".to_owned(),
            found: Some(found.rows.into()),
            expected: Some(expected.rows.into()),
        });
    }
    compare("aircraft", &found.aircraft, &expected.aircraft, &mut all);
    compare("airports", &found.airports, &expected.airports, &mut all);
    compare("carriers", &found.carriers, &expected.carriers, &mut all);
    all
}

/// The named figures of one entity.
trait Figures<const N: usize>: Default {
    fn fields(&self) -> [(&'static str, i128); N];
}

impl Figures<3> for AircraftTotals {
    fn fields(&self) -> [(&'static str, i128); 3] {
        let Self { flights, miles, cancelled } = *self;
        [("flights", flights.into()), ("miles", miles.into()), ("cancelled", cancelled.into())]
    }
}

impl Figures<6> for AirportTotals {
    fn fields(&self) -> [(&'static str, i128); 6] {
        let Self { departures, departure_delay, cancelled, arrivals, arrival_delay, diverted } = *self;
        [
            ("departures", departures.into()),
            ("departure_delay", departure_delay.into()),
            ("cancelled", cancelled.into()),
            ("arrivals", arrivals.into()),
            ("arrival_delay", arrival_delay.into()),
            ("diverted", diverted.into()),
        ]
    }
}

impl Figures<3> for CarrierTotals {
    fn fields(&self) -> [(&'static str, i128); 3] {
        let Self { flights, miles, cancelled } = *self;
        [("flights", flights.into()), ("miles", miles.into()), ("cancelled", cancelled.into())]
    }
}

fn compare<const N: usize, T: Figures<N>>(
    table: &str,
    found: &BTreeMap<String, T>,
    expected: &BTreeMap<String, T>,
    all: &mut Vec<Difference>,
) {
    let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    for key in keys {
        let (found, expected) = (found.get(key).map(T::fields), expected.get(key).map(T::fields));
        for (at, (name, _)) in T::default().fields().into_iter().enumerate() {
            let (found, expected) = (found.map(|fields| fields[at].1), expected.map(|fields| fields[at].1));
            if found != expected {
                all.push(Difference { what: format!("{table}/{key} {name}"), found, expected });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        Tables {
            rows: 2,
            aircraft: [("N1".into(), AircraftTotals { flights: 1, miles: 2, cancelled: 3 })].into(),
            airports: [(
                "EWR".into(),
                AirportTotals {
                    departures: 4,
                    departure_delay: -5,
                    cancelled: 6,
                    arrivals: 7,
                    arrival_delay: -8,
                    diverted: 9,
                },
            )]
            .into(),
            carriers: [("UA".into(), CarrierTotals { flights: 10, miles: 11, cancelled: 12 })].into(),
        }
    }

    #[test]
    fn the_json_has_exactly_the_promised_shape_and_reads_back() {
        let counters = Counters { applied: 13, duplicates: 14, dead_letters: 15 };
        let report = Report { tables: tables(), counters };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            json,
            "{\"rows\":2,\
             \"aircraft\":{\"N1\":{\"flights\":1,\"miles\":2,\"cancelled\":3}},\
             \"airports\":{\"EWR\":{\"departures\":4,\"departure_delay\":-5,\"cancelled\":6,\
             \"arrivals\":7,\"arrival_delay\":-8,\"diverted\":9}},\
             \"carriers\":{\"UA\":{\"flights\":10,\"miles\":11,\"cancelled\":12}},\
             \"counters\":{\"applied\":13,\"duplicates\":14,\"dead_letters\":15}}"
        );
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn equal_tables_have_no_differences() {
        assert_eq!(differences(&tables(), &tables()), []);
    }

    #[test]
    fn each_difference_names_entity_and_field() {
        let mut found = tables();
        found.rows = 3;
        found.airports.get_mut("EWR").unwrap().arrival_delay = 0;
        found.carriers.clear();
        found.aircraft.insert("N2".into(), AircraftTotals::default());
        let said: Vec<String> = differences(&found, &tables()).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "rows: 3, expected 2",
                "aircraft/N2 flights: 0, expected nothing",
                "aircraft/N2 miles: 0, expected nothing",
                "aircraft/N2 cancelled: 0, expected nothing",
                "airports/EWR arrival_delay: 0, expected -8",
                "carriers/UA flights: nothing, expected 10",
                "carriers/UA miles: nothing, expected 11",
                "carriers/UA cancelled: nothing, expected 12",
            ]
        );
    }
}
