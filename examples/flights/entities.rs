//! The entities: an aircraft, an airport, a carrier. Each counts its own part and knows nothing of the others' figures.
//!
//! A row of the file is one message to its aircraft, which passes on what concerns the airports and the carrier: four
//! messages a row. With its first message each of them enlists in a roster, which is how a report knows whom to ask.
//! None of the code below mentions a file, a process or a crash; that each message counts once is the runtime's part.

use entity_runtime::prelude::*;
use flights_plain::{
    rows::{Fate, Row},
    totals::{AircraftTotals, AirportTotals, CarrierTotals, Keys},
};

/// How many rosters there are, for good. One would hold thousands of keys and be written anew for each that comes; each of
/// these holds a few hundred.
const ROSTERS: u32 = 16;

/// An aircraft, by its tail number.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "aircraft", handles(Flight), queries(GetAircraft))]
pub(crate) struct Aircraft {
    totals: AircraftTotals,
    is_enlisted: bool,
}

/// An airport, by its code.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "airport", handles(Departure, Arrival), queries(GetAirport))]
pub(crate) struct Airport {
    totals: AirportTotals,
    is_enlisted: bool,
}

/// A carrier, by its code.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "carrier", handles(Leg), queries(GetCarrier))]
pub(crate) struct Carrier {
    totals: CarrierTotals,
    is_enlisted: bool,
}

/// A part of the keys there are, by its number.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "roster", handles(Enlist), queries(GetKeys))]
pub(crate) struct Roster {
    keys: Keys,
}

/// A row of the file, to its aircraft.
#[derive(Message, Serialize, Deserialize)]
pub(crate) struct Flight {
    /// Date and number say which flight it is. Nothing counts them, but rows of another file differ in them, and a feed
    /// compares what it is sent with what it had.
    date: u32,
    number: u32,
    carrier: String,
    origin: String,
    destination: String,
    miles: u32,
    fate: Fate,
}

impl Flight {
    /// The row's number in its file, the key of its aircraft, and the message.
    pub(crate) fn from_row(row: Row) -> (u64, String, Self) {
        let Row { number, date, carrier, flight, aircraft, origin, destination, miles, fate } = row;
        (number, aircraft, Self { date, number: flight, carrier, origin, destination, miles, fate })
    }
}

/// A flight seen from where it leaves.
#[derive(Message, Serialize, Deserialize)]
pub(crate) struct Departure {
    fate: Fate,
}

/// A flight seen from where it is going.
#[derive(Message, Serialize, Deserialize)]
pub(crate) struct Arrival {
    fate: Fate,
}

/// A flight seen from its carrier.
#[derive(Message, Serialize, Deserialize)]
pub(crate) struct Leg {
    miles: u32,
    fate: Fate,
}

/// Whoever sends it is there.
#[derive(Message, Serialize, Deserialize)]
pub(crate) struct Enlist;

/// Who has enlisted?
#[derive(Message, Serialize, Deserialize)]
#[message(reply = Keys)]
pub(crate) struct GetKeys;

/// What has an aircraft flown?
#[derive(Message, Serialize, Deserialize)]
#[message(reply = AircraftTotals)]
pub(crate) struct GetAircraft;

/// What went through an airport?
#[derive(Message, Serialize, Deserialize)]
#[message(reply = AirportTotals)]
pub(crate) struct GetAirport;

/// What has a carrier flown?
#[derive(Message, Serialize, Deserialize)]
#[message(reply = CarrierTotals)]
pub(crate) struct GetCarrier;

impl Roster {
    /// All there are.
    pub(crate) fn all() -> impl Iterator<Item = EntityRef<Self>> {
        (0..ROSTERS).map(|number| Self::at(number.to_string()))
    }

    /// The one in which this key enlists, for good: FNV-1a spreads short keys well enough.
    fn of(key: &str) -> EntityRef<Self> {
        let hash = key
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self::at((hash % ROSTERS).to_string())
    }
}

/// Enlists the entity at hand, with its first message.
fn enlist<E: Entity>(is_enlisted: &mut bool, ctx: &mut Context<'_, E>) {
    if !std::mem::replace(is_enlisted, true) {
        let roster = Roster::of(ctx.key());
        ctx.send(roster, Enlist);
    }
}

impl Handle<Enlist> for Roster {
    fn handle(&mut self, _: Enlist, ctx: &mut Context<'_, Self>) {
        let Some(sender) = ctx.sender() else { return };
        let keys = match sender.kind() {
            Aircraft::KIND => &mut self.keys.aircraft,
            Airport::KIND => &mut self.keys.airports,
            Carrier::KIND => &mut self.keys.carriers,
            _ => return,
        };
        keys.insert(sender.key().to_owned());
    }
}

impl Query<GetKeys> for Roster {
    fn query(&self, _: GetKeys) -> Keys {
        self.keys.clone()
    }
}

impl Handle<Flight> for Aircraft {
    fn handle(&mut self, flight: Flight, ctx: &mut Context<'_, Self>) {
        enlist(&mut self.is_enlisted, ctx);
        let Flight { carrier, origin, destination, miles, fate, .. } = flight;
        match fate {
            Fate::Cancelled => self.totals.cancelled += 1,
            Fate::Diverted { .. } | Fate::Landed { .. } => {
                self.totals.flights += 1;
                self.totals.miles += u64::from(miles);
            }
        }
        // Always all three, also of a cancelled flight: each decides for itself what it counts.
        ctx.send(Airport::at(origin), Departure { fate });
        ctx.send(Airport::at(destination), Arrival { fate });
        ctx.send(Carrier::at(carrier), Leg { miles, fate });
    }
}

impl Handle<Departure> for Airport {
    fn handle(&mut self, departure: Departure, ctx: &mut Context<'_, Self>) {
        enlist(&mut self.is_enlisted, ctx);
        match departure.fate {
            Fate::Cancelled => self.totals.cancelled += 1,
            Fate::Diverted { departure_delay } | Fate::Landed { departure_delay, .. } => {
                self.totals.departures += 1;
                self.totals.departure_delay += i64::from(departure_delay);
            }
        }
    }
}

impl Handle<Arrival> for Airport {
    fn handle(&mut self, arrival: Arrival, ctx: &mut Context<'_, Self>) {
        enlist(&mut self.is_enlisted, ctx);
        match arrival.fate {
            Fate::Cancelled => {}
            Fate::Diverted { .. } => self.totals.diverted += 1,
            Fate::Landed { arrival_delay, .. } => {
                self.totals.arrivals += 1;
                self.totals.arrival_delay += i64::from(arrival_delay);
            }
        }
    }
}

impl Handle<Leg> for Carrier {
    fn handle(&mut self, leg: Leg, ctx: &mut Context<'_, Self>) {
        enlist(&mut self.is_enlisted, ctx);
        match leg.fate {
            Fate::Cancelled => self.totals.cancelled += 1,
            Fate::Diverted { .. } | Fate::Landed { .. } => {
                self.totals.flights += 1;
                self.totals.miles += u64::from(leg.miles);
            }
        }
    }
}

impl Query<GetAircraft> for Aircraft {
    fn query(&self, _: GetAircraft) -> AircraftTotals {
        self.totals
    }
}

impl Query<GetAirport> for Airport {
    fn query(&self, _: GetAirport) -> AirportTotals {
        self.totals
    }
}

impl Query<GetCarrier> for Carrier {
    fn query(&self, _: GetCarrier) -> CarrierTotals {
        self.totals
    }
}
