//! Rows of a CSV file, plain or gzipped, read one at a time and checked before anything acts on them.
//!
//! Strict on purpose: a column that moved or a delay that is not a number would be counted under a wrong name without
//! anyone noticing. Every complaint names the file, the row and the column. A file of any length takes the same memory.

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The columns a file must have, in this order.
pub const COLUMNS: [&str; 12] = [
    "year",
    "month",
    "day",
    "sched_dep_time",
    "dep_delay",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
];

/// Key of the aircraft whose tail number is not known.
pub const UNKNOWN_AIRCRAFT: &str = "unknown";

/// Most bytes one row may take. A quote that is never closed makes the rest of the file one row; it is refused here
/// instead of being read into memory.
pub const ROW_LEN_MAX: usize = 64 * 1024;

/// Longest tail number, airport or carrier code; the longest key an entity may have.
const KEY_LEN_MAX: usize = entity_runtime::entity::KEY_LEN_MAX;
/// Bytes asked for at once.
const READ_AHEAD: usize = 64 * 1024;
/// How a file says that there is no value.
const MISSING: &str = "NA";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What spreadsheet programs put in front of UTF-8.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// How a flight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It never left.
    Cancelled,
    /// It left and did not arrive where it should.
    Diverted {
        /// Minutes late at departure.
        departure_delay: i32,
    },
    /// It arrived.
    Landed {
        /// Minutes late at departure.
        departure_delay: i32,
        /// Minutes late at arrival.
        arrival_delay: i32,
    },
}

/// One flight of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the file, from 1; the header is not counted.
    pub number: u64,
    /// Date of departure, as `YYYYMMDD`.
    pub date: u32,
    /// Two-letter code of the carrier.
    pub carrier: String,
    /// The carrier's number of the flight.
    pub flight: u32,
    /// Tail number, or [`UNKNOWN_AIRCRAFT`].
    pub aircraft: String,
    /// Airport it leaves from.
    pub origin: String,
    /// Airport it is going to.
    pub destination: String,
    /// Miles between the two.
    pub miles: u32,
    /// How it ended.
    pub fate: Fate,
}

/// Where in the file something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// Its first line.
    Header,
    /// A row: its number, from 1 without the header, and the line it begins on.
    Row {
        /// Number of the row.
        row: u64,
        /// Line of the file.
        line: u64,
    },
}

/// A file that cannot be read, or a row that cannot be counted. The rows before it were good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// The file as it was named.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// The column, where one is to blame.
    pub column: Option<&'static str>,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        match self.place {
            Place::File => {}
            Place::Header => write!(f, "header (line 1): ")?,
            Place::Row { row, line } => write!(f, "row {row} (line {line}): ")?,
        }
        if let Some(column) = self.column {
            write!(f, "column {column}: ")?;
        }
        f.write_str(&self.problem)
    }
}

impl Error for InputError {}

/// The rows of one file, one at a time.
pub struct Rows {
    file: String,
    len: u64,
    read: Arc<AtomicU64>,
    csv: csv::Reader<Lines>,
    record: ByteRecord,
    /// Number of the last row given out.
    number: u64,
}

