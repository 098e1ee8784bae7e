-- Mayfly's queue, told from the beginning. Chapter 1 of version 1: what is stored.
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
-- A worker registers, gets a number, a secret and a lease, and keeps the lease alive with one
-- update of its own row (`mayfly.heartbeat`), however many jobs it holds. `mayfly.claim` moves rows
-- from ready to running; each gets a token that was never given out before. `mayfly.settle` ends an
-- attempt: it takes the row out of running by that token, or, when the row is gone because the
-- lease ran out and somebody gave the job back, refuses with MF005, and the transaction, with
-- the blobs of the result in it, rolls back. `outcome` has the job's id as its key: the schema
-- itself stores an outcome once. Any worker may call `mayfly.reap`, which gives back what dead
-- workers held.
--
-- Whose failure was it? The job's own (`failed`) is final unless the job asked for more with
-- max_attempts. Ours (`lost`: machine, image, worker) is tried again by itself, with growing
-- pauses, and costs the job nothing. Only a loss that speaks against the job is a strike: its
-- machine had come to life, and the host had not lost this job before, or has proven since that it
-- can run jobs. After `losses_max` strikes, or `losses_limit` losses of any sort, the job is stopped
-- as `poison`. `interrupted` is neither: the job is back at its place.
--
-- Nobody waits for somebody else. Producers hold transactions open for as long as they like, and
-- workers must never notice. So producers only ever insert rows that nobody else inserts, into
-- tables without a key that two of them could want (`cancel_request`, `lane_news`, `blob`); what is
-- common to all (lanes, floors) is written by the short transactions of workers alone; and there is
-- no advisory lock, because any role may take those. The exceptions are within one tenant: a unique
-- key, and a waiting job that is being cancelled, which claims step over.
--
-- Who may do what: roles in v1_7_roles.sql. A producer sees the view `mayfly.job` and functions, and
-- of the jobs only those of its tenants. Every clock is this server's.
--
-- Waking: a notification is a hint to look, never a fact, and workers poll as well. Workers listen
-- on a channel whose name only they can learn (`mayfly.worker_channel`); it says that a queue has
-- work, while an idle worker has armed the bell for that queue, or that one of a worker's attempts
-- was cancelled. `mayfly_done` carries the id of each job of the unnamed tenant that ended; each
-- named tenant has a channel of its own (`mayfly.done_channel`).
--
-- Refusals carry what and why as the message, what to do as the hint, and a stable SQLSTATE:
--     MF001  an argument is not acceptable            MF006  the worker is unknown or declared dead
--     MF002  the payload is not acceptable            MF007  no such blob, or its bytes are wrong
--     MF003  the tenant is not granted to the caller  MF008  not possible in the job's state
--     MF004  no such job                              MF009  only possible at READ COMMITTED
--     MF005  fenced: the attempt is no longer held    MF010  the server is too old
--                                                     MF011  no key for secrets, or a wrong one
--
-- A version is applied as a whole, its chapters in order: by `mayfly migrate`, in one transaction, or
-- by `psql -v ON_ERROR_STOP=1 -1 -f` for each. The last chapter notes the version in
-- mayfly.migration. Once released, a version is never edited.

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

-- What is refused and how long things may take. One row; an operator may update it.
create table mayfly.setting (
    only_row          boolean primary key default true
        constraint setting_is_one_row check (only_row),
    losses_max        int not null default 5,             -- the strike that makes a job poison
    losses_limit      int not null default 25,            -- the loss of any sort that does
    backoff_first     interval not null default '1 s',    -- doubles with every loss, retry
    backoff_max       interval not null default '5 min',
    timeout_default   interval not null default '1 h',    -- for the deadline, without timeout
    deadline_slack    interval not null default '1 min',  -- restore, store and destroy, generously
    restart_grace     interval not null default '15 s',   -- after a restart nobody is dead yet
    payload_bytes_max int not null default 16 * 1024 * 1024,
    blob_bytes_max    bigint not null default 1024 * 1024 * 1024,
    blob_call_max     int not null default 64 * 1024 * 1024,  -- of a blob in one call, as one value
    retention         interval default '30 days'          -- history and blobs; null: for ever
        constraint setting_retention_is_a_day_or_more check (retention >= interval '1 day')
);
insert into mayfly.setting default values;

