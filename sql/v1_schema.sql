-- Mayfly's queue, told from the beginning.
--
-- A backend puts a job into the queue with one call, inside whatever transaction it is in:
--
--     select mayfly.enqueue('code', '{"language":"python","source":"print(6*7)"}');
--     insert into mayfly.job (kind, payload) values ('code', '{...}') returning id;   -- the same
--
-- A job is one row of `job_data`, written once and never again, and one short row that says where
-- the job is now. That short row wanders, and the job's state is the table in which it stands:
--
--     delayed ──► ready ──► running ──► outcome        queued, queued, running, and the end
--        ▲                     │
--        └──── retry, loss ────┘        (an interrupted attempt goes straight back to ready)
--
-- The wandering rows are narrow and few, so claiming costs the same with a hundred million jobs
-- of history as with none. What grows (`job_data`, `outcome`, `attempt`) is only ever appended
-- to, lies in one partition per week, and goes away by dropping whole weeks (`mayfly.maintain`).
--
-- A worker registers, gets a number and a lease, and keeps the lease alive with one update of
-- its own row (`mayfly.heartbeat`), however many jobs it holds. `mayfly.claim` moves rows from
-- ready to running; each gets a token that was never given out before. `mayfly.settle` ends an
-- attempt: it takes the row out of running by that token, or, when the row is gone because the
-- lease ran out and somebody gave the job back, refuses with MF005, and the transaction, with
-- the blobs of the result in it, rolls back. `outcome` has the job's id as its key: the schema
-- itself stores an outcome once. Any worker may call `mayfly.reap`, which gives back what dead
-- workers held.
--
-- Whose failure was it? The task's own (`failed`) is final unless the job asked for more with
-- max_attempts. Ours (`lost`: machine, image, worker) is tried again by itself, with growing
-- pauses, and costs the job nothing, until it has happened `losses_max` times: then the job itself
-- is suspected and stopped as `poison`. `interrupted` is neither: the job is back at its place.
--
-- Who may do what: roles in v5_roles.sql. A producer sees the view `mayfly.job` and functions, and
-- of the jobs only those of its tenants. Every clock is this server's.
--
-- Waking: `mayfly_job` (payload: queue) is sent only while an idle worker has armed the bell, so
-- that a busy system pays nothing for it; workers poll as well, now and then, as the safety net.
-- `mayfly_done` carries the id of each job that ended, `mayfly_cancel` the token of an attempt
-- that is to be stopped.
--
-- Refusals carry what and why as the message, what to do as the hint, and a stable SQLSTATE:
--     MF001  an argument is not acceptable            MF006  the worker is unknown or declared dead
--     MF002  the payload is not acceptable            MF007  no such blob, or its bytes are wrong
--     MF003  the tenant is not granted to the caller  MF008  not possible in the job's state
--     MF004  no such job                              MF009  not by this way: call the function
--     MF005  fenced: the attempt is no longer held    MF010  the server is too old
--
-- The files v1, v2, … are applied in order and never edited once released: by `mayfly migrate`, or
-- by `psql -v ON_ERROR_STOP=1 -1 -f`. Each notes itself in mayfly.migration, so the two ways mix.

do $$ begin
    if current_setting('server_version_num')::int < 150000 then
        raise exception using errcode = 'MF010',
            message = format('PostgreSQL %s is too old for Mayfly',
                current_setting('server_version')),
            hint = 'Use PostgreSQL 15 or newer.';
    end if;
end $$;

create schema if not exists mayfly;
revoke all on schema mayfly from public;

create table mayfly.migration (
    version    int primary key,
    name       text not null,
    applied_at timestamptz not null default now()
);
insert into mayfly.migration (version, name) values (1, 'v1_schema');

