-- What workers call: register, heartbeat, claim, settle, reap, and the upkeep that any of them does
-- for all. The story is in v1_schema.sql.

insert into mayfly.migration (version, name) values (3, 'v3_work');

-- -------------------------------------------------------------------------------------------------
-- Being alive

-- A new worker and its number. `identity` is something that one process at a time can be (it holds
-- a lock for it): whoever was it before is dead, and its jobs need not wait for the lease to run
-- out.
create function mayfly.register(
    name text, version text, kinds text[], queues text[], slots int, lease interval,
    identity text default null
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    number bigint;
begin
    if lease is null or lease not between interval '100 ms' and interval '1 hour' then
        perform mayfly.refuse('MF001', format('the lease %s is out of range', coalesce(lease::text,
            'null')),
            'Use 100 milliseconds to 1 hour; 15 seconds is normal.');
    elsif coalesce(cardinality(kinds), 0) = 0 then
        perform mayfly.refuse('MF001', 'a worker without kinds can claim nothing',
            'Pass at least one kind.');
    end if;
    update mayfly.worker w set dead = true where w.identity = register.identity and not w.dead;
    insert into mayfly.worker (name, version, kinds, queues, slots, lease_until, identity)
    values (name, version, kinds, coalesce(queues, '{}'), slots, clock_timestamp() + lease,
        identity)
    returning worker into number;
    return number;
end $$;

-- Renews the lease of a worker and answers which of the tokens it holds it must stop working on:
-- 'cancelled', or 'lost' when the attempt was given to somebody else. 'unknown' are attempts that
-- it holds for half a minute without naming them: see give_back. MF006: the worker was declared
-- dead; it must register again.
create function mayfly.heartbeat(worker bigint, lease interval, tokens bigint[])
returns table (token bigint, why text) language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'off', true);  -- losing a beat costs nothing
    update mayfly.worker w set lease_until = clock_timestamp() + lease
        where w.worker = heartbeat.worker and not w.dead;
    if not found then
        perform mayfly.refuse('MF006', format('worker %s is unknown or was declared dead', worker),
            'Stop the machines of its jobs and register again.');
    end if;
    return query
        select t.token, case when r.token is null then 'lost' else 'cancelled' end
        from unnest(tokens) t (token) left join mayfly.running r
            on r.token = t.token and r.worker = heartbeat.worker
        where r.token is null or r.cancel
        union all
        select r.token, 'unknown' from mayfly.running r
        where r.worker = heartbeat.worker and not r.token = any (tokens)
            and r.started_at < clock_timestamp() - interval '30 s';
end $$;

-- Says that this worker is idle and wants to be told: producers notify until `for_time` has passed.
-- The caller commits, claims once more, and only then waits. Answers how long until a delayed job
-- is due.
create function mayfly.arm_bell(queues text[], for_time interval) returns interval language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into mayfly.bell as b (queue, armed_until)
    select q, clock_timestamp() + for_time
    from unnest(case when cardinality(queues) > 0 then queues else array['*'] end) q order by q
    on conflict (queue) do update set armed_until = excluded.armed_until
        where b.armed_until < excluded.armed_until - for_time / 2;
    return (select greatest(interval '0', d.run_at - clock_timestamp())
            from mayfly.delayed d order by d.run_at limit 1);
end $$;

-- -------------------------------------------------------------------------------------------------
-- Claim

-- Moves delayed jobs that are due to ready.
create function mayfly.promote(limit_rows int default 1000) returns int language sql as $$
    with due as (
        delete from mayfly.delayed d where d.id = any (array(
            select x.id from mayfly.delayed x where x.run_at <= clock_timestamp()
            order by x.run_at limit limit_rows for update skip locked))
        returning d.*),
    moved as (
        insert into mayfly.ready
            (id, priority, attempt, failures, losses, max_attempts, timeout, queue, kind, tenant)
        select id, priority, attempt, failures, losses, max_attempts, timeout, queue, kind, tenant
        from due order by run_at, id
        returning 1)
    select count(*)::int from moved
$$;

