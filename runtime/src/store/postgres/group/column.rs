//! Array parameters, encoded as they are gathered: one buffer a column, used again by the next group.

use bytes::{BufMut, BytesMut};
use std::{error::Error, fmt};
use tokio_postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};

/// Length of a value that is NULL.
const NULL: i32 = -1;

/// One array parameter: its elements, encoded one behind the other.
pub(in crate::store::postgres) struct Column {
    elements: Vec<u8>,
    count: usize,
    has_nulls: bool,
}

impl Column {
    pub(super) const fn new() -> Self {
        Self { elements: Vec::new(), count: 0, has_nulls: false }
    }

    pub(super) fn clear(&mut self) {
        self.elements.clear();
        self.count = 0;
        self.has_nulls = false;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.bytes(&[u8::from(value)]);
    }

    pub(super) fn int2(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn int4(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn int8(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn uuid(&mut self, value: u128) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn uuid_or_null(&mut self, value: Option<u128>) {
        if let Some(value) = value {
            return self.uuid(value);
        }
        self.has_nulls = true;
        self.count += 1;
        self.elements.extend_from_slice(&NULL.to_be_bytes());
    }

    /// A `bytea`, or a `text`, which is its bytes too.
    pub(super) fn bytes(&mut self, value: &[u8]) {
        let len = i32::try_from(value.len()).expect("what a statement takes is bounded far below");
        self.count += 1;
        self.elements.extend_from_slice(&len.to_be_bytes());
        self.elements.extend_from_slice(value);
    }

    /// The elements, `None` for NULL.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.elements.as_slice();
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_at_checked(4)?;
            let len = i32::from_be_bytes(len.try_into().unwrap());
            let (value, tail) = tail.split_at(usize::try_from(len).unwrap_or(0));
            rest = tail;
            Some((len != NULL).then_some(value))
        })
    }
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values in {} bytes", self.count, self.elements.len())
    }
}

impl ToSql for Column {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Kind::Array(element) = ty.kind() else { return Err("a column is an array".into()) };
        let count = i32::try_from(self.count)?;
        // Dimensions, whether there are nulls, the type; and of the one dimension its length and where it begins.
        out.put_i32(1);
        out.put_i32(i32::from(self.has_nulls));
        out.put_u32(element.oid());
        out.put_i32(count);
        out.put_i32(1);
        out.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Array(_))
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &impl ToSql, ty: &Type) -> Vec<u8> {
        let mut out = BytesMut::new();
        value.to_sql(ty, &mut out).unwrap();
        out.to_vec()
    }

    /// Against the encoding of the library, whose vectors need a value of their own for each row.
    #[test]
    fn columns_are_what_the_library_makes_of_vectors() {
        let [mut numbers, mut texts, mut bytes, mut flags, mut empty] = [const { Column::new() }; 5];
        for number in [1, -1, i64::MAX] {
            numbers.int8(number);
        }
        texts.bytes(b"account");
        texts.bytes("käse".as_bytes());
        bytes.bytes(&[0, 255]);
        bytes.bytes(&[]);
        flags.bool(true);
        flags.bool(false);
        empty.int4(7);
        empty.clear();
        assert_eq!(encoded(&numbers, &Type::INT8_ARRAY), encoded(&vec![1, -1, i64::MAX], &Type::INT8_ARRAY));
        assert_eq!(encoded(&texts, &Type::TEXT_ARRAY), encoded(&vec!["account", "käse"], &Type::TEXT_ARRAY));
        assert_eq!(
            encoded(&bytes, &Type::BYTEA_ARRAY),
            encoded(&vec![&[0_u8, 255][..], &[]], &Type::BYTEA_ARRAY)
        );
        assert_eq!(encoded(&flags, &Type::BOOL_ARRAY), encoded(&vec![true, false], &Type::BOOL_ARRAY));
        assert_eq!(encoded(&empty, &Type::INT4_ARRAY), encoded(&Vec::<i32>::new(), &Type::INT4_ARRAY));
        let (mut small, mut nulls) = (Column::new(), Column::new());
        small.int2(-2);
        nulls.uuid_or_null(None);
        nulls.uuid_or_null(Some(u128::MAX));
        assert_eq!(encoded(&small, &Type::INT2_ARRAY), encoded(&vec![-2_i16], &Type::INT2_ARRAY));
        let uuids = encoded(&nulls, &Type::UUID_ARRAY);
        // As of any type with values of sixteen bytes, under the UUID's number.
        let mut like = encoded(&vec![None, Some(&[255_u8; 16][..])], &Type::BYTEA_ARRAY);
        like[8..12].copy_from_slice(&Type::UUID.oid().to_be_bytes());
        assert_eq!(uuids, like);
    }

    #[test]
    fn a_column_is_taken_for_an_array_alone() {
        assert!(<Column as ToSql>::accepts(&Type::INT4_ARRAY));
        assert!(!<Column as ToSql>::accepts(&Type::INT4));
        assert_eq!(format!("{:?}", Column::new()), "0 values in 0 bytes");
    }
}