-- What is refused and how long things may take. One row; an operator may update it.
create table mayfly.setting (
    only_row          boolean primary key default true
        constraint setting_is_one_row check (only_row),
    losses_max        int not null default 5,             -- the loss that makes a job poison
    backoff_first     interval not null default '1 s',    -- doubles with every loss, retry
    backoff_max       interval not null default '5 min',
    timeout_default   interval not null default '1 h',    -- for the deadline, without timeout
    deadline_slack    interval not null default '1 min',  -- restore, store and destroy, generously
    restart_grace     interval not null default '15 s',   -- after a restart nobody is dead yet
    payload_bytes_max int not null default 16 * 1024 * 1024,
    blob_bytes_max    int not null default 64 * 1024 * 1024
);
insert into mayfly.setting default values;

-- Why attempts end otherwise than well: the closed list. `whose` decides what follows: a `task`
-- failure is the job's own, `ours` is tried again by itself, a `decision` was taken by somebody.
-- `retryable`: running the same job again could end differently.
create table mayfly.reason (
    reason    text primary key,
    whose     text not null,
    retryable boolean not null,
    meaning   text not null,
    constraint reason_whose_is_known check (whose in ('task', 'ours', 'decision'))
);
insert into mayfly.reason (reason, whose, retryable, meaning) values
    ('exit_nonzero', 'task', true, 'The program ended with an exit code other than zero.'),
    ('signalled', 'task', true, 'The program was ended by a signal that Mayfly did not send.'),
    ('timeout', 'task', true, 'The attempt took longer than its timeout and was stopped.'),
    ('out_of_memory', 'task', true, 'The program wanted more memory than its machine has.'),
    ('disk_full', 'task', true, 'The program wrote more than its machine can hold.'),
    ('output_limit', 'task', true, 'The program printed or left behind more than may be kept.'),
    ('invalid_payload', 'task', false,
        'The payload does not say what to run; no machine was used.'),
    ('blob_missing', 'task', false,
        'The payload names a blob that is not stored; put it and replay.'),
    ('guest_protocol_violation', 'task', true, 'The machine broke the protocol and was destroyed.'),
    ('document_invalid', 'task', false, 'The document cannot be read as what it says it is.'),
    ('page_failed', 'task', true, 'The page could not be loaded, or an action on it did not work.'),
    ('network_denied', 'task', false, 'The program needs a destination that its allow-list lacks.'),
    ('machine_lost', 'ours', true,
        'The machine died or stopped answering in the middle of the attempt.'),
    ('restore_failed', 'ours', true, 'No machine could be restored from the image.'),
    ('image_missing', 'ours', true,
        'The worker has no verified image for this kind; build it there.'),
    ('lease_lost', 'ours', true, 'The worker stopped renewing its lease; the job was given back.'),
    ('deadline_exceeded', 'ours', true,
        'The worker lives but held the attempt far beyond its timeout.'),
    ('store_failed', 'ours', true, 'The result could not be stored.'),
    ('internal', 'ours', true, 'Mayfly made a mistake; the message says which, the log says more.'),
    ('interrupted', 'decision', true, 'The worker shut down; the attempt was given back.'),
    ('cancelled', 'decision', true, 'Somebody cancelled the job.'),
    ('poison', 'decision', true, 'The job lost its machine or worker too often and was stopped.');

-- Ids. 33 bits of seconds since 2024 and 20 bits that count: ordered by time, good until 2296, and
-- below 2^53, so that a JavaScript number holds them. Partitions are ranges of ids.
create sequence mayfly.id_sequence as bigint minvalue 0 maxvalue 1048575 cycle;
create function mayfly.id_at(at timestamptz) returns bigint language sql immutable parallel safe as
$$ select (floor(extract(epoch from at))::bigint - 1704067200) << 20 $$;
create function mayfly.new_id() returns bigint language sql volatile as
$$ select ((floor(extract(epoch from clock_timestamp()))::bigint - 1704067200) << 20)
        | nextval('mayfly.id_sequence') $$;