-- Takes up to `want` jobs for a live worker: the most urgent lanes first, among equals the lane
-- whose head has waited longest. Only hot tables are touched to choose; the payloads then come from
-- exactly the partitions concerned, which is why that statement is made of literal ids.
create function mayfly.claim(worker bigint, queues text[], kinds text[], want int)
returns table (
    id bigint, token bigint, attempt smallint, queue text, tenant text, kind text, payload jsonb,
    timeout interval, max_attempts smallint, priority smallint, created_at timestamptz,
    run_at timestamptz, queue_delay interval, pin jsonb
) language plpgsql security definer set search_path = pg_catalog, pg_temp
-- Statistics of tables that are empty now and full in a second mislead the planner; the indexes do
-- not. And what the planner is told to avoid looks so costly to it that it would compile each
-- query.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    ids bigint[];
    tokens bigint[];
    attempts smallint[];
    places bigint[];
begin
    if exists (select from mayfly.delayed d where d.run_at <= clock_timestamp()) then
        perform mayfly.promote();
    end if;
    with taken as (
        delete from mayfly.ready r where r.ctid = any (array(
            select job.ctid
            from (select l.queue, l.kind, l.priority, l.floor
                  from mayfly.lane l cross join lateral (
                      select h.pos from mayfly.ready h
                      where h.queue = l.queue and h.kind = l.kind and h.priority = l.priority
                          and h.pos > l.floor
                      order by h.pos limit 1) head
                  where (cardinality(claim.queues) = 0 or l.queue = any (claim.queues))
                      and l.kind = any (claim.kinds)
                      and not exists (select from mayfly.queue q where q.queue = l.queue
                          and q.paused)
                      and exists (select from mayfly.worker w where w.worker = claim.worker
                          and not w.dead and w.lease_until > clock_timestamp())
                  order by l.priority desc, head.pos) lane
            cross join lateral (
                select y.ctid from mayfly.ready y
                where y.queue = lane.queue and y.kind = lane.kind and y.priority = lane.priority
                    and y.pos > lane.floor
                order by y.pos limit want for update skip locked) job
            limit want))
        returning r.*),
    started as (
        insert into mayfly.running as n (id, pos, worker, deadline_at, priority, attempt, failures,
            losses,
            max_attempts, timeout, queue, kind, tenant)
        select t.id, t.pos, claim.worker,
            clock_timestamp() + coalesce(t.timeout, s.timeout_default) + s.deadline_slack,
            t.priority, t.attempt + 1, t.failures, t.losses, t.max_attempts, t.timeout, t.queue,
                t.kind,
            t.tenant
        from taken t cross join mayfly.setting s order by t.priority desc, t.pos
        returning n.id, n.token, n.attempt, n.pos)
    select array_agg(n.id), array_agg(n.token), array_agg(n.attempt), array_agg(n.pos)
        into ids, tokens, attempts, places from started n;
    if ids is null then
        return;
    end if;
    return query execute format($query$
        select j.id, x.token, x.attempt, j.queue, j.tenant, j.kind, j.payload, j.timeout,
            j.max_attempts,
            j.priority, j.created_at, j.run_at,
            greatest(interval '0', clock_timestamp() - case x.attempt when 1
                then greatest(j.run_at, j.created_at) else mayfly.position_time(x.pos) end),
            j.pin
        from mayfly.job_data j
            join unnest(%L::bigint[], %L::bigint[], %L::smallint[], %L::bigint[])
                x (id, token, attempt, pos)
                on x.id = j.id
        where j.id = any (%L::bigint[])
        order by j.priority desc, x.pos
        $query$, ids, tokens, attempts, places, ids);
end $$;

-- -------------------------------------------------------------------------------------------------
-- The end of an attempt

create function mayfly.backoff(tries int) returns interval language sql volatile as $$
    select least(s.backoff_max, s.backoff_first * (2 ^ least(tries - 1, 20))) * (0.5 + random())
    from mayfly.setting s
$$;

create function mayfly.try_again(r mayfly.running, failures int, losses int, pause interval)
returns void language sql as $$
    insert into mayfly.delayed
        (id, run_at, priority, attempt, failures, losses, max_attempts, timeout, queue, kind,
            tenant)
    values (r.id, clock_timestamp() + pause, r.priority, r.attempt, failures, losses,
        r.max_attempts,
        r.timeout, r.queue, r.kind, r.tenant)
