-- What an operator reads: the rows of 0001-schema.sql as the runtime means them. For reading by people; no node ever looks at it.
--
-- Every function here has a result for every input and none begins a subtransaction (an EXCEPTION block), which parallel workers of
-- servers before 17 refuse. So one row that nobody can read hides no other: its view shows its bytes as `unreadable`.

-- A number of `width` bytes, most significant first. Null where the bytes end before it.
CREATE FUNCTION entity.unsigned(bytes bytea, at int4, width int4) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    number numeric := 0;
BEGIN
    IF at < 0 OR width < 0 OR octet_length(bytes) - at < width THEN
        RETURN NULL;
    END IF;
    FOR i IN at .. at + width - 1 LOOP
        number := number * 256 + get_byte(bytes, i);
    END LOOP;
    RETURN number;
END
$$;

-- Sixteen bytes as a uuid. Null where there are fewer.
CREATE FUNCTION entity.uuid_of(bytes bytea, at int4) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN at >= 0 AND octet_length(bytes) - at >= 16
        THEN encode(substring(bytes FROM at + 1 FOR 16), 'hex')::uuid END
$$;

-- Microseconds since 1970 as a time. What is later than this server's times reach is `infinity`.
CREATE FUNCTION entity.time_of(micros numeric) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN micros BETWEEN 0 AND 9223372036854775807
        THEN timestamptz '1970-01-01 00:00:00+00'
            + div(micros, 1000000)::int8 * interval '1 second' + mod(micros, 1000000)::int8 * interval '1 microsecond'
        ELSE timestamptz 'infinity' END
$$;

-- A varint (LEB128, at most ten bytes, 64 bits), and where it ends. Both null where there is none.
CREATE FUNCTION entity.varint(bytes bytea, INOUT at int4, OUT number numeric)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    byte int4;
    weight numeric := 1;
BEGIN
    number := 0;
    FOR place IN 1 .. 10 LOOP
        EXIT WHEN at < 0 OR octet_length(bytes) <= at;
        byte := get_byte(bytes, at);
        EXIT WHEN place = 10 AND byte > 1;
        at := at + 1;
        number := number + (byte & 127) * weight;
        IF byte < 128 THEN
            RETURN;
        END IF;
        weight := weight * 128;
    END LOOP;
    at := NULL;
    number := NULL;
END
$$;

-- The varints that fill all of the bytes from `at`. Null where they do not, and where there are more than 65,536.
CREATE FUNCTION entity.varints(bytes bytea, at int4) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- One copy: of a value that is compressed or lies outside its row, each look at a byte would fetch all of it.
    flat bytea;
    size int4 := octet_length(bytes);
    byte int4;
    place int4 := 0;
    number numeric := 0;
    weight numeric := 1;
    numbers numeric[] := '{}';
BEGIN
    IF at < 0 OR size < at OR 655360 < size - at THEN
        RETURN NULL;
    END IF;
    flat := bytes || ''::bytea;
    FOR i IN at .. size - 1 LOOP
        byte := get_byte(flat, i);
        place := place + 1;
        IF place = 10 AND byte > 1 OR cardinality(numbers) = 65536 THEN
            RETURN NULL;
        END IF;
        number := number + (byte & 127) * weight;
        IF byte < 128 THEN
            numbers := numbers || number;
            place := 0;
            number := 0;
            weight := 1;
        ELSE
            weight := weight * 128;
        END IF;
    END LOOP;
    RETURN CASE place WHEN 0 THEN numbers END;
END
$$;

-- The numbers that lie these steps apart, the first so far behind `start`. Null where one is beyond 64 bits.
CREATE FUNCTION entity.rising(steps numeric[], start numeric) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    step numeric;
    numbers numeric[] := '{}';
BEGIN
    FOREACH step IN ARRAY steps LOOP
        start := start + step;
        IF 18446744073709551615 < start THEN
            RETURN NULL;
        END IF;
        numbers := numbers || start;
    END LOOP;
    RETURN numbers;