-- From this the names of channels are made. Only the owner reads it.
create table mayfly.secret (
    only_row boolean primary key default true constraint secret_is_one_row check (only_row),
    bytes    bytea not null default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
insert into mayfly.secret default values;

-- With what producers seal secrets (v1_2_produce.sql): public keys, as JSON Web Keys. The private
-- ones are files of the hosts that run workers; the database never has one.
create table mayfly.secret_key (
    kid        text primary key
        constraint secret_key_kid_is_hex check (kid ~ '^[0-9a-f]{16}$'),
    jwk        jsonb not null,
    created_at timestamptz not null default clock_timestamp(),   -- of its last publication
    retired_at timestamptz                                       -- since then nobody seals with it
);

-- Work that one worker at a time does for all: whoever locks the row with SKIP LOCKED. Nobody but
-- the owner can lock it.
create table mayfly.duty (
    duty text primary key,
    note text                            -- what stood in the way the last time
);
insert into mayfly.duty (duty) values ('reap'), ('maintain');

-- Why attempts end otherwise than well: the closed list. `whose` decides what follows: a failure of
-- the `job` is its own, `ours` is tried again by itself, a `decision` was taken by somebody.
-- `retryable`: running the same job again could end differently.
create table mayfly.reason (
    reason    text primary key,
    whose     text not null,
    retryable boolean not null,
    meaning   text not null,
    constraint reason_whose_is_known check (whose in ('job', 'ours', 'decision'))
);
insert into mayfly.reason (reason, whose, retryable, meaning) values
    ('exit_nonzero', 'job', true, 'The program ended with an exit code other than zero.'),
    ('signalled', 'job', true, 'The program was ended by a signal that Mayfly did not send.'),
    ('timeout', 'job', true, 'The attempt took longer than its timeout and was stopped.'),
    ('out_of_memory', 'job', true, 'The program wanted more memory than its machine has.'),
    ('disk_full', 'job', true, 'The program wrote more than its machine can hold.'),
    ('output_limit', 'job', true, 'The program printed or left behind more than may be kept.'),
    ('invalid_payload', 'job', false,
        'The payload does not say what to run; no machine was used.'),
    ('blob_missing', 'job', false,
        'The payload names a blob that is not stored; put it and replay.'),
    ('blob_unavailable', 'job', true,
        'A blob was removed while it was read, or its bytes are wrong; put it again and replay.'),
    ('secret_unreadable', 'job', false,
        'A secret of the payload cannot be opened: it was changed, or is for another tenant.'),
    ('guest_protocol_violation', 'job', true, 'The machine broke the protocol and was destroyed.'),
    ('unsupported_format', 'job', false, 'What the document contains is none of the known formats.'),
    ('format_mismatch', 'job', false,
        'The document is something else than a document, or two things at once.'),
    ('document_damaged', 'job', false, 'No tool can open the document, not even after a repair.'),
    ('document_encrypted', 'job', false, 'The document needs a password; put it in "password".'),
    ('wrong_password', 'job', false, 'The password does not open the document.'),
    ('page_range', 'job', false, 'The document has none of the pages that were asked for.'),
    ('expansion_limit', 'job', false, 'Unpacked, the document would be larger or deeper than allowed.'),
    ('pixel_limit', 'job', false, 'An image or page has more pixels than allowed.'),
    ('converter_crashed', 'job', true, 'A tool ended by itself while it read the document.'),
    ('package_unavailable', 'job', false,
        'The image lacks what the job asks for, such as a language of the OCR.'),
    ('url_refused', 'job', false,
        'The address is none that a page may come from: not http or https, or with a password in it.'),
    ('navigation_failed', 'job', true, 'The page could not be loaded; the message says why.'),
    ('redirect_loop', 'job', true, 'The page was sent on, or sent itself on, again and again.'),
    ('http_status', 'job', true,
        'The page was answered with a status of 400 or more, and the job asked for that to fail.'),
    ('action_failed', 'job', true, 'An action or the script did not work; the message says which.'),
    ('wait_failed', 'job', true, 'What the job waits for did not come, and it insists on it.'),
    ('page_unresponsive', 'job', true, 'The scripts of the page ran without end and were stopped.'),
    ('page_crashed', 'job', true, 'The process of the page ended by itself.'),
    ('dialog_storm', 'job', true, 'The page opened one dialog after the other.'),
    ('page_storm', 'job', true, 'The page opened one window after the other.'),
    ('download_limit', 'job', true, 'A download that the job asked for is larger than allowed.'),
    ('network_denied', 'job', false, 'The program needs a destination that its allow-list lacks.'),
    ('machine_lost', 'ours', true,
        'The machine died or stopped answering in the middle of the attempt.'),
    ('hypervisor_memory', 'ours', true,
        'The machine''s hypervisor wanted more memory of the host than it may take.'),
    ('restore_failed', 'ours', true, 'No machine could be restored from the image.'),
    ('image_missing', 'ours', true,
        'The worker has no verified image for this kind; build it there.'),
    ('secret_key_missing', 'ours', true,
        'The worker has not the key that opens a secret of the payload; copy it there.'),
    ('lease_lost', 'ours', true, 'The worker stopped renewing its lease; the job was given back.'),
    ('deadline_exceeded', 'ours', true,
        'The worker lives but held the attempt far beyond its timeout.'),
    ('store_failed', 'ours', true,
        'The result could not be stored, or an input not be read, because of the database.'),
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
-- Cold: written once. All are partitioned by the job's id, so a week goes as a whole. There is no
-- default partition: to attach a week beside one would lock it against everybody.

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
    -- A few bytes of jsonb can print as a gigabyte. Whoever inserts, what is stored can be read.
    constraint job_payload_can_be_read check (octet_length(payload::text) <= 67108864),
    constraint job_max_attempts_in_range check (max_attempts between 1 and 100)
) partition by range (id);
create index job_data_tenant on mayfly.job_data (tenant, id);
create index job_data_unique_key on mayfly.job_data (unique_key) where unique_key is not null;
create index job_data_replay_of on mayfly.job_data (replay_of) where replay_of is not null;