-- Places in a lane, and tokens: 41 bits of milliseconds, 22 that count. Not for JavaScript. Time is
-- in the token so that a restored or failed-over server cannot give one out again.
create sequence mayfly.position_sequence as bigint minvalue 0 maxvalue 4194303 cycle;
create function mayfly.position_at(at timestamptz) returns bigint
    language sql immutable parallel safe as
$$ select (floor(extract(epoch from at) * 1000)::bigint - 1704067200000) << 22 $$;
create function mayfly.new_position() returns bigint language sql volatile as
$$ select ((floor(extract(epoch from clock_timestamp()) * 1000)::bigint - 1704067200000) << 22)
        | nextval('mayfly.position_sequence') $$;
create function mayfly.position_time(pos bigint) returns timestamptz
    language sql immutable parallel safe as
$$ select to_timestamp(((pos >> 22) + 1704067200000) / 1000.0) $$;

-- -------------------------------------------------------------------------------------------------
-- Cold: written once. All three are partitioned by the job's id, so a week goes as a whole.

create table mayfly.job_data (
    id           bigint not null primary key,
    created_at   timestamptz not null default clock_timestamp(),
    run_at       timestamptz not null,
    replay_of    bigint,                 -- the job of which this one is a replay
    timeout      interval,               -- wall clock of one attempt; null: the kind's default
    priority     smallint not null,
    max_attempts smallint not null,
    queue        text not null,
    tenant       text not null,
    kind         text not null,
    unique_key   text,
    pin          jsonb,                  -- replay --pinned: {generation, seed (hex), clock (ns)}
    payload      jsonb not null,
    constraint job_payload_is_an_object check (jsonb_typeof(payload) = 'object'),
    constraint job_max_attempts_in_range check (max_attempts between 1 and 100)
) partition by range (id);
create index job_data_replay_of on mayfly.job_data (replay_of) where replay_of is not null;

create table mayfly.outcome (
    id          bigint not null primary key,   -- this key is what stores an outcome exactly once
    started_at  timestamptz,
    finished_at timestamptz not null default clock_timestamp(),
    attempt     smallint not null,
    state       text not null,
    result      jsonb,
    error       jsonb,
    constraint outcome_state_is_final check (state in ('succeeded', 'failed', 'cancelled')),
    constraint outcome_error_unless_succeeded check ((error is null) = (state = 'succeeded'))
) partition by range (id);
create index outcome_unwell on mayfly.outcome (state, id) where state <> 'succeeded';

create table mayfly.attempt (
    id          bigint not null,
    attempt     smallint not null,       -- counts every try of the job, from 1
    token       bigint not null,
    worker      bigint not null,
    started_at  timestamptz not null,
    finished_at timestamptz not null default clock_timestamp(),
    reaped      boolean not null default false,  -- true: ended by mayfly.reap, not by its worker
    outcome     text not null,
    reason      text,
    message     text,
    machine     text,
    generation  text,                    -- of the image
    seed        bytea,                   -- the entropy the machine was given, for a pinned replay
    clock       bigint,                  -- the time it was told, in ns since 1970
    timings     jsonb,
    usage       jsonb,
    log_tail    text,
    primary key (id, attempt),
    constraint attempt_outcome_is_known
        check (outcome in ('succeeded', 'failed', 'lost', 'interrupted', 'cancelled')),
    constraint attempt_reason_unless_succeeded check ((reason is null) = (outcome = 'succeeded'))
) partition by range (id);

-- -------------------------------------------------------------------------------------------------
-- Hot: a row here means that the job is alive. Vacuumed early and without pauses: they churn.

