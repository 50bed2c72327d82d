-- What a cluster keeps on one server. Rows lie in tables by how often they change, each with the storage that suits it; docs/format.md has
-- the columns. Whoever changes a row of a shard raises `shard.batch` or `shard.epoch` in the same statement (P23), so nothing here
-- references another table: a foreign key would lock rows of `shard` beside the one lock that orders all of them.
CREATE SCHEMA IF NOT EXISTS entity;

-- Which migrations were run, and which build may still work with what the last of them has left.
CREATE TABLE IF NOT EXISTS entity.migration (
    version int4 PRIMARY KEY,
    name text NOT NULL,
    build text NOT NULL,
    reads_from int4 NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: the cluster, and which of its servers this one is (P24).
CREATE TABLE entity.cluster (
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL,
    layout int4 NOT NULL,
    shards int4 NOT NULL,
    hash text NOT NULL,
    placement int8 NOT NULL,
    server int4 NOT NULL,
    servers uuid[] NOT NULL,
    founded bool NOT NULL
);

-- The nodes: who they are stays with the name, which run of one it is with the incarnation. Times are of this server.
CREATE TABLE entity.node (
    name text COLLATE "C" PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE,
    boot int8 NOT NULL,
    incarnation uuid NOT NULL UNIQUE,
    address text NOT NULL,
    weight int4 NOT NULL,
    state int2 NOT NULL CHECK (state BETWEEN 0 AND 2),
    build text NOT NULL,
    role name NOT NULL DEFAULT current_user,
    lease interval NOT NULL,
    lease_until timestamptz NOT NULL,
    lease_since timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Who owns a shard, under which epoch, and the number of its last batch under that epoch: fence, chain and mark in one (P23).
CREATE TABLE entity.shard (
    id int4 PRIMARY KEY,
    epoch int8 NOT NULL,
    owner uuid,
    batch int8 NOT NULL,
    moved_by uuid,
    moved_at timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- Images of entities. The key is what an operator asks for; the shard follows from it.
CREATE TABLE entity.state (
    kind text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    shard int4 NOT NULL,
    image bytea NOT NULL,
    PRIMARY KEY (kind, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Rows that are few and written all the time: counters, ends of streams, feeds, clients.
CREATE TABLE entity.mark (
    shard int4 NOT NULL,
    type int2 NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (shard, type, key)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- Messages that are sent and not acknowledged.
CREATE TABLE entity.outbox (
    shard int4 NOT NULL,
    target int4 NOT NULL,
    number int8 NOT NULL,
    message bytea NOT NULL,
    PRIMARY KEY (shard, target, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_cost_delay = 0);

-- Replies that a client may ask for again.
CREATE TABLE entity.reply (
    shard int4 NOT NULL,
    client uuid NOT NULL,
    number int8 NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (shard, client, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_cost_delay = 0);

-- Reminders, waiting messages and dead letters.
CREATE TABLE entity.item (
    shard int4 NOT NULL,
    type int2 NOT NULL,
    number int8 NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (shard, type, number)
);

-- What a node keeps beside the shards.
CREATE TABLE entity.note (
    node uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (node, name)
);

-- Messages that were running when their node ended, and how often (P3).
CREATE TABLE entity.suspect (
    shard int4 NOT NULL,
    digest int8 NOT NULL,
    crashes int4 NOT NULL,
    running_since timestamptz,
    PRIMARY KEY (shard, digest)
);

-- One row per lane: a commit of it that was answered shows that whatever was visible before it is as durable.
CREATE TABLE entity.probe (
    lane int4 PRIMARY KEY,
    number int8 NOT NULL
) WITH (fillfactor = 10);

-- Ends the statement that calls it: not all of the shards it writes to are still where their owner left them.
CREATE FUNCTION entity.refuse(found int8, wanted int8) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION '% of % shards go on', found, wanted USING ERRCODE = 'EN001';
END
$$;
