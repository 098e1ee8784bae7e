-- Chapter 3: what workers call: register, heartbeat, claim, settle, reap, and the upkeep of lanes.
-- The story is in v1_1_tables.sql.
--
-- A worker proves who it is by the secret that register gave it: the role mayfly_worker alone, with
-- the number of another worker, can read, renew, settle and leave nothing of that one's.

-- -------------------------------------------------------------------------------------------------
-- Being alive

create function mayfly.check_lease(lease interval) returns void language plpgsql immutable as $$
begin
    if lease is null or lease not between interval '100 ms' and interval '1 hour' then
        perform mayfly.refuse('MF001', format('the lease %s is out of range',
                coalesce(lease::text, 'null')),
            'Use 100 milliseconds to 1 hour; 15 seconds is normal.');
    end if;
end $$;

create function mayfly.hash_secret(secret uuid) returns bytea
language sql immutable parallel safe as $$ select sha256(uuid_send(secret)) $$;

create function mayfly.refuse_worker(worker bigint) returns void language plpgsql as $$
begin
    perform mayfly.refuse('MF006',
        format('worker %s is unknown, or was declared dead, or this is not its secret',
            coalesce(worker::text, 'null')),
        'Stop the machines of its jobs and register again.');
end $$;

-- A claim or a settlement under a snapshot of yesterday would fail with 40001 again and again.
create function mayfly.refuse_isolation() returns void language plpgsql as $$
begin
    perform mayfly.refuse('MF009',
        format('workers cannot work at the isolation level %s',
            current_setting('transaction_isolation')),
        'Connect with: options=-cdefault_transaction_isolation=read\ committed');
end $$;

