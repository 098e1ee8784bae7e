-- What producers call: enqueue, enqueue_many, cancel, replay, and blobs. The story is in
-- v1_schema.sql. Everything here runs with its owner's rights and checks its arguments and the
-- caller's tenants itself.

insert into mayfly.migration (version, name) values (2, 'v2_enqueue');

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

-- Operators, workers, the schema's owner, and whoever was granted '*'.
create function mayfly.sees_all() returns boolean language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
    select exists (
        select from pg_roles r
        where pg_has_role(mayfly.caller(), r.oid, 'member')
          and (r.rolname in ('mayfly_operator', 'mayfly_worker')
               or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'mayfly')
               or exists (select from mayfly.tenant_grant g where g.role = r.rolname
                   and g.tenant = '*')))
$$;

-- The tenants granted to the caller; a producer without any grant has the unnamed tenant.
create function mayfly.tenants() returns text[] language sql stable security definer
set search_path = pg_catalog, pg_temp as $$
    select coalesce(array_agg(g.tenant), array[''])
    from mayfly.tenant_grant g join pg_roles r on r.rolname = g.role
    where pg_has_role(mayfly.caller(), r.oid, 'member')
$$;

create function mayfly.check_tenant(tenant text) returns void language plpgsql stable as $$
begin
    if not (tenant = any (mayfly.tenants()) or mayfly.sees_all()) then
        perform mayfly.refuse('MF003',
            format('the tenant %L is not granted to the role %I', tenant, mayfly.caller()),
            format('Have an operator call mayfly.grant_tenant(%L, %L), or use one of: %s.',
                mayfly.caller(), tenant, array_to_string(mayfly.tenants(), ', ')));
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Lanes and the bell follow every insert into ready, whoever makes it.

create function mayfly.open_lane(queue text, kind text, priority smallint) returns void
    language plpgsql as $$
begin
    -- Never waits for another producer's open transaction: if that one holds the lock it is making
    -- the lane, and should it roll back, mayfly.move_floors makes it.
    if pg_try_advisory_xact_lock(771001, hashtext(queue || '/' || kind || '/' || priority)) then
        insert into mayfly.lane (queue, kind, priority) values (queue, kind, priority)
            on conflict do nothing;
    end if;
end $$;

create function mayfly.after_ready() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.open_lane(x.queue, x.kind, x.priority)
    from (select distinct n.queue, n.kind, n.priority from n
          where not exists (select from mayfly.lane l
              where (l.queue, l.kind, l.priority) = (n.queue, n.kind, n.priority))) x;
    perform pg_notify('mayfly_job', x.queue)
    from (select distinct n.queue from n) x
    where exists (select from mayfly.bell b
        where b.queue in (x.queue, '*') and b.armed_until > clock_timestamp());
    return null;
end $$;
create trigger after_ready after insert on mayfly.ready
    referencing new table as n for each statement execute function mayfly.after_ready();

-- -------------------------------------------------------------------------------------------------
-- Enqueue

create function mayfly.check_job(
    kind text, payload jsonb, queue text, tenant text, priority int, run_at timestamptz,
    timeout interval, max_attempts int, unique_key text
) returns void language plpgsql stable as $$
declare
    name_form constant text := '^[a-z0-9][a-z0-9_.-]{0,62}$';
    name_hint constant text := 'Use 1 to 63 of: lower-case letters, digits, _ . -';
    bytes_max int;
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
            'Use 1 to 100; 1, the default, makes the first failure of the task final.');
    elsif length(unique_key) not between 1 and 256 then
        perform mayfly.refuse('MF001', 'unique_key is empty or longer than 256 characters',
            'Use 1 to 256 characters, a digest of them if need be, or null.');
    elsif payload is null or jsonb_typeof(payload) <> 'object' then
        perform mayfly.refuse('MF002', format('the payload is %s, not a JSON object',
                coalesce(jsonb_typeof(payload), 'null')),
            'Pass {"key": value, …} as the kind wants it.');
    elsif pg_column_size(payload) > 1048576 then
        select s.payload_bytes_max into bytes_max from mayfly.setting s;
        if octet_length(payload::text) > bytes_max then
            perform mayfly.refuse('MF002', format('the payload has %s bytes, more than %s',
                    octet_length(payload::text), bytes_max),
                'Put large inputs with mayfly.put_blob and name their SHA-256: {"blob": "…"}.');
        end if;
    end if;
end $$;

-- The id of the live job that holds the key, or null after the key was taken for `id`.
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