impl Rows {
    /// Opens a file and checks its header. Whether it is gzipped is seen from its first bytes, not from its name.
    ///
    /// # Errors
    /// It cannot be opened, is a directory, or its header is not [`COLUMNS`].
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let name = path.display().to_string();
        let fail =
            |problem: String| InputError { file: name.clone(), place: Place::File, column: None, problem };
        let file = File::open(path).map_err(|error| fail(format!("cannot be opened: {}", plain(&error))))?;
        let metadata = file.metadata().map_err(|error| fail(plain(&error)))?;
        // Opening a directory works, and reading it gives an error that does not say so.
        if metadata.is_dir() {
            return Err(fail("is a directory; give the .csv or .csv.gz file in it".to_owned()));
        }
        Self::from_reader(&name, file, metadata.len())
    }

    /// Reads rows from anywhere. `name` stands in errors; `len` is how many bytes `input` has, for a progress bar.
    ///
    /// # Errors
    /// As for [`Rows::open`].
    pub fn from_reader(name: &str, input: impl Read + Send + 'static, len: u64) -> Result<Self, InputError> {
        let fail = |place, problem| InputError { file: name.to_owned(), place, column: None, problem };
        let read = Arc::new(AtomicU64::new(0));
        let mut input = Counted { inner: input, read: read.clone() };

        let unreadable = |error: io::Error| fail(Place::File, plain(&error));
        let first = begin(&mut input, GZIP_MAGIC.len()).map_err(unreadable)?;
        let is_gzip = first == GZIP_MAGIC;
        let input = io::Cursor::new(first).chain(input);
        let mut input: Box<dyn Read + Send> =
            if is_gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };

        let mut first = begin(&mut input, BYTE_ORDER_MARK.len()).map_err(unreadable)?;
        if first == BYTE_ORDER_MARK {
            first.clear();
        }
        let input: Box<dyn Read + Send> = Box::new(io::Cursor::new(first).chain(input));

        let csv = csv::ReaderBuilder::new()
            // Column counts are checked here, with words that name the column.
            .flexible(true)
            .has_headers(false)
            .from_reader(Lines {
                inner: BufReader::with_capacity(READ_AHEAD, input),
                line: 0,
                is_line_start: true,
                left: 0,
            });
        let mut rows = Self { file: name.to_owned(), len, read, csv, record: ByteRecord::new(), number: 0 };
        if !rows.advance(Place::Header)? {
            return Err(fail(Place::File, format!("is empty; expected the header {}", COLUMNS.join(","))));
        }
        rows.check_header()?;
        Ok(rows)
    }

    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// The row is bad or the file cannot be read on. Rows after it are not looked at; call no more.
    pub fn next_row(&mut self) -> Result<Option<Row>, InputError> {
        let place = Place::Row { row: self.number + 1, line: self.csv.get_ref().line + 1 };
        if !self.advance(place)? {
            return Ok(None);
        }
        self.number += 1;
        // A quoted field may hold line ends; the row begins on the line of its first field.
        let line_ends: u64 = self.record.as_slice().iter().map(|byte| u64::from(*byte == b'\n')).sum();
        let line = self.csv.get_ref().line - line_ends;
        let place = Place::Row { row: self.number, line };
        Fields { file: &self.file, place, record: &self.record }.to_row(self.number).map(Some)
    }

    /// Bytes of the file read so far, compressed if it is.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of the whole file.
    pub fn bytes_len(&self) -> u64 {
        self.len
    }

    /// Reads the next record; false at the end of the file.
    fn advance(&mut self, place: Place) -> Result<bool, InputError> {
        self.csv.get_mut().left = ROW_LEN_MAX;
        self.csv.read_byte_record(&mut self.record).map_err(|error| InputError {
            file: self.file.clone(),
            place,
            column: None,
            problem: match error.into_kind() {
                csv::ErrorKind::Io(error) => plain(&error),
                other => format!("cannot be read as CSV: {other:?}"),
            },
        })
    }

    fn check_header(&self) -> Result<(), InputError> {
        let fail = |column, problem| {
            Err(InputError { file: self.file.clone(), place: Place::Header, column, problem })
        };
        for (at, expected) in COLUMNS.into_iter().enumerate() {
            match self.record.get(at) {
                Some(found) if found == expected.as_bytes() => {}
                Some(found) => {
                    let found = shown(found);
                    let problem = format!("column {} is {found}; expected `{expected}`", at + 1);
                    return fail(Some(expected), problem);
                }
                None => return fail(Some(expected), format!("missing; the header ends after column {at}")),
            }
        }
        match self.record.get(COLUMNS.len()) {
            Some(extra) => {
                let known = COLUMNS.len();
                fail(None, format!("column {} is {}; expected {known} columns", known + 1, shown(extra)))
            }
            None => Ok(()),
        }
    }
}