-- A new worker, its number and its secret. `host` says where it runs: losses are counted by host.
-- `identity` is something that one process at a time can be (it holds a lock for it): whoever was
-- it before is dead, and its jobs need not wait for the lease to run out.
create function mayfly.register(
    name text, version text, kinds text[], queues text[], slots int, lease interval,
    identity text default null, host text default null,
    out worker bigint, out secret uuid
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.check_lease(lease);
    if coalesce(cardinality(kinds), 0) = 0 then
        perform mayfly.refuse('MF001', 'a worker without kinds can claim nothing',
            'Pass at least one kind.');
    elsif name is null then
        perform mayfly.refuse('MF001', 'a worker needs a name', 'Pass that of its host.');
    end if;
    update mayfly.worker w set dead = true where w.identity = register.identity and not w.dead;
    secret := gen_random_uuid();
    insert into mayfly.worker as w (name, host, version, kinds, queues, slots, lease_until,
        identity, secret)
    values (name, coalesce(host, name), version, kinds, coalesce(queues, '{}'), slots,
        clock_timestamp() + lease, identity, mayfly.hash_secret(secret))
    returning w.worker into worker;
end $$;

-- Renews the lease of a worker and answers which of the tokens it holds it must stop working on:
-- 'cancelled', or 'lost' when the attempt was given to somebody else. 'followed': somebody looks at
-- its output; see v1_4_follow.sql. 'unknown' are attempts that it holds for half a minute without
-- naming them: see give_back. MF006: the worker was declared
-- dead; it must register again.
create function mayfly.heartbeat(worker bigint, secret uuid, lease interval, tokens bigint[])
returns table (token bigint, why text) language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    perform mayfly.check_lease(lease);
    perform set_config('synchronous_commit', 'off', true);  -- losing a beat costs nothing
    update mayfly.worker w set lease_until = clock_timestamp() + lease
        where w.worker = heartbeat.worker and w.secret = mayfly.hash_secret(heartbeat.secret)
            and not w.dead;
    if not found then
        perform mayfly.refuse_worker(worker);
    end if;
    return query
        select t.token, case when r.token is null then 'lost' else 'cancelled' end
        from unnest(tokens) t (token) left join mayfly.running r
            on r.token = t.token and r.worker = heartbeat.worker
        where r.token is null
            or exists (select from mayfly.cancel_request c where c.id = r.id)
        union all
        select t.token, 'followed' from unnest(tokens) t (token)
        where exists (select from mayfly.follower f
            where f.token = t.token and f.until > clock_timestamp())
        union all
        select r.token, 'unknown' from mayfly.running r
        where r.worker = heartbeat.worker and not r.token = any (tokens)
            and r.started_at < clock_timestamp() - interval '30 s';
end $$;

-- What a worker says of its host: 'ok', or 'ill' when it claims nothing until it has restored a
-- machine.
create function mayfly.report_health(worker bigint, secret uuid, state text, note text)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if state is null or state not in ('ok', 'ill') then
        perform mayfly.refuse('MF001', format('a host is not %s',
            coalesce(quote_literal(left(state, 80)), 'null')), 'Use ok or ill.');
    end if;
    update mayfly.worker w set health = state, health_note = left(note, 1024),
        health_since = case when w.health = state then w.health_since else clock_timestamp() end
    where w.worker = report_health.worker
        and w.secret = mayfly.hash_secret(report_health.secret) and not w.dead;
    if not found then
        perform mayfly.refuse_worker(worker);
    end if;
end $$;

-- The channel on which workers are told 'job <queue>', 'cancel <worker>' and 'follow <worker>'. All
-- are hints.
create function mayfly.worker_channel() returns text language sql stable security definer
set search_path = pg_catalog, pg_temp as $$ select mayfly.channel('workers') $$;

-- Says that this worker is idle and wants to be told: producers notify until `for_time` has passed.
-- The caller commits, claims once more, and only then waits. Answers how long until a delayed job
-- is due.
create function mayfly.arm_bell(worker bigint, secret uuid, queues text[], for_time interval)
returns interval language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
begin
    if not exists (select from mayfly.worker w where w.worker = arm_bell.worker
            and w.secret = mayfly.hash_secret(arm_bell.secret)) then
        perform mayfly.refuse_worker(worker);
    elsif for_time is null or for_time not between interval '0' and interval '1 hour' then
        perform mayfly.refuse('MF001', format('the bell cannot be armed for %s',
            coalesce(for_time::text, 'null')), 'Use at most 1 hour.');
    end if;
    perform set_config('synchronous_commit', 'off', true);
    insert into mayfly.bell as b (queue, armed_until)
    select q, clock_timestamp() + for_time
    from unnest(case when cardinality(queues) > 0 then queues else array['*'] end) q order by q
    on conflict (queue) do update set armed_until = excluded.armed_until
        where b.armed_until < excluded.armed_until - for_time / 2
            or b.armed_until > excluded.armed_until;       -- the clock went back
    return (select greatest(interval '0', d.run_at - clock_timestamp())
            from mayfly.delayed d order by d.run_at limit 1);
end $$;

-- -------------------------------------------------------------------------------------------------
-- Claim

-- Moves delayed jobs that are due to ready.
create function mayfly.promote(limit_rows int default 1000) returns void language plpgsql as $$
declare
    lane record;
begin
    if not exists (select from mayfly.delayed d where d.run_at <= clock_timestamp()) then
        return;
    end if;
    for lane in
        with due as (
            delete from mayfly.delayed d where d.id = any (array(
                select y.id from mayfly.delayed y where y.run_at <= clock_timestamp()
                order by y.run_at limit limit_rows for update skip locked))
            returning d.*),
        moved as (
            insert into mayfly.ready (id, priority, timeout, queue, kind, tenant, tries)
            select d.id, d.priority, d.timeout, d.queue, d.kind, d.tenant, d.tries
            from due d order by d.run_at, d.id
            returning queue, kind, priority)
        select distinct m.queue, m.kind, m.priority from moved m
    loop
        perform mayfly.announce(lane.queue, lane.kind, lane.priority);
    end loop;
end $$;

-- Takes in the news of lanes: makes those that are missing, brings floors down. What another worker
-- is taking in just now is left to it.
create function mayfly.open_lanes() returns void language plpgsql as $$
begin
    if not exists (select from mayfly.lane_news) then
        return;
    end if;
    with news as (
        delete from mayfly.lane_news n where n.ctid = any (array(
            select x.ctid from mayfly.lane_news x limit 2000 for update skip locked))
        returning n.*)
    insert into mayfly.lane as l (queue, kind, priority, floor)
    select n.queue, n.kind, n.priority,
        case min(n.floor) when 9223372036854775807 then 0 else min(n.floor) end
    from news n group by 1, 2, 3 order by 1, 2, 3
    on conflict (queue, kind, priority) do update
        set floor = least(l.floor, excluded.floor), next = null, closing = false, used_at = now();
end $$;

-- Takes up to `want` jobs for a live worker: the most urgent lanes first, among equals the lane
-- whose head has waited longest. Only hot tables are touched to choose.
create function mayfly.claim(worker bigint, secret uuid, queues text[], kinds text[], want int)
returns table (
    id bigint, token bigint, attempt smallint, queue text, tenant text, kind text, payload text,
    timeout interval, max_attempts smallint, priority smallint, created_at timestamptz,
    run_at timestamptz, queue_delay interval, pin jsonb
) language plpgsql security definer set search_path = pg_catalog, pg_temp
-- Statistics of tables that are empty now and full in a second mislead the planner; the indexes do
-- not. And what the planner is told to avoid looks so costly to it that it would compile each
-- query.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    is_live boolean;
    is_due boolean;
    is_new boolean;
    tokens bigint[];
    low bigint;
    high bigint;
begin
    select w.lease_until > clock_timestamp(),
            exists (select from mayfly.delayed d where d.run_at <= clock_timestamp()),
            exists (select from mayfly.lane_news)
        into is_live, is_due, is_new
    from mayfly.worker w where w.worker = claim.worker
        and w.secret = mayfly.hash_secret(claim.secret) and not w.dead;
    if not found then
        perform mayfly.refuse_worker(worker);
    elsif not is_live then
        return;
    elsif current_setting('transaction_isolation') <> 'read committed' then
        perform mayfly.refuse_isolation();
    end if;
    if is_due then
        perform mayfly.promote();
    end if;
    if is_due or is_new then
        perform mayfly.open_lanes();
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
                  order by l.priority desc, head.pos) lane
            cross join lateral (
                select y.ctid from mayfly.ready y
                where y.queue = lane.queue and y.kind = lane.kind and y.priority = lane.priority
                    and y.pos > lane.floor
                order by y.pos limit want for update skip locked) job
            limit want))
        returning r.*),
    started as (
        insert into mayfly.running as n (id, priority, timeout, queue, kind, tenant, tries, pos,
            worker, deadline_at)
        select t.id, t.priority, t.timeout, t.queue, t.kind, t.tenant, mayfly.next_try(t.tries),
            t.pos, claim.worker,
            clock_timestamp() + coalesce(t.timeout, s.timeout_default) + s.deadline_slack
        from taken t cross join mayfly.setting s order by t.priority desc, t.pos
        returning n.id, n.token)
    select array_agg(n.token), min(n.id), max(n.id) into tokens, low, high from started n;
    if tokens is null then
        return;
    end if;
    -- Cancelled while it was on its way back from an attempt, by somebody who saw it running.
    if exists (select from mayfly.cancel_request c where c.id between low and high) then
        tokens := mayfly.drop_cancelled(tokens);
    end if;
    begin
        return query select * from mayfly.claimed(tokens, low, high);
    exception when program_limit_exceeded or out_of_memory then
        tokens := mayfly.drop_unreadable(tokens);
        return query select * from mayfly.claimed(tokens, low, high);
    end;
