//! The statement that commits a group: fence, chain and mark in one (P23), and the rows behind a gate.
//!
//! `fence` moves each shard from the number before the group to the one behind it, if epoch, owner and number are as the
//! group was built on. `gate` counts: fewer rows than shards raise an error, which ends the whole transaction, for a statement
//! that merely wrote less would commit marks without data. Every part that writes rows asks the gate first, so the rows of
//! `shard` are locked, in order, before any other.
//!
//! Its text depends on which parts the group has, and on nothing else: values are binary parameters.

use bytes::{BufMut, BytesMut};
use std::{error::Error, fmt, fmt::Write as _, ops::Range};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::group::{Group, Mask, Part};

/// The SQLSTATE by which the gate ends a statement.
pub(super) const REFUSED: &str = "EN001";

/// The rows of shards, to find out why a statement was refused.
pub(super) const LOOK: &str = "SELECT id, epoch, owner, batch, moved_by FROM entity.shard WHERE id = ANY($1)";

/// A commit that changes nothing: when it is answered, what was visible before it is as durable as it.
pub(super) const BARRIER: &str = "INSERT INTO entity.probe AS p (lane, number) VALUES ($1, 1) \
     ON CONFLICT (lane) DO UPDATE SET number = p.number + 1";

/// Sixteen bytes as a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uuid(pub(super) u128);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u128(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Uuid {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(u128::from_be_bytes(bytes.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

/// The type of each column of a part.
fn types(part: Part) -> &'static [Type] {
    static FENCE: [Type; 4] = [Type::INT4_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];
    static STATE: [Type; 4] = [Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::INT4_ARRAY, Type::BYTEA_ARRAY];
    static MARK: [Type; 4] = [Type::INT4_ARRAY, Type::INT2_ARRAY, Type::BYTEA_ARRAY, Type::BYTEA_ARRAY];
    static OUTBOX: [Type; 4] = [Type::INT4_ARRAY, Type::INT4_ARRAY, Type::INT8_ARRAY, Type::BYTEA_ARRAY];
    static OUTBOX_RANGE: [Type; 4] = [Type::INT4_ARRAY, Type::INT4_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];
    static REPLY: [Type; 4] = [Type::INT4_ARRAY, Type::UUID_ARRAY, Type::INT8_ARRAY, Type::BYTEA_ARRAY];
    static REPLY_RANGE: [Type; 4] = [Type::INT4_ARRAY, Type::UUID_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];
    static ITEM: [Type; 4] = [Type::INT4_ARRAY, Type::INT2_ARRAY, Type::INT8_ARRAY, Type::BYTEA_ARRAY];
    static ITEM_RANGE: [Type; 4] = [Type::INT4_ARRAY, Type::INT2_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];
    static GIVE: [Type; 2] = [Type::BOOL_ARRAY, Type::UUID_ARRAY];
    match part {
        Part::Fence => &FENCE,
        Part::Give => &GIVE,
        Part::Seen => &FENCE[..2],
        Part::PutState => &STATE,
        Part::DropState => &STATE[..2],
        Part::PutMark => &MARK,
        Part::DropMark => &MARK[..3],
        Part::PutOutbox => &OUTBOX,
        Part::DropOutbox => &OUTBOX_RANGE,
        Part::PutReply => &REPLY,
        Part::DropReply => &REPLY_RANGE,
        Part::PutItem => &ITEM,
        Part::DropItem => &ITEM_RANGE,
    }
}

