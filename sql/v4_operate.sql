-- What operators see and do: the view `mayfly.job`, lists, pause, bulk cancel and replay,
-- statistics, health, and the upkeep of partitions. The story is in v1_schema.sql.

insert into mayfly.migration (version, name) values (4, 'v4_operate');

-- -------------------------------------------------------------------------------------------------
-- mayfly.job: what backends read, and insert into

create view mayfly.job with (security_barrier) as
select d.id, d.queue, d.tenant, d.kind,
    case when o.id is not null then o.state when r.id is not null then 'running' else 'queued' end
        as state,
    d.priority::int as priority, d.payload, o.result, o.error,
    coalesce(o.attempt, r.attempt, w.attempt, l.attempt, 0)::int as attempt,
    d.max_attempts::int as max_attempts, d.unique_key, d.replay_of,
    case when o.id is null then coalesce(l.run_at, d.run_at) else d.run_at end as run_at,
    d.created_at, coalesce(o.started_at, r.started_at) as started_at, o.finished_at, d.timeout,
    coalesce(r.cancel, false) as cancel_requested, r.worker
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
set search_path = pg_catalog, pg_temp as $$
declare
    job record;
begin
    if num_nonnulls(new.id, new.state, new.result, new.error, new.attempt, new.replay_of,
        new.created_at, new.started_at, new.finished_at, new.cancel_requested, new.worker) > 0 then
        perform mayfly.refuse('MF001',
            'an INSERT into mayfly.job gives a column that the queue fills in',
            'Give only the columns that are arguments of mayfly.enqueue.');
    end if;
    new.id := mayfly.enqueue(new.kind, new.payload, coalesce(new.queue, 'default'),
        coalesce(new.tenant, ''), coalesce(new.priority, 0), coalesce(new.run_at, now()),
        new.timeout, new.max_attempts, new.unique_key);
    select j.state, j.run_at, j.created_at, j.max_attempts, j.attempt into job from mayfly.job j
        where j.id = new.id;
    new.state := job.state;
    new.run_at := job.run_at;
    new.created_at := job.created_at;
    new.max_attempts := job.max_attempts;
    new.attempt := job.attempt;
    return new;
end $$;
create trigger insert_job instead of insert on mayfly.job
    for each row execute function mayfly.insert_job();

create function mayfly.refuse_change() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform mayfly.refuse('MF009', format('%s on mayfly.job is not a way to change a job', tg_op),
        'Call mayfly.cancel(id) to stop a job, mayfly.replay(id) to run one again.');
end $$;
-- The statement trigger also speaks when no row matches; the row trigger is what makes it be
-- reached.
create trigger refuse_change before update or delete on mayfly.job
    for each statement execute function mayfly.refuse_change();
create trigger refuse_row_change instead of update or delete on mayfly.job
    for each row execute function mayfly.refuse_change();

-- Times as programs like to read them.
create function mayfly.iso(at timestamptz) returns text language sql immutable parallel safe as
$$ select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;

-- The newest jobs that fit; null fits all. Prefer it to the view for lists: it walks back from the
-- newest and stops when it has enough, and finds a few failures among a hundred million jobs by
-- their own index, while the view, which must not let a query's own functions see foreign tenants,
-- reads it all first.
create function mayfly.list(
    state text default null, kind text default null, queue text default null,
    tenant text default null, since timestamptz default null, until timestamptz default null,
    limit_rows int default 100
) returns setof mayfly.job language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set jit = off as $$
declare
    low bigint := coalesce(mayfly.id_at(since), 0);
    high bigint := coalesce(mayfly.id_at(until), 9223372036854775807);
    mine text[] := case when not mayfly.sees_all() then mayfly.tenants() end;
    source text;
    ids bigint[];
begin
    case
        when state is null then
            source := 'mayfly.job_data d where true';
        when state in ('succeeded', 'failed', 'cancelled') then
            source := 'mayfly.outcome o join mayfly.job_data d on d.id = o.id
                where o.id >= $5 and o.id < $6 and o.state = $1';
        when state = 'running' then
            source := 'mayfly.running d where true';
        when state = 'queued' then
            source := '(select r.id, r.kind, r.queue, r.tenant from mayfly.ready r union all
                select r.id, r.kind, r.queue, r.tenant from mayfly.delayed r) d where true';
        else
            perform mayfly.refuse('MF001', format('there is no state %L', state),
                'Use queued, running, succeeded, failed or cancelled.');
    end case;
    execute format($query$
        select array_agg(c.id) from (
            select d.id from %s and d.id >= $5 and d.id < $6 and ($2 is null or d.kind = $2)
                and ($3 is null or d.queue = $3) and ($4 is null or d.tenant = $4)
                and ($8 is null or d.tenant = any ($8))
            order by d.id desc limit $7) c
        $query$, source)
    into ids using state, kind, queue, tenant, low, high, limit_rows, mine;
    return query select j.* from mayfly.job j where j.id = any (ids) order by j.id desc;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Steering