create table mayfly.outcome (
    id          bigint not null primary key,   -- this key is what stores an outcome exactly once
    started_at  timestamptz,
    finished_at timestamptz not null default clock_timestamp(),
    attempt     smallint not null,
    state       text not null,
    tenant      text not null,
    result      jsonb,
    error       jsonb,
    constraint outcome_state_is_final check (state in ('succeeded', 'failed', 'cancelled')),
    constraint outcome_error_unless_succeeded check ((error is null) = (state = 'succeeded'))
) partition by range (id);
create index outcome_unwell on mayfly.outcome (state, id) where state <> 'succeeded';
create index outcome_unwell_of_tenant on mayfly.outcome (tenant, state, id)
    where state <> 'succeeded';

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
    host        text,
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

-- Which blobs a job names: in its payload, or in its result. While the row is there, so is the blob.
create table mayfly.blob_use (
    id     bigint not null,
    tenant text not null,
    sha256 bytea not null
) partition by range (id);
create index blob_use_sha256 on mayfly.blob_use (sha256, tenant);
create index blob_use_id on mayfly.blob_use (id);

-- -------------------------------------------------------------------------------------------------
-- Hot: a row here means that the job is alive. Vacuumed early and without pauses: they churn. Each
-- of the three tables has the same seven columns that wander: id, priority, timeout, queue, kind,
-- tenant and tries.

-- What happened to a job so far; null for one that was never claimed.
create type mayfly.tries as (
    attempt  smallint,                   -- tries so far
    failures smallint,                   -- of which the job's own failures
    losses   smallint,                   -- of which ours
    strikes  smallint,                   -- of which such that speak against the job
    lost_on  text[]                      -- the hosts that lost its machine
);

