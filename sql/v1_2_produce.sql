-- Chapter 2: what backends call and read. The contract of producers: the view mayfly.job, enqueue
-- and INSERT, enqueue_many, list, get_job, cancel, replay, and blobs. The story is in
-- v1_1_tables.sql. What is called from outside runs with its owner's rights and checks its arguments
-- and the caller's tenants itself.
--
-- Plans are generic and functions are PL/pgSQL where it counts: both are called thousands of times a
-- second with statements whose best plan never changes, and planning one costs more than running it.

create function mayfly.refuse(code text, what text, remedy text) returns void language plpgsql as $$
begin
    raise exception using errcode = code, message = what, hint = remedy;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Who calls, and which tenants are theirs. Inside a function that runs with its owner's rights
-- current_user is the owner; the caller is the role that was set, or else the one that logged in.

create function mayfly.caller() returns name language sql stable as
$$ select case current_setting('role') when 'none' then session_user
    else current_setting('role')::name end $$;

-- Operators, the schema's owner, and whoever was granted '*'.
create function mayfly.oversees() returns boolean language plpgsql stable as $$
begin
    return coalesce(pg_has_role(mayfly.caller(), to_regrole('mayfly_operator'), 'member'), false)
        or exists (select from mayfly.tenant_grant g where g.tenant = '*'
            and pg_has_role(mayfly.caller(), g.role, 'member'))
        or exists (select from pg_namespace n where n.nspname = 'mayfly'
            and pg_has_role(mayfly.caller(), n.nspowner, 'member'));
end $$;
create function mayfly.sees_all() returns boolean language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
begin
    return mayfly.oversees();
end $$;

-- The tenants granted to the caller. Without a grant there is none, not even the unnamed one.
create function mayfly.tenants() returns text[] language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
begin
    return (select coalesce(array_agg(distinct g.tenant), '{}') from mayfly.tenant_grant g
        where pg_has_role(mayfly.caller(), g.role, 'member'));
end $$;

create function mayfly.may_use(tenant text) returns boolean language plpgsql stable as $$
begin
    return exists (select from mayfly.tenant_grant g where g.tenant = may_use.tenant
            and pg_has_role(mayfly.caller(), g.role, 'member'))
        or mayfly.oversees();
end $$;

create function mayfly.check_tenant(tenant text) returns void language plpgsql stable as $$
begin
    if not mayfly.may_use(tenant) then
        perform mayfly.refuse('MF003',
            format('the tenant %L is not granted to the role %I', tenant, mayfly.caller()),
            format('Have an operator run: select mayfly.grant_tenant(%L, %L). Granted so far: %s.',
                mayfly.caller(), tenant, coalesce((select string_agg(quote_literal(t), ', ')
                    from unnest(mayfly.tenants()) t), 'none')));
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Waking others. A notification is only sent while the server's queue of them has room: somebody
-- who listens and never reads can fill it, and then a commit with a notification fails. Nobody
-- depends on one.

create function mayfly.tell(channel text, payload text) returns void language plpgsql as $$
begin
    if pg_notification_queue_usage() < 0.5 then
        perform pg_notify(channel, payload);
    end if;
end $$;

-- A channel whose name cannot be guessed.
create function mayfly.channel(purpose text) returns text language plpgsql stable as $$
begin
    return (select 'mayfly_'
        || left(encode(sha256(s.bytes || convert_to(purpose, 'UTF8')), 'hex'), 40)
    from mayfly.secret s);
end $$;

-- Where the id of each job of this tenant is told when it ends.
create function mayfly.done_channel(tenant text default '') returns text language plpgsql stable
security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_tenant(tenant);
    return case when tenant = '' then 'mayfly_done' else mayfly.channel('done ' || tenant) end;
end $$;

-- Something became ready in a lane: claims must know of the lane, and a waiting worker of the work.
create function mayfly.announce(queue text, kind text, priority smallint) returns void
language plpgsql as $$
begin
    if not exists (select from mayfly.lane l where l.queue = announce.queue
            and l.kind = announce.kind and l.priority = announce.priority and not l.closing) then
        insert into mayfly.lane_news (queue, kind, priority, floor)
        values (queue, kind, priority, 9223372036854775807);
    end if;
    if exists (select from mayfly.bell b where b.queue in (announce.queue, '*')
            and b.armed_until > clock_timestamp()) then
        perform mayfly.tell(mayfly.channel('workers'), 'job ' || queue);
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- What may be enqueued

-- The text is what workers and backends will have to read, so the text is what is measured. But
-- first the numbers: a few bytes of jsonb can print as a gigabyte.
create function mayfly.check_payload(payload jsonb) returns void language plpgsql stable as $$
declare
    bytes_max int;
    size bigint;
begin
    if payload is null or jsonb_typeof(payload) <> 'object' then
        perform mayfly.refuse('MF002', format('the payload is %s, not a JSON object',
                coalesce(jsonb_typeof(payload), 'null')),
            'Pass {"key": value, …} as the kind wants it.');
    elsif payload @? 'strict $.** ? (@.type() == "number") ? (@ > 1.7976931348623157e308
            || @ < -1.7976931348623157e308 || (@ != 0 && @ < 4.9e-324 && @ > -4.9e-324))' then
        perform mayfly.refuse('MF002', 'the payload has a number that no double can hold',
            'Pass it as a string, if it is meant.');
    end if;
    perform mayfly.check_secrets(payload);
    size := pg_column_size(payload || '{}');   -- unpacked, even if it came from a table
    if size > 8192 then
        select s.payload_bytes_max into bytes_max from mayfly.setting s;
        if size / 4 > bytes_max then
            perform mayfly.refuse('MF002', format('the payload has over %s bytes, more than %s',
                size / 4, bytes_max), mayfly.large_payload_hint());
        elsif exists (select from jsonb_path_query(payload, 'strict $.** ? (@.type() == "number")')
                n where scale(n::numeric) > 400) then
            perform mayfly.refuse('MF002', 'the payload has a number with more than 400 decimals',
                'Round it, or pass it as a string.');
        end if;
        size := octet_length(payload::text);
        if size > bytes_max then
            perform mayfly.refuse('MF002', format('the payload has %s bytes, more than %s',
                size, bytes_max), mayfly.large_payload_hint());
        end if;
    end if;