end $$;

create function mayfly.next_try(t mayfly.tries) returns mayfly.tries language sql immutable as $$
    select row((coalesce((t).attempt, 0) + 1)::smallint, coalesce((t).failures, 0::smallint),
        coalesce((t).losses, 0::smallint), coalesce((t).strikes, 0::smallint),
        (t).lost_on)::mayfly.tries
$$;

-- What claim answers for the attempts with these tokens, whose jobs' ids lie between low and high:
-- that is how only the partitions concerned are opened.
create function mayfly.claimed(tokens bigint[], low bigint, high bigint)
returns table (
    id bigint, token bigint, attempt smallint, queue text, tenant text, kind text, payload text,
    timeout interval, max_attempts smallint, priority smallint, created_at timestamptz,
    run_at timestamptz, queue_delay interval, pin jsonb
) language plpgsql stable as $$
begin
    return query
    select j.id, r.token, (r.tries).attempt, j.queue, j.tenant, j.kind, j.payload::text, j.timeout,
        j.max_attempts, j.priority, j.created_at, j.run_at,
        greatest(interval '0', clock_timestamp() - case (r.tries).attempt when 1
            then greatest(j.run_at, j.created_at) else mayfly.position_time(r.pos) end),
        j.pin
    from unnest(tokens) x (token)
        join mayfly.running r on r.token = x.token
        cross join lateral (select d.* from mayfly.job_data d
            where d.id = r.id and d.id between low and high) j
    order by r.priority desc, r.pos;
