//! `entity.json_of`: `MessagePack` to JSON.

use super::{Tables, hex};
use entity_runtime::codec;
use entity_runtime_tests::running::Dice;
use serde_json::{Map, Value, json};

impl Tables {
    /// `json_of` of bytes.
    async fn json_of(&self, bytes: &[u8]) -> Value {
        let row = self.client.query_one("SELECT entity.json_of($1)::text", &[&bytes]).await.unwrap();
        serde_json::from_str(row.get(0)).unwrap()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Each type of the specification, at its ends.
#[tokio::test]
async fn every_type_of_messagepack_has_its_json() {
    let tables = Tables::new().await;
    for (hex, value) in [
        ("c0", Value::Null),
        ("93 c2 c3 c0", json!([false, true, null])),
        ("93 00 7f cc ff", json!([0, 127, 255])),
        ("93 cd ffff ce ffffffff cf ffffffffffffffff", json!([u16::MAX, u32::MAX, u64::MAX])),
        ("92 e0 ff", json!([-32, -1])),
        ("94 d0 80 d1 8000 d2 80000000 d3 8000000000000000", json!([i8::MIN, i16::MIN, i32::MIN, i64::MIN])),
        ("94 d0 7f d1 7fff d2 7fffffff d3 7fffffffffffffff", json!([i8::MAX, i16::MAX, i32::MAX, i64::MAX])),
        ("92 ca 3dcccccd cb 3fb999999999999a", json!([0.1, 0.1])),
        (
            "93 cb 7ff0000000000000 cb fff0000000000000 cb 7ff8000000000000",
            json!(["Infinity", "-Infinity", "NaN"]),
        ),
        ("93 ca 7f800000 ca ff800000 ca ffc00000", json!(["Infinity", "-Infinity", "NaN"])),
        ("94 a0 d9 01 61 da 0001 62 db 00000001 63", json!(["", "a", "b", "c"])),
        ("a2 c3a9", json!("é")),
        ("a4 225c0a1f", json!("\"\\\n\u{1f}")),
        // Text that is not UTF-8, and text that `jsonb` cannot hold.
        ("92 a2 c328 a3 410042", json!([{ "$bytes": "c328" }, { "$bytes": "410042" }])),
        (
            "93 c4 01 aa c5 0001 bb c6 00000001 cc",
            json!([{ "$bytes": "aa" }, { "$bytes": "bb" }, { "$bytes": "cc" }]),
        ),
        ("94 90 dc 0000 dd 00000000 91 01", json!([[], [], [], [1]])),
        ("94 80 de 0000 df 00000000 81 a1 61 01", json!([{}, {}, {}, { "a": 1 }])),
        ("92 dc 0001 05 dd 00000001 06", json!([[5], [6]])),
        ("92 de 0001 a1 61 05 df 00000001 a1 62 06", json!([{ "a": 5 }, { "b": 6 }])),
        (
            "85 01 a0 c3 a0 91 02 a0 81 a1 61 01 a0 c4 01 ff a0",
            json!({ "1": "", "true": "", "[2]": "", "{\"a\":1}": "", "{\"$bytes\": \"ff\"}": "" }),
        ),
        ("92 d4 05 aa d5 ff aabb", json!([{ "$ext": 5, "$bytes": "aa" }, { "$ext": -1, "$bytes": "aabb" }])),
        ("d6 80 01020304", json!({ "$ext": -128, "$bytes": "01020304" })),
        ("d7 7f 0102030405060708", json!({ "$ext": 127, "$bytes": "0102030405060708" })),
        (
            "d8 00 000102030405060708090a0b0c0d0e0f",
            json!({ "$ext": 0, "$bytes": "000102030405060708090a0b0c0d0e0f" }),
        ),
        (
            "93 c7 01 05 aa c8 0001 05 bb c9 00000001 05 cc",
            json!([{ "$ext": 5, "$bytes": "aa" }, { "$ext": 5, "$bytes": "bb" }, { "$ext": 5, "$bytes": "cc" }]),
        ),
        ("c7 00 05", json!({ "$ext": 5, "$bytes": "" })),
    ] {
        assert_eq!(tables.json_of(&bytes(hex)).await, value, "{hex}");
    }
}

#[tokio::test]
async fn what_is_not_exactly_one_value_is_shown_as_bytes() {
    let tables = Tables::new().await;
    let deep = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
    let wide = |len: u32| [&[0xdd], len.to_be_bytes().as_slice(), &vec![0; len as usize]].concat();
    // As text: serde_json reads none so deep.
    let ask = "SELECT entity.json_of($1)::text";
    let row = tables.client.query_one(ask, &[&deep(codec::NESTING_MAX)]).await.unwrap();
    let brackets = |bracket: &str| bracket.repeat(codec::NESTING_MAX);
    assert_eq!(row.get::<_, &str>(0), format!("{}null{}", brackets("["), brackets("]")));
    assert_eq!(tables.json_of(&wide(262_143)).await.as_array().map(Vec::len), Some(262_143));
    // Each level of keys that are maps doubles the backslashes of those in it.
    let keys = [vec![0x81; 100], vec![0xc0; 101]].concat();
    let mut none =
        vec![Vec::new(), bytes("c1"), bytes("c0 c0"), deep(codec::NESTING_MAX + 1), wide(262_144), keys];
    let whole = "dc0010 07 cc01 cd0101 ce01010101 cf0101010101010101 ca01010101 cb0101010101010101 a161 d90161 \
                 da000161 db0000000161 c40101 c7010101 d40101 81a161c3 dc000101";
    let whole = bytes(whole);
    assert_eq!(tables.json_of(&whole).await.as_array().map(Vec::len), Some(16));
    none.extend((0..whole.len() - 1).map(|len| whole[..len].to_vec()));
    // Lengths that nothing follows.
    let has_length = |first: &u8| !(0xca..=0xd3).contains(first);
    none.extend((0xc4..=0xdf).filter(has_length).map(|first| [&[first], [0xff; 8].as_slice()].concat()));
    for bytes in none {
        assert_eq!(tables.json_of(&bytes).await, json!({ "$bytes": hex(&bytes) }));
    }
}

#[tokio::test]
async fn a_long_value_names_its_first_bytes_alone() {
    let tables = Tables::new().await;
    let shown = tables.json_of(&vec![0xc1; (16 << 20) + 1]).await;
    assert_eq!(shown, json!({ "$bytes": format!("{}...", "c1".repeat(64)) }));
    let shown = tables
        .json_of(&[&[0xdb], 1_000_000_u32.to_be_bytes().as_slice(), &vec![b'x'; 1_000_000]].concat())
        .await;
    assert_eq!(shown.as_str().map(str::len), Some(1_000_000));
}

/// Some value that serde would write, and read again.
fn value(dice: &mut Dice, depth: u64) -> Value {
    let text = |dice: &mut Dice| -> String {
        let letter = |dice: &mut Dice| match dice.below(6) {
            0 => char::from_u32(1 + dice.below(0xd7ff) as u32).unwrap(),
            1 => char::from_u32(0x1_0000 + dice.below(0x10_0000) as u32).unwrap(),
            _ => char::from(1 + dice.below(127) as u8),
        };
        (0..dice.below(40)).map(|_| letter(dice)).collect()
    };
    match dice.below(if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 1),
        2 => json!(dice.below(u64::MAX) >> dice.below(64)),
        3 => json!(-i64::try_from(dice.below(u64::MAX) >> 1 >> dice.below(63)).unwrap()),
        // Few digits, so that any way to write it has the same.
        4 => json!(f64::from(dice.below(1 << 32) as u32) / 1024.0),
        5 => json!(text(dice)),
        6 => (0..dice.below(20)).map(|_| value(dice, depth - 1)).collect(),
        _ => {
            let field = |dice: &mut Dice| (text(dice), value(dice, depth - 1));
            Value::Object((0..dice.below(20)).map(|_| field(dice)).collect::<Map<_, _>>())
        }
    }
}

#[tokio::test]
async fn any_value_is_shown_as_serde_has_written_it() {
    let tables = Tables::new().await;
    let mut dice = Dice::new();
    for _ in 0..300 {
        let value = value(&mut dice, 4);
        let mut bytes = Vec::new();
        codec::encode(&value, &mut bytes).unwrap();
        let ask = "SELECT entity.json_of($1) = $2::text::jsonb";
        let row = tables.client.query_one(ask, &[&bytes, &value.to_string()]).await.unwrap();
        assert!(row.get::<_, bool>(0), "{value}");
    }
}

#[tokio::test]
async fn every_bit_of_a_number_with_a_fraction_counts() {
    let tables = Tables::new().await;
    let mut dice = Dice::new();
    let ends = [f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX, f64::MIN, f64::EPSILON, 0.0, 1e23, 5e-324];
    let random = (0..300).map(|_| f64::from_bits(dice.below(u64::MAX))).collect::<Vec<_>>();
    for number in ends.into_iter().chain(random).filter(|number| number.is_finite()) {
        let bytes = [&[0xcb], number.to_be_bytes().as_slice()].concat();
        let ask = "SELECT (entity.json_of($1) #>> '{}')::float8";
        let shown: f64 = tables.client.query_one(ask, &[&bytes]).await.unwrap().get(0);
        assert_eq!(shown.to_bits(), number.to_bits());
    }
    let mut dice = Dice::new();
    let ends = [f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX, f32::MIN, f32::EPSILON, 0.1];
    let random = (0..300).map(|_| f32::from_bits(dice.below(1 << 32) as u32)).collect::<Vec<_>>();
    for number in ends.into_iter().chain(random).filter(|number| number.is_finite()) {
        let bytes = [&[0xca], number.to_be_bytes().as_slice()].concat();
        let ask = "SELECT (entity.json_of($1) #>> '{}')::float4";
        let shown: f32 = tables.client.query_one(ask, &[&bytes]).await.unwrap().get(0);
        assert_eq!(shown.to_bits(), number.to_bits());
    }
}
