//! What is counted, and the plain fold: one loop, one thread, no runtime. It is what the entities' figures must equal.

use crate::rows::{Fate, InputError, Row, Rows};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is kept for one aircraft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AircraftTotals {
    /// Flights flown: all but the cancelled.
    pub flights: u64,
    /// Miles of the flights flown.
    pub miles: u64,
    /// Flights cancelled.
    pub cancelled: u64,
}

/// What is kept for one airport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AirportTotals {
    /// Flights that left from it.
    pub departures: u64,
    /// Minutes they were late in all; early ones count against it.
    pub departure_delay: i64,
    /// Flights from it that were cancelled.
    pub cancelled: u64,
    /// Flights that arrived at it.
    pub arrivals: u64,
    /// Minutes they were late in all.
    pub arrival_delay: i64,
    /// Flights to it that went elsewhere.
    pub diverted: u64,
}

/// What is kept for one carrier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierTotals {
    /// Flights flown: all but the cancelled.
    pub flights: u64,
    /// Miles of the flights flown.
    pub miles: u64,
    /// Flights cancelled.
    pub cancelled: u64,
}

/// The three tables, and the number of rows they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Rows counted: each is one flight of an aircraft, flown or cancelled.
    pub rows: u64,
    /// By tail number.
    pub aircraft: BTreeMap<String, AircraftTotals>,
    /// By the airport's code.
    pub airports: BTreeMap<String, AirportTotals>,
    /// By the carrier's code.
    pub carriers: BTreeMap<String, CarrierTotals>,
}

/// The keys of all entities: whom to ask for the report. As many as there are entities, however many rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Tail numbers.
    pub aircraft: BTreeSet<String>,
    /// Airports, of origin and of destination.
    pub airports: BTreeSet<String>,
    /// Carriers.
    pub carriers: BTreeSet<String>,
}

impl Keys {
    /// Adds others.
    pub fn add(&mut self, mut others: Self) {
        self.aircraft.append(&mut others.aircraft);
        self.airports.append(&mut others.airports);
        self.carriers.append(&mut others.carriers);
    }
}

/// Counts all rows.
///
/// # Errors
/// The first bad row.
pub fn fold(rows: &mut Rows) -> Result<Tables, InputError> {
    let mut tables = Tables::default();
    while let Some(row) = rows.next_row()? {
        tables.add(&row);
    }
    Ok(tables)
}