/// The fields of one row, with what an error about one of them must say.
struct Fields<'r> {
    file: &'r str,
    place: Place,
    record: &'r ByteRecord,
}

impl Fields<'_> {
    fn to_row(&self, number: u64) -> Result<Row, InputError> {
        // A row that is short or long is one complaint, even if a field is wrong as well: the rest has moved.
        let (len, known) = (self.record.len(), COLUMNS.len());
        if len < known {
            let problem = format!("missing; the row has {len} columns, expected {known}");
            return Err(self.fail(Some(COLUMNS[len]), problem));
        }
        if let Some(extra) = self.record.get(known) {
            let problem = format!("column {} is {}; expected {known} columns", known + 1, shown(extra));
            return Err(self.fail(None, problem));
        }
        let year: u32 = self.number(0, 1..=9999)?;
        let month: u32 = self.number(1, 1..=12)?;
        let day: u32 = self.number(2, 1..=31)?;
        let _scheduled: u32 = self.number(3, 0..=2400)?;
        let departure_delay = self.minutes(4)?;
        let arrival_delay = self.minutes(5)?;
        Ok(Row {
            number,
            date: (year * 100 + month) * 100 + day,
            carrier: self.key(6)?.to_owned(),
            flight: self.number(7, 0..=u32::MAX)?,
            aircraft: match self.key(8)? {
                MISSING => UNKNOWN_AIRCRAFT.to_owned(),
                tail => tail.to_owned(),
            },
            origin: self.key(9)?.to_owned(),
            destination: self.key(10)?.to_owned(),
            miles: self.number(11, 0..=u32::MAX)?,
            fate: match (departure_delay, arrival_delay) {
                (None, _) => Fate::Cancelled,
                (Some(departure_delay), None) => Fate::Diverted { departure_delay },
                (Some(departure_delay), Some(arrival_delay)) => {
                    Fate::Landed { departure_delay, arrival_delay }
                }
            },
        })
    }

    fn fail(&self, column: Option<&'static str>, problem: String) -> InputError {
        InputError { file: self.file.to_owned(), place: self.place, column, problem }
    }

    fn text(&self, at: usize) -> Result<&str, InputError> {
        let bytes = &self.record[at];
        std::str::from_utf8(bytes)
            .map_err(|_| self.fail(Some(COLUMNS[at]), format!("{} is not UTF-8", shown(bytes))))
    }

    fn key(&self, at: usize) -> Result<&str, InputError> {
        let text = self.text(at)?;
        if text.is_empty() {
            return Err(self.fail(Some(COLUMNS[at]), "is empty".to_owned()));
        }
        if text.len() > KEY_LEN_MAX {
            let problem = format!("has {} bytes; the limit is {KEY_LEN_MAX}", text.len());
            return Err(self.fail(Some(COLUMNS[at]), problem));
        }
        Ok(text)
    }

    fn number(&self, at: usize, range: std::ops::RangeInclusive<u32>) -> Result<u32, InputError> {
        let text = self.text(at)?;
        let number: u32 = self.parse(at, text, "a whole number")?;
        if !range.contains(&number) {
            let problem = format!("{number} is not between {} and {}", range.start(), range.end());
            return Err(self.fail(Some(COLUMNS[at]), problem));
        }
        Ok(number)
    }

    fn minutes(&self, at: usize) -> Result<Option<i32>, InputError> {
        match self.text(at)? {
            MISSING => Ok(None),
            text => self.parse(at, text, "a whole number of minutes or NA").map(Some),
        }
    }

    fn parse<T: FromStr>(&self, at: usize, text: &str, expected: &str) -> Result<T, InputError> {
        text.parse().map_err(|_| {
            self.fail(Some(COLUMNS[at]), format!("{} is not {expected}", shown(text.as_bytes())))
        })
    }
}