end $$;

-- Ends what was cancelled between two attempts; answers the tokens that are left.
create function mayfly.drop_cancelled(tokens bigint[]) returns bigint[] language plpgsql as $$
declare
    held mayfly.running;
begin
    for held in delete from mayfly.running r where r.token = any (tokens)
        and exists (select from mayfly.cancel_request c where c.id = r.id) returning r.*
    loop
        perform mayfly.end_reaped(held, 'cancelled', 'cancelled', 'cancelled before it ran again');
        tokens := array_remove(tokens, held.token);
    end loop;
    return tokens;
end $$;

-- Puts aside jobs whose payload cannot be read, so that they stop no others; answers the tokens
-- that are left. No payload like that can be stored while the constraint of job_data stands; but a
-- payload like that must not stop all workers when it does not.
create function mayfly.drop_unreadable(tokens bigint[]) returns bigint[] language plpgsql as $$
declare
    held mayfly.running;
begin
    for held in select r.* from mayfly.running r where r.token = any (tokens) loop
        begin
            perform octet_length(d.payload::text) from mayfly.job_data d where d.id = held.id;
        exception when program_limit_exceeded or out_of_memory then
            update mayfly.job_data d set payload = jsonb_build_object('removed', sqlerrm)
                where d.id = held.id;
            delete from mayfly.running r where r.token = held.token;
            perform mayfly.end_reaped(held, 'failed', 'invalid_payload',
                'the payload could not be read and was removed: ' || sqlerrm);
            tokens := array_remove(tokens, held.token);
        end;
    end loop;
    return tokens;
end $$;

-- -------------------------------------------------------------------------------------------------
-- The end of an attempt

create function mayfly.backoff(tries int) returns interval language sql volatile as $$
    select least(s.backoff_max, s.backoff_first * (2 ^ least(tries - 1, 20))) * (0.5 + random())
    from mayfly.setting s
$$;

create function mayfly.try_again(r mayfly.running, tries mayfly.tries, pause interval)
returns void language plpgsql as $$
begin
    insert into mayfly.delayed (id, priority, timeout, queue, kind, tenant, tries, run_at)
    values (r.id, r.priority, r.timeout, r.queue, r.kind, r.tenant, tries,
        clock_timestamp() + pause);
end $$;

create function mayfly.finish_attempt(r mayfly.running, state text, result jsonb, error jsonb)
returns text language plpgsql as $$
begin
    perform mayfly.finish(r.id, r.tenant, state, (r.tries).attempt, r.started_at, result, error);
    return state;
end $$;

-- What follows for the job whose attempt `r` was just taken out of running and did not succeed.
-- `host`: where its machine was lost; null when the loss says nothing about the job. `is_proven`:
-- that host has shown since its loss before that it can run jobs. Answers the state in which the job
-- ended, or 'retried', or 'given back'.
create function mayfly.end_attempt(
    r mayfly.running, how text, reason text, message text, result jsonb, host text,
    is_proven boolean
) returns text language plpgsql as $$
declare
    why mayfly.reason;
    is_cancelled boolean;
    tries mayfly.tries := r.tries;
begin
    is_cancelled := exists (select from mayfly.cancel_request c where c.id = r.id);
    select x.* into why from mayfly.reason x where x.reason = end_attempt.reason;
    if how = 'failed' then
        tries.failures := tries.failures + 1;
        if is_cancelled or not why.retryable or tries.failures >= (
                select d.max_attempts from mayfly.job_data d where d.id = r.id) then
            return mayfly.finish_attempt(r, 'failed', result, mayfly.error_of(reason, message));
        end if;
        perform mayfly.try_again(r, tries, mayfly.backoff(tries.failures));
        return 'retried';
    elsif is_cancelled then
        return mayfly.finish_attempt(r, 'cancelled', result, mayfly.error_of('cancelled',
            case when how = 'cancelled' then message end));
    elsif how = 'lost' then
        return mayfly.end_lost(r, why, message, result, host, is_proven);
    end if;
    -- Interrupted: back at its place. The floor may have passed that place; claims are told.
    insert into mayfly.ready (id, priority, timeout, queue, kind, tenant, tries, pos)
    values (r.id, r.priority, r.timeout, r.queue, r.kind, r.tenant, tries, r.pos);
    insert into mayfly.lane_news (queue, kind, priority, floor)
    values (r.queue, r.kind, r.priority, r.pos - 1);
    perform mayfly.announce(r.queue, r.kind, r.priority);
    return 'given back';