$$;

-- What follows for the job whose attempt `r` was just taken out of running. Answers the state in
-- which the job ended, or 'retried', or 'given back'.
create function mayfly.end_attempt(r mayfly.running, how text, reason text, message text,
    result jsonb)
returns text language plpgsql as $$
declare
    why mayfly.reason;
    losses_max int;
begin
    if how = 'succeeded' then
        perform mayfly.finish(r.id, 'succeeded', r.attempt, r.started_at, result, null);
        return 'succeeded';
    end if;
    select x.* into why from mayfly.reason x where x.reason = end_attempt.reason;
    if how = 'failed' and (r.failures + 1 >= r.max_attempts or not why.retryable or r.cancel)
        then
        perform mayfly.finish(r.id, 'failed', r.attempt, r.started_at, result,
            mayfly.error_of(reason, message));
        return 'failed';
    elsif how = 'cancelled' or r.cancel then
        perform mayfly.finish(r.id, 'cancelled', r.attempt, r.started_at, result,
            mayfly.error_of('cancelled', case when how = 'cancelled' then message end));
        return 'cancelled';
    elsif how = 'failed' then
        perform mayfly.try_again(r, r.failures + 1, r.losses, mayfly.backoff(r.failures + 1));
        return 'retried';
    elsif how = 'lost' then
        losses_max := (select s.losses_max from mayfly.setting s);
        if r.losses + 1 >= losses_max then
            perform mayfly.finish(r.id, 'failed', r.attempt, r.started_at, result,
                mayfly.error_of('poison',
                format('stopped after %s losses; the last: %s: %s', r.losses + 1, reason,
                    coalesce(nullif(message, ''), why.meaning))));
            return 'failed';
        end if;
        perform mayfly.try_again(r, r.failures, r.losses + 1, mayfly.backoff(r.losses + 1));
        return 'retried';
    end if;
    -- Interrupted: back at its place. The floor may have passed that place; then it comes down
    -- again.
    insert into mayfly.ready
        (pos, id, priority, attempt, failures, losses, max_attempts, timeout, queue, kind, tenant)
    values (r.pos, r.id, r.priority, r.attempt, r.failures, r.losses, r.max_attempts, r.timeout,
        r.queue,
        r.kind, r.tenant);
    update mayfly.lane l set floor = least(l.floor, r.pos - 1), next = null
        where l.queue = r.queue and l.kind = r.kind and l.priority = r.priority
            and (l.floor >= r.pos or l.next is not null);
    return 'given back';
end $$;