create function mayfly.pause(queue text) returns void language sql security definer
set search_path = pg_catalog, pg_temp as $$
    insert into mayfly.queue as q (queue, paused, paused_at, paused_by)
    values (pause.queue, true, now(), mayfly.caller())
    on conflict (queue) do update set paused = true, paused_at = now(), paused_by = mayfly.caller()
        where not q.paused
$$;
create function mayfly.resume(queue text) returns void language sql security definer
set search_path = pg_catalog, pg_temp as $$
    update mayfly.queue q set paused = false, paused_at = null, paused_by = null
        where q.queue = resume.queue and q.paused;
    select pg_notify('mayfly_job', resume.queue);
$$;

create function mayfly.grant_tenant(role name, tenant text) returns void language plpgsql
    security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from pg_roles r where r.rolname = grant_tenant.role) then
        perform mayfly.refuse('MF001', format('there is no role %I', role), 'Create it first.');
    end if;
    insert into mayfly.tenant_grant (role, tenant) values (role, tenant) on conflict do nothing;
end $$;
create function mayfly.revoke_tenant(role name, tenant text) returns void language sql
    security definer
set search_path = pg_catalog, pg_temp as $$
    delete from mayfly.tenant_grant g where g.role = revoke_tenant.role
        and g.tenant = revoke_tenant.tenant
$$;

-- Replays all that fit and answers which became which; jobs that were replayed already are left
-- out, so calling it twice does no harm. dry_run: only says which.
create function mayfly.replay_all(
    state text default 'failed', kind text default null, queue text default null,
    tenant text default null, since timestamptz default null, until timestamptz default null,
    limit_rows int default 1000, pinned boolean default false, dry_run boolean default false
) returns table (original bigint, id bigint) language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if state is null or state not in ('succeeded', 'failed', 'cancelled') then
        perform mayfly.refuse('MF001', format('jobs in the state %s cannot be replayed',
            coalesce(quote_literal(state), 'null')), 'Use succeeded, failed or cancelled.');
    end if;
    return query
        select j.id, case when not dry_run then mayfly.replay(j.id, pinned) end
        from mayfly.list(state, kind, queue, tenant, since, until, limit_rows) j
        where not exists (select from mayfly.job_data d where d.replay_of = j.id)
        order by j.id;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Partitions: one week of ids each, made ahead, dropped when old. The default partition catches
-- what comes when upkeep was forgotten; it is emptied into a proper week as soon as upkeep runs
-- again.

create function mayfly.make_week(at timestamptz) returns void language plpgsql as $$
declare
    week timestamptz := date_trunc('week', at, 'UTC');
    low bigint := mayfly.id_at(week);
    high bigint := mayfly.id_at(week + interval '7 days');
    label text := to_char(week at time zone 'UTC', 'IYYY"w"IW');
    parent text;
begin
    foreach parent in array array['job_data', 'outcome', 'attempt'] loop
        if to_regclass(format('mayfly.%I', parent || '_' || label)) is null then
            execute format(
                'create table mayfly.%I (like mayfly.%I including defaults including constraints)',
                parent || '_' || label, parent);
            execute format(
                'with moved as (delete from mayfly.%I where id >= %s and id < %s returning *)
                insert into mayfly.%I select * from moved',
                parent || '_default', low, high, parent || '_' || label);
            execute format(
                'alter table mayfly.%I attach partition mayfly.%I for values from (%s) to (%s)',
                parent, parent || '_' || label, low, high);
        end if;
    end loop;
end $$;

create table mayfly.job_data_default partition of mayfly.job_data default;
create table mayfly.outcome_default partition of mayfly.outcome default;
create table mayfly.attempt_default partition of mayfly.attempt default;
do $$ begin
    perform mayfly.make_week(now() + n * interval '7 days') from generate_series(0, 8) n;
end $$;

-- Upkeep, by any worker every hour, one at a time: makes weeks ahead, drops weeks that ended more
-- than `retention` ago and of which no job is alive, and blobs that nobody put or named since. Null
-- keeps everything. Answers what was done. A lock that is not there at once is tried another time.
create function mayfly.maintain(retention interval default null) returns setof text language plpgsql
security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2 s' as $$
declare
    week record;
    parent text;
    dropped bigint;