end $$;

-- A loss of ours: tried again after a pause, until it looks as if the job were the cause. A host
-- that loses everything counts once, so it can poison nothing; but even where each loss is excused,
-- there are losses_limit of them at most.
create function mayfly.end_lost(
    r mayfly.running, why mayfly.reason, message text, result jsonb, host text, is_proven boolean
) returns text language plpgsql as $$
declare
    tries mayfly.tries := r.tries;
    s mayfly.setting;
    is_known boolean := coalesce(host = any (tries.lost_on), false);
begin
    select x.* into s from mayfly.setting x;
    tries.losses := tries.losses + 1;
    if host is not null and (is_proven or not is_known) then
        tries.strikes := tries.strikes + 1;
    end if;
    if host is not null and not is_known then
        tries.lost_on := tries.lost_on || host;
    end if;
    if tries.strikes >= s.losses_max or tries.losses >= s.losses_limit then
        return mayfly.finish_attempt(r, 'failed', result, mayfly.error_of('poison',
            format('stopped after %s losses, %s of which speak against the job; the last: %s: %s',
                tries.losses, tries.strikes, why.reason,
                coalesce(nullif(message, ''), why.meaning))));
    end if;
    perform mayfly.try_again(r, tries, mayfly.backoff(tries.losses));
    return 'retried';
end $$;