-- Ends an attempt by its worker, once. `how`: succeeded, failed (the task's own), lost (ours),
-- interrupted, cancelled. Answers as end_attempt does. Refuses with MF005 when the attempt is not
-- held any more, so that all of the transaction, with the blobs it put, is rolled back. Asking
-- again after an answer was lost on the way gets the stored answer, not MF005.
create function mayfly.settle(
    worker bigint, id bigint, token bigint, how text, reason text default null,
    message text default null, result jsonb default null, machine text default null,
    generation text default null,
    seed bytea default null, clock bigint default null, timings jsonb default null,
    usage jsonb default null, log_tail text default null
) returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    held mayfly.running;
    whose text;
    stored text;
begin
    if how is null or how not in ('succeeded', 'failed', 'lost', 'interrupted', 'cancelled') then
        perform mayfly.refuse('MF001', format('an attempt cannot end %s',
            coalesce(quote_literal(how), 'null')),
            'Use succeeded, failed, lost, interrupted or cancelled.');
    elsif how in ('failed', 'lost') then
        select x.whose into whose from mayfly.reason x where x.reason = settle.reason;
        if coalesce(whose, 'decision') = 'decision' then
            perform mayfly.refuse('MF001', format('an attempt cannot end %s with the reason %s',
                how,
                coalesce(quote_literal(reason), 'null')),
                'Use a reason of mayfly.reason that is the task''s or ours.');
        end if;
        how := case whose when 'ours' then 'lost' else 'failed' end;  -- the reason knows best
    end if;
    delete from mayfly.running r where r.token = settle.token and r.worker = settle.worker
        returning r.* into held;
    if not found then
        select a.outcome into stored from mayfly.attempt a
            where a.id = settle.id and a.token = settle.token and not a.reaped;
        if not found then
            perform mayfly.refuse('MF005', format('attempt %s of job %s is not held by worker %s',
                token, id, worker),
                'Drop the result: the job was given to somebody else or has ended.');
        end if;
        return coalesce((select o.state from mayfly.outcome o join mayfly.attempt a
                on a.id = o.id and a.attempt = o.attempt where o.id = settle.id
                    and a.token = settle.token),
            case stored when 'interrupted' then 'given back' else 'retried' end);
    end if;
    insert into mayfly.attempt (id, attempt, token, worker, started_at, outcome, reason, message,
        machine,
        generation, seed, clock, timings, usage, log_tail)
    values (held.id, held.attempt, token, worker, held.started_at, how,
        case when how in ('interrupted', 'cancelled') then how else reason end, left(message, 4096),
        machine, generation, seed, clock, timings, usage, right(log_tail, 65536));
    return mayfly.end_attempt(held, how, reason, left(message, 4096), result);
end $$;

-- Gives back what this worker holds but for the tokens to keep, at once and nothing consumed: after
-- an answer of mayfly.claim was lost on the way, the worker holds jobs that it knows nothing of.
create function mayfly.give_back(worker bigint, keep bigint[]) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    held mayfly.running;
    given_back int := 0;
begin
    for held in delete from mayfly.running r
        where r.worker = give_back.worker and not r.token = any (keep) returning r.*
    loop
        perform mayfly.end_reaped(held, 'interrupted', 'interrupted', 'given back by its worker');
        given_back := given_back + 1;
    end loop;
    return given_back;
end $$;

-- A worker that ends says so.
create function mayfly.leave(worker bigint) returns int language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    update mayfly.worker w set dead = true, lease_until = clock_timestamp()
        where w.worker = leave.worker;
    return mayfly.give_back(worker, '{}');
end $$;

create function mayfly.end_reaped(r mayfly.running, how text, reason text, message text)
    returns text
language plpgsql as $$
begin
    insert into mayfly.attempt (id, attempt, token, worker, started_at, reaped, outcome, reason,
        message)
    values (r.id, r.attempt, r.token, r.worker, r.started_at, true, how, reason, message);
    return mayfly.end_attempt(r, how, reason, message, null);
end $$;

-- Gives back what dead workers held and what is far beyond its deadline; declares workers dead
-- whose lease ran out; promotes; moves floors. Any worker may call it at any time: one at a time
-- does the work, a bounded piece of it. Answers how many attempts were given back.
create function mayfly.reap(limit_rows int default 200) returns int language plpgsql
    security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    held mayfly.running;
    item record;
    ended int := 0;
    -- After a restart of the server nobody can have renewed a lease while it was down: wait for
    -- them.
    waits boolean := pg_postmaster_start_time()
        > clock_timestamp() - (select s.restart_grace from mayfly.setting s);
begin
    if not pg_try_advisory_xact_lock(771002, 0) then
        return 0;
    end if;
    if not waits then
        update mayfly.worker w set dead = true where not w.dead
            and w.lease_until < clock_timestamp();
    end if;
    for item in
        select r as held, w.dead as is_dead from mayfly.running r join mayfly.worker w
            on w.worker = r.worker
        where w.dead or (r.deadline_at < clock_timestamp() and not waits)
        order by r.token limit limit_rows for update of r skip locked
    loop
        held := item.held;
        delete from mayfly.running r where r.token = held.token;
        perform mayfly.end_reaped(held, 'lost', case when item.is_dead then 'lease_lost'
            else 'deadline_exceeded' end,
            format(case when item.is_dead then 'worker %s stopped renewing its lease'
                else 'worker %s lives but held the attempt past its deadline' end, held.worker));
        ended := ended + 1;
    end loop;
    perform mayfly.promote();
    perform mayfly.move_floors();
    return ended;
end $$;

-- Raises the floors of the lanes to just below what may still be there. A transaction takes its
-- places after it got its number; so once all transactions with numbers below ours have ended,
-- nothing new can appear at places taken before now. Visible rows hold a floor down. Twice a minute
-- everything is looked at from the bottom: should a row be found below its floor after all, the
-- floor comes down to it, and lanes are made that rows have but nobody made.
create function mayfly.move_floors() returns void language plpgsql as $$
declare
    thorough boolean := (select coalesce(min(l.checked_at), '-infinity') from mayfly.lane l)
        < clock_timestamp() - interval '30 s';
    number xid8 := pg_current_xact_id();
    places_now bigint := mayfly.position_at(clock_timestamp() - interval '1 s');
begin
    update mayfly.lane l set
        floor = least(head.pos - 1,
            case when passed.yes then greatest(l.floor, l.next) else l.floor end),
        next = case when l.next is null or passed.yes then places_now else l.next end,
        next_xid = case when l.next is null or passed.yes then number else l.next_xid end,
        moved_at = clock_timestamp(),
        checked_at = case when thorough then clock_timestamp() else l.checked_at end,
        used_at = case when head.pos is null then l.used_at else now() end
    from mayfly.lane k
        cross join lateral (
            select k.next is not null and pg_snapshot_xmin(pg_current_snapshot()) >= k.next_xid
                as yes) passed
        left join lateral (
            select r.pos from mayfly.ready r
            where r.queue = k.queue and r.kind = k.kind and r.priority = k.priority
                and (thorough or r.pos > k.floor)
            order by r.pos limit 1) head on true
    where k.queue = l.queue and k.kind = l.kind and k.priority = l.priority
        and k.next is not distinct from l.next   -- else end_attempt has just lowered it
        and (thorough or l.moved_at < clock_timestamp() - interval '5 s');
    if thorough then
        perform mayfly.open_lane(p.queue, p.kind, p.priority) from mayfly.lanes_in_use() p
        where not exists (select from mayfly.lane l
            where l.queue = p.queue and l.kind = p.kind and l.priority = p.priority);
    end if;
end $$;

-- The lanes that ready has rows of: one step of the index per lane, however many rows it has.
create function mayfly.lanes_in_use() returns table (queue text, kind text, priority smallint)
language sql stable as $$
    with recursive present as (
        (select r.queue, r.kind, r.priority from mayfly.ready r
         order by r.queue, r.kind, r.priority limit 1)
        union all
        select n.* from present p cross join lateral (
            select r.queue, r.kind, r.priority from mayfly.ready r
            where (r.queue, r.kind, r.priority) > (p.queue, p.kind, p.priority)
            order by r.queue, r.kind, r.priority limit 1) n)
    select present.queue, present.kind, present.priority from present
$$;

-- -------------------------------------------------------------------------------------------------
-- Blobs from workers come in parts of at most 256 KiB, in the transaction that settles, and are
-- sealed when all parts are there: the database itself checks that the bytes are what their address
-- says.

create function mayfly.put_blob_part(sha256 text, ordinal int, bytes bytea) returns void
    language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    address bytea := mayfly.blob_address(sha256);
begin
    if not exists (select from mayfly.blob b where b.sha256 = address) then
        insert into mayfly.blob_chunk (sha256, ordinal, bytes) values (address, ordinal, bytes)
            on conflict do nothing;
    end if;
end $$;

create function mayfly.seal_blob(sha256 text, size bigint) returns void language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    address bytea := mayfly.blob_address(sha256);
    bytes_max int := (select s.blob_bytes_max from mayfly.setting s);
    stored bytea;
begin
    update mayfly.blob b set kept_at = now() where b.sha256 = address
        and b.kept_at < now() - interval '1 day';
    if exists (select from mayfly.blob b where b.sha256 = address) then
        return;
    end if;
    select coalesce(string_agg(c.bytes, ''::bytea order by c.ordinal), ''::bytea) into stored
        from mayfly.blob_chunk c where c.sha256 = address;
    if octet_length(stored) <> size or sha256(stored) <> address or size > bytes_max then
        perform mayfly.refuse('MF007',
            format('the %s bytes put as blob %s are not it, or more than %s',
            octet_length(stored), sha256, bytes_max),
                'Send all parts of the blob in one transaction.');
    end if;
    insert into mayfly.blob (sha256, size) values (address, size) on conflict do nothing;
end $$;