impl Tables {
    /// Counts one row.
    pub fn add(&mut self, row: &Row) {
        self.rows += 1;
        let miles = u64::from(row.miles);
        let aircraft = self.aircraft.entry(row.aircraft.clone()).or_default();
        let carrier = self.carriers.entry(row.carrier.clone()).or_default();
        if row.fate == Fate::Cancelled {
            aircraft.cancelled += 1;
            carrier.cancelled += 1;
        } else {
            aircraft.flights += 1;
            aircraft.miles += miles;
            carrier.flights += 1;
            carrier.miles += miles;
        }
        let origin = self.airports.entry(row.origin.clone()).or_default();
        match row.fate {
            Fate::Cancelled => origin.cancelled += 1,
            Fate::Diverted { departure_delay } | Fate::Landed { departure_delay, .. } => {
                origin.departures += 1;
                origin.departure_delay += i64::from(departure_delay);
            }
        }
        // A cancelled flight counts nothing here, but its destination stands in the table: the row names it.
        let destination = self.airports.entry(row.destination.clone()).or_default();
        match row.fate {
            Fate::Cancelled => {}
            Fate::Diverted { .. } => destination.diverted += 1,
            Fate::Landed { arrival_delay, .. } => {
                destination.arrivals += 1;
                destination.arrival_delay += i64::from(arrival_delay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Cursor, path::Path};

    fn bundled() -> Rows {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-2013-q1.csv.gz");
        Rows::open(&path).unwrap()
    }

    /// The figures come from another language and another reader:
    ///
    /// ```sh
    /// python3 - examples/data/flights-2013-q1.csv.gz <<'PYTHON'
    /// import collections, csv, gzip, sys
    /// aircraft = collections.defaultdict(lambda: [0] * 3)
    /// airports = collections.defaultdict(lambda: [0] * 6)
    /// carriers = collections.defaultdict(lambda: [0] * 3)
    /// rows = 0
    /// for x in csv.DictReader(gzip.open(sys.argv[1], 'rt')):
    ///     rows += 1
    ///     a = aircraft[x['tailnum'] if x['tailnum'] != 'NA' else 'unknown']
    ///     o, d, c = airports[x['origin']], airports[x['dest']], carriers[x['carrier']]
    ///     if x['dep_delay'] == 'NA':
    ///         a[2] += 1; c[2] += 1; o[2] += 1
    ///         continue
    ///     miles = int(x['distance'])
    ///     a[0] += 1; a[1] += miles; c[0] += 1; c[1] += miles
    ///     o[0] += 1; o[1] += int(x['dep_delay'])
    ///     if x['arr_delay'] == 'NA': d[5] += 1
    ///     else: d[3] += 1; d[4] += int(x['arr_delay'])
    /// print(rows, len(aircraft), len(airports), len(carriers))
    /// print([airports[k] for k in ('EWR', 'JFK', 'LGA', 'ATL')])
    /// print([carriers[k] for k in ('UA', '9E')], [aircraft[k] for k in ('unknown', 'N723MQ', 'N14228')])
    /// for table in (aircraft, airports, carriers): print([sum(column) for column in zip(*table.values())])
    /// PYTHON
    /// ```
    ///
    /// and those of UA and EWR once more from `awk`:
    /// `zcat FILE | awk -F, 'NR > 1 && $7 == "UA" && $5 != "NA" { n++; m += $12 } END { print n, m }'`.
    #[test]
    fn the_fold_gives_the_figures_python_gives() {
        let tables = fold(&mut bundled()).unwrap();
        assert_eq!(tables.rows, 80_789);
        assert_eq!((tables.aircraft.len(), tables.airports.len(), tables.carriers.len()), (3_576, 99, 16));

        let airport = |key: &str| {
            let t = tables.airports[key];
            (t.departures, t.departure_delay, t.cancelled, t.arrivals, t.arrival_delay, t.diverted)
        };
        assert_eq!(airport("EWR"), (28_316, 438_382, 1_104, 0, 0, 0));
        assert_eq!(airport("JFK"), (26_601, 274_715, 678, 0, 0, 0));
        assert_eq!(airport("LGA"), (23_229, 178_956, 861, 0, 0, 0));
        assert_eq!(airport("ATL"), (0, 0, 0, 3_980, 21_792, 14));

        let carrier = |key: &str| {
            let t = tables.carriers[key];
            (t.flights, t.miles, t.cancelled)
        };
        assert_eq!(carrier("UA"), (13_697, 19_911_886, 257));
        assert_eq!(carrier("9E"), (4_365, 2_078_166, 294));

        let aircraft = |key: &str| {
            let t = tables.aircraft[key];
            (t.flights, t.miles, t.cancelled)
        };
        assert_eq!(aircraft("unknown"), (0, 0, 841));
        assert_eq!(aircraft("N723MQ"), (186, 98_629, 13));
        assert_eq!(aircraft("N14228"), (39, 44_323, 0));

        let sums = crate::report::Sums::of(&tables);
        assert_eq!(sums.aircraft, AircraftTotals { flights: 78_146, miles: 79_352_513, cancelled: 2_643 });
        assert_eq!(sums.carriers, CarrierTotals { flights: 78_146, miles: 79_352_513, cancelled: 2_643 });
        assert_eq!(
            sums.airports,
            AirportTotals {
                departures: 78_146,
                departure_delay: 892_053,
                cancelled: 2_643,
                arrivals: 77_911,
                arrival_delay: 456_391,
                diverted: 235,
            }
        );
    }

    #[test]
    fn the_destination_of_a_cancelled_flight_stands_in_the_table() {
        let text = "year,month,day,sched_dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance\n\
                    2013,1,1,1,NA,NA,UA,1,NA,EWR,IAH,7\n";
        let tables = fold(&mut Rows::from_reader("f.csv", Cursor::new(text), 0).unwrap()).unwrap();
        assert_eq!(tables.airports["IAH"], AirportTotals::default());
        assert_eq!(tables.airports["EWR"].cancelled, 1);
        assert_eq!(tables.aircraft["unknown"], AircraftTotals { flights: 0, miles: 0, cancelled: 1 });
    }
}