-- Ends an attempt by its worker, once. `how`: succeeded, failed (the job's own), lost (ours),
-- interrupted, cancelled (only where somebody asked for that, else MF008). Answers as end_attempt
-- does. Refuses with MF005 when the attempt is not held any more, so that all of the transaction,
-- with the blobs it put, is rolled back. Asking again after an answer was lost on the way gets the
-- stored answer, not MF005. `had_machine`: the attempt got as far as a machine that was READY;
-- `host_is_proven`: since it last lost an attempt, the host has finished or restored something.
create function mayfly.settle(
    worker bigint, secret uuid, id bigint, token bigint, how text, reason text default null,
    message text default null, result jsonb default null, machine text default null,
    generation text default null, seed bytea default null, clock bigint default null,
    timings jsonb default null, usage jsonb default null, log_tail text default null,
    host_is_proven boolean default false, had_machine boolean default false
) returns text language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running;
    here text;
    whose text;
begin
    if how is null or how not in ('succeeded', 'failed', 'lost', 'interrupted', 'cancelled') then
        perform mayfly.refuse('MF001', format('an attempt cannot end %s',
            coalesce(quote_literal(how), 'null')),
            'Use succeeded, failed, lost, interrupted or cancelled.');
    elsif how in ('failed', 'lost') then
        select x.whose into whose from mayfly.reason x where x.reason = settle.reason;
        if coalesce(whose, 'decision') = 'decision' then
            perform mayfly.refuse('MF001', format('an attempt cannot end %s with the reason %s',
                how, coalesce(quote_literal(reason), 'null')),
                'Use a reason of mayfly.reason that is the job''s or ours.');
        end if;
        how := case whose when 'ours' then 'lost' else 'failed' end;  -- the reason knows best
    end if;
    select w.host into here from mayfly.worker w
        where w.worker = settle.worker and w.secret = mayfly.hash_secret(settle.secret);
    if not found then
        perform mayfly.refuse_worker(worker);
    end if;
    delete from mayfly.running r where r.token = settle.token and r.worker = settle.worker
        returning r.* into held;
    if not found then
        return mayfly.settled_before(worker, id, token);
    elsif how = 'cancelled'
            and not exists (select from mayfly.cancel_request c where c.id = held.id) then
        perform mayfly.refuse('MF008', format('nobody asked for job %s to be cancelled', held.id),
            'Settle the attempt as lost or interrupted.');
    end if;
    insert into mayfly.attempt (id, attempt, token, worker, host, started_at, outcome, reason,
        message, machine, generation, seed, clock, timings, usage, log_tail)
    values (held.id, (held.tries).attempt, token, worker, here, held.started_at, how,
        case when how in ('interrupted', 'cancelled') then how else reason end,
        left(message, 4096), machine, generation, seed, clock, timings, usage,
        right(log_tail, 65536));
    if how = 'succeeded' then
        perform mayfly.finish(held.id, held.tenant, how, (held.tries).attempt, held.started_at,
            result, null);
        return how;
    end if;
    return mayfly.end_attempt(held, how, reason, left(message, 4096), result,
        case when had_machine then here end, coalesce(host_is_proven, false));
end $$;

-- The answer to a settlement that was stored before, whose answer got lost; else MF005.
create function mayfly.settled_before(worker bigint, id bigint, token bigint) returns text
language plpgsql stable as $$
declare
    stored mayfly.attempt;
    state_now text;
begin
    select a.* into stored from mayfly.attempt a where a.id = settled_before.id
        and a.token = settled_before.token and a.worker = settled_before.worker and not a.reaped;
    if not found then
        perform mayfly.refuse('MF005', format('attempt %s of job %s is not held by worker %s',
            token, id, worker),
            'Drop the result: the job was given to somebody else or has ended.');
    end if;
    select o.state into state_now from mayfly.outcome o
        where o.id = stored.id and o.attempt = stored.attempt;
    return coalesce(state_now,
        case stored.outcome when 'interrupted' then 'given back' else 'retried' end);
end $$;

create function mayfly.end_reaped(r mayfly.running, how text, reason text, message text)
returns text language plpgsql as $$
declare
    host text := (select w.host from mayfly.worker w where w.worker = r.worker);
begin
    insert into mayfly.attempt (id, attempt, token, worker, host, started_at, reaped, outcome,
        reason, message)
    values (r.id, (r.tries).attempt, r.token, r.worker, host, r.started_at, true, how, reason,
        message);
    return mayfly.end_attempt(r, how, reason, message, null, host, false);
end $$;

-- Gives back what this worker holds but for the tokens to keep, at once and nothing consumed: after
-- an answer of mayfly.claim was lost on the way, the worker holds jobs that it knows nothing of.
create function mayfly.give_back(worker bigint, secret uuid, keep bigint[]) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running;
    given_back int := 0;
begin
    if not exists (select from mayfly.worker w where w.worker = give_back.worker
            and w.secret = mayfly.hash_secret(give_back.secret)) then
        perform mayfly.refuse_worker(worker);
    end if;
    for held in delete from mayfly.running r
        where r.worker = give_back.worker and not r.token = any (keep) returning r.*
    loop
        perform mayfly.end_reaped(held, 'interrupted', 'interrupted', 'given back by its worker');
        given_back := given_back + 1;
    end loop;
    return given_back;
end $$;

-- A worker that ends says so.
create function mayfly.leave(worker bigint, secret uuid) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
    given_back int := mayfly.give_back(worker, secret, '{}');
begin
    update mayfly.worker w set dead = true, lease_until = clock_timestamp()
        where w.worker = leave.worker;
    return given_back;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Upkeep that cannot wait

-- Gives back what dead workers held and what is far beyond its deadline; declares workers dead
-- whose lease ran out; ends what was cancelled between two attempts; promotes; moves floors; removes output
-- that nobody can follow any more. Any -- worker may call it at any time: one at a time does the work, a bounded piece of it. Answers how
-- many attempts were given back.
create function mayfly.reap(limit_rows int default 200) returns int language plpgsql
security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    held mayfly.running;
    item record;
    ended int := 0;
    -- After a restart of the server nobody can have renewed a lease while it was down: wait for
    -- them.
    waits boolean := pg_postmaster_start_time()
        > clock_timestamp() - (select s.restart_grace from mayfly.setting s);
begin
    perform from mayfly.duty d where d.duty = 'reap' for update skip locked;
    if not found then
        return 0;
    end if;
    if not waits then
        -- No lease is longer than an hour: one that ends later was given before the clock was set
        -- back.
        update mayfly.worker w set dead = true where not w.dead
            and (w.lease_until < clock_timestamp()
                or w.lease_until > clock_timestamp() + interval '61 minutes');
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
    perform mayfly.end_cancelled();
    perform mayfly.promote();
    perform mayfly.open_lanes();
    perform mayfly.move_floors();
    perform mayfly.drop_live_output();
    return ended;
end $$;

-- Ends jobs that wait although somebody, who saw them running, cancelled them; forgets requests for
-- jobs that have ended.
create function mayfly.end_cancelled() returns void language plpgsql as $$
declare
    item record;
begin
    if not exists (select from mayfly.cancel_request) then
        return;
    end if;
    for item in
        with asked as (
            select distinct c.id from mayfly.cancel_request c limit 1000),
        from_delayed as (
            delete from mayfly.delayed d where d.id = any (array(select x.id from mayfly.delayed x
                where x.id in (select a.id from asked a) for update skip locked))
            returning d.id, d.tenant, d.tries),
        from_ready as (
            delete from mayfly.ready w where w.id = any (array(select x.id from mayfly.ready x
                where x.id in (select a.id from asked a) for update skip locked))
            returning w.id, w.tenant, w.tries)
        select * from from_delayed union all select * from from_ready
    loop
        perform mayfly.finish(item.id, item.tenant, 'cancelled', (item.tries).attempt, null, null,
            mayfly.error_of('cancelled', 'cancelled before it ran again'));
    end loop;
    delete from mayfly.cancel_request c where exists (
        select from mayfly.outcome o where o.id = c.id);
end $$;

-- Raises the floors of the lanes to just below what may still be there. A transaction takes its
-- places after it got its number; so once all transactions with numbers below ours have ended,
-- nothing new can appear at places taken before now. Visible rows hold a floor down. Twice a minute,
-- and whenever the clock went back, everything is looked at from the bottom: should a row be found
-- below its floor after all, the floor comes down to it, and lanes are made that rows have but
-- nobody made. A lane that somebody else is changing is left for the next time.
create function mayfly.move_floors() returns void language plpgsql as $$
declare
    at constant timestamptz := clock_timestamp();
    places_now constant bigint := mayfly.position_at(at - interval '1 s');
    number xid8;
    thorough boolean;
begin
    select coalesce(min(l.checked_at) < at - interval '30 s'
            or greatest(max(l.checked_at), max(l.moved_at)) > at, true)
        into thorough from mayfly.lane l;
    if not thorough and not exists (
            select from mayfly.lane l where l.moved_at < at - interval '5 s') then
        return;
    end if;
    number := pg_current_xact_id();
    with due as (
        select l.* from mayfly.lane l where thorough or l.moved_at < at - interval '5 s'
        order by l.queue, l.kind, l.priority for update skip locked),
    seen as (
        select d.queue, d.kind, d.priority, d.floor, head.pos,
            case when d.next <= mayfly.position_at(at) then d.next end as next, d.next_xid
        from due d left join lateral (
            select r.pos from mayfly.ready r
            where r.queue = d.queue and r.kind = d.kind and r.priority = d.priority
                and (thorough or r.pos > d.floor)
            order by r.pos limit 1) head on true),
    moved as (
        select s.*, s.next is not null
            and pg_snapshot_xmin(pg_current_snapshot()) >= s.next_xid as is_past
        from seen s)
    update mayfly.lane l set
        floor = least(m.pos - 1, case when m.is_past then greatest(m.floor, m.next)
            else least(m.floor, mayfly.position_at(at)) end),
        next = case when m.next is null or m.is_past then places_now else m.next end,
        next_xid = case when m.next is null or m.is_past then number else m.next_xid end,
        moved_at = at,
        checked_at = case when thorough then at else l.checked_at end,
        used_at = case when m.pos is null then l.used_at else at end
    from moved m
    where (l.queue, l.kind, l.priority) = (m.queue, m.kind, m.priority);
    if thorough then
        insert into mayfly.lane_news (queue, kind, priority, floor)
        select p.queue, p.kind, p.priority, 9223372036854775807 from mayfly.lanes_in_use() p
        where not exists (select from mayfly.lane l
            where (l.queue, l.kind, l.priority) = (p.queue, p.kind, p.priority));
        perform mayfly.open_lanes();
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
-- Blobs of workers. They read those of their job's tenant, part by part. What a result has of small
-- files is stored in the transaction that settles; large ones are uploaded while they come out of
-- the machine, a part in a transaction, under the attempt's token, and become blobs where it
-- settles. No statement carries more than a part, so none holds up anybody else's for long; an
-- upload whose attempt is over is removed by the upkeep.

-- The attempt, if this worker holds it.
create function mayfly.check_held(worker bigint, secret uuid, token bigint) returns mayfly.running
language plpgsql stable as $$
declare
    held mayfly.running;
begin
    if not exists (select from mayfly.worker w where w.worker = check_held.worker
            and w.secret = mayfly.hash_secret(check_held.secret)) then
        perform mayfly.refuse_worker(worker);
    end if;
    select r.* into held from mayfly.running r
        where r.token = check_held.token and r.worker = check_held.worker;
    if not found then
        perform mayfly.refuse('MF005', format('attempt %s is not held by worker %s', token, worker),
            'Drop its work: the job was given to somebody else or has ended.');
    end if;
    return held;
end $$;

-- The part that begins at `at`, and the size of the whole.
create function mayfly.get_input(
    worker bigint, secret uuid, token bigint, sha256 text, at bigint default 0,
    out size bigint, out bytes bytea
) language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running := mayfly.check_held(worker, secret, token);
    number bigint;
begin
    select f.number, f.size into number, size from mayfly.find_blob(mayfly.blob_address(sha256),
        array[held.tenant]) f;
    select c.bytes into bytes from mayfly.blob_chunk c
        where c.blob = number and c.ordinal = at / mayfly.part_size();
    perform mayfly.note_transfer(held, 'in', at + coalesce(octet_length(bytes), 0), size);
end $$;

-- A whole small file of a result: one part at most.
create function mayfly.store_blob(
    worker bigint, secret uuid, token bigint, sha256 text, bytes bytea
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    address bytea := mayfly.blob_address(sha256);
    held mayfly.running := mayfly.check_held(worker, secret, token);
begin
    if sha256(bytes) is distinct from address then
        perform mayfly.refuse('MF007', format('the %s bytes put as blob %s are not it',
            coalesce(octet_length(bytes)::text, 'null'), sha256), 'Send the bytes of that SHA-256.');
    elsif octet_length(bytes) > mayfly.part_size() then
        perform mayfly.refuse('MF007', format('the blob %s has %s bytes, more than one part',
            sha256, octet_length(bytes)), 'Use mayfly.append_upload and mayfly.seal_upload.');
    end if;
    perform mayfly.store_bytes(bytes, held.tenant);
    insert into mayfly.blob_use (id, tenant, sha256) values (held.id, held.tenant, address);
end $$;

-- A part of a large file; `upload` null: the first one. Answers the upload's number. `size` is that
-- of the whole, as far as it is known. The same part again: nothing happens.
create function mayfly.append_upload(
    worker bigint, secret uuid, token bigint, upload bigint, at bigint, bytes bytea, size bigint
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    held mayfly.running := mayfly.check_held(worker, secret, token);
begin
    -- Settling waits for its own commit to be safe, and with it for all that was written before.
    perform set_config('synchronous_commit', 'off', true);
    if upload is null then
        insert into mayfly.blob as b (tenant, size, token) values (held.tenant, 0, token)
        returning b.blob into upload;
    else
        perform mayfly.check_own_upload(upload, token);
    end if;
    perform mayfly.put_parts(upload, bytes, at);
    perform mayfly.note_transfer(held, 'out', at + octet_length(bytes), size);
    return upload;
end $$;

create function mayfly.check_own_upload(upload bigint, token bigint) returns void
language plpgsql stable as $$
begin
    if not exists (select from mayfly.blob b where b.blob = upload and b.sha256 is null
            and b.token = check_own_upload.token) then
        perform mayfly.refuse('MF007', format('attempt %s has no upload %s', token,
            coalesce(upload::text, 'null')), 'Begin one with a first part.');
    end if;
end $$;

-- Makes an upload a blob of the result, in the transaction that settles: its parts have been stored
-- before, and only their digests are looked at. One whose bytes are there already stays an upload,
-- and goes.
create function mayfly.seal_upload(
    worker bigint, secret uuid, token bigint, upload bigint, sha256 text, size bigint
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off as $$
declare
    address bytea := mayfly.blob_address(sha256);
    held mayfly.running := mayfly.check_held(worker, secret, token);
    whole record;
begin
    perform mayfly.check_own_upload(upload, token);
    select m.* into whole from mayfly.measure_upload(upload) m;
    if whole.size is distinct from seal_upload.size then
        perform mayfly.refuse('MF007', format('the upload %s has %s bytes, not %s', upload,
            whole.size, coalesce(size::text, 'null')), 'Send all of its parts before.');
    end if;
    insert into mayfly.blob_use (id, tenant, sha256) values (held.id, held.tenant, address);
    if not mayfly.has_fresh_blob(held.tenant, address, whole.parts) then
        update mayfly.blob b set token = null, sha256 = address, parts = whole.parts,
            size = whole.size, put_at = clock_timestamp() where b.blob = upload;
    end if;
end $$;