create function mayfly.enqueue(
    kind text, payload jsonb, queue text default 'default', tenant text default '',
    priority int default 0, run_at timestamptz default now(), timeout interval default null,
    max_attempts int default null, unique_key text default null
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    new_id bigint := mayfly.new_id();
    holder bigint;
begin
    perform mayfly.check_job(kind, payload, queue, tenant, priority, run_at, timeout, max_attempts,
        unique_key);
    perform mayfly.check_tenant(tenant);
    if unique_key is not null then
        holder := mayfly.take_key(tenant, unique_key, new_id);
        if holder is not null then
            return holder;
        end if;
    end if;
    insert into mayfly.job_data (id, run_at, timeout, priority, max_attempts, queue, tenant, kind,
        unique_key, payload)
    values (new_id, run_at, timeout, priority, coalesce(max_attempts, 1), queue, tenant, kind,
        unique_key, payload);
    if run_at <= now() then
        insert into mayfly.ready (id, priority, max_attempts, timeout, queue, kind, tenant)
        values (new_id, priority, coalesce(max_attempts, 1), timeout, queue, kind, tenant);
    else
        insert into mayfly.delayed (id, run_at, priority, max_attempts, timeout, queue, kind,
            tenant)
        values (new_id, run_at, priority, coalesce(max_attempts, 1), timeout, queue, kind, tenant);
    end if;
    return new_id;
end $$;

-- One element of enqueue_many's argument; the keys are enqueue's arguments.
create type mayfly.new_job as (
    kind text, payload jsonb, queue text, tenant text, priority int, run_at timestamptz,
    timeout interval, max_attempts int, unique_key text
);

create function mayfly.check_element(job jsonb) returns void language plpgsql immutable as $$
declare
    unknown text;
begin
    if jsonb_typeof(job) <> 'object' then
        perform mayfly.refuse('MF001', 'not a JSON object',
            'Pass {"kind": "code", "payload": {…}}.');
    end if;
    select k into unknown from jsonb_object_keys(job) k
    where k not in ('kind', 'payload', 'queue', 'tenant', 'priority', 'run_at', 'timeout',
        'max_attempts', 'unique_key')
    limit 1;
    if found then
        perform mayfly.refuse('MF001', format('unknown key %L', unknown),
            'The keys are the arguments of mayfly.enqueue.');
    end if;
end $$;

-- Many at once: [{"kind": …, "payload": …, …}, …]. All or none; the ids come in the order of the
-- array.
create function mayfly.enqueue_many(jobs jsonb) returns setof bigint language plpgsql
    security definer
set search_path = pg_catalog, pg_temp as $$
declare
    item record;
    remedy text;
begin
    if jobs is null or jsonb_typeof(jobs) <> 'array' or jsonb_array_length(jobs) > 10000 then
        perform mayfly.refuse('MF001', 'enqueue_many wants a JSON array of at most 10,000 jobs',
            'Pass [{"kind": "code", "payload": {…}}, …], in several calls if need be.');
    end if;
    begin
        for item in select e.n - 1 as place, e.job, r.*
            from jsonb_array_elements(jobs) with ordinality e (job, n)
            cross join jsonb_populate_record(null::mayfly.new_job,
                case jsonb_typeof(e.job) when 'object' then e.job end) r
        loop
            perform mayfly.check_element(item.job);
            perform mayfly.check_job(item.kind, item.payload, coalesce(item.queue, 'default'),
                coalesce(item.tenant, ''), coalesce(item.priority, 0), coalesce(item.run_at, now()),
                item.timeout, item.max_attempts, item.unique_key);
        end loop;
    exception when sqlstate 'MF001' or sqlstate 'MF002' then
        get stacked diagnostics remedy = pg_exception_hint;
        perform mayfly.refuse(sqlstate, format('element %s: %s', item.place, sqlerrm), remedy);
    end;
    perform mayfly.check_tenant(t.tenant) from
        (select distinct coalesce(e.job ->> 'tenant', '')
            from jsonb_array_elements(jobs) e (job)) t (tenant);
    return query
        with element as materialized (
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
            insert into mayfly.job_data
                (id, run_at, timeout, priority, max_attempts, queue, tenant, kind, unique_key,
                    payload)
            select f.id, f.run_at, f.timeout, f.priority, f.max_attempts, f.queue, f.tenant, f.kind,
                f.unique_key, f.payload from fresh f),
        now_ready as (
            insert into mayfly.ready (id, priority, max_attempts, timeout, queue, kind, tenant)
            select f.id, f.priority, f.max_attempts, f.timeout, f.queue, f.kind, f.tenant
            from fresh f where f.run_at <= now() order by f.n),
        later as (
            insert into mayfly.delayed (id, run_at, priority, max_attempts, timeout, queue, kind,
                tenant)
            select f.id, f.run_at, f.priority, f.max_attempts, f.timeout, f.queue, f.kind, f.tenant
            from fresh f where f.run_at > now())
        select coalesce(k.holder, e.id) from element e left join keyed k on k.n = e.n order by e.n;
end $$;

-- -------------------------------------------------------------------------------------------------
-- The end of a job, by whatever way. Only mayfly.end_attempt and mayfly.cancel come here.

create function mayfly.finish(
    id bigint, state text, attempt smallint, started_at timestamptz, result jsonb, error jsonb
) returns void language plpgsql as $$
begin
    insert into mayfly.outcome (id, state, attempt, started_at, result, error)
    values (finish.id, finish.state, finish.attempt, finish.started_at, finish.result,
        finish.error);
    delete from mayfly.live_key k where k.id = finish.id;
    perform pg_notify('mayfly_done', finish.id::text);
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
    if not found or not (job.tenant = any (mayfly.tenants()) or mayfly.sees_all()) then
        perform mayfly.refuse('MF004', format('there is no job %s', coalesce(id::text, 'null')),
            'Look for it in mayfly.job; history goes away after the retention time.');
    end if;
    return job;
end $$;

-- Cancels one job and answers what it is now: 'cancelled' when it was waiting, 'cancelling' when it
-- runs (its worker is told at once and ends it within a second), else the state in which it ended.
create function mayfly.cancel(id bigint) returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    job mayfly.job_data := mayfly.check_job_id(id);
    attempt_now smallint;
    token_now bigint;
    state_now text;
begin
    for try in 1 .. 100 loop              -- it may move on between two of these looks
        delete from mayfly.delayed d where d.id = job.id returning d.attempt into attempt_now;
        if not found then
            delete from mayfly.ready w where w.id = job.id returning w.attempt into attempt_now;
        end if;
        if found then
            perform mayfly.finish(job.id, 'cancelled', attempt_now, null, null,
                mayfly.error_of('cancelled', 'cancelled before it ran'));
            return 'cancelled';
        end if;
        update mayfly.running r set cancel = true where r.id = job.id returning r.token
            into token_now;
        if found then
            perform pg_notify('mayfly_cancel', token_now::text);
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

create function mayfly.pin_of(id bigint) returns jsonb language plpgsql stable as $$
declare
    pin jsonb;
begin
    select jsonb_build_object('generation', a.generation, 'seed', encode(a.seed, 'hex'),
            'clock', a.clock)
        into pin
    from mayfly.attempt a
    where a.id = pin_of.id and a.generation is not null and a.seed is not null
        and a.clock is not null
    order by a.attempt desc limit 1;
    if not found then
        perform mayfly.refuse('MF008',
            format('job %s cannot be replayed pinned: no attempt of it got as far as a machine',
            id),
            'Replay it without pinned.');
    end if;
    return pin;
end $$;

create function mayfly.replay(id bigint, pinned boolean default false) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    job mayfly.job_data := mayfly.check_job_id(id);
    new_id bigint := mayfly.new_id();
begin
    if not exists (select from mayfly.outcome o where o.id = job.id) then
        perform mayfly.refuse('MF008', format('job %s has not ended yet', id),
            'Wait for it, or cancel it first with mayfly.cancel.');
    end if;
    insert into mayfly.job_data
        (id, run_at, replay_of, timeout, priority, max_attempts, queue, tenant, kind, pin, payload)
    values (new_id, now(), job.id, job.timeout, job.priority, job.max_attempts, job.queue,
        job.tenant,
        job.kind, case when pinned then mayfly.pin_of(job.id) end, job.payload);
    insert into mayfly.ready (id, priority, max_attempts, timeout, queue, kind, tenant)
    values (new_id, job.priority, job.max_attempts, job.timeout, job.queue, job.kind, job.tenant);
    return new_id;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Blobs. The address is the capability: who knows the SHA-256 of some bytes may have the bytes.

create function mayfly.blob_address(sha256 text) returns bytea language plpgsql immutable as $$
begin
    if sha256 is null or sha256 !~ '^[0-9a-f]{64}$' then
        perform mayfly.refuse('MF001', format('%s is not the address of a blob',
            coalesce(quote_literal(left(sha256, 80)), 'null')),
            'Use the SHA-256 as 64 lower-case hexadecimal digits, as mayfly.put_blob returns it.');
    end if;
    return decode(sha256, 'hex');
end $$;

create function mayfly.put_blob(bytes bytea) returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    bytes_max int := (select s.blob_bytes_max from mayfly.setting s);
    address bytea := sha256(bytes);
begin
    if bytes is null or octet_length(bytes) > bytes_max then
        perform mayfly.refuse('MF007', case when bytes is null then 'the blob is null'
                else format('the blob has %s bytes, more than %s', octet_length(bytes), bytes_max)
                    end,
            'Split the data, or have an operator raise mayfly.setting.blob_bytes_max.');
    end if;
    insert into mayfly.blob as b (sha256, size) values (address, octet_length(bytes))
        on conflict (sha256) do update set kept_at = now()
            where b.kept_at < now() - interval '1 day';
    insert into mayfly.blob_chunk (sha256, ordinal, bytes)
    select address, n, substring(bytes from n * 262144 + 1 for 262144)
    from generate_series(0, (octet_length(bytes) - 1) / 262144) n
    where octet_length(bytes) > 0
    on conflict do nothing;
    return encode(address, 'hex');
end $$;

create function mayfly.get_blob(sha256 text) returns bytea language plpgsql stable security definer
set search_path = pg_catalog, pg_temp as $$
declare
    address bytea := mayfly.blob_address(sha256);
    bytes bytea;
begin
    if not exists (select from mayfly.blob b where b.sha256 = address) then
        perform mayfly.refuse('MF007', format('there is no blob %s', sha256),
            'Put it with mayfly.put_blob; unused blobs go away after the retention time.');
    end if;
    select string_agg(c.bytes, ''::bytea order by c.ordinal) into bytes
    from mayfly.blob_chunk c where c.sha256 = address;
    return coalesce(bytes, ''::bytea);
end $$;