end $$;

-- Secrets come into the database sealed or not at all: {"secrets": {"NAME": "<JWE>"}} of a program,
-- {"password": "<JWE>"} of a document, each a JWE in compact serialization with ECDH-ES and A256GCM:
-- five parts, the second empty, 12 bytes of nonce, 16 of tag. Workers have the key. A message never
-- repeats a value: it would stand in the server's log.
create function mayfly.is_sealed(value jsonb) returns boolean language sql immutable as
$$ select jsonb_typeof(value) = 'string' and length(value #>> '{}') <= 16384
    and value #>> '{}' ~ '^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{22}$' $$;

create function mayfly.check_secrets(payload jsonb) returns void language plpgsql stable as $$
declare
    place text;
begin
    -- `secrets` of a step is refused by the worker; here it must not be stored in the clear.
    if not payload @? 'lax $ ? (exists (@.password) || exists (@.secrets)
            || exists (@.setup.secrets) || exists (@.steps[*].secrets))' then
        return;
    end if;
    select s.place into place from (
            select 'password', payload -> 'password' where payload ? 'password'
            union all
            select rtrim('secrets.' || e.key, '.'), e.value
            from (select payload -> 'secrets' union all select payload #> '{setup,secrets}'
                    union all select jsonb_path_query(payload, 'lax $.steps[*].secrets')) h (g)
                cross join lateral jsonb_each(case when jsonb_typeof(g) = 'object' then g
                    else jsonb_build_object('', g) end) e
            where g is not null
        ) s (place, value)
    where not mayfly.is_sealed(s.value) limit 1;
    if found then
        perform mayfly.refuse('MF002', format('the payload''s %s is not sealed', left(place, 80)),
            'Seal it with the key of mayfly.secret_key(), as `mayfly secret seal` does: '
            'docs/payloads.md says how in other languages. Change it if it was a secret.');
    end if;
end $$;

-- Pages come from http and https, and from nowhere else: no file of a machine, no page of the
-- browser's own. And what opens somebody's account does not stand in a row: it is sealed in
-- `secrets`, and a cookie, a password, a browser's storage is {"secret": NAME}. Again a message
-- repeats no value.
create function mayfly.check_browse(payload jsonb) returns void language plpgsql stable as $$
declare
    place text;
begin
    select a.place into place from (
            select 'url', payload -> 'url' where payload ? 'url'
            union all
            select format('actions[%s].goto', e.n - 1), e.action -> 'goto'
            from jsonb_array_elements(mayfly.array_of(payload -> 'actions'))
                with ordinality e (action, n)
            where e.action ? 'goto'
        ) a (place, value)
    where coalesce(jsonb_typeof(a.value) <> 'string'
        or a.value #>> '{}' !~*
            '^https?://[^[:space:][:cntrl:]/?#@\\]+([/?#\\][^[:space:][:cntrl:]]*)?$', true)
    limit 1;
    if found then
        perform mayfly.refuse('MF002',
            format('the payload''s %s is no address that a page may come from', place),
            'Use http:// or https:// and a host, without a name or a password in it.');
    end if;
    select s.place into place from (
            select 'auth.password', payload #> '{auth,password}' where payload ? 'auth'
            union all
            select 'storage', payload -> 'storage' where payload ? 'storage'
            union all
            select format('cookies[%s].value', e.n - 1), e.cookie -> 'value'
            from jsonb_array_elements(mayfly.array_of(payload -> 'cookies'))
                with ordinality e (cookie, n)
            union all
            select 'headers.' || e.key, e.value
            from jsonb_each(case jsonb_typeof(payload -> 'headers') when 'object'
                    then payload -> 'headers' else '{}' end) e
            where lower(e.key) in ('authorization', 'cookie', 'proxy-authorization')
        ) s (place, value)
    where not coalesce(jsonb_typeof(s.value) = 'object' and s.value - 'secret' = '{}'
        and jsonb_typeof(s.value -> 'secret') = 'string', false)
    limit 1;
    if found then
        perform mayfly.refuse('MF002',
            format('the payload''s %s stands in the clear', left(place, 80)),
            'Seal it into "secrets", as `mayfly secret seal` does, and write {"secret": "NAME"}: '
            'docs/payloads.md says how. Change it if it was a secret.');
    end if;
end $$;
create function mayfly.array_of(value jsonb) returns jsonb language sql immutable parallel safe as
$$ select case jsonb_typeof(value) when 'array' then value else '[]' end $$;

-- The public key to seal secrets with, as a JSON Web Key: the newest that is not retired.
create function mayfly.secret_key() returns jsonb language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
    found_key jsonb;
begin
    select k.jwk into found_key from mayfly.secret_key k where k.retired_at is null
    order by k.created_at desc, k.kid limit 1;
    if not found then
        perform mayfly.refuse('MF011', 'there is no key to seal secrets with',
            'Have an operator run `mayfly secret keygen` on a host with a worker.');
    end if;
    return found_key;
end $$;

create function mayfly.large_payload_hint() returns text language sql immutable as
$$ select 'Put large inputs with mayfly.put_blob and name their SHA-256: {"blob": "…"}.' $$;

create function mayfly.check_job(
    kind text, payload jsonb, queue text, tenant text, priority int, run_at timestamptz,
    timeout interval, max_attempts int, unique_key text
) returns void language plpgsql stable as $$
declare
    name_form constant text := '^[a-z0-9][a-z0-9_.-]{0,62}$';
    name_hint constant text := 'Use 1 to 63 of: lower-case letters, digits, _ . -';