/// How a part that writes rows writes them; `{}` stands for the rows of its parameters.
fn body(part: Part) -> Option<&'static str> {
    Some(match part {
        Part::Fence | Part::Give | Part::Seen => return None,
        Part::PutState => {
            "INSERT INTO entity.state (kind, key, shard, image) SELECT * FROM {} WHERE (SELECT ok FROM gate) \
             ON CONFLICT (kind, key) DO UPDATE SET image = excluded.image"
        }
        Part::DropState => {
            "DELETE FROM entity.state t USING {} AS d(kind, key) \
             WHERE t.kind = d.kind AND t.key = d.key AND (SELECT ok FROM gate)"
        }
        Part::PutMark => {
            "INSERT INTO entity.mark (shard, type, key, value) SELECT * FROM {} WHERE (SELECT ok FROM gate) \
             ON CONFLICT (shard, type, key) DO UPDATE SET value = excluded.value"
        }
        Part::DropMark => {
            "DELETE FROM entity.mark t USING {} AS d(shard, type, key) \
             WHERE t.shard = d.shard AND t.type = d.type AND t.key = d.key AND (SELECT ok FROM gate)"
        }
        Part::PutOutbox => {
            "INSERT INTO entity.outbox (shard, target, number, message) SELECT * FROM {} \
             WHERE (SELECT ok FROM gate) \
             ON CONFLICT (shard, target, number) DO UPDATE SET message = excluded.message"
        }
        Part::DropOutbox => {
            "DELETE FROM entity.outbox t USING {} AS d(shard, target, low, high) \
             WHERE t.shard = d.shard AND t.target = d.target AND t.number BETWEEN d.low AND d.high \
             AND (SELECT ok FROM gate)"
        }
        Part::PutReply => {
            "INSERT INTO entity.reply (shard, client, number, value) SELECT * FROM {} \
             WHERE (SELECT ok FROM gate) \
             ON CONFLICT (shard, client, number) DO UPDATE SET value = excluded.value"
        }
        Part::DropReply => {
            "DELETE FROM entity.reply t USING {} AS d(shard, client, low, high) \
             WHERE t.shard = d.shard AND t.client = d.client AND t.number BETWEEN d.low AND d.high \
             AND (SELECT ok FROM gate)"
        }
        Part::PutItem => {
            "INSERT INTO entity.item (shard, type, number, value) SELECT * FROM {} \
             WHERE (SELECT ok FROM gate) \
             ON CONFLICT (shard, type, number) DO UPDATE SET value = excluded.value"
        }
        Part::DropItem => {
            "DELETE FROM entity.item t USING {} AS d(shard, type, low, high) \
             WHERE t.shard = d.shard AND t.type = d.type AND t.number BETWEEN d.low AND d.high \
             AND (SELECT ok FROM gate)"
        }
    })
}

/// The numbers of a part's parameters. `$1` is the owner.
fn numbers(mask: Mask, part: Part) -> Range<usize> {
    let before = Part::ALL.into_iter().take_while(|other| *other != part).filter(|other| mask.has(*other));
    let from = 2 + before.map(|other| types(other).len()).sum::<usize>();
    from..from + types(part).len()
}

/// Parameters as rows: `unnest($2, $3)`.
fn unnest(numbers: Range<usize>) -> String {
    let parameters: Vec<_> = numbers.map(|number| format!("${number}")).collect();
    format!("unnest({})", parameters.join(", "))
}

/// The text of the statement for groups of these parts. Without a fence nothing is written, and a row is a shard that
/// was to be confirmed and is not ours.
pub(super) fn text(mask: Mask) -> String {
    let seen = format!("{} AS q(id, epoch)", unnest(numbers(mask, Part::Seen)));
    if !mask.has(Part::Fence) {
        return format!(
            "SELECT q.id FROM {seen} LEFT JOIN entity.shard s ON s.id = q.id AND s.epoch = q.epoch AND s.owner = $1 \
             WHERE s.id IS NULL LIMIT 1"
        );
    }
    let fence = numbers(mask, Part::Fence);
    let (set, from) = if mask.has(Part::Give) {
        // An heir whose lease is out is none: the shard is released, and anyone may take it.
        let set = "batch = CASE WHEN f.give THEN 0 ELSE f.last END, \
             epoch = s.epoch + f.give::int, \
             owner = CASE WHEN f.give THEN (SELECT n.incarnation FROM entity.node n \
             WHERE n.uuid = f.heir AND n.lease_until > clock_timestamp()) ELSE s.owner END, \
             moved_by = CASE WHEN f.give THEN $1 ELSE s.moved_by END, \
             moved_at = CASE WHEN f.give THEN clock_timestamp() ELSE s.moved_at END";
        let rows = unnest(fence.start..numbers(mask, Part::Give).end);
        (set, format!("{rows} AS f(id, epoch, before, last, give, heir)"))
    } else {
        ("batch = f.last", format!("{} AS f(id, epoch, before, last)", unnest(fence.clone())))
    };
    let shards = format!("cardinality(${})", fence.start);
    let mut text = format!(
        "WITH fence AS (UPDATE entity.shard s SET {set} FROM {from} \
         WHERE s.id = f.id AND s.epoch = f.epoch AND s.owner = $1 AND s.batch = f.before RETURNING s.id)"
    );
    let mut passes = format!("count(*) = {shards}");
    if mask.has(Part::Seen) {
        put(
            &mut text,
            format_args!(
                ", seen AS (SELECT count(*) AS n FROM {seen} \
             JOIN entity.shard s ON s.id = q.id AND s.epoch = q.epoch AND s.owner = $1)"
            ),
        );
        put(
            &mut passes,
            format_args!(" AND (SELECT n FROM seen) = cardinality(${})", numbers(mask, Part::Seen).start),
        );
    }
    put(
        &mut text,
        format_args!(
            ", gate AS MATERIALIZED (SELECT CASE WHEN {passes} THEN true \
         ELSE entity.refuse(count(*), {shards}) END AS ok FROM fence)"
        ),
    );
    for part in Part::ALL.into_iter().filter(|part| mask.has(*part)) {
        if let Some(body) = body(part) {
            let body = body.replace("{}", &unnest(numbers(mask, part)));
            put(&mut text, format_args!(", p{} AS ({body})", part as u8));
        }
    }
    text.push_str(" SELECT ok FROM gate");
    text
}