END
$$;

-- Whether the bytes are UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
CREATE FUNCTION entity.is_utf8(bytes bytea) RETURNS bool
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    -- Zeros, backslashes and what is not ASCII grow here; nothing else does.
    IF octet_length(bytes) > 16777216 THEN
        RETURN false;
    ELSIF length(encode(bytes, 'escape')) = octet_length(bytes) THEN
        RETURN true;
    END IF;
    RETURN encode(bytes, 'hex') ~ ('^(?:[0-7][0-9a-f]|(?:c[2-9a-f]|d[0-9a-f])[89ab][0-9a-f]'
        || '|e0[ab][0-9a-f][89ab][0-9a-f]|(?:e[1-9a-cef])(?:[89ab][0-9a-f]){2}|ed[89][0-9a-f][89ab][0-9a-f]'
        || '|f0[9ab][0-9a-f](?:[89ab][0-9a-f]){2}|f[1-3](?:[89ab][0-9a-f]){3}|f48[0-9a-f](?:[89ab][0-9a-f]){2})*$');
END
$$;

-- UTF-8 as text. Null where it is none or where a text of this database cannot hold it: a zero byte, another encoding.
CREATE FUNCTION entity.utf8(bytes bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    escaped text;
BEGIN
    IF octet_length(bytes) > 16777216 THEN
        RETURN NULL;
    END IF;
    escaped := encode(bytes, 'escape');
    IF length(escaped) = octet_length(bytes) THEN
        RETURN escaped;
    ELSIF getdatabaseencoding() = 'UTF8' AND position('\x00'::bytea IN bytes) = 0 AND entity.is_utf8(bytes) THEN
        RETURN convert_from(bytes, 'UTF8');
    ELSIF replace(escaped, '\\', '') !~ '\\' THEN
        -- ASCII with backslashes, which any encoding has.
        RETURN replace(escaped, '\\', '\');
    END IF;
    RETURN NULL;
END
$$;

-- Bytes in hexadecimal digits, of long ones the first.
CREATE FUNCTION entity.hex(bytes bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(bytes) <= 16777216 THEN encode(bytes, 'hex')
        ELSE encode(substring(bytes FROM 1 FOR 64), 'hex') || '...' END
$$;

-- Bytes as text where they are text, else as `\x` and hexadecimal digits; what begins with `\x` itself is shown so too.
CREATE FUNCTION entity.text_of(bytes bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found text := entity.utf8(bytes);
BEGIN
    IF found IS NULL OR starts_with(found, '\x') THEN
        RETURN '\x' || entity.hex(bytes);
    END IF;
    RETURN found;
END
$$;

-- What stands in JSON for bytes that are no text and no JSON.
CREATE FUNCTION entity.bytes_as_json(bytes bytea) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT jsonb_build_object('$bytes', entity.hex(bytes))
$$;

-- The text in JSON of a floating-point number, given its bits. JSON has no infinity: it and NaN are strings.
CREATE FUNCTION entity.float_as_json(bits int8, is_double bool) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    digits int4 := CASE WHEN is_double THEN 52 ELSE 23 END;
    exponents int4 := CASE WHEN is_double THEN 2047 ELSE 255 END;
    bias int4 := exponents / 2;
    exponent int4 := (bits >> digits) & exponents;
    fraction float8 := bits & ((1::int8 << digits) - 1);
    is_negative bool := CASE WHEN is_double THEN bits < 0 ELSE (bits >> 31) & 1 = 1 END;
    number float8;
BEGIN
    IF exponent = exponents THEN
        RETURN CASE WHEN fraction <> 0 THEN '"NaN"' WHEN is_negative THEN '"-Infinity"' ELSE '"Infinity"' END;
    ELSIF exponent = 0 THEN
        number := fraction * power(2::float8, 1 - bias - digits);
    ELSE
        number := (1 + fraction / power(2::float8, digits)) * power(2::float8, exponent - bias);
    END IF;
    IF is_negative THEN
        number := -number;
    END IF;
    -- As many digits as its own width needs: 0.1, not 0.10000000149011612.
    RETURN CASE WHEN is_double THEN number::text ELSE number::float4::text END;
END
$$;

-- One MessagePack value as JSON: what the derives write for states and messages. Binary, and text that `jsonb` cannot hold, is
-- `{"$bytes": "<hex>"}`, an extension has its type beside it as "$ext"; the key of a map that is no text is its JSON as text.
-- Bytes that are not exactly one value, nested beyond 128 levels, or more than 262,144 values or 16 MiB, are `{"$bytes": ...}`.
CREATE FUNCTION entity.json_of(bytes bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    flat bytea;
    size int4 := octet_length(bytes);
    at int4 := 0;
    values_read int4 := 0;
    -- The JSON of each value whose container is still open, and of each open container: where it begins, its length, whether a map.
    made text[] := '{}';
    top int4 := 0;
    depth int4 := 0;
    begins int4[] := '{}';
    lengths int8[] := '{}';
    are_maps bool[] := '{}';
    -- The value being read.
    type int4;
    width int4;
    number int8;
    part bytea;
    word text;
    found text;
    members text[];
    -- Bytes written for keys that were no text: quoting doubles them with each level.
    quoted int8 := 0;
BEGIN
    IF 16777216 < size THEN
        RETURN entity.bytes_as_json(bytes);
    END IF;
    flat := bytes || ''::bytea;
    <<reading>>
    LOOP
        EXIT WHEN at = size OR values_read = 262144;
        type := get_byte(flat, at);
        at := at + 1;
        values_read := values_read + 1;
        found := NULL;
        part := NULL;
        number := 0;
        -- A length, a count or a number behind the type.
        IF 192 <= type AND type < 224 THEN
            width := CASE
                WHEN type IN (196, 199, 204, 208, 217) THEN 1
                WHEN type IN (197, 200, 205, 209, 218, 220, 222) THEN 2
                WHEN type IN (198, 201, 202, 206, 210, 219, 221, 223) THEN 4
                WHEN type IN (203, 207, 211) THEN 8
                ELSE 0 END;
            EXIT WHEN size - at < width;
            FOR i IN at .. at + width - 1 LOOP
                number := (number << 8) | get_byte(flat, i);
            END LOOP;
            at := at + width;
        END IF;

        IF type < 128 THEN
            found := type;
        ELSIF 224 <= type THEN
            found := type - 256;
        ELSIF type < 160 OR type BETWEEN 220 AND 223 THEN
            -- An array or a map. Each of its values has a byte at least.
            IF type < 160 THEN
                number := type & 15;
            END IF;
            IF type < 144 OR 222 <= type THEN
                number := 2 * number;
            END IF;
            IF number > 0 THEN
                EXIT WHEN size - at < number OR depth = 128;
                depth := depth + 1;
                begins[depth] := top;
                lengths[depth] := number;
                are_maps[depth] := type < 144 OR 222 <= type;
                CONTINUE;
            END IF;
            found := CASE WHEN type < 144 OR 222 <= type THEN '{}' ELSE '[]' END;
        ELSIF type < 192 OR type BETWEEN 217 AND 219 THEN
            IF type < 192 THEN
                number := type & 31;
            END IF;
            EXIT WHEN size - at < number;
            part := substring(flat FROM at + 1 FOR number::int4);
            at := at + number;
            word := encode(part, 'escape');
            IF length(word) <> number THEN
                word := entity.utf8(part);
            END IF;
            found := coalesce(to_json(word), entity.bytes_as_json(part)::json);
        ELSIF type = 192 THEN
            found := 'null';
        ELSIF type = 194 THEN
            found := 'false';
        ELSIF type = 195 THEN
            found := 'true';
        ELSIF type <= 198 THEN
            -- 193 is no type.
            EXIT WHEN type = 193 OR size - at < number;
            part := substring(flat FROM at + 1 FOR number::int4);
            at := at + number;
            found := entity.bytes_as_json(part);
        ELSIF type <= 201 OR 212 <= type THEN
            IF 212 <= type THEN
                number := 1 << (type - 212);
            END IF;
            EXIT WHEN size - at <= number;
            part := substring(flat FROM at + 2 FOR number::int4);
            type := get_byte(flat, at);
            at := at + 1 + number;
            found := jsonb_build_object('$ext', CASE WHEN type < 128 THEN type ELSE type - 256 END)
                || entity.bytes_as_json(part);
        ELSIF type <= 203 THEN
            found := entity.float_as_json(number, type = 203);
        ELSIF type <= 207 THEN
            found := CASE WHEN number < 0 THEN number + 18446744073709551616::numeric ELSE number END;
        ELSE
            -- Eight bytes have their sign already.
            IF width < 8 AND number >> (8 * width - 1) = 1 THEN
                number := number - (1::int8 << (8 * width));
            END IF;
            found := number;
        END IF;

        top := top + 1;
        made[top] := found;
        -- Containers that this value was the last of.
        WHILE 0 < depth AND top - begins[depth] = lengths[depth] LOOP
            members := '{}';
            IF are_maps[depth] THEN
                FOR i IN begins[depth] + 1 .. top BY 2 LOOP
                    word := made[i];
                    IF left(word, 1) <> '"' THEN
                        word := to_json(word);
                        quoted := quoted + length(word);
                        EXIT reading WHEN 16777216 < quoted;
                    END IF;
                    members := members || (word || ':' || made[i + 1]);
                END LOOP;
                found := '{' || array_to_string(members, ',') || '}';
            ELSE
                FOR i IN begins[depth] + 1 .. top LOOP
                    members := members || made[i];
                END LOOP;
                found := '[' || array_to_string(members, ',') || ']';
            END IF;
            top := begins[depth] + 1;
            made[top] := found;
            depth := depth - 1;
        END LOOP;
        IF depth = 0 THEN
            EXIT WHEN at < size;
            RETURN found;
        END IF;
    END LOOP;
    RETURN entity.bytes_as_json(bytes);
END
$$;

-- The parts of a message (`Envelope`). All null where the bytes are none; of a client's message the sender is.
CREATE FUNCTION entity.envelope(
    bytes bytea,
    OUT kind text, OUT key text, OUT name text, OUT sender_kind text, OUT sender_key text, OUT body bytea
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    flat bytea := bytes || ''::bytea;
    size int4 := octet_length(bytes);
    lengths int4[];
    at int4 := 8;
    parts bytea[] := '{}';
BEGIN
    IF size < 8 OR get_byte(flat, 0) <> 1 THEN
        RETURN;
    END IF;
    lengths := ARRAY[
        get_byte(flat, 1), get_byte(flat, 2) + 256 * get_byte(flat, 3),
        get_byte(flat, 4),
        get_byte(flat, 5), get_byte(flat, 6) + 256 * get_byte(flat, 7)
    ];
    FOR i IN 1 .. 5 LOOP
        IF size - at < lengths[i] OR NOT entity.is_utf8(substring(flat FROM at + 1 FOR lengths[i])) THEN
            RETURN;
        END IF;
        parts[i] := substring(flat FROM at + 1 FOR lengths[i]);
        at := at + lengths[i];
    END LOOP;
    kind := entity.text_of(parts[1]);
    key := entity.text_of(parts[2]);
    name := entity.text_of(parts[3]);
    IF 0 < lengths[4] THEN
        sender_kind := entity.text_of(parts[4]);
        sender_key := entity.text_of(parts[5]);
    END IF;
    body := substring(flat FROM at + 1);
END
$$;

-- The id of a request, as programs and logs write it.
CREATE FUNCTION entity.request_id(client uuid, number numeric, issued_at numeric) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT replace(client::text, '-', '') || '-' || number || '-' || issued_at
$$;

-- What is behind a waiting message, and the message. All null where the bytes are not of one.
CREATE FUNCTION entity.waiting_of(
    bytes bytea,
    OUT behind text, OUT request text, OUT issued_at timestamptz, OUT reminder numeric, OUT message bytea
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    flat bytea := bytes || ''::bytea;
    at int4 := 1;
    number numeric;
    micros numeric;
BEGIN
    IF octet_length(flat) = 0 THEN
        RETURN;
    END IF;
    CASE get_byte(flat, 0)
        WHEN 0 THEN
            behind := 'nothing';
        WHEN 1 THEN
            SELECT v.at, v.number INTO at, number FROM entity.varint(flat, 17) AS v;
            SELECT v.at, v.number INTO at, micros FROM entity.varint(flat, at) AS v;
            IF at IS NULL THEN
                RETURN;
            END IF;
            behind := 'request';
            request := entity.request_id(entity.uuid_of(flat, 1), number, micros);
            issued_at := entity.time_of(micros);
        WHEN 2 THEN
            SELECT v.at, v.number INTO at, reminder FROM entity.varint(flat, 1) AS v;
            IF at IS NULL THEN
                RETURN;
            END IF;
            behind := 'reminder';
        ELSE
            RETURN;
    END CASE;
    message := substring(flat FROM at + 1);
END
$$;

-- Why a message was given up, and the message. All null where the bytes are no dead letter.
CREATE FUNCTION entity.dead_letter_of(
    bytes bytea,
    OUT given_up_at timestamptz, OUT tries int8, OUT reason text, OUT message bytea
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    flat bytea := bytes || ''::bytea;
    at int4 := 0;
    micros numeric;
    tried numeric;
    len numeric;
    why bytea;
BEGIN
    SELECT v.at, v.number INTO at, micros FROM entity.varint(flat, at) AS v;
    SELECT v.at, v.number INTO at, tried FROM entity.varint(flat, at) AS v;
    SELECT v.at, v.number INTO at, len FROM entity.varint(flat, at) AS v;
    IF at IS NULL OR 4294967295 < tried OR octet_length(flat) - at < len THEN
        RETURN;
    END IF;
    why := substring(flat FROM at + 1 FOR len::int4);
    IF NOT entity.is_utf8(why) THEN
        RETURN;
    END IF;
    given_up_at := entity.time_of(micros);
    tries := tried;
    reason := entity.text_of(why);
    message := substring(flat FROM at + 1 + len::int4);
END
$$;

-- The marks of a feed in one shard. All null where the bytes are none.
CREATE FUNCTION entity.feed_of(
    bytes bytea,
    OUT first_digest text, OUT own_at_floor numeric, OUT floor numeric, OUT above numeric[], OUT owns_above numeric[]
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    numbers numeric[] := entity.varints(bytes, 8);
    count int4;
BEGIN
    IF numbers[2] IS NULL OR (cardinality(numbers) - 3) / 2.0 < numbers[2] THEN
        RETURN;
    END IF;
    count := numbers[2];
    above := entity.rising(numbers[4 + 2 * count:], numbers[3 + 2 * count]);
    IF above IS NULL THEN
        RETURN;
    END IF;
    first_digest := encode(substring(bytes FROM 1 FOR 8), 'hex');
    own_at_floor := numbers[1];
    floor := numbers[3 + 2 * count];
    owns_above := ARRAY(SELECT numbers[2 + 2 * i] FROM generate_series(1, count) AS i);
END
$$;

CREATE VIEW entity.entities AS
SELECT s.kind, entity.text_of(s.key) AS key, s.key AS key_bytes, s.shard,
    CASE WHEN v.number <= 4294967295 THEN v.number::int8 END AS version,
    CASE WHEN v.number <= 4294967295 THEN entity.json_of(substring(s.image FROM v.at + 1)) END AS state,
    CASE WHEN v.number <= 4294967295 THEN NULL ELSE s.image END AS unreadable
FROM entity.state AS s LEFT JOIN LATERAL entity.varint(substring(s.image FROM 1 FOR 10), 0) AS v ON true;
COMMENT ON VIEW entity.entities IS
    'Entities and their states as JSON, decoded for reading by people. One of them: WHERE kind = ''account'' AND key_bytes = ''alice''';

CREATE VIEW entity.heads AS
SELECT m.shard, n.reminder_next, n.waiting_next, n.dead_next, n.horizon,
    CASE WHEN n.horizon IS NULL THEN m.value END AS unreadable
FROM entity.mark AS m
    LEFT JOIN LATERAL (
        SELECT v[1] AS reminder_next, v[2] AS waiting_next, v[3] AS dead_next, entity.time_of(v[4]) AS horizon
        FROM entity.varints(m.value, 0) AS v WHERE cardinality(v) = 4
    ) AS n ON true
WHERE m.type = 1 AND octet_length(m.key) = 0;
COMMENT ON VIEW entity.heads IS
    'Counters of each shard: the next reminder, waiting message and dead letter, and up to when requests have expired. For reading by people';

CREATE VIEW entity.inbox AS
SELECT m.shard, entity.unsigned(m.key, 0, 4)::int8 AS source, n.floor, n.above,
    CASE WHEN n.above IS NULL THEN m.value END AS unreadable
FROM entity.mark AS m
    LEFT JOIN LATERAL (
        SELECT v[1] AS floor, a AS above
        FROM entity.varints(m.value, 0) AS v, entity.rising(v[2:], v[1]) AS a WHERE a IS NOT NULL
    ) AS n ON true
WHERE m.type = 16 AND octet_length(m.key) = 4;
COMMENT ON VIEW entity.inbox IS
    'Receiving ends of streams: of the messages from shard `source`, all up to `floor` and those in `above` have taken effect. For reading by people';

CREATE VIEW entity.sent AS
SELECT m.shard, entity.unsigned(m.key, 0, 4)::int8 AS target, n.last, n.told,
    CASE WHEN n.last IS NULL THEN m.value END AS unreadable
FROM entity.mark AS m
    LEFT JOIN LATERAL (
        SELECT v[1] AS last, v[2] AS told
        FROM entity.varints(m.value, 0) AS v
        WHERE cardinality(v) BETWEEN 1 AND 2 AND v[1] < 18446744073709551615 AND coalesce(v[2], 0) <= v[1]
    ) AS n ON true
WHERE m.type = 17 AND octet_length(m.key) = 4;
COMMENT ON VIEW entity.sent IS
    'Sending ends of streams: the last message that had gone to shard `target`; where `told` is there, none above it was handed over yet. For reading by people';

CREATE VIEW entity.messages AS
SELECT o.shard, o.target, o.number, e.kind, e.key, e.name, e.sender_kind, e.sender_key, entity.json_of(e.body) AS body,
    CASE WHEN e.name IS NULL THEN o.message END AS unreadable
FROM entity.outbox AS o LEFT JOIN LATERAL entity.envelope(o.message) AS e ON true;
COMMENT ON VIEW entity.messages IS
    'Messages that are sent and not acknowledged by the shard of their receiver. For reading by people';

CREATE VIEW entity.reminders AS
SELECT i.shard, i.number AS id, CASE WHEN e.name IS NOT NULL THEN entity.time_of(v.number) END AS due,
    e.kind, e.key, e.name, entity.json_of(e.body) AS body,
    CASE WHEN e.name IS NULL THEN i.value END AS unreadable
FROM entity.item AS i
    LEFT JOIN LATERAL entity.varint(substring(i.value FROM 1 FOR 10), 0) AS v ON true
    LEFT JOIN LATERAL entity.envelope(substring(i.value FROM v.at + 1)) AS e ON true
WHERE i.type = 48;
COMMENT ON VIEW entity.reminders IS
    'Messages that entities have asked to get later, and when they are due. For reading by people';

CREATE VIEW entity.waiting AS
SELECT i.shard, i.number, e.kind, e.key, e.name, e.sender_kind, e.sender_key, entity.json_of(e.body) AS body,
    CASE WHEN e.name IS NOT NULL THEN w.behind END AS behind,
    CASE WHEN e.name IS NOT NULL THEN w.request END AS request,
    CASE WHEN e.name IS NOT NULL THEN w.issued_at END AS issued_at,
    CASE WHEN e.name IS NOT NULL THEN w.reminder END AS reminder,
    CASE WHEN e.name IS NULL THEN i.value END AS unreadable
FROM entity.item AS i
    LEFT JOIN LATERAL entity.waiting_of(i.value) AS w ON true
    LEFT JOIN LATERAL entity.envelope(w.message) AS e ON true
WHERE i.type = 49;
COMMENT ON VIEW entity.waiting IS
    'Messages of stuck entities, in the order in which they will be tried, and the request or reminder behind each. For reading by people';

CREATE VIEW entity.dead_letters AS
SELECT i.shard, i.number, e.kind, e.key, e.name, e.sender_kind, e.sender_key, entity.json_of(e.body) AS body,
    CASE WHEN e.name IS NOT NULL THEN d.given_up_at END AS given_up_at,
    CASE WHEN e.name IS NOT NULL THEN d.tries END AS tries,
    CASE WHEN e.name IS NOT NULL THEN d.reason END AS reason,
    CASE WHEN e.name IS NULL THEN i.value END AS unreadable
FROM entity.item AS i
    LEFT JOIN LATERAL entity.dead_letter_of(i.value) AS d ON true
    LEFT JOIN LATERAL entity.envelope(d.message) AS e ON true
WHERE i.type = 50;
COMMENT ON VIEW entity.dead_letters IS
    'Messages that were given up, and why. For reading by people: they are retried and dropped through a node, never here';

CREATE VIEW entity.replies AS
SELECT r.shard, r.client, r.number, entity.request_id(r.client, r.number, n.micros) AS request,
    entity.time_of(n.micros) AS issued_at, n.digest, n.class,
    CASE n.class WHEN 'dead-lettered' THEN to_jsonb(entity.text_of(n.body)) ELSE entity.json_of(n.body) END AS body,
    CASE WHEN n.class IS NULL THEN r.value END AS unreadable
FROM entity.reply AS r
    LEFT JOIN LATERAL (
        SELECT v.number AS micros, encode(substring(r.value FROM v.at + 1 FOR 8), 'hex') AS digest,
            CASE entity.unsigned(r.value, v.at + 8, 1) WHEN 0 THEN 'applied' WHEN 1 THEN 'rejected' ELSE 'dead-lettered' END AS class,
            substring(r.value FROM v.at + 10) AS body
        FROM entity.varint(substring(r.value FROM 1 FOR 10), 0) AS v
        WHERE entity.unsigned(r.value, v.at + 8, 1) <= 2
    ) AS n ON true;
COMMENT ON VIEW entity.replies IS
    'Replies that a client may ask for again, until it has them or they expire; a dead-lettered one is the reason. For reading by people';

CREATE VIEW entity.feeds AS
SELECT p.shard, p.feed, coalesce(entity.utf8(p.name), entity.text_of(p.name)) AS name,
    f.floor, f.above, f.own_at_floor, f.owns_above, f.first_digest,
    c.claim, c.own AS claim_own, c.digest AS claim_digest,
    CASE WHEN f.above IS NULL THEN p.marks END AS unreadable,
    CASE WHEN c.claim IS NULL THEN p.claim END AS claim_unreadable
FROM (
        SELECT m.shard, entity.uuid_of(m.key, 0) AS feed,
            (array_agg(m.value) FILTER (WHERE entity.unsigned(m.key, 16, 1) = 0))[1] AS marks,
            (array_agg(m.value) FILTER (WHERE entity.unsigned(m.key, 16, 1) = 1))[1] AS name,
            (array_agg(m.value) FILTER (WHERE entity.unsigned(m.key, 16, 1) = 2))[1] AS claim
        FROM entity.mark AS m
        WHERE m.type = 32 AND octet_length(m.key) = 17 AND entity.unsigned(m.key, 16, 1) <= 2
        GROUP BY m.shard, entity.uuid_of(m.key, 0)
    ) AS p
    LEFT JOIN LATERAL entity.feed_of(p.marks) AS f ON true
    LEFT JOIN LATERAL (
        SELECT 'dropping' AS claim, NULL::numeric AS own, NULL AS digest WHERE p.claim = '\x01'::bytea
        UNION ALL
        SELECT 'held', v.number, encode(substring(p.claim FROM v.at + 1), 'hex')
        FROM entity.varint(substring(p.claim FROM 1 FOR 11), 1) AS v
        WHERE entity.unsigned(p.claim, 0, 1) = 0 AND octet_length(p.claim) = v.at + 8
    ) AS c ON true;
COMMENT ON VIEW entity.feeds IS
    'Feeds: how far each shard has consumed them, and in one shard of each who claims its name. For reading by people';

CREATE VIEW entity.clients AS
SELECT m.shard, entity.uuid_of(m.key, 0) AS client, n.floor, n.youngest, n.open,
    CASE WHEN n.open IS NULL THEN m.value END AS unreadable
FROM entity.mark AS m
    LEFT JOIN LATERAL (
        SELECT v[1] AS floor, entity.time_of(v[2]) AS youngest, o AS open
        FROM entity.varints(m.value, 0) AS v, entity.rising(v[3:], 0) AS o
        WHERE cardinality(v) BETWEEN 2 AND 66 AND NOT 0 = ANY (v[4:]) AND coalesce(o[cardinality(o)], 0) <= v[1]
    ) AS n ON true
WHERE m.type = 33 AND octet_length(m.key) = 16;
COMMENT ON VIEW entity.clients IS
    'Clients: all their requests up to `floor` are settled but for those in `open`. For reading by people';

CREATE VIEW entity.owners AS
SELECT s.id AS shard, s.epoch, s.batch, s.owner, n.name AS node, n.address,
    CASE n.state WHEN 0 THEN 'up' WHEN 1 THEN 'leaving' WHEN 2 THEN 'left' END AS state,
    -- By this server's clock, as takeovers go.
    CASE WHEN isfinite(n.lease_until) THEN n.lease_until - clock_timestamp() END AS lease_left,
    s.moved_by, s.moved_at
FROM entity.shard AS s LEFT JOIN entity.node AS n ON n.incarnation = s.owner;
COMMENT ON VIEW entity.owners IS
    'Who owns each shard of this server; without a node nobody does, or one that has started anew since. For reading by people';

CREATE VIEW entity.unknown AS
SELECT 'mark' AS "table", m.shard, m.type, m.key, m.value
FROM entity.mark AS m
WHERE NOT (
    m.type = 1 AND octet_length(m.key) = 0
    OR m.type IN (16, 17) AND octet_length(m.key) = 4
    OR m.type = 32 AND octet_length(m.key) = 17 AND coalesce(entity.unsigned(m.key, 16, 1), 3) <= 2
    OR m.type = 33 AND octet_length(m.key) = 16
)
UNION ALL
SELECT 'item', i.shard, i.type, int8send(i.number), i.value
FROM entity.item AS i
WHERE i.type NOT IN (48, 49, 50);
COMMENT ON VIEW entity.unknown IS
    'Rows of no type that this schema knows, which no other view shows: there should be none. For reading by people';