begin
    if kind is null or kind !~ name_form then
        perform mayfly.refuse('MF001', format('kind %s is not a name of a kind',
            coalesce(quote_literal(kind), 'null')), name_hint);
    elsif queue is null or queue !~ name_form then
        perform mayfly.refuse('MF001', format('queue %s is not a name of a queue',
            coalesce(quote_literal(queue), 'null')), name_hint);
    elsif tenant is null or tenant = '*' or length(tenant) > 128 or tenant ~ '[[:cntrl:]]' then
        perform mayfly.refuse('MF001',
            'the tenant is null, ''*'', too long or has control characters',
            'Use at most 128 printable characters; '''' when there is only one tenant.');
    elsif priority is null or priority not between -1000 and 1000 then
        perform mayfly.refuse('MF001', format('priority %s is out of range',
            coalesce(priority::text, 'null')),
            'Use -1000 to 1000; higher runs first, 0 is normal.');
    elsif run_at is null or not isfinite(run_at) or run_at > now() + interval '5 years' then
        perform mayfly.refuse('MF001', format('run_at %s is not a time in the next five years',
            coalesce(run_at::text, 'null')),
            'Leave it out to run at once.');
    elsif timeout < interval '1 second' or timeout > interval '24 hours' then
        perform mayfly.refuse('MF001', format('timeout %s is out of range', timeout),
            'Use 1 second to 24 hours, or null for the default of the kind.');
    elsif max_attempts not between 1 and 100 then
        perform mayfly.refuse('MF001', format('max_attempts %s is out of range', max_attempts),
            'Use 1 to 100; 1, the default, makes the first failure of the job final.');
    elsif length(unique_key) not between 1 and 256 then
        perform mayfly.refuse('MF001', 'unique_key is empty or longer than 256 characters',
            'Use 1 to 256 characters, a digest of them if need be, or null.');
    end if;
    perform mayfly.check_payload(payload);
    if kind = 'browse' then
        perform mayfly.check_browse(payload);
    end if;
    if payload ? 'network' then
        perform mayfly.check_network(kind, payload);
    end if;
end $$;

-- The id of the live job that holds the key, or null after the key was taken for `id`. Waits while
-- another transaction of the tenant that took the same key is open: only its end tells.
create function mayfly.take_key(tenant text, key text, id bigint) returns bigint language plpgsql
    as $$
declare
    holder bigint;
begin
    for try in 1 .. 100 loop
        insert into mayfly.live_key as k (tenant, key, id)
            values (take_key.tenant, take_key.key, take_key.id)
            on conflict do nothing;
        if found then
            return null;
        end if;
        select k.id into holder from mayfly.live_key k
            where k.tenant = take_key.tenant and k.key = take_key.key;
        if found then
            return holder;
        end if;                          -- its job ended just now: the key is free again
    end loop;
    raise exception using errcode = '40001', message = 'the unique key changes hands too fast',
        hint = 'Try the transaction again.';
end $$;

-- Notes which blobs a payload names, {"blob": "<sha256>"} at any depth, so that they stay as long
-- as the job.
create function mayfly.note_blobs(id bigint, tenant text, payload jsonb) returns void
language plpgsql as $$
begin
    if strpos(payload::text, '"blob"') > 0 then
        insert into mayfly.blob_use (id, tenant, sha256)
        select distinct note_blobs.id, note_blobs.tenant, decode(b #>> '{}', 'hex')
        from jsonb_path_query(payload, 'lax $.**.blob ? (@ like_regex "^[0-9a-f]{64}$")') b;
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Enqueue

-- Stores a job that was checked, and answers its row; or, when a live job holds the key, the id of
-- that one in a row that is otherwise null.
create function mayfly.put_job(
    kind text, payload jsonb, queue text, tenant text, priority int, run_at timestamptz,
    timeout interval, max_attempts int, unique_key text,
    replay_of bigint default null, pin jsonb default null
) returns mayfly.job_data language plpgsql as $$
declare
    job mayfly.job_data;
    holder bigint;
begin
    job.id := mayfly.new_id();
    if unique_key is not null then
        holder := mayfly.take_key(tenant, unique_key, job.id);
        if holder is not null then
            job.id := holder;
            return job;
        end if;
    end if;
    insert into mayfly.job_data (id, run_at, timeout, priority, max_attempts, queue, tenant, kind,
        unique_key, replay_of, pin, payload)
    values (job.id, run_at, timeout, priority, coalesce(max_attempts, 1), queue, tenant, kind,
        unique_key, replay_of, pin, payload)
    returning * into job;
    perform mayfly.note_blobs(job.id, tenant, payload);
    if run_at <= now() then
        insert into mayfly.ready (id, priority, timeout, queue, kind, tenant)
        values (job.id, priority, timeout, queue, kind, tenant);
        perform mayfly.announce(queue, kind, priority::smallint);
    else
        insert into mayfly.delayed (id, priority, timeout, queue, kind, tenant, run_at)
        values (job.id, priority, timeout, queue, kind, tenant, run_at);
    end if;
    return job;
end $$;

create function mayfly.enqueue(
    kind text, payload jsonb, queue text default 'default', tenant text default '',
    priority int default 0, run_at timestamptz default now(), timeout interval default null,
    max_attempts int default null, unique_key text default null
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan as $$
declare
    job mayfly.job_data;
begin
    perform mayfly.check_job(kind, payload, queue, tenant, priority, run_at, timeout, max_attempts,
        unique_key);
    perform mayfly.check_tenant(tenant);
    job := mayfly.put_job(kind, payload, queue, tenant, priority, run_at, timeout, max_attempts,
        unique_key);
    return job.id;
end $$;

-- One element of enqueue_many's argument; the keys are enqueue's arguments.
create type mayfly.new_job as (
    kind text, payload jsonb, queue text, tenant text, priority int, run_at timestamptz,
    timeout interval, max_attempts int, unique_key text
);

create function mayfly.check_element(element jsonb) returns mayfly.new_job language plpgsql stable
as $$
declare
    unknown text;
    job mayfly.new_job;
begin
    if jsonb_typeof(element) <> 'object' then
        perform mayfly.refuse('MF001', 'not a JSON object',
            'Pass {"kind": "code", "payload": {…}}.');
    end if;
    select k into unknown from jsonb_object_keys(element) k
    where k not in ('kind', 'payload', 'queue', 'tenant', 'priority', 'run_at', 'timeout',
        'max_attempts', 'unique_key')
    limit 1;
    if found then
        perform mayfly.refuse('MF001', format('unknown key %L', unknown),
            'The keys are the arguments of mayfly.enqueue.');
    end if;
    job := jsonb_populate_record(null::mayfly.new_job, element);
    perform mayfly.check_job(job.kind, job.payload, coalesce(job.queue, 'default'),
        coalesce(job.tenant, ''), coalesce(job.priority, 0), coalesce(job.run_at, now()),
        job.timeout, job.max_attempts, job.unique_key);
    return job;
end $$;

-- Many at once: [{"kind": …, "payload": …, …}, …]. All or none; the ids come in the order of the
-- array.
create function mayfly.enqueue_many(jobs jsonb) returns setof bigint language plpgsql
security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan as $$
declare
    element jsonb;
    place int := -1;
    remedy text;
begin
    if jobs is null or jsonb_typeof(jobs) <> 'array' or jsonb_array_length(jobs) > 10000 then
        perform mayfly.refuse('MF001', 'enqueue_many expects a JSON array of at most 10,000 jobs',
            'Pass [{"kind": "code", "payload": {…}}, …], in several calls if need be.');
    end if;
    begin
        for element in select e from jsonb_array_elements(jobs) e loop
            place := place + 1;
            perform mayfly.check_element(element);
        end loop;
    exception
        when sqlstate 'MF001' or sqlstate 'MF002' then
            get stacked diagnostics remedy = pg_exception_hint;
            perform mayfly.refuse(sqlstate, format('element %s: %s', place, sqlerrm), remedy);
        when data_exception then         -- a text where a number, a time or an interval belongs
            perform mayfly.refuse('MF001', format('element %s: %s', place, sqlerrm),
                'The values are of the types of mayfly.enqueue''s arguments.');
    end;
    perform mayfly.check_tenant(t.tenant) from
        (select distinct coalesce(e.job ->> 'tenant', '')
            from jsonb_array_elements(jobs) e (job)) t (tenant);
    return query select s.id from mayfly.put_jobs(jobs) s (id);
end $$;

-- Stores what enqueue_many has checked, in one statement.
create function mayfly.put_jobs(jobs jsonb) returns setof bigint language plpgsql as $$
begin
    return query with element as materialized (
        select e.n, mayfly.new_id() as id, r.kind, r.payload, r.timeout, r.unique_key,
            coalesce(r.queue, 'default') as queue, coalesce(r.tenant, '') as tenant,
            coalesce(r.priority, 0)::smallint as priority, coalesce(r.run_at, now()) as run_at,
            coalesce(r.max_attempts, 1)::smallint as max_attempts
        from jsonb_array_elements(jobs) with ordinality e (job, n)
            cross join jsonb_populate_record(null::mayfly.new_job, e.job) r
        order by e.n),
    -- Keys are taken in one order by everybody, so that two bulk calls cannot deadlock.
    keyed as materialized (
        select o.n, mayfly.take_key(o.tenant, o.unique_key, o.id) as holder
        from (select e.* from element e where e.unique_key is not null
            order by e.tenant, e.unique_key) o),
    fresh as materialized (
        select e.* from element e left join keyed k on k.n = e.n where k.holder is null),
    stored as (
        insert into mayfly.job_data (id, run_at, timeout, priority, max_attempts, queue, tenant,
            kind, unique_key, payload)
        select f.id, f.run_at, f.timeout, f.priority, f.max_attempts, f.queue, f.tenant, f.kind,
            f.unique_key, f.payload from fresh f),
    noted as materialized (
        select mayfly.note_blobs(f.id, f.tenant, f.payload) from fresh f
        where strpos(f.payload::text, '"blob"') > 0),
    now_ready as (
        insert into mayfly.ready (id, priority, timeout, queue, kind, tenant)
        select f.id, f.priority, f.timeout, f.queue, f.kind, f.tenant
        from fresh f where f.run_at <= now() order by f.n),
    later as (
        insert into mayfly.delayed (id, priority, timeout, queue, kind, tenant, run_at)
        select f.id, f.priority, f.timeout, f.queue, f.kind, f.tenant, f.run_at
        from fresh f where f.run_at > now()),
    told as materialized (
        select mayfly.announce(t.queue, t.kind, t.priority) from (select distinct f.queue, f.kind,
            f.priority from fresh f where f.run_at <= now()) t)
    select coalesce(k.holder, e.id) from element e left join keyed k on k.n = e.n
    where (select count(*) from noted) >= 0 and (select count(*) from told) >= 0  -- they must run
    order by e.n;
end $$;

-- -------------------------------------------------------------------------------------------------
-- mayfly.job: what backends read, and insert into

create view mayfly.job with (security_barrier) as
select d.id, d.queue, d.tenant, d.kind,
    case when o.id is not null then o.state when r.id is not null then 'running' else 'queued' end
        as state,
    d.priority::int as priority, d.payload, o.result, o.error,
    coalesce(o.attempt, (r.tries).attempt, (w.tries).attempt, (l.tries).attempt, 0)::int as attempt,
    d.max_attempts::int as max_attempts, d.unique_key, d.replay_of,
    case when o.id is null then coalesce(l.run_at, d.run_at) else d.run_at end as run_at,
    d.created_at, coalesce(o.started_at, r.started_at) as started_at, o.finished_at, d.timeout,
    o.id is null and exists (select from mayfly.cancel_request c where c.id = d.id)
        as cancel_requested,
    r.worker, r.progress
from mayfly.job_data d
    left join mayfly.outcome o on o.id = d.id
    left join mayfly.running r on r.id = d.id
    left join mayfly.ready w on w.id = d.id
    left join mayfly.delayed l on l.id = d.id
where (select mayfly.sees_all()) or d.tenant = any ((select mayfly.tenants())::text[]);

alter view mayfly.job alter column queue set default 'default';
alter view mayfly.job alter column tenant set default '';
alter view mayfly.job alter column priority set default 0;

create function mayfly.insert_job() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
    job mayfly.job_data;
begin
    if num_nonnulls(new.id, new.state, new.result, new.error, new.attempt, new.replay_of,
        new.created_at, new.started_at, new.finished_at, new.cancel_requested, new.worker,
        new.progress) > 0 then
        perform mayfly.refuse('MF001',
            'an INSERT into mayfly.job gives a column that the queue fills in',
            'Give only the columns that are arguments of mayfly.enqueue.');
    end if;
    new.queue := coalesce(new.queue, 'default');
    new.tenant := coalesce(new.tenant, '');
    new.priority := coalesce(new.priority, 0);
    new.run_at := coalesce(new.run_at, now());
    perform mayfly.check_job(new.kind, new.payload, new.queue, new.tenant, new.priority, new.run_at,
        new.timeout, new.max_attempts, new.unique_key);
    perform mayfly.check_tenant(new.tenant);
    job := mayfly.put_job(new.kind, new.payload, new.queue, new.tenant, new.priority, new.run_at,
        new.timeout, new.max_attempts, new.unique_key);
    if job.kind is null then             -- a live job holds the key: what RETURNING gives is that
        select j.* into new from mayfly.job j where j.id = job.id;
        return new;
    end if;
    new.id := job.id;
    new.state := 'queued';
    new.created_at := job.created_at;
    new.max_attempts := job.max_attempts;
    new.attempt := 0;
    new.cancel_requested := false;
    return new;
end $$;
create trigger insert_job instead of insert on mayfly.job
    for each row execute function mayfly.insert_job();

-- Times as programs like to read them.
create function mayfly.iso(at timestamptz) returns text language sql immutable parallel safe as
$$ select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;

-- The job with this id, or nothing when there is none for the caller. Unlike a query of the view
-- its plan, and how long it took, do not tell whether somebody else has a job of that id.
create function mayfly.get_job(id bigint) returns setof mayfly.job language plpgsql stable
security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    return query select j.* from mayfly.job j where j.id = get_job.id;
end $$;

-- Ids of the newest jobs that fit; null fits all. It walks back from the newest and stops when it
-- has enough: along the tenant's own index where there are few tenants to look for, along the index
-- of failures for a few failures among a hundred million jobs.
create function mayfly.find(
    state text, kind text, queue text, tenants text[], since timestamptz, until timestamptz,
    limit_rows int, unreplayed boolean
) returns bigint[] language plpgsql stable
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set jit = off as $$
declare
    source text;
    fits text := 'd.id >= $1 and d.id < $2 and ($3 is null or d.kind = $3)
        and ($4 is null or d.queue = $4)';
    found_ids bigint[];
begin
    if state = 'succeeded' or state is null then
        source := 'mayfly.job_data d';
    elsif state in ('failed', 'cancelled') then
        source := format('(select o.id, o.tenant, x.kind, x.queue from mayfly.outcome o
            join mayfly.job_data x on x.id = o.id where o.state = %L) d', state);
    elsif state = 'running' then
        source := 'mayfly.running d';
    elsif state = 'queued' then
        source := '(select r.id, r.kind, r.queue, r.tenant from mayfly.ready r
            union all select r.id, r.kind, r.queue, r.tenant from mayfly.delayed r) d';
    else
        perform mayfly.refuse('MF001', format('there is no state %L', state),
            'Use queued, running, succeeded, failed or cancelled.');
    end if;
    if state = 'succeeded' then
        fits := fits || ' and exists (select from mayfly.outcome o where o.id = d.id
            and o.state = ''succeeded'')';
    end if;
    if unreplayed then
        fits := fits || ' and not exists (select from mayfly.job_data n where n.replay_of = d.id)';
    end if;
    execute format(case when tenants is null
            then 'select array_agg(c.id) from (select d.id from %s where %s
                order by d.id desc limit $6) c'
            else 'select array_agg(c.id) from (select x.id from unnest($5) t (tenant)
                cross join lateral (select d.id from %s where d.tenant = t.tenant and %s
                    order by d.id desc limit $6) x
                order by x.id desc limit $6) c' end, source, fits)
    into found_ids using coalesce(mayfly.id_at(since), 0),
        coalesce(mayfly.id_at(until), 9223372036854775807), kind, queue, tenants, limit_rows;
    return found_ids;
end $$;

-- The tenants among which the caller may look, when it asks for `tenant`; null: all.
create function mayfly.visible_tenants(tenant text) returns text[] language plpgsql stable as $$
begin
    if mayfly.sees_all() then
        return case when tenant is not null then array[tenant] end;
    end if;
    return coalesce((select array_agg(t) from unnest(mayfly.tenants()) t
        where tenant is null or t = tenant), '{}');
end $$;

-- The newest jobs that fit; null fits all. Prefer it to the view for lists: the view, which must
-- not let a query's own functions see foreign tenants, may read much more.
create function mayfly.list(
    state text default null, kind text default null, queue text default null,
    tenant text default null, since timestamptz default null, until timestamptz default null,
    limit_rows int default 100
) returns setof mayfly.job language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set jit = off as $$
declare
    wanted bigint[] := mayfly.find(state, kind, queue, mayfly.visible_tenants(tenant), since, until,
        limit_rows, false);
begin
    return query select j.* from mayfly.job j where j.id = any (wanted) order by j.id desc;
end $$;

-- -------------------------------------------------------------------------------------------------
-- The end of a job, by whatever way. Only mayfly.end_attempt, mayfly.cancel and mayfly.reap come
-- here.

create function mayfly.finish(
    id bigint, tenant text, state text, attempt smallint, started_at timestamptz, result jsonb,
    error jsonb
) returns void language plpgsql as $$
begin
    insert into mayfly.outcome (id, tenant, state, attempt, started_at, result, error)
    values (id, tenant, state, coalesce(attempt, 0), started_at, result, error);
    delete from mayfly.live_key k where k.id = finish.id;
    delete from mayfly.cancel_request c where c.id = finish.id;
    perform mayfly.tell(case when tenant = '' then 'mayfly_done'
        else mayfly.channel('done ' || tenant) end, id::text);
end $$;

-- The `error` of a job: reason, message, and whether running it again could end differently.
create function mayfly.error_of(reason text, message text) returns jsonb language sql stable as $$
    select jsonb_build_object('reason', r.reason, 'message',
        coalesce(nullif(message, ''), r.meaning),
        'retryable', r.retryable)
    from mayfly.reason r where r.reason = error_of.reason
$$;

create function mayfly.check_job_id(id bigint) returns mayfly.job_data language plpgsql stable as $$
declare
    job mayfly.job_data;
begin
    select d.* into job from mayfly.job_data d where d.id = check_job_id.id;
    -- A job of somebody else's tenant does not exist for the caller.
    if not found or not mayfly.may_use(job.tenant) then
        perform mayfly.refuse('MF004', format('there is no job %s', coalesce(id::text, 'null')),
            'Look for it in mayfly.job; history goes away after the retention time.');
    end if;
    return job;
end $$;

-- Cancels one job and answers what it is now: 'cancelled' when it was waiting, 'cancelling' when it
-- runs (its worker is told at once and ends it within a second), else the state in which it ended.
create function mayfly.cancel(id bigint) returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set jit = off as $$
declare
    job mayfly.job_data := mayfly.check_job_id(id);
    so_far mayfly.tries;
    holder bigint;
    state_now text;
begin
    for try in 1 .. 100 loop              -- it may move on between two of these looks
        delete from mayfly.delayed d where d.id = job.id returning (d.tries).* into so_far;
        if not found then
            delete from mayfly.ready w where w.id = job.id returning (w.tries).* into so_far;
        end if;
        if found then
            perform mayfly.finish(job.id, job.tenant, 'cancelled', so_far.attempt, null, null,
                mayfly.error_of('cancelled', 'cancelled before it ran'));
            return 'cancelled';
        end if;
        select r.worker into holder from mayfly.running r where r.id = job.id;
        if found then
            insert into mayfly.cancel_request (id) values (job.id);
            perform mayfly.tell(mayfly.channel('workers'), 'cancel ' || holder);
            return 'cancelling';
        end if;
        select o.state into state_now from mayfly.outcome o where o.id = job.id;
        if found then
            return state_now;
        end if;
    end loop;
    raise exception using errcode = '40001', message = format('job %s moves too fast', id),
        hint = 'Try the transaction again.';
end $$;

-- -------------------------------------------------------------------------------------------------
-- Replay: a new job with the payload of one that has ended; the original stays as it is. It does
-- not take the original's unique key. Pinned: in the same image generation, with the entropy and
-- the clock of the original's last attempt.

-- Null when no attempt of the job got as far as a machine.
create function mayfly.pin_of(id bigint) returns jsonb language sql stable as $$
    select jsonb_build_object('generation', a.generation, 'seed', encode(a.seed, 'hex'),
        'clock', a.clock)
    from mayfly.attempt a
    where a.id = pin_of.id and a.generation is not null and a.seed is not null
        and a.clock is not null
    order by a.attempt desc limit 1
$$;

create function mayfly.replay(id bigint, pinned boolean default false) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan as $$
declare
    job mayfly.job_data := mayfly.check_job_id(id);
    copy mayfly.job_data;
    pin jsonb := case when pinned then mayfly.pin_of(id) end;
begin
    if not exists (select from mayfly.outcome o where o.id = job.id) then
        perform mayfly.refuse('MF008', format('job %s has not ended yet', id),
            'Wait for it, or cancel it first with mayfly.cancel.');
    elsif pinned and pin is null then
        perform mayfly.refuse('MF008',
            format('job %s cannot be replayed pinned: no attempt of it got as far as a machine',
                id),
            'Replay it without pinned.');
    end if;
    copy := mayfly.put_job(job.kind, job.payload, job.queue, job.tenant, job.priority, now(),
        job.timeout, job.max_attempts, null, job.id, pin);
    return copy.id;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Blobs. A blob belongs to a tenant: to know the SHA-256 of somebody else's bytes gives nobody the
-- bytes. A blob stays as long as a job names it, and at least for the retention time after it was
-- put.

create function mayfly.blob_address(sha256 text) returns bytea language plpgsql immutable as $$
begin
    if sha256 is null or sha256 !~ '^[0-9a-f]{64}$' then
        perform mayfly.refuse('MF001', format('%s is not the address of a blob',
            coalesce(quote_literal(left(sha256, 80)), 'null')),
            'Use the SHA-256 as 64 lower-case hexadecimal digits, as mayfly.put_blob returns it.');
    end if;
    return decode(sha256, 'hex');
end $$;

-- Whether the bytes are there and were put so lately that the upkeep is far from removing them.
create function mayfly.has_fresh_blob(tenant text, address bytea, parts bytea) returns boolean
language plpgsql stable as $$
begin
    return exists (select from mayfly.blob b where b.sha256 = address
        and b.tenant = has_fresh_blob.tenant and b.parts = has_fresh_blob.parts
        and b.put_at > now() - interval '1 day');
end $$;

-- The size of all parts but a blob's last.
create function mayfly.part_size() returns int language sql immutable parallel safe as
$$ select 262144 $$;

-- Adds bytes to an upload at `at`, where the parts before end; again the same bytes at the same
-- place: nothing happens. Answers where the next ones go.
create function mayfly.put_parts(upload bigint, bytes bytea, at bigint) returns bigint
language plpgsql as $$
declare
    unit constant int := mayfly.part_size();
    bytes_max constant bigint := (select s.blob_bytes_max from mayfly.setting s);
    ends bigint := coalesce((select c.ordinal::bigint * unit + octet_length(c.bytes)
        from mayfly.blob_chunk c where c.blob = upload order by c.ordinal desc limit 1), 0);
begin
    at := coalesce(at, ends);
    if bytes is null or octet_length(bytes) not between 1 and 16777216 then
        perform mayfly.refuse('MF001', format('a part of a blob cannot have %s bytes',
            coalesce(octet_length(bytes)::text, 'null')), 'Send 1 byte to 16 MiB at a time.');
    elsif at < 0 or at % unit <> 0 or at > ends then
        perform mayfly.refuse('MF001',
            format('a part cannot begin at %s of an upload that has %s bytes', at, ends),
            format('Send the parts in their order, all but the last in multiples of %s bytes.',
                unit));
    elsif at + octet_length(bytes) > bytes_max then
        perform mayfly.refuse('MF007', format('the blob is larger than %s bytes', bytes_max),
            'Split the data, or have an operator raise mayfly.setting.blob_bytes_max.');
    end if;
    insert into mayfly.blob_chunk (blob, ordinal, bytes)
    select upload, at / unit + n, substring(put_parts.bytes from n * unit + 1 for unit)
    from generate_series(0, (octet_length(bytes) - 1) / unit) n
    on conflict do nothing;
    if at < ends and exists (
            select from generate_series(0, (octet_length(bytes) - 1) / unit) n
                join mayfly.blob_chunk c on c.blob = upload and c.ordinal = at / unit + n
            where c.sha256 <> sha256(substring(put_parts.bytes from n * unit + 1 for unit))) then
        perform mayfly.refuse('MF001', format('other bytes were sent for %s of the upload', at),
            'Begin a new upload.');
    end if;
    return at + octet_length(bytes);
end $$;

-- What has arrived of an upload.
create function mayfly.measure_upload(upload bigint, out size bigint, out parts bytea)
language plpgsql stable as $$
begin
    select coalesce(sum(octet_length(c.bytes)), 0),
            sha256(coalesce(string_agg(c.sha256, ''::bytea order by c.ordinal), ''))
        into size, parts
    from mayfly.blob_chunk c where c.blob = upload;
end $$;

-- Stores bytes that are here as one value; answers their address.
create function mayfly.store_bytes(bytes bytea, tenant text) returns bytea language plpgsql as $$
declare
    unit constant int := mayfly.part_size();
    address bytea := sha256(bytes);
    parts bytea := (select sha256(coalesce(string_agg(sha256(
            substring(bytes from n * unit + 1 for unit)), ''::bytea order by n), ''))
        from generate_series(0, (octet_length(bytes) - 1) / unit) n
        where octet_length(bytes) > 0);
    number bigint;
begin
    if not mayfly.has_fresh_blob(tenant, address, parts) then
        insert into mayfly.blob as b (tenant, sha256, parts, size)
        values (tenant, address, parts, octet_length(bytes)) returning b.blob into number;
        insert into mayfly.blob_chunk (blob, ordinal, bytes)
        select number, n, substring(bytes from n * unit + 1 for unit)
        from generate_series(0, (octet_length(bytes) - 1) / unit) n
        where octet_length(bytes) > 0;
    end if;
    return address;
end $$;

create function mayfly.put_blob(bytes bytea, tenant text default '') returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    bytes_max bigint := (select least(s.blob_call_max, s.blob_bytes_max) from mayfly.setting s);
begin
    perform mayfly.check_tenant(tenant);
    if bytes is null or octet_length(bytes) > bytes_max then
        perform mayfly.refuse('MF007', case when bytes is null then 'the blob is null'
                else format('the blob has %s bytes, more than %s in one call',
                    octet_length(bytes), bytes_max) end,
            'Put it in parts: mayfly.begin_blob, append_blob, finish_blob; or mayfly blob put.');
    end if;
    return encode(mayfly.store_bytes(bytes, tenant), 'hex');
end $$;

-- A blob in parts, each in a transaction of its own: begin_blob answers the number of an upload,
-- append_blob takes up to 16 MiB (all but the last call a multiple of 256 KiB) and answers where the
-- next bytes go, finish_blob answers the address. `at` lets a call be repeated whose answer was
-- lost. An upload that is not finished within a day goes away.
create function mayfly.begin_blob(tenant text default '') returns bigint language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    upload bigint;
begin
    perform mayfly.check_tenant(tenant);
    insert into mayfly.blob as b (tenant, size) values (tenant, 0) returning b.blob into upload;
    return upload;
end $$;

-- The tenant of a producer's upload; one of somebody else's does not exist for the caller.
create function mayfly.check_upload(upload bigint) returns text language plpgsql stable as $$
declare
    tenant text;
begin
    select b.tenant into tenant from mayfly.blob b where b.blob = upload and b.sha256 is null
        and b.token is null and b.put_at > now() - interval '1 day';
    if not found or not mayfly.may_use(tenant) then
        perform mayfly.refuse('MF007', format('there is no upload %s',
            coalesce(upload::text, 'null')),
            'Begin one with mayfly.begin_blob; it must be finished within a day.');
    end if;
    return tenant;
end $$;

create function mayfly.append_blob(upload bigint, bytes bytea, at bigint default null)
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
begin
    perform mayfly.check_upload(upload);
    return mayfly.put_parts(upload, bytes, at);
end $$;

-- `sha256`: the bytes' address, which may be left out only while the database can compute it: up to
-- mayfly.setting.blob_call_max. So far it is checked here; that of a larger blob when it is read.
create function mayfly.finish_blob(upload bigint, sha256 text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    tenant text := mayfly.check_upload(upload);
    address bytea := case when sha256 is not null then mayfly.blob_address(sha256) end;
    whole record;
    found_address bytea;
begin
    select m.* into whole from mayfly.measure_upload(upload) m;
    if whole.size <= (select s.blob_call_max from mayfly.setting s) then
        found_address := sha256(coalesce((select string_agg(c.bytes, ''::bytea order by c.ordinal)
            from mayfly.blob_chunk c where c.blob = upload), ''));
        if address <> found_address then
            perform mayfly.refuse('MF007', format('the %s bytes of the upload are not %s but %s',
                whole.size, sha256, encode(found_address, 'hex')), 'Begin a new upload.');
        end if;
        address := found_address;
    elsif address is null then
        perform mayfly.refuse('MF001', format('the SHA-256 of %s bytes cannot be left out',
            whole.size), 'Compute it while you send them, and pass it to finish_blob.');
    end if;
    if mayfly.has_fresh_blob(tenant, address, whole.parts) then
        update mayfly.blob b set token = 0 where b.blob = upload;
    else
        update mayfly.blob b set sha256 = address, parts = whole.parts, size = whole.size,
            put_at = clock_timestamp() where b.blob = upload;
    end if;
    return encode(address, 'hex');
end $$;

-- The newest copy of a blob: a wrong one is healed by putting the right bytes. tenants null:
-- whoever's.
create function mayfly.find_blob(
    address bytea, tenants text[], out number bigint, out size bigint
) language plpgsql stable as $$
begin
    select b.blob, b.size into number, size from mayfly.blob b
    where b.sha256 = address and (tenants is null or b.tenant = any (tenants))
    order by b.blob desc limit 1;
    if not found then
        perform mayfly.refuse('MF007', format('there is no blob %s', encode(address, 'hex')),
            'Put it with mayfly.put_blob; unused blobs go away after the retention time.');
    end if;
end $$;

create function mayfly.get_blob(sha256 text) returns bytea language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
    here record;
begin
    select f.* into here from mayfly.find_blob(mayfly.blob_address(sha256),
        mayfly.visible_tenants(null)) f;
    if here.size > (select s.blob_call_max from mayfly.setting s) then
        perform mayfly.refuse('MF007', format('the blob has %s bytes, too many for one call',
            here.size), 'Read it with mayfly.get_blob_part; or mayfly blob get.');
    end if;
    return coalesce((select string_agg(c.bytes, ''::bytea order by c.ordinal)
        from mayfly.blob_chunk c where c.blob = here.number), '');
end $$;

create function mayfly.blob_size(sha256 text) returns bigint language plpgsql stable
security definer set search_path = pg_catalog, pg_temp as $$
begin
    return (select f.size from mayfly.find_blob(mayfly.blob_address(sha256),
        mayfly.visible_tenants(null)) f);
end $$;

-- Up to `count` bytes from `at` on; none: that was all. Whoever reads a whole blob this way checks
-- its SHA-256.
create function mayfly.get_blob_part(sha256 text, at bigint, count int default 262144)
returns bytea language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    unit constant int := mayfly.part_size();
    here record;
begin
    if at is null or at < 0 or count is null or count not between 1 and 16777216 then
        perform mayfly.refuse('MF001', format('there are no %s bytes at %s',
            coalesce(count::text, 'null'), coalesce(at::text, 'null')),
            'Read 1 byte to 16 MiB at a time, from 0 on.');
    end if;
    select f.* into here from mayfly.find_blob(mayfly.blob_address(sha256),
        mayfly.visible_tenants(null)) f;
    if at >= here.size then
        return '';
    end if;
    return (select substring(string_agg(c.bytes, ''::bytea order by c.ordinal)
            from (at % unit)::int + 1 for count)
        from mayfly.blob_chunk c where c.blob = here.number
            and c.ordinal between at / unit and (at + count - 1) / unit);
end $$;

create type mayfly.stored_blob as (
    sha256 text,
    tenant text,
    size   bigint,
    put_at timestamptz,
    jobs   bigint                        -- how many name it
);

-- The newest blobs, of a job (those that its payload or result names) or of a tenant; null fits
-- all.
create function mayfly.list_blobs(
    job bigint default null, tenant text default null, limit_rows int default 100
) returns setof mayfly.stored_blob language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
    tenants text[] := mayfly.visible_tenants(list_blobs.tenant);
    addresses bytea[];
begin
    if job is not null then
        perform mayfly.check_job_id(job);
        addresses := array(select distinct u.sha256 from mayfly.blob_use u where u.id = job);
        tenants := array(select d.tenant from mayfly.job_data d where d.id = job);
    end if;
    return query
        select encode(b.sha256, 'hex'), b.tenant, b.size, b.put_at,
            (select count(distinct u.id) from mayfly.blob_use u
                where u.sha256 = b.sha256 and u.tenant = b.tenant)
        from mayfly.blob b
        where b.sha256 is not null and (tenants is null or b.tenant = any (tenants))
            and (addresses is null or b.sha256 = any (addresses))
            and not exists (select from mayfly.blob n where n.sha256 = b.sha256
                and n.tenant = b.tenant and n.blob > b.blob)
        order by b.put_at desc limit limit_rows;
end $$;