/// The first `len` bytes, or as many as there are.
fn begin(input: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(len);
    input.take(len as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// A field as an error shows it: quoted, escaped, and short.
fn shown(field: &[u8]) -> String {
    const SHOWN_MAX: usize = 40;
    let text = String::from_utf8_lossy(field);
    let mut short: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// An I/O error in the words of someone who looks at a file.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
        io::ErrorKind::UnexpectedEof => {
            "the gzip data ends too early; the file is truncated, fetch it again".to_owned()
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if error.get_ref().is_some() => {
            format!("the data is damaged: {error}")
        }
        _ => error.to_string(),
    }
}

/// Counts what is read from the file, for the progress bar.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// Hands the CSV reader one line at a time, so that the line a row lies on is known for every kind of line end, and
/// refuses to read more for one row than it is allowed.
struct Lines {
    inner: BufReader<Box<dyn Read + Send>>,
    /// The line read last, from 1.
    line: u64,
    is_line_start: bool,
    /// Bytes the row may still take.
    left: usize,
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(format!(
                "longer than {ROW_LEN_MAX} bytes; is a quote (\") opened and not closed?"
            )));
        }
        let available = self.inner.fill_buf()?;
        let len_max = available.len().min(buffer.len()).min(self.left);
        let line_end = available[..len_max].iter().position(|byte| *byte == b'\n');
        let len = line_end.map_or(len_max, |at| at + 1);
        buffer[..len].copy_from_slice(&available[..len]);
        self.inner.consume(len);
        self.left -= len;
        if len > 0 {
            self.line += u64::from(self.is_line_start);
            self.is_line_start = line_end.is_some();
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HEADER: &str =
        "year,month,day,sched_dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance\n";
    const GOOD: &str = "2013,1,1,515,2,11,UA,1545,N14228,EWR,IAH,1400\n";

    fn open(bytes: impl Into<Vec<u8>>) -> Result<Rows, InputError> {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Rows::from_reader("f.csv", io::Cursor::new(bytes), len)
    }

    /// How many rows were good, and what was said about the first that was not.
    fn read(bytes: impl Into<Vec<u8>>) -> (u64, Option<String>) {
        let mut rows = match open(bytes) {
            Ok(rows) => rows,
            Err(error) => return (0, Some(error.to_string())),
        };
        loop {
            match rows.next_row() {
                Ok(Some(_)) => {}
                Ok(None) => return (rows.number, None),
                Err(error) => {
                    let Place::Row { row, .. } = error.place else { panic!("{error} names no row") };
                    return (row - 1, Some(error.to_string()));
                }
            }
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read_rows(rows: &str) -> (u64, Option<String>) {
        read(format!("{HEADER}{rows}"))
    }

    fn said(rows: &str) -> String {
        read_rows(rows).1.unwrap()
    }

    #[test]
    fn a_row_is_read_whole() {
        let mut rows = open(format!("{HEADER}{GOOD}")).unwrap();
        assert_eq!(
            rows.next_row().unwrap(),
            Some(Row {
                number: 1,
                date: 20_130_101,
                carrier: "UA".into(),
                flight: 1545,
                aircraft: "N14228".into(),
                origin: "EWR".into(),
                destination: "IAH".into(),
                miles: 1400,
                fate: Fate::Landed { departure_delay: 2, arrival_delay: 11 },
            })
        );
        assert_eq!(rows.next_row().unwrap(), None);
        assert_eq!(rows.bytes_read(), rows.bytes_len());
    }

    #[test]
    fn na_means_cancelled_diverted_or_unknown() {
        let rows = "2013,1,1,1,NA,NA,UA,1,NA,EWR,IAH,1\n2013,1,1,1,-5,NA,UA,1,N1,EWR,IAH,1\n\
                    2013,1,1,1,NA,3,UA,1,N1,EWR,IAH,1\n";
        let mut rows = open(format!("{HEADER}{rows}")).unwrap();
        let first = rows.next_row().unwrap().unwrap();
        assert_eq!((first.fate, first.aircraft.as_str()), (Fate::Cancelled, UNKNOWN_AIRCRAFT));
        let second = rows.next_row().unwrap().unwrap();
        assert_eq!(second.fate, Fate::Diverted { departure_delay: -5 });
        let third = rows.next_row().unwrap().unwrap();
        assert_eq!(third.fate, Fate::Cancelled, "without a departure delay, whatever the arrival says");
    }

    #[test]
    fn gzip_is_seen_by_content_also_in_several_members() {
        let mut bytes = gzip(format!("{HEADER}{GOOD}").as_bytes());
        bytes.extend(gzip(GOOD.as_bytes()));
        assert_eq!(read(bytes), (2, None));
    }

    #[test]
    fn quotes_windows_line_ends_a_byte_order_mark_and_a_missing_last_line_end_are_fine() {
        let text = format!("\u{feff}{HEADER}{GOOD}\"2013\",1,1,515,2,11,\"UA\",1545,N14228,EWR,IAH,1400");
        assert_eq!(read(text.replace('\n', "\r\n")), (2, None));
    }

    #[test]
    fn blank_lines_are_no_rows_and_lines_are_still_counted_right() {
        let (good, said) = read_rows(&format!("{GOOD}\n\n{GOOD}\nx\n"));
        assert_eq!(good, 2);
        let said = said.unwrap();
        assert!(said.starts_with("f.csv: row 3 (line 7): "), "{said}");
        let (_, said) = read(format!("{HEADER}{GOOD}{GOOD}x\n").replace('\n', "\r\n"));
        let said = said.unwrap();
        assert!(said.starts_with("f.csv: row 3 (line 4): "), "{said}");
    }

    #[test]
    fn a_missing_file_and_a_directory_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Rows::open(&dir.path().join("none.csv")).err().unwrap().to_string();
        assert!(missing.ends_with("none.csv: cannot be opened: there is no such file"), "{missing}");
        let directory = Rows::open(dir.path()).err().unwrap().to_string();
        assert!(directory.contains("is a directory; give the .csv or .csv.gz file in it"), "{directory}");
    }

    #[test]
    fn an_empty_file_is_told_from_one_without_rows() {
        let (_, said) = read("");
        assert!(said.unwrap().starts_with("f.csv: is empty; expected the header year,month,"));
        assert_eq!(read(HEADER), (0, None));
        assert_eq!(read(HEADER.trim_end()), (0, None));
    }

    #[test]
    fn a_wrong_header_names_the_column() {
        let wrong = HEADER.replace("dep_delay", "late");
        assert_eq!(
            read(wrong).1.unwrap(),
            "f.csv: header (line 1): column dep_delay: column 5 is `late`; expected `dep_delay`"
        );
        let short = HEADER.replace(",distance", "");
        assert_eq!(
            read(short).1.unwrap(),
            "f.csv: header (line 1): column distance: missing; the header ends after column 11"
        );
        let long = HEADER.replace("distance", "distance,weather");
        assert_eq!(
            read(long).1.unwrap(),
            "f.csv: header (line 1): column 13 is `weather`; expected 12 columns"
        );
        let swapped = HEADER.replace("origin,dest", "dest,origin");
        assert!(read(swapped).1.unwrap().contains("column 10 is `dest`; expected `origin`"));
    }

    #[test]
    fn a_file_that_is_no_csv_is_a_wrong_header() {
        let (_, said) = read(vec![0, 159, 146, 150, 0, 1, 2, 3]);
        assert!(said.unwrap().contains("expected `year`"));
    }

    #[test]
    fn too_few_and_too_many_columns_name_row_and_column() {
        assert_eq!(
            read_rows(&format!("{GOOD}{GOOD}2013,1,1,515,2,11,UA,1545,N14228,EWR,IAH\n{GOOD}")),
            (
                2,
                Some(
                    "f.csv: row 3 (line 4): column distance: missing; the row has 11 columns, expected 12"
                        .into()
                )
            )
        );
        assert_eq!(
            said("2013,1,1,515,2,11,UA,1545,N14228,EWR,IAH,1400,x\n"),
            "f.csv: row 1 (line 2): column 13 is `x`; expected 12 columns"
        );
    }

    #[test]
    fn a_non_number_names_row_and_column() {
        assert_eq!(
            read_rows(&format!("{GOOD}2013,1,1,515,soon,11,UA,1545,N14228,EWR,IAH,1400\n")),
            (
                1,
                Some(
                    "f.csv: row 2 (line 3): column dep_delay: `soon` is not a whole number of minutes or NA"
                        .into()
                )
            )
        );
        for (column, row) in [
            ("year", "x,1,1,515,2,11,UA,1545,N1,EWR,IAH,1400"),
            ("month", "2013,13,1,515,2,11,UA,1545,N1,EWR,IAH,1400"),
            ("day", "2013,1,0,515,2,11,UA,1545,N1,EWR,IAH,1400"),
            ("sched_dep_time", "2013,1,1,NA,2,11,UA,1545,N1,EWR,IAH,1400"),
            ("dep_delay", "2013,1,1,515,,11,UA,1545,N1,EWR,IAH,1400"),
            ("arr_delay", "2013,1,1,515,2,11.5,UA,1545,N1,EWR,IAH,1400"),
            ("carrier", "2013,1,1,515,2,11,,1545,N1,EWR,IAH,1400"),
            ("flight", "2013,1,1,515,2,11,UA,-1,N1,EWR,IAH,1400"),
            ("tailnum", "2013,1,1,515,2,11,UA,1545,,EWR,IAH,1400"),
            ("distance", "2013,1,1,515,2,11,UA,1545,N1,EWR,IAH,99999999999"),
        ] {
            let said = said(row);
            assert!(said.contains(&format!("f.csv: row 1 (line 2): column {column}: ")), "{said}");
        }
    }

    #[test]
    fn a_key_no_entity_may_have_is_refused_before_it_is_sent() {
        let said = said(&format!("2013,1,1,515,2,11,UA,1545,{},EWR,IAH,1400\n", "N".repeat(513)));
        assert_eq!(said, "f.csv: row 1 (line 2): column tailnum: has 513 bytes; the limit is 512");
    }

    #[test]
    fn bytes_that_are_not_utf_8_name_row_and_column() {
        let mut bytes = format!("{HEADER}2013,1,1,515,2,11,UA,1545,").into_bytes();
        bytes.extend(b"N\xff1,EWR,IAH,1400\n");
        assert_eq!(
            read(bytes).1.unwrap(),
            "f.csv: row 1 (line 2): column tailnum: `N\u{fffd}1` is not UTF-8"
        );
    }

    #[test]
    fn what_was_read_before_a_truncated_gzip_ends_is_given_out() {
        let mut bytes = gzip(format!("{HEADER}{}", GOOD.repeat(50_000)).as_bytes());
        bytes.truncate(bytes.len() / 2);
        let (good, said) = read(bytes);
        assert!(10_000 < good && good < 50_000, "{good}");
        let said = said.unwrap();
        assert!(said.contains(&format!("row {} (line {})", good + 1, good + 2)), "{said}");
        assert!(said.contains("the gzip data ends too early; the file is truncated"), "{said}");
    }

    #[test]
    fn garbage_behind_a_gzip_header_and_behind_a_gzip_end_are_errors() {
        let mut broken = gzip(HEADER.as_bytes());
        broken.truncate(12);
        broken.extend([0xff; 40]);
        let (_, said) = read(broken);
        assert!(said.unwrap().contains("the data is damaged: "));
        let mut longer = gzip(format!("{HEADER}{GOOD}").as_bytes());
        longer.extend(b"not gzip at all");
        let (_, said) = read(longer);
        assert!(said.unwrap().contains("the data is damaged: "));
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_swallow_the_file() {
        let rows = format!("{GOOD}\"2013,1,1\n{}", GOOD.repeat(100_000));
        let (good, said) = read_rows(&rows);
        assert_eq!(good, 1);
        assert!(said.unwrap().contains("row 2 (line 3): longer than 65536 bytes"));
    }
}