fn put(text: &mut String, args: fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a string takes all");
}

/// The types of its parameters.
pub(super) fn parameter_types(mask: Mask) -> Vec<Type> {
    let parts = Part::ALL.into_iter().filter(|part| mask.has(*part));
    std::iter::once(Type::UUID).chain(parts.flat_map(|part| types(part).iter().cloned())).collect()
}

/// Its parameters.
pub(super) fn parameters<'g>(group: &'g Group, owner: &'g Uuid) -> Vec<&'g (dyn ToSql + Sync)> {
    let mask = group.mask();
    let mut parameters: Vec<&'g (dyn ToSql + Sync)> = vec![owner];
    for part in Part::ALL.into_iter().filter(|part| mask.has(*part)) {
        let columns = group.columns(part).iter().take(types(part).len());
        parameters.extend(columns.map(|column| column as &(dyn ToSql + Sync)));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(parts: &[Part]) -> Mask {
        parts.iter().copied().fold(Mask::default(), Mask::and)
    }

    /// The numbers of all parameters in a text, without `$1`, each once.
    fn named(text: &str) -> Vec<usize> {
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        let mut numbers: Vec<usize> =
            text.split('$').skip(1).map(|rest| digits(rest).parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| *number > 1);
        numbers
    }

    #[test]
    fn a_text_names_every_parameter_of_its_parts_and_no_other() {
        for bits in 0..1_u32 << (Part::ALL.len() - 1) {
            // A fence in all of them: without one there is nothing to write.
            let chosen = Part::ALL.into_iter().filter(|part| bits << 1 & 1 << *part as u32 != 0);
            let mask = chosen.fold(mask(&[Part::Fence]), Mask::and);
            let count = parameter_types(mask).len();
            assert_eq!(named(&text(mask)), (2..=count).collect::<Vec<_>>(), "{mask:?}");
        }
    }

    #[test]
    fn every_part_that_writes_asks_the_gate() {
        for part in Part::ALL {
            let text = text(mask(&[Part::Fence, part]));
            let writes = text.matches("INSERT").count() + text.matches("DELETE").count();
            assert_eq!(text.matches("(SELECT ok FROM gate)").count(), writes, "{part:?}");
            assert_eq!(text.matches("entity.refuse").count(), 1);
        }
    }

    #[test]
    fn a_confirmation_alone_writes_nothing() {
        let mask = mask(&[Part::Seen]);
        assert_eq!(
            text(mask),
            "SELECT q.id FROM unnest($2, $3) AS q(id, epoch) LEFT JOIN entity.shard s \
             ON s.id = q.id AND s.epoch = q.epoch AND s.owner = $1 WHERE s.id IS NULL LIMIT 1"
        );
        assert_eq!(parameter_types(mask), [Type::UUID, Type::INT4_ARRAY, Type::INT8_ARRAY]);
    }

    #[test]
    fn a_fence_alone_reads_as_the_rule_has_it() {
        assert_eq!(
            text(mask(&[Part::Fence])),
            "WITH fence AS (UPDATE entity.shard s SET batch = f.last \
             FROM unnest($2, $3, $4, $5) AS f(id, epoch, before, last) \
             WHERE s.id = f.id AND s.epoch = f.epoch AND s.owner = $1 AND s.batch = f.before RETURNING s.id), \
             gate AS MATERIALIZED (SELECT CASE WHEN count(*) = cardinality($2) THEN true \
             ELSE entity.refuse(count(*), cardinality($2)) END AS ok FROM fence) SELECT ok FROM gate"
        );
    }

    #[test]
    fn a_uuid_is_its_sixteen_bytes() {
        let mut out = BytesMut::new();
        Uuid(7).to_sql(&Type::UUID, &mut out).unwrap();
        assert_eq!(Uuid::from_sql(&Type::UUID, &out).unwrap(), Uuid(7));
        assert!(Uuid::from_sql(&Type::UUID, &out[1..]).is_err());
    }
}