begin
    if retention < interval '1 day' then
        perform mayfly.refuse('MF001', format('the retention %s is shorter than a day', retention),
            'Use at least 1 day, or null to keep everything.');
    elsif not pg_try_advisory_xact_lock(771002, 1) then
        return;
    end if;
    for n in 0 .. 8 loop
        perform mayfly.make_week(now() + n * interval '7 days');
    end loop;
    delete from mayfly.lane l where l.used_at < now() - interval '1 day' and not exists (
        select from mayfly.ready r where (r.queue, r.kind, r.priority) = (l.queue, l.kind,
            l.priority));
    delete from mayfly.worker w where w.dead and w.lease_until < now() - interval '7 days'
        and not exists (select from mayfly.running r where r.worker = w.worker);
    if retention is null then
        return;
    end if;
    for week in
        select x.label, x.low, x.high from (
            select substring(c.relname from 10) as label,
                mayfly.id_at(to_date(substring(c.relname from 10),
                    'IYYY"w"IW')::timestamp at time zone 'UTC') as low,
                mayfly.id_at((to_date(substring(c.relname from 10),
                    'IYYY"w"IW') + 7)::timestamp at time zone 'UTC') as high
            from pg_inherits i join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'mayfly.job_data'::regclass and c.relname <> 'job_data_default') x
        where x.high <= mayfly.id_at(now() - retention)
            and not exists (select from mayfly.ready r where r.id >= x.low and r.id < x.high)
            and not exists (select from mayfly.delayed r where r.id >= x.low and r.id < x.high)
            and not exists (select from mayfly.running r where r.id >= x.low and r.id < x.high)
        order by x.low
    loop
        foreach parent in array array['attempt', 'outcome', 'job_data'] loop
            execute format('drop table mayfly.%I', parent || '_' || week.label);
        end loop;
        return next 'dropped the jobs of week ' || week.label;
    end loop;
    with gone as (delete from mayfly.blob b where b.kept_at < now() - retention returning b.sha256),
    chunks as (delete from mayfly.blob_chunk c using gone g where c.sha256 = g.sha256)
    select count(*) into dropped from gone;
    if dropped > 0 then
        return next format('dropped %s blobs', dropped);
    end if;
end $$;

-- -------------------------------------------------------------------------------------------------
-- Numbers

create view mayfly.stats as
with now_there as (
    select queue, kind, count(*) as ready, 0::bigint as delayed, 0::bigint as running,
        min(mayfly.position_time(pos)) as oldest from mayfly.ready group by 1, 2
    union all
    select queue, kind, 0, count(*), 0, null from mayfly.delayed group by 1, 2
    union all
    select queue, kind, 0, 0, count(*), null from mayfly.running group by 1, 2),
ended as (
    select d.queue, d.kind, count(*) filter (where o.state = 'succeeded') as succeeded,
        count(*) filter (where o.state = 'failed') as failed,
        count(*) filter (where o.state = 'cancelled') as cancelled
    from mayfly.outcome o join mayfly.job_data d on d.id = o.id
    where o.finished_at > now() - interval '1 hour'
        and o.id >= mayfly.id_at(now() - interval '25 hours')
        and d.id >= mayfly.id_at(now() - interval '25 hours')
    group by 1, 2)
select queue, kind, coalesce(sum(n.ready), 0)::bigint as ready,
    coalesce(sum(n.delayed), 0)::bigint as delayed,
    coalesce(sum(n.running), 0)::bigint as running,
    greatest(now() - min(n.oldest), interval '0') as oldest_ready,
    coalesce(max(e.succeeded), 0) as succeeded_last_hour,
    coalesce(max(e.failed), 0) as failed_last_hour,
    coalesce(max(e.cancelled), 0) as cancelled_last_hour,
    coalesce(bool_or(q.paused), false) as paused
from now_there n full join ended e using (queue, kind) left join mayfly.queue q using (queue)
group by queue, kind;

-- One row per thing that can be wrong, with what to do about it.
create view mayfly.health as
select 'workers' as name, count(*) filter (where not dead and lease_until > now()) > 0 as ok,
    count(*) filter (where not dead and lease_until > now()) || ' alive' as found,
    'Start a worker: mayfly worker.' as remedy
from mayfly.worker
union all
select 'lapsed', count(*) = 0, count(*) || ' attempts of workers whose lease ran out over 30 s ago',
    'Some worker must be alive to give them back.'
from mayfly.running r join mayfly.worker w using (worker)
    where w.lease_until < now() - interval '30 s'
union all
select 'waiting', coalesce(now() - min(mayfly.position_time(pos)) < interval '5 min', true),
    coalesce('the oldest waits since ' || date_trunc('second', min(mayfly.position_time(pos))),
        'none waits'),
    'Add workers or slots, or look for a paused queue.'
from mayfly.ready r where not exists (select from mayfly.queue q where q.queue = r.queue
    and q.paused)
union all
select 'kinds', count(*) = 0, coalesce('no live worker takes: ' || string_agg(kind, ', '),
    'all are taken by a live worker'),
    'Start a worker that has an image for the kind, or cancel the jobs if the kind is a slip.'
from (select distinct p.kind from mayfly.lanes_in_use() p where not exists (
    select from mayfly.worker w where not w.dead and w.lease_until > now()
        and p.kind = any (w.kinds))) k
union all
select 'paused', count(*) = 0, coalesce('paused: ' || string_agg(queue, ', '), 'none is paused'),
    'mayfly.resume(queue)'
from mayfly.queue where paused
union all
select 'partitions',
    to_regclass('mayfly.job_data_'
        || to_char((now() + interval '7 days') at time zone 'UTC', 'IYYY"w"IW'))
        is not null and not exists (select from mayfly.job_data_default),
    'weeks ahead: ' || (select count(*) from pg_inherits
        where inhparent = 'mayfly.job_data'::regclass) - 1,
    'select mayfly.maintain();';