create table mayfly.ready (              -- runnable now: inserted and deleted, never updated
    id       bigint not null,
    priority smallint not null,
    timeout  interval,
    queue    text not null,
    kind     text not null,
    tenant   text not null,
    tries    mayfly.tries,
    pos      bigint not null default mayfly.new_position(),
    constraint ready_pkey primary key (queue, kind, priority, pos)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create unique index ready_id on mayfly.ready (id);

create table mayfly.delayed (            -- runnable later: scheduled, or pausing before a retry
    id       bigint not null primary key,
    priority smallint not null,
    timeout  interval,
    queue    text not null,
    kind     text not null,
    tenant   text not null,
    tries    mayfly.tries,
    run_at   timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create index delayed_run_at on mayfly.delayed (run_at);

-- How far a large file is on its way between the database and a machine. Noted once a second at
-- most, and never for what is small.
create type mayfly.transfer as (
    way   text,                          -- 'in' or 'out', as the machine sees it
    bytes bigint,                        -- so far
    size  bigint,
    at    timestamptz
);

create table mayfly.running (            -- one row per live attempt; only workers touch it
    id          bigint not null,
    priority    smallint not null,
    timeout     interval,
    queue       text not null,
    kind        text not null,
    tenant      text not null,
    tries       mayfly.tries not null,   -- with this attempt counted
    pos         bigint not null,         -- where it stood, for an attempt that is given back
    token       bigint not null default mayfly.new_position() primary key,
    worker      bigint not null,
    started_at  timestamptz not null default clock_timestamp(),
    deadline_at timestamptz not null,    -- moves on while a transfer does
    transfer    mayfly.transfer,
    progress    jsonb                    -- in the job's own words; noted once a second at most
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create unique index running_id on mayfly.running (id);
create index running_worker on mayfly.running (worker);

create table mayfly.worker (             -- one row per worker process; all that heartbeats touch
    worker       bigint generated always as identity primary key,
    secret       bytea not null,         -- SHA-256 of what only this process knows
    lease_until  timestamptz not null,
    started_at   timestamptz not null default now(),
    dead         boolean not null default false,
    slots        int not null,
    name         text not null,
    host         text not null,
    identity     text,    -- what only one process can be at a time: a new holder buries the old one
    version      text not null,
    kinds        text[] not null,
    queues       text[] not null,        -- empty: all
    health       text not null default 'ok',
    health_note  text,
    health_since timestamptz not null default now(),
    constraint worker_health_is_known check (health in ('ok', 'ill'))
) with (fillfactor = 50);

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
    checked_at timestamptz not null default clock_timestamp(),
    used_at    timestamptz not null default now(),
    closing    boolean not null default false,   -- empty for long; producers announce it anew
    primary key (queue, kind, priority)
) with (fillfactor = 50);

-- What claims must know of lanes: one that has work and no row yet, or work at a place that its
-- floor may have passed. Producers only insert here, and find the lane there most of the time.
create table mayfly.lane_news (
    queue    text not null,
    kind     text not null,
    priority smallint not null,
    floor    bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

-- Who wants a job stopped that was running at that moment. Only inserted to by producers; the row
-- goes when the job ends.
create table mayfly.cancel_request (
    id bigint not null,
    at timestamptz not null default clock_timestamp()
);
create index cancel_request_id on mayfly.cancel_request (id);

-- Who follows an attempt's output, and until when. Only inserted to by those who look. Unlogged, as
-- what they see: it is of use for seconds.
create unlogged table mayfly.follower (
    token bigint not null,
    until timestamptz not null
);
create index follower_token on mayfly.follower (token);

-- The newest pieces of what followed jobs print, by their place: the attempt's number times 2^32, and a
-- count.
create unlogged table mayfly.live_output (
    id     bigint not null,
    place  bigint not null,
    step   int not null,                 -- which of the job's programs, from 0
    stream text not null,
    at     bigint not null,              -- bytes of the stream before this piece
    bytes  int not null,                 -- of this piece, before it became text
    text   text not null,
    primary key (id, place)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

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

create table mayfly.tenant_grant (       -- tenant '*': all; '': the unnamed one, granted like any
    role   oid not null,                 -- not the name, which another role may bear tomorrow
    tenant text not null,
    primary key (tenant, role)
);

-- -------------------------------------------------------------------------------------------------
-- Blobs: bytes by their SHA-256, in parts that a connection can carry without effort. A blob
-- belongs to a tenant. Nothing here is unique, so that nobody waits for another's open transaction;
-- now and then the same bytes are stored twice, until the upkeep removes the older copy.
--
-- Until it is sealed a blob is an upload: it has no address, so nobody can read it, and it goes away
-- with the attempt it belongs to, or a day after a producer began it. All parts but the last have
-- the same size, so the same bytes always have the same parts, and `parts`, the SHA-256 of the
-- parts' SHA-256s, is what the database knows by its own work: bytes are only ever dropped in favour
-- of the very same. The address of a large blob is its writer's word, which every reader checks.

create table mayfly.blob (
    blob   bigint generated always as identity primary key,
    tenant text not null,
    sha256 bytea,                        -- null until sealed
    parts  bytea,
    size   bigint not null,
    token  bigint,                       -- of the attempt that uploads it; 0: to be removed
    put_at timestamptz not null default clock_timestamp(),
    constraint blob_sha256_is_32_bytes check (octet_length(sha256) = 32),
    constraint blob_is_sealed_as_a_whole check ((sha256 is null) = (parts is null))
);
create index blob_sha256 on mayfly.blob (sha256, tenant) where sha256 is not null;
create index blob_put_at on mayfly.blob (put_at) where sha256 is not null;
create index blob_upload on mayfly.blob (put_at) where sha256 is null;

create table mayfly.blob_chunk (
    blob    bigint not null,
    ordinal int not null,
    bytes   bytea not null,
    sha256  bytea not null generated always as (sha256(bytes)) stored,
    primary key (blob, ordinal),
    constraint blob_chunk_at_most_256_kib check (octet_length(bytes) between 1 and 262144)
);
alter table mayfly.blob_chunk alter column bytes set storage external;  -- it rarely compresses