create table mayfly.ready (              -- runnable now: inserted and deleted, never updated
    pos          bigint not null default mayfly.new_position(),
    id           bigint not null,
    priority     smallint not null,
    attempt      smallint not null default 0,   -- tries so far
    failures     smallint not null default 0,   -- of which the job's own failures
    losses       smallint not null default 0,   -- of which ours
    max_attempts smallint not null,
    timeout      interval,
    queue        text not null,
    kind         text not null,
    tenant       text not null,
    constraint ready_pkey primary key (queue, kind, priority, pos)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create unique index ready_id on mayfly.ready (id);

create table mayfly.delayed (            -- runnable later: scheduled, or pausing before a retry
    id           bigint not null primary key,
    run_at       timestamptz not null,
    priority     smallint not null,
    attempt      smallint not null default 0,
    failures     smallint not null default 0,
    losses       smallint not null default 0,
    max_attempts smallint not null,
    timeout      interval,
    queue        text not null,
    kind         text not null,
    tenant       text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create index delayed_run_at on mayfly.delayed (run_at);

create table mayfly.worker (             -- one row per worker process; all that heartbeats touch
    worker      bigint generated always as identity primary key,
    lease_until timestamptz not null,
    started_at  timestamptz not null default now(),
    dead        boolean not null default false,
    slots       int not null,
    name        text not null,
    identity    text,     -- what only one process can be at a time: a new holder buries the old one
    version     text not null,
    kinds       text[] not null,
    queues      text[] not null          -- empty: all
) with (fillfactor = 50);

create table mayfly.running (            -- one row per live attempt
    token        bigint not null default mayfly.new_position() primary key,
    id           bigint not null,
    pos          bigint not null,        -- where it stood, for an attempt that is given back
    worker       bigint not null,
    started_at   timestamptz not null default clock_timestamp(),
    deadline_at  timestamptz not null,
    priority     smallint not null,
    attempt      smallint not null,
    failures     smallint not null,
    losses       smallint not null,
    max_attempts smallint not null,
    cancel       boolean not null default false,
    timeout      interval,
    queue        text not null,
    kind         text not null,
    tenant       text not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create unique index running_id on mayfly.running (id);
create index running_worker on mayfly.running (worker);

-- A lane is all ready jobs of one queue, kind and priority, in their order. A claim reads a lane
-- from its floor on: below it there is nothing but dead rows, which a scan would pay for as long as
-- any old transaction keeps them from being vacuumed. See mayfly.move_floors.
create table mayfly.lane (
    queue      text not null,
    kind       text not null,
    priority   smallint not null,
    floor      bigint not null default 0,
    next       bigint,                   -- becomes the floor once no transaction older than
    next_xid   xid8,                     -- next_xid is left
    moved_at   timestamptz not null default '-infinity',
    checked_at timestamptz not null default '-infinity',
    used_at    timestamptz not null default now(),
    primary key (queue, kind, priority)
) with (fillfactor = 50);

-- Armed by idle workers before they wait. Unlogged: it may be lost, workers arm it again.
create unlogged table mayfly.bell (
    queue       text primary key,        -- '*': all queues
    armed_until timestamptz not null
) with (fillfactor = 50);

create table mayfly.live_key (           -- unique keys of jobs that have not ended
    tenant text not null,
    key    text not null,
    id     bigint not null,
    primary key (tenant, key)
);
create unique index live_key_id on mayfly.live_key (id);

create table mayfly.queue (              -- only queues about which there is something to say
    queue     text primary key,
    paused    boolean not null default false,
    paused_at timestamptz,
    paused_by name
);

create table mayfly.tenant_grant (       -- tenant '*': all
    role   name not null,
    tenant text not null,
    primary key (role, tenant)
);

-- -------------------------------------------------------------------------------------------------
-- Blobs: bytes by their SHA-256, in chunks that a connection can carry without effort.

create table mayfly.blob (
    sha256     bytea primary key,
    size       bigint not null,
    kept_at    timestamptz not null default now(),  -- put or named in a result the last time
    constraint blob_sha256_is_32_bytes check (octet_length(sha256) = 32)
);
create table mayfly.blob_chunk (
    sha256  bytea not null,
    ordinal int not null,
    bytes   bytea not null,
    primary key (sha256, ordinal),
    constraint blob_chunk_at_most_256_kib check (octet_length(bytes) between 1 and 262144)
);
alter table mayfly.blob_chunk alter column bytes set storage external;  -- it rarely compresses
